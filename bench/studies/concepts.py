"""Concept poisoning from inside: concepts and their weights, poisoned images, and what of both does the forgetting.

Source: Chang, Zhu, Xu, Liu and Zhou, "Class Machine Unlearning for Complex Data via Concepts Inference and Data
Poisoning" (arXiv:2405.15662), their bars of concept weights, poisoning panels and ablation of masks and labels.
Everything is drawn as in the leaderboard's runs of the method: the same seeds have the same concepts and images.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from bench import concepts as inference
from bench import store
from bench.concepts import Choice, Concepts
from bench.config import PARAMS, Params
from bench.errors import BadInput
from bench.forget import Target
from bench.metrics.accuracy import accuracies
from bench.metrics.judged import Judged
from bench.problem import Problem
from bench.stages import attack, setting, unlearn
from bench.studies import Study
from bench.training import Samples, set_determinism
from methods.concept_poison import ConceptPoison, Known

METHOD = "concept_poison"
SEEDS, CLASSES = 2, 2  # of the ablation, the first ones; the rest is of the first seed and of all classes
IMAGES = 2  # of each class, to be looked at
POISONS, LABELS = ("localized", "center", "random", "full", "none"), ("targeted", "random", "keep")

Rows = list[dict[str, Any]]


def first(params: Params, name: str) -> list[tuple[Any, ...]]:
    """One job: all classes of the first seed."""
    return [(params, name, *groups(params, name)[0])]


def ablations(params: Params, name: str) -> list[tuple[Any, ...]]:
    """A job a seed."""
    return [(params, name, *group) for group in groups(params, name)[:SEEDS]]


def groups(params: Params, name: str) -> list[tuple[list[Target], int]]:
    """Of each seed the targets for which the method makes its concepts at once.

    Raises:
        BadInput: the benchmark asks for no single class, or leaves the method out.
    """
    found = [
        ([chain[0] for chain in chains], seed)
        for _, _, _, chains, seed, draw in unlearn.jobs(params, name, METHOD)
        if draw == params.benchmark(name).unlearning_seeds[0]
    ]
    if not any(single(targets) for targets, _ in found):
        raise BadInput(f"{PARAMS}: benchmarks.{name}.studies: concepts-... need a class request, and {METHOD}, here")
    return found


def single(targets: Iterable[Target]) -> list[Target]:
    """Those that forget one class and nothing else."""
    return [target for target in targets if len(target.classes) == 1]


class Setting:
    """The method on one seed of a benchmark: what it has prepared for its targets, and how it is judged."""

    def __init__(self, params: Params, name: str, targets: list[Target], seed: int) -> None:
        set_determinism()
        self.params, self.name, self.seed, self.section = params, name, seed, params.benchmark(name)
        self.splits = setting.samples(store.dataset_folder(name), self.section)
        self.original = setting.load_original(name, self.section, seed, self.splits["train"])
        chains = [[target] for target in targets]
        made = unlearn.prepare(self.method(), self.original, params, name, METHOD, chains, seed)
        if made.reason:
            raise BadInput(f"{name}: {METHOD} failed {made.reason}")
        self.known: Known = made.state

    def method(self, **changed: str) -> ConceptPoison:
        hyperparameters = self.params.hyperparameters(METHOD, self.name) | changed
        method = methods.create(METHOD, hyperparameters, f"methods.{METHOD}")
        assert isinstance(method, ConceptPoison)
        return method

    def problem(self, target: Target) -> Problem:
        task = unlearn.target_problem(self.params, self.name, METHOD, target, self.seed)
        return replace(task.only(ConceptPoison.card.reads), prepared=self.known)

    def choice(self, target: Target) -> Choice:
        retained = self.problem(target).retain.labels.tolist()
        return inference.choose(self.known.weights, target.classes[0], sorted(set(retained) - set(target.classes)))

    def judged(self, model: nn.Module, target: Target) -> Judged:
        logits = setting.to_numpy(setting.all_logits(model, self.splits))
        return Judged.of(logits, attack.trained_on(self.name, self.section.corruption), target)


def weights(params: Params, name: str, targets: list[Target], seed: int) -> Rows:
    """The first concepts of each class and of its donor by weight, each with the class's window that shows it most.

    `image` counts within the training split, `row` and `column` are the window's upper left corner, `size` its side,
    in pixels; -1 where concepts are of an encoder that knows no windows.
    """
    here, rows = Setting(params, name, targets, seed), []
    known = here.known
    for target in single(targets):
        choice = here.choice(target)
        for c in (target.classes[0], choice.donor):
            order = known.weights[c].argsort(descending=True, stable=True)[: inference.TOP].tolist()
            samples = here.splits["train"]
            windows = shown(here.original, samples, (samples.labels == c).nonzero().flatten(), known.concepts, order)
            about = {"class": target.classes[0], "seed": seed, "of": c, "rule": choice.rule}
            about |= {"overwritten": choice.concept, "pasted": choice.donor_concept}
            for place, (concept, window) in enumerate(zip(order, windows, strict=True)):
                weight = float(known.weights[c, concept])
                named = {"concept": concept, "name": str(known.concepts.names[concept])}
                rows.append(about | {"place": place} | named | {"weight": weight} | window)
    return rows


def shown(
    model: nn.Module, samples: Samples, images: Tensor, concepts: Concepts, wanted: list[int]
) -> list[dict[str, int]]:
    """Of each of these concepts the window, among those of these images, whose features are nearest to it by angle."""
    if concepts.centre is None:
        return [dict.fromkeys(("image", "row", "column", "size"), -1) for _ in wanted]
    x, (height, width) = samples.input(images), samples.images.shape[-2:]
    grid, classes = inference.window_grid(height, width), setting.shape_of(samples)[1]
    vectors = F.normalize(concepts.vectors[wanted])
    cosines = torch.stack(
        [
            F.normalize(inference.window_features(model, x, corner.expand(len(x), 2), classes) - concepts.centre)
            @ vectors.T
            for corner in grid
        ],
        1,
    )  # [images, windows, wanted]
    found = []
    for best in cosines.flatten(0, 1).argmax(0).tolist():
        row, column = grid[best % len(grid)].tolist()
        image = int(images[best // len(grid)])
        found.append({"image": image, "row": row, "column": column, "size": inference.window_size(height, width)})
    return found


def images(params: Params, name: str, targets: list[Target], seed: int) -> Rows:
    """The first images of each class as each way of poisoning leaves them, and each window's cosine with the concept.

    `pixels` holds the values of `shown`, split by spaces: of an image by channel, row and column, 0 to 255; of
    'similarity' by row and column of the windows. `rows` and `columns` are their numbers.
    """
    here = Setting(params, name, targets, seed)
    found: Rows = []
    for target in single(targets):
        choice, task = here.choice(target), here.problem(target)
        rows = task.forget.rows
        concept = str(here.known.concepts.names[choice.concept])
        about = {"class": target.classes[0], "seed": seed, "donor": choice.donor, "concept": concept}
        pictures = {
            poison: here.method(poison=poison).poisoned_images(here.original, task, here.known, choice, rows)
            for poison in POISONS[:-1]
        }
        for k in range(min(IMAGES, len(rows))):
            of = about | {"image": int(rows[k])}
            if here.known.concepts.centre is not None:
                found.append(of | {"shown": "similarity"} | written(similarity(here, target, choice, rows[k : k + 1])))
            found += [of | {"shown": poison} | written(picture[k]) for poison, picture in pictures.items()]
    return found


def similarity(here: Setting, target: Target, choice: Choice, row: Tensor) -> Tensor:
    """Cosine of each window of one image with the class's concept, [1, rows, columns]."""
    samples = here.splits["train"]
    classes = setting.shape_of(samples)[1]
    cosines = inference.concept_similarity(
        here.original, samples.input(row), here.known.concepts, choice.concept, classes
    )
    grid = inference.window_grid(*samples.images.shape[-2:])
    return cosines.view(1, len(grid[:, 0].unique()), -1)


def written(values: Tensor) -> dict[str, Any]:
    """A tensor [channels, rows, columns] as cells of a table."""
    numbers = values.flatten().tolist()
    return {"rows": values.shape[1], "columns": values.shape[2], "pixels": " ".join(f"{v:.6g}" for v in numbers)}


def ablation(params: Params, name: str, targets: list[Target], seed: int) -> Rows:
    """Accuracies with every way of poisoning and labelling, otherwise with the method's settings on the benchmark."""
    here, rows = Setting(params, name, targets, seed), []
    for target in single(targets)[:CLASSES]:
        settings = [("original", "original", here.original)]
        for poison in POISONS:
            for relabel in LABELS:
                method = here.method(poison=poison, relabel=relabel)
                settings.append((poison, relabel, method.unlearn(here.original, here.problem(target))))
        for poison, relabel, model in settings:
            found = accuracies(here.judged(model, target))
            kept = {metric: found[metric] for metric in ("ACC_f_train", "ACC_f", "ACC_r")}
            rows.append({"class": target.classes[0], "seed": seed, "poison": poison, "relabel": relabel} | kept)
    return rows


STUDIES = {
    "concepts-weights": Study(first, weights),
    "concepts-images": Study(first, images),
    "concepts-ablation": Study(ablations, ablation),
}

"""Concept poisoning: overwrite what makes the class in its images, relabel them, train on.

    x' = x with the window that shows the class's first concept replaced by a donor's window, y' = the donor's class
    minimise CE(x', y') over the forget set + CE(x, y) over the retain set, over the head alone

Source: Chang, Zhu, Xu, Liu and Zhou, "Class Machine Unlearning for Complex Data via Concepts Inference and
Data Poisoning", 2024 (arXiv:2405.15662), with the revised code's bottleneck, choice of donors, window
sizes (here relative to the image) and settings; `bench/concepts.py` has the steps. What differs, and why:
- concepts come from the network itself or from a file, in place of ConceptNet's words and CLIP's
  text encoder: no download, and a web service's answers change. As published, similarity compares windows;
  the network's features need their mean taken off for that.
- `mode` 'eval' keeps BatchNorm's statistics. The revised code calls train(), so that they drift although the
  weights are frozen ('train' here); the first submission's kept them.
- pixels are pasted as they are; the code stores poisoned images as JPEG of quality 95.
- Integrated Gradients, in the paper for language models alone, is a third locator here.
- a donor is never a class that is forgotten too.

The first submission's script trained on unchanged images with new labels: poison='none'. That control
forgets as completely as the whole method, in the authors' own ablation and in benchmarks/poison_ablation.py:
the label does the forgetting, not the image. A concept file is no dependency that DVC knows of.
"""

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bench import concepts as inference
from bench.concepts import Choice, Concepts
from bench.config import Recipe
from bench.layers import head
from bench.problem import Problem
from bench.training import PREDICTION_BATCH, View, cross_entropy, train
from methods.base import CLASS_REQUESTS, BatchSize, Card, Count, Method, Paper, Positive


@dataclass(frozen=True)
class Known:
    """Concepts, and how much each speaks for each class, [classes, k]."""

    concepts: Concepts
    weights: Tensor


class ConceptPoison(Method):
    card = Card(
        paper=Paper(
            title="Class Machine Unlearning for Complex Data via Concepts Inference and Data Poisoning",
            authors="Chang, Zhu, Xu, Liu, Zhou",
            venue="arXiv",
            year=2024,
            url="https://arxiv.org/abs/2405.15662",
        ),
        serves=CLASS_REQUESTS,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=True,
        shares=True,
    )

    poison: Literal["localized", "center", "random", "full", "none"] = "localized"
    relabel: Literal["targeted", "random", "keep"] = "targeted"
    locator: Literal["similarity", "gradcam", "integrated_gradients"] = "similarity"
    concepts: Count = 50  # of the network's own
    windows: Count = 10_000  # of the training images, from which those are learned
    concept_file: str | None = None  # concepts from this file instead; its format is in bench/concepts.py
    layers: Literal["head", "all"] = "head"
    mode: Literal["eval", "train"] = "eval"
    epochs: Count = 20
    lr: Positive = 0.001
    batch_size: BatchSize = 32

    def prepare(self, model: nn.Module, problem: Problem) -> Known:
        view, classes = problem.train, problem.classes
        batches = view.batches(PREDICTION_BATCH)
        features = torch.cat([inference.features(model, batch.images, classes) for batch in batches])
        concepts = self.known_concepts(model, view, features, problem)
        space = features if concepts.features is None else concepts.features[view.rows]
        seed = int(torch.randint(2**31, (), generator=problem.generator("bottleneck")))
        projected = inference.projections(space, concepts)
        return Known(concepts, inference.bottleneck(projected, view.labels, classes, seed))

    def known_concepts(self, model: nn.Module, view: View, features: Tensor, problem: Problem) -> Concepts:
        classes, draw = problem.classes, problem.generator
        if self.concept_file is None:
            return inference.network_concepts(model, view, classes, self.concepts, self.windows, draw)
        found = inference.read_concepts(Path(self.concept_file), features.shape[1], len(view.samples), features)
        if found.features is not None:
            return found
        return replace(found, centre=inference.drawn_windows(model, view, classes, self.windows, draw).mean(0))

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if not problem.forgotten_classes:
            raise ValueError("concept poisoning forgets whole classes; this forget set holds none whole")
        known: Known = self.shared(model, problem)
        donors = sorted(set(problem.retain.labels.tolist()) - set(problem.forgotten_classes))
        choices = {c: inference.choose(known.weights, c, donors) for c in problem.forgotten_classes}
        names = known.concepts.names
        problem.notes["concepts"] = {
            str(c): asdict(x) | {"concept": names[x.concept], "donor_concept": names[x.donor_concept]}
            for c, x in choices.items()
        }
        data = self.poisoned(model, problem, known, choices)
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, weight_decay=0)
        start = copy.deepcopy(model)
        if self.layers == "head":
            start.requires_grad_(False)
            head(start, problem.classes).requires_grad_(True)
        result = train(start, data, cross_entropy, recipe, mode=self.mode)
        for p, original in zip(result.parameters(), model.parameters(), strict=True):
            p.requires_grad_(original.requires_grad)
        return result

    def poisoned(self, model: nn.Module, problem: Problem, known: Known, choices: dict[int, Choice]) -> View:
        """Forget and retain set, the former with its new images and labels, which are fixed for the run."""
        samples = problem.forget.samples
        images, labels = samples.images.clone(), samples.labels.clone()
        for c, choice in choices.items():
            rows = problem.forget.rows[problem.forget.labels == c]
            images[rows] = self.poisoned_images(model, problem, known, choice, rows)
            if self.relabel == "targeted":
                labels[rows] = choice.donor
        if self.relabel == "random":
            there = torch.tensor([c for c in range(problem.classes) if c not in problem.gone_classes])
            drawn = torch.randint(len(there), (len(problem.forget),), generator=problem.generator("labels"))
            labels[problem.forget.rows] = there[drawn].to(labels.device)
        return replace(problem.train, samples=replace(samples, images=images), relabel=lambda epoch: labels)

    def poisoned_images(self, model: nn.Module, problem: Problem, known: Known, choice: Choice, rows: Tensor) -> Tensor:
        """What takes the place of these images of one class."""
        samples = problem.forget.samples
        images = samples.images[rows]
        if self.poison == "none":
            return images
        pool = problem.retain.rows[problem.retain.labels == choice.donor]
        drawn = torch.randint(len(pool), (len(rows),), generator=problem.generator(f"donors of {int(rows[0])}"))
        donor_rows = pool[drawn.to(pool.device)]
        donors = samples.images[donor_rows]
        problem.retain.on_read(torch.cat([rows, donor_rows]))

        height, width = images.shape[-2:]
        size = inference.scaled(160 if self.poison == "full" else 96, min(height, width))
        middle = torch.tensor([(height - size) // 2, (width - size) // 2]).expand(len(rows), 2)
        if self.poison == "localized":
            here = self.locate(model, problem, known, choice.concept, rows)
            there = self.locate(model, problem, known, choice.donor_concept, donor_rows)
            patches = inference.crop(donors, there, inference.window_size(height, width))
        elif self.poison == "full":
            here, patches = middle, inference.resize(donors, size, size)
        else:
            here, patches = middle, inference.crop(donors, middle, size)
        if self.poison == "random":
            places = problem.generator(f"places of {int(rows[0])}")
            here = torch.stack(
                [torch.randint(s - size + 1, (len(rows),), generator=places) for s in (height, width)], 1
            )
        return inference.paste(images, patches, here)

    def locate(self, model: nn.Module, problem: Problem, known: Known, concept: int, rows: Tensor) -> Tensor:
        """Upper left corner of the window of each image that shows the concept, or its own class, most."""
        samples, corners = problem.forget.samples, []
        for part in rows.split(PREDICTION_BATCH):
            x, y = samples.input(part), samples.labels[part]
            match self.locator:
                case "similarity":
                    scores = inference.concept_similarity(model, x, known.concepts, concept, problem.classes)
                case "gradcam":
                    scores = inference.window_means(inference.grad_cam(model, x, y))
                case "integrated_gradients":
                    scores = inference.window_means(inference.integrated_gradients(model, x, y).abs().sum(1))
            corners.append(scores.argmax(1).cpu())
        return inference.window_grid(*samples.images.shape[-2:])[torch.cat(corners)]

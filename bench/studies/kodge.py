"""What figures of Kodge, Saha and Roy (TMLR 2024, arXiv:2312.00761) need beside the leaderboard's runs.

Each follows a script of the released code: demo.py (`toy`), analysis/tune_our.py (`alphas`), analysis/missing_class.py
(`missing`). Networks are the benchmark's originals, unlearned by methods/kodge.py as params.yaml has it, and judged as
the leaderboard does; `toy` alone has data and networks of its own.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from bench import datasets, forget, store
from bench.concepts import grad_cam
from bench.config import Params, Recipe
from bench.datasets import Dataset
from bench.forget import Target
from bench.metrics.accuracy import accuracies, per_class
from bench.metrics.judged import Judged
from bench.models import seeded
from bench.problem import Problem
from bench.requests import ClassesRequest, ClassRequest, SequentialRequest
from bench.seeds import derive, torch_generator
from bench.stages import setting, unlearn
from bench.studies import Study
from bench.training import Samples, cross_entropy, predict, set_determinism, train
from methods.base import Method
from methods.kodge import Kodge

SEEDS = 2  # of the benchmark's, at most
CLASSES = 3  # that `classes` forgets, at most
SHOWN, SIDE = 2, 64  # images of `grad_cam` from each of two classes, and pixels to which larger ones are brought
PUBLISHED = {"alpha_r": 100, "alpha_f": 10}  # missing_class.py

# demo.py
TRAIN, HELD_OUT = 10_000, 1_000  # samples of each of four classes
CENTRES = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))
SPREAD, WIDTH, FORGOTTEN = 0.5, 5, 0
TOY_RECIPE = Recipe(epochs=10, batch_size=2048, lr=0.1, nesterov=True)
TOY_ALPHAS = {"alpha_r": (1, 3, 10, 30, 100, 300, 1000), "alpha_f": (0.25, 0.5, 0.9, 1, 3, 10, 30, 100, 300, 1000)}
EDGE, POINTS, DRAWN = 3.0, 81, 250  # of the plane that is drawn: its half side, points a side, test samples a class

Rows = list[dict[str, Any]]


# --- four Gaussians -----------------------------------------------------------------------------------


def gaussians(count: int, *key: str | int) -> tuple[Tensor, Tensor]:
    """`count` points of each of four classes, normal around the corners of a square: [4 count, 2], labels [4 count]."""
    labels = torch.arange(len(CENTRES)).repeat(count)
    noise = torch.randn(len(labels), 2, generator=torch_generator("kodge toy", *key))
    return torch.tensor(CENTRES)[labels] + SPREAD * noise, labels


def perceptron(seed: int) -> nn.Module:
    """Five linear layers, BatchNorm and ReLU between them."""
    with seeded(seed):
        layers: list[nn.Module] = []
        for inputs in (2, WIDTH, WIDTH, WIDTH):
            layers += [nn.Linear(inputs, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(WIDTH, len(CENTRES)))


def toy(seed: int, count: int = TRAIN, points: int = POINTS) -> Rows:
    """Class predicted at each point of a grid, and of test samples, by an original, its retrain and Kodge.

    A row has `network`, `part` ('grid' or 'test'), `x`, `y`, `label` (-1 on the grid) and `predicted`. Kodge sees all
    training samples, as in demo.py, and chooses its alphas on held-out ones (there: on the training set).
    """
    set_determinism()
    images, labels = gaussians(count, seed, "train")
    problem = Problem.from_tensors(
        images,
        labels,
        labels == FORGOTTEN,
        validation=gaussians(HELD_OUT, seed, "validation"),
        seed=seed,
        recipe=TOY_RECIPE,
        build=perceptron,
    )
    original = train(perceptron(derive("kodge toy", seed)), problem.train, cross_entropy, TOY_RECIPE)
    networks = {
        "original": original,
        "kodge": Kodge(**TOY_ALPHAS, samples=len(CENTRES) * count).unlearn(original, problem),
        "retrain": methods.create("retrain", {}, "retrain").unlearn(original, problem),
    }
    axis = torch.linspace(-EDGE, EDGE, points)
    grid = torch.cartesian_prod(axis, axis)
    test, true = gaussians(DRAWN, seed, "test")
    asked = {"grid": (grid, torch.full((len(grid),), -1)), "test": (test, true)}
    return [
        {"network": name, "part": part, "x": round(x, 3), "y": round(y, 3), "label": label, "predicted": predicted}
        for name, model in networks.items()
        for part, (at, of) in asked.items()
        for (x, y), label, predicted in zip(at.tolist(), of.tolist(), classified(model, at), strict=True)
    ]


@torch.no_grad()
def classified(model: nn.Module, points: Tensor) -> list[int]:
    found: list[int] = model(points).argmax(1).tolist()
    return found


# --- the benchmark's own data -------------------------------------------------------------------------


def seeds_of(params: Params, name: str) -> list[tuple[Any, ...]]:
    return [(params, name, seed) for seed in params.benchmark(name).seeds[:SEEDS]]


class Start:
    """An original of a benchmark, its data, and what is asked of networks."""

    def __init__(self, params: Params, name: str, seed: int) -> None:
        set_determinism()
        self.params, self.name, self.seed = params, name, seed
        self.section = params.benchmark(name)
        self.splits: dict[str, Samples] = setting.samples(store.dataset_folder(name), self.section)
        self.dataset: Dataset = datasets.load(store.dataset_folder(name))
        self.original = setting.load_original(name, self.section, seed, self.splits["train"])

    @property
    def order(self) -> list[int]:
        """All classes, those first that the benchmark's class requests forget, and as they do."""
        asked = [r.targets for r in self.section.requests.values() if isinstance(r, ClassRequest)]
        return list(dict.fromkeys([*(c for targets in asked for c in targets), *range(self.dataset.classes)]))

    def targets(self, request: Any) -> list[Target]:
        section = self.section.model_copy(update={"requests": {request.kind: request}})
        return forget.targets(self.name, section, self.splits["train"].labels.cpu().numpy())

    def method(self, name: str, **changed: Any) -> Method:
        given = self.params.hyperparameters(name, self.name) | changed
        return methods.create(self.params.file(name), given, f"methods.{name}")

    def problem(self, method: str, target: Target) -> Problem:
        return unlearn.target_problem(self.params, self.name, method, target, self.seed)

    def judged(self, model: nn.Module, target: Target) -> dict[str, float]:
        splits = {split: self.splits[split] for split in store.SPLITS}
        logits = unlearn.checked_logits(model, splits, self.dataset.classes)
        return accuracies(Judged.of(logits, self.dataset, target))

    def per_class(self, model: nn.Module) -> list[float]:
        """Test accuracy of each class."""
        logits = predict(model, setting.everything(self.splits["test"])).cpu().numpy()
        found: list[float] = per_class(logits, self.dataset.test.labels, self.dataset.classes).tolist()
        return found


def alphas(params: Params, name: str, seed: int) -> Rows:
    """Kodge with each pair of its grid, on the first class: a row a pair.

    `score` is ACC_r (1 - ACC_f), on `validation` (as the method chooses) and on `test` (as tune_our.py does).
    """
    start = Start(params, name, seed)
    (target,) = start.targets(ClassRequest(kind="class", targets=start.order[:1]))
    grid = {key: grid_of(getattr(start.method("kodge"), key)) for key in ("alpha_r", "alpha_f")}
    problem = start.problem("kodge", target)
    whole = start.method("kodge", alpha_r=grid["alpha_r"][0], alpha_f=grid["alpha_f"][0])
    problem = replace(problem, prepared=whole.prepare(start.original, problem.pool()))  # depends on no alpha
    rows = []
    for alpha_r in grid["alpha_r"]:
        for alpha_f in grid["alpha_f"]:
            model = start.method("kodge", alpha_r=alpha_r, alpha_f=alpha_f).unlearn(start.original, problem)
            found = start.judged(model, target)
            about = {"target": target.name, "seed": seed, "alpha_r": alpha_r, "alpha_f": alpha_f}
            about |= {key: found[key] for key in ("ACC_r", "ACC_f")}
            validation = found["ACC_r_validation"] * (1 - found["ACC_f_validation"])
            rows.append(about | {"test": found["ACC_r"] * (1 - found["ACC_f"]), "validation": validation})
    return rows


def grid_of(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def classes(params: Params, name: str, seed: int) -> Rows:
    """More and more classes at once ('one-shot'), and the same one after another ('sequential').

    A row a kind, number of classes and method, judged against all that was forgotten so far. Original and retrain know
    nothing of the way: they are of the kind 'both'.
    """
    start = Start(params, name, seed)
    chosen = start.order[: min(CLASSES, start.dataset.classes - 1)]
    growing = ClassesRequest(kind="classes", targets=[chosen[: k + 1] for k in range(len(chosen))])
    steps = SequentialRequest(kind="sequential", steps=[ClassRequest(kind="class", targets=chosen)])
    rows, kodge, left = [], start.method("kodge"), start.original
    for once, step in zip(start.targets(growing), start.targets(steps), strict=True):
        left = kodge.unlearn(left, start.problem("kodge", step))
        networks = {
            ("both", "original"): start.original,
            ("both", "retrain"): start.method("retrain").unlearn(start.original, start.problem("retrain", once)),
            ("one-shot", "kodge"): kodge.unlearn(start.original, start.problem("kodge", once)),
            ("sequential", "kodge"): left,
        }
        for (kind, method), model in networks.items():
            found = start.judged(model, once)
            about = {"kind": kind, "forgotten": len(once.classes), "method": method, "seed": seed}
            rows.append(about | {key: found[key] for key in ("ACC_r", "ACC_f")})
    return rows


def missing(params: Params, name: str, seed: int) -> Rows:
    """Kodge where a class is missing from the retain samples: test accuracy of that class and of the others.

    Alphas are those that Kodge chose with all classes there, so that the samples alone differ; where none beat the
    original, and in the script, `PUBLISHED`. A row a missing class: `original`, `complete` and `missing` are the
    accuracy of that class before, after Kodge with all classes there, and with this one missing; `forgotten` and
    `others` are those of the forgotten class and of the remaining ones, where this one is missing.
    """
    start = Start(params, name, seed)
    (target,) = start.targets(ClassRequest(kind="class", targets=start.order[:1]))
    problem = start.problem("kodge", target)
    complete = start.method("kodge").unlearn(start.original, problem)
    pair = {key: problem.notes[key] for key in PUBLISHED}
    if None in pair.values():
        pair = PUBLISHED
        complete = start.method("kodge", **pair).unlearn(start.original, problem)
    kodge, retain = start.method("kodge", **pair), problem.retain
    before, after = start.per_class(start.original), start.per_class(complete)
    rows = []
    for c in start.order[1:]:
        lacking = replace(problem, views=problem.views | {"retain": retain.select(retain.rows[retain.labels != c])})
        found = start.per_class(kodge.unlearn(start.original, lacking))
        others = [found[o] for o in start.order[1:] if o != c]
        rows.append(
            {"target": target.name, "seed": seed, **pair, "class": c, "original": before[c], "complete": after[c]}
            | {"missing": found[c], "forgotten": found[start.order[0]], "others": sum(others) / len(others)}
        )
    return rows


def maps(params: Params, name: str, seed: int) -> Rows:
    """Grad-CAM for the true class before and after Kodge, and of a retrain: a row a network, image and pixel.

    Of the class forgotten first and of the next one, the first test images that the original recognises. `pixel` is
    the mean over channels, in [0, 255]; `map` that of `bench.concepts.grad_cam`; `confidence` the true class's.
    """
    start = Start(params, name, seed)
    (target,) = start.targets(ClassRequest(kind="class", targets=start.order[:1]))
    test = start.splits["test"]
    known = predict(start.original, setting.everything(test)).argmax(1) == test.labels
    rows = torch.cat([(known & (test.labels == c)).nonzero().flatten()[:SHOWN] for c in start.order[:2]])
    images, labels = test.input(rows), test.labels[rows]
    pixels = small(test.images[rows.to(test.images.device)].float().mean(1)).cpu()
    networks = {"original": start.original}
    for method in ("kodge", "retrain"):
        networks[method] = start.method(method).unlearn(start.original, start.problem(method, target))
    found: Rows = []
    for network, model in networks.items():
        heat = small(grad_cam(model, images, labels)).cpu()
        with torch.no_grad():
            logits = model(images)
        confidence = logits.softmax(1).gather(1, labels[:, None])[:, 0].tolist()
        for sample, (label, predicted) in enumerate(zip(labels.tolist(), logits.argmax(1).tolist(), strict=True)):
            about = {"target": target.name, "seed": seed, "network": network, "sample": sample, "label": label}
            about |= {"predicted": predicted, "confidence": confidence[sample]}
            for row in range(heat.shape[1]):
                for column in range(heat.shape[2]):
                    values = {"pixel": float(pixels[sample, row, column]), "map": float(heat[sample, row, column])}
                    found.append(about | {"row": row, "column": column} | values)
    return found


def small(values: Tensor) -> Tensor:
    """Images or maps [n, height, width], by means over places at most SIDE x SIDE."""
    height, width = values.shape[-2:]
    return F.adaptive_avg_pool2d(values, (min(height, SIDE), min(width, SIDE)))


STUDIES = {
    "kodge-toy": Study(lambda params, name: [(0,)], toy),
    "kodge-alphas": Study(lambda params, name: seeds_of(params, name)[:1], alphas),
    "kodge-classes": Study(seeds_of, classes),
    "kodge-missing": Study(seeds_of, missing),
    "kodge-grad-cam": Study(lambda params, name: seeds_of(params, name)[:1], maps),
}

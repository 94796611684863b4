"""RUM's experiments that no leaderboard makes: forget sets of each level, and the networks between RUM's steps.

Source: Zhao, Kurmanji, Barbulescu, Triantafillou and Triantafillou, "What makes unlearning hard and what to do about
it", NeurIPS 2024 (arXiv:2406.01257), figure 1 (`rum-levels`), and what they call sequence dynamics (`rum-sequence`).
Networks are judged as the leaderboard's are, and those that it has too have the same bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

import methods
from bench import datasets, forget, memorization, store
from bench.config import PARAMS, Benchmark, Params
from bench.errors import BadInput
from bench.forget import Target
from bench.metrics import battery
from bench.metrics.accuracy import accuracy
from bench.metrics.judged import Judged
from bench.metrics.memorization import entanglement
from bench.requests import EntangledRequest, Level, MemorizedRequest
from bench.stages import attack, setting, unlearn
from bench.studies import Study
from bench.training import set_determinism
from methods.base import Method
from methods.rum import RUM

ALGORITHMS = ("retrain", "original", "gradient_ascent", "salun")  # of both kinds that the paper tells apart
ENDS: tuple[Level, ...] = ("low", "high")  # of the levels; a benchmark whose requests have all needs no study
PARTS = ("low", "medium", "high")  # of a mixed forget set
PART = 40  # a forget set is one image of so many; the paper's is one of 15, but of digits few are memorised
SEEDS = 2  # of the benchmark's, the first ones

Rows = list[dict[str, Any]]


def levels(params: Params, name: str) -> list[tuple[Any, ...]]:
    """Jobs of `rum-levels`: low and high memorization and entanglement, each with some seeds.

    Raises:
        BadInput: the benchmark has no scores.
    """
    section = scored(params, name, "rum-levels")
    size = len(datasets.load(store.dataset_folder(name)).train.labels) // PART
    requests: dict[str, Any] = {
        **{f"memorized-{level}": MemorizedRequest(kind="memorized", level=level, size=size) for level in ENDS},
        **{f"entangled-{level}": EntangledRequest(kind="entangled", level=level, size=size) for level in ENDS},
    }
    targets = forget.of_benchmark(name, section.model_copy(update={"requests": requests}))
    return [(params, name, target, seed) for target in targets for seed in section.seeds[:SEEDS]]


def level(params: Params, name: str, target: Target, seed: int) -> Rows:
    """Each algorithm on one forget set: its `battery.basics`, and what is measured of the forget set."""
    set_determinism()
    section = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), section)
    original = setting.load_original(name, section, seed, splits["train"])
    classes = setting.shape_of(splits["train"])[1]
    phi = memorization.embeddings(original, splits["train"], classes).double().cpu().numpy()
    kind, of_level = target.name.split("-")
    measured = {
        "memorization": float(store.read_tensors(store.scores_file(name))["memorization"][target.indices].mean()),
        "entanglement": entanglement(phi, target.indices)["es_global"],
    }
    rows = []
    for method in ALGORITHMS:
        if method in params.methods and not section.left_out(method):
            algorithm = entry(params, name, method)
            task = unlearn.target_problem(params, name, method, target, seed).only(algorithm.card.reads)
            run = judged(name, section, algorithm.unlearn(original, task), target)
            about = {"kind": kind, "level": of_level, "method": method, "seed": seed}
            rows.append(about | measured | battery.basics(run))
    return rows


def sequences(params: Params, name: str) -> list[tuple[Any, ...]]:
    """Jobs of `rum-sequence`: RUM, each of its variants, and retrain, on the mixed forget set of a seed.

    Raises:
        BadInput: the benchmark has no scores, or no request that asks for a mixed forget set.
    """
    section = scored(params, name, "rum-sequence")
    mixed = {
        request for request, of in section.requests.items() if isinstance(of, MemorizedRequest) and of.level == "mixed"
    }
    target = next((t for t in forget.of_benchmark(name, section) if t.request in mixed), None)
    if target is None:
        raise BadInput(f"{where(name)}: rum-sequence needs a request {{kind: memorized, level: mixed, size: ...}}")
    entries = [m for m in params.methods if m == "retrain" or params.file(m) == "rum"]
    walked = [m for m in entries if not section.left_out(m)]
    return [(params, name, method, target, seed) for method in walked for seed in section.seeds[:SEEDS]]


def sequence(params: Params, name: str, method: str, target: Target, seed: int) -> Rows:
    """Accuracy of every network between the steps, by set: forget, retain, test, and the forget set's parts by rank.

    Parts are those of `rum` whatever the variant forgets in each step, so that lines of one name are of one set.
    """
    set_determinism()
    section = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), section)
    original = setting.load_original(name, section, seed, splits["train"])
    algorithm = entry(params, name, method)
    task = unlearn.target_problem(params, name, method, target, seed).only(algorithm.card.reads)
    parts = thirds(target, store.read_tensors(store.scores_file(name))["memorization"])
    rows = []
    for step, (what, model) in enumerate(walk(algorithm, original, task)):
        run = judged(name, section, model, target)
        sets = {"forget": run.forget_train, "retain": run.retain_train, "test": run.retain_test}
        sets |= {of: run.forget_train[np.isin(target.indices, part)] for of, part in parts.items()}
        about = {"method": method, "seed": seed, "step": step, "algorithm": what}
        rows += [about | {"set": of, "samples": len(part), "accuracy": accuracy(part)} for of, part in sets.items()]
    return rows


def walk(algorithm: Method, original: nn.Module, task: Any) -> Iterator[tuple[str, nn.Module]]:
    """The networks between the steps of RUM, from the original on, and what made them; of another method its one."""
    if not isinstance(algorithm, RUM):
        yield "", algorithm.unlearn(original, task)
        return
    yield "", original
    yield from algorithm.steps(original, task)


def thirds(target: Target, score: np.ndarray) -> dict[str, np.ndarray]:
    """The forget set's thirds by rank of the score, as RUM takes them: positions in the training set."""
    ranked = target.indices[np.argsort(score[target.indices], kind="stable")]
    return dict(zip(PARTS, np.array_split(ranked, len(PARTS)), strict=True))


def entry(params: Params, name: str, method: str) -> Method:
    """The method of an entry of params.yaml, as the stage `unlearn` makes it."""
    return methods.create(params.file(method), params.hyperparameters(method, name), f"methods.{method}")


def judged(name: str, section: Benchmark, model: nn.Module, target: Target) -> Judged:
    """The network's predictions, as the stage `attack` cuts them."""
    splits = setting.samples(store.dataset_folder(name), section)
    _, classes = setting.shape_of(splits["train"])
    logits = unlearn.checked_logits(model, {split: splits[split] for split in store.SPLITS}, classes)
    return Judged.of(logits, attack.trained_on(name, section.corruption), target)


def scored(params: Params, name: str, study: str) -> Benchmark:
    """The benchmark's section; `BadInput` if it has no memorization scores."""
    section = params.benchmark(name)
    if section.memorization is None:
        raise BadInput(f"{where(name)}: {study} needs the benchmark's `memorization: {{models: ...}}`")
    return section


def where(name: str) -> str:
    return f"{PARAMS}: benchmarks.{name}.studies"


STUDIES = {"rum-levels": Study(levels, level), "rum-sequence": Study(sequences, sequence)}

"""A request -> its targets: which training images are to be forgotten.

A request has one or several targets: a class request one for each class, a sequential request one for
each step. Indices count within the benchmark's training split.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench import corruption, datasets, requests, store
from bench.config import PARAMS, Benchmark
from bench.errors import BadInput
from bench.requests import Level
from bench.seeds import numpy_generator

NONE = np.zeros(0, dtype=np.int64)
ENTANGLED_GROUPS = {"low": 3 / 15, "medium": 12 / 15}  # place of the group among the sorted ones; high is the last


@dataclass(frozen=True)
class Target:
    """What one run forgets."""

    request: str  # the request's name in params.yaml
    name: str  # unique within the benchmark, and a folder's name: 'class-3', 'random'
    kinds: frozenset[str]  # of request that a method must serve
    classes: tuple[int, ...]  # the classes forgotten whole; empty where none is
    indices: np.ndarray  # int64, sorted, into the training split; in a sequence all that is forgotten so far
    subclasses: tuple[int, ...] = ()  # the subclasses forgotten whole
    earlier: np.ndarray = field(default_factory=lambda: NONE)  # forgotten by the steps before, part of `indices`

    @property
    def new(self) -> np.ndarray:
        """What this step forgets."""
        return np.setdiff1d(self.indices, self.earlier)


def of_benchmark(name: str, benchmark: Benchmark) -> list[Target]:
    """All targets of a benchmark whose data (and scores, where requests need them) are prepared."""
    train = datasets.load(store.dataset_folder(name)).train
    needed = any(requests.kinds(r) & {"memorized", "entangled"} for r in benchmark.requests.values())
    scores = store.read_tensors(store.scores_file(name)) if needed else {}
    return targets(name, benchmark, train.labels, train.sublabels, scores)


def targets(
    name: str,
    benchmark: Benchmark,
    labels: np.ndarray,
    sublabels: np.ndarray | None = None,
    scores: Mapping[str, np.ndarray] | None = None,
) -> list[Target]:
    """All targets of a benchmark in the order of params.yaml.

    Args:
        name: the benchmark's name, from which random requests draw.
        benchmark: its section of params.yaml.
        labels: true labels of the training split, int64 [n]; requests go by those that its `corruption` gives.
        sublabels: subclasses of the training split, int64 [n].
        scores: measures of each training sample by name, float [n]: memorization, its proxies, and
            'distance', of the embedding to the centre of all.

    Raises:
        BadInput: a request comes to nothing, to everything, or asks for more than there is.
    """
    found: list[Target] = []
    manipulated, labels = corruption.manipulated(benchmark.corruption, labels)
    for request, section in benchmark.requests.items():
        where = f"{PARAMS}: benchmarks.{name}.requests."
        names = requests.target_names(request, section)
        parts = [
            part
            for k, (key, step) in enumerate(requests.steps(request, section).items())
            for part in _parts(step, where + key, (name, request, k), labels, sublabels, scores or {}, manipulated)
        ]
        made = [
            Target(request, target, kinds, classes, indices, subclasses)
            for target, (kinds, classes, subclasses, indices) in zip(names, parts, strict=True)
        ]
        if section.kind == "sequential":
            made = _cumulative(made, where + request)
        found += made
        for target in made:
            if not 0 < len(target.indices) < len(labels):
                raise BadInput(
                    f"{where}{request}: {target.name} is {len(target.indices)} of {len(labels)} training images; "
                    "it must leave some to forget and some to retain"
                )
    return found


def chains(found: list[Target]) -> list[list[Target]]:
    """Targets that one network goes through, in order: the steps of a sequence; else each alone."""
    result: list[list[Target]] = []
    for target in found:
        if len(target.earlier):
            result[-1].append(target)
        else:
            result.append([target])
    return result


Part = tuple[frozenset[str], tuple[int, ...], tuple[int, ...], np.ndarray]  # kinds, classes, subclasses, indices


def _parts(
    section: Any,
    where: str,
    key: tuple[str, str, int],
    labels: np.ndarray,
    sublabels: np.ndarray | None,
    scores: Mapping[str, np.ndarray],
    manipulated: np.ndarray,
) -> Iterator[Part]:
    """What each target of a request that is no sequence forgets."""
    kinds = requests.kinds(section)
    match section:
        case requests.ClassRequest():
            for c in section.targets:
                yield kinds, (c,), (), np.flatnonzero(labels == c)
        case requests.ClassesRequest():
            for classes in section.targets:
                yield kinds, tuple(classes), (), np.flatnonzero(np.isin(labels, classes))
        case requests.SubclassRequest():
            if sublabels is None:
                raise BadInput(f"{where}: the data set has no subclasses")
            for c in section.targets:
                yield kinds, (), (c,), np.flatnonzero(sublabels == c)
        case requests.RandomRequest():
            size = round(section.fraction * len(labels))
            draw = numpy_generator(*key, "forget set")
            yield kinds, (), (), np.sort(draw.choice(len(labels), size, replace=False))
        case requests.PoisonRequest() | requests.ConfusionRequest():
            yield kinds, (), (), corruption.discovered(manipulated, section.discovered)
        case requests.MemorizedRequest() | requests.EntangledRequest():
            least = 2 if section.kind == "memorized" else 6  # of fewer groups medium and high would be the same
            if least * section.size > len(labels):
                raise BadInput(
                    f"{where}.size: {section.size} of {len(labels)} training images; "
                    f"give at most {len(labels) // least}, 1 of {least}"
                )
            if section.kind == "memorized":
                score = scores[section.score]
                score = score if requests.HIGH_IS_MEMORIZED[section.score] else -score
                middle = 0.5 if section.score == "memorization" else float(np.median(score))
                yield kinds, (), (), by_memorization(score, section.level, section.size, middle)
            else:
                yield kinds, (), (), by_entanglement(scores["distance"], section.level, section.size)


def by_memorization(score: np.ndarray, level: Level, size: int, middle: float) -> np.ndarray:
    """Sorted indices of the `size` lowest, highest, or nearest to `middle`; 'mixed' has a third of each.

    Zhao et al., RUM (arXiv:2406.01257), section 4.2. Ties go to the earlier sample. The thirds of a
    mixed set are drawn high, low, medium, each without those before.
    """
    orders = {"low": score, "high": -score, "medium": np.abs(score - middle)}
    if level != "mixed":
        return np.sort(np.argsort(orders[level], kind="stable")[:size])
    taken = np.zeros(len(score), dtype=bool)
    for part, count in zip(("high", "low", "medium"), _thirds(size), strict=True):
        order = np.argsort(orders[part], kind="stable")
        taken[order[~taken[order]][:count]] = True
    return np.flatnonzero(taken)


def by_entanglement(distance: np.ndarray, level: Level, size: int) -> np.ndarray:
    """Sorted indices of a group of `size` samples that lie about equally far from the centre of all embeddings.

    Samples are sorted by distance and cut into groups of `size`; of fifteen, those with the numbers 3,
    12 and 14 are low, medium and high, as in the code of Zhao et al. (arXiv:2406.01257); with another
    number of groups, those at the same places. 'mixed' has a third of each, the middle of the group.
    """
    order = np.argsort(distance, kind="stable")
    groups = len(order) // size

    def group(part: str) -> np.ndarray:
        k = groups - 1 if part == "high" else int(ENTANGLED_GROUPS[part] * groups)
        return order[k * size : (k + 1) * size]

    if level != "mixed":
        return np.sort(group(level))
    middles = []
    for part, count in zip(("high", "low", "medium"), _thirds(size), strict=True):
        start = (size - count) // 2
        middles.append(group(part)[start : start + count])
    return np.unique(np.concatenate(middles))


def _thirds(size: int) -> list[int]:
    return [size // 3 + (part < size % 3) for part in range(3)]


def _cumulative(steps: list[Target], where: str) -> list[Target]:
    """Each step's target with all that the steps before forgot."""
    found: list[Target] = []
    for step in steps:
        if not found:
            found.append(step)
            continue
        last = found[-1]
        indices = np.union1d(last.indices, step.indices)
        if len(indices) == len(last.indices):
            raise BadInput(f"{where}: {step.name} has nothing to forget that the steps before it have left")
        classes = {c for t in (last, step) for c in t.classes}
        found.append(
            replace(
                step,
                kinds=last.kinds | step.kinds,
                classes=tuple(sorted(classes)),
                subclasses=tuple(sorted({*last.subclasses, *step.subclasses})),
                indices=indices,
                earlier=last.indices,
            )
        )
    return found

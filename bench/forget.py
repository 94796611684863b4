"""A request -> its targets: which training images are to be forgotten.

A request has one or several targets, each served, judged and timed on its own: a class request one
for each class, a random request a single one. Indices count within the benchmark's training split.
"""

from dataclasses import dataclass

import numpy as np

from bench.config import PARAMS, Benchmark, ClassRequest, RandomRequest, target_names
from bench.errors import BadInput
from bench.seeds import numpy_generator


@dataclass(frozen=True)
class Target:
    """What one run forgets."""

    request: str  # the request's name in params.yaml
    name: str  # unique within the benchmark, and a folder's name: 'class-3', 'random'
    kind: str
    classes: tuple[int, ...]  # the classes forgotten whole; empty where none is
    indices: np.ndarray  # int64, sorted, into the training split


def targets(name: str, benchmark: Benchmark, labels: np.ndarray) -> list[Target]:
    """All targets of a benchmark in the order of params.yaml.

    Args:
        name: the benchmark's name, from which random requests draw.
        benchmark: its section of params.yaml.
        labels: labels of the training split, int64 [n].

    Raises:
        BadInput: a fraction comes to nothing or to everything.
    """
    found = []
    for request, section in benchmark.requests.items():
        match section:
            case ClassRequest():
                for c, target in zip(section.targets, target_names(request, section), strict=True):
                    found.append(Target(request, target, section.kind, (c,), np.flatnonzero(labels == c)))
            case RandomRequest():
                size = round(section.fraction * len(labels))
                if not 0 < size < len(labels):
                    raise BadInput(
                        f"{PARAMS}: benchmarks.{name}.requests.{request}.fraction: {section.fraction} of "
                        f"{len(labels)} training images is {size}; it must leave some to forget and some to retain"
                    )
                draw = numpy_generator(name, request, "forget set").choice(len(labels), size, replace=False)
                found.append(Target(request, request, section.kind, (), np.sort(draw)))
    return found

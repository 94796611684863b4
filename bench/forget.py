"""A request -> its targets: which training images are to be forgotten.

A request has one or several targets, each served, judged and timed on its own: a class request one
for each class, a random request a single one. Indices count within the benchmark's training split.
"""

from dataclasses import dataclass

import numpy as np

from bench.config import Benchmark, ClassRequest, RandomRequest
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
    """
    found = []
    for request, section in benchmark.requests.items():
        match section:
            case ClassRequest():
                for c in section.targets:
                    chosen = np.flatnonzero(labels == c)
                    found.append(Target(request, f"{request}-{c}", section.kind, (c,), chosen))
            case RandomRequest():
                size = max(1, round(section.fraction * len(labels)))
                draw = numpy_generator(name, request, "forget set").choice(len(labels), size, replace=False)
                found.append(Target(request, request, section.kind, (), np.sort(draw)))
    return found

"""Small experiments behind figures that the leaderboard's runs cannot draw: sweeps, toy data, training curves.

A benchmark's key `studies` names those that its stage `study` makes; each leaves one table,
`data/studies/BENCHMARK/NAME.csv`, which the stage `figures` draws. This module is read by bench/config.py and imports
nothing of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAMES: dict[str, str] = {  # -> what it makes; its code is in the module that its name begins with
    "kodge-toy": "class regions of a small network on four Gaussians: original, Kodge, retrain",
    "kodge-alphas": "Kodge with each pair of its grid",
    "kodge-classes": "Kodge forgetting more and more classes, at once and one after another",
    "kodge-missing": "Kodge with a class missing from its retain samples",
    "kodge-grad-cam": "Grad-CAM of a few test images: original, Kodge, retrain",
    "rum-levels": "some algorithms on forget sets of low and of high memorization and entanglement",
    "rum-sequence": "accuracy on each part of the forget set after each step of RUM",
    "concepts-weights": "each class's first concepts, their weights, and windows that show them",
    "concepts-images": "images before and after each way to poison them, and where their concept is",
    "concepts-ablation": "concept poisoning with every way to change images and every way to label them",
    "salun-random": "random forget sets: by their size, by learning rates and epochs, and under SalUn's masks",
    "wfnet-round": "WF-Net: accuracy of every row against the steps of a round",
    "wfnet-weights": "WF-Net: the rows after rounds with other weights of forgetting and sparsity",
    "wfnet-explanations": "WF-Net: insertion and deletion by its gates, before and after a class's row is active",
}


@dataclass(frozen=True)
class Study:
    """Independent jobs, each of which returns rows of the study's table.

    Attributes:
        jobs: of the parameters and the benchmark's name, the arguments of each job.
        one: a job: called in a worker process; its rows, which all have the same keys.
    """

    jobs: Callable[..., list[tuple[Any, ...]]]
    one: Callable[..., list[dict[str, Any]]]

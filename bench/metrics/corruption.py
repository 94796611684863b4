"""What is left of a manipulation of the training set (`bench.corruption`), as fractions. Formulas: docs/metrics.md."""

import math

import numpy as np

from bench.corruption import BadNets, Blended, Confusion, Corruption, manipulated
from bench.datasets import Dataset
from bench.forget import Target


def corruption(
    logits: dict[str, np.ndarray], dataset: Dataset, target: Target, section: Corruption | None
) -> dict[str, float]:
    """Every measure by name; one that there are no samples for is left out.

    Args:
        logits: of the splits and, where the corruption has a trigger, 'triggered', float [n, classes].
        dataset: with its true labels.
        target: the manipulated samples among its indices are discovered, the others hidden.
    """
    if section is None:
        return {}
    made, labels = manipulated(section, dataset.train.labels), dataset.test.labels
    fitted = logits["train"].argmax(axis=1)[made.rows] == made.labels[made.rows]
    known = np.isin(made.rows, target.indices)
    found = {"corruption_discovered": share(fitted[known]), "corruption_hidden": share(fitted[~known])}
    match section:
        case BadNets() | Blended():
            found |= poison(logits["triggered"], labels, section.target)
        case Confusion():
            found |= confusion(logits["test"], labels, section.classes)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def poison(triggered: np.ndarray, labels: np.ndarray, target: int) -> dict[str, float]:
    """What becomes of test images with the trigger; those of the target class, which it cannot move, are left out.

    `poison_success`: share called the target class (Gu et al., arXiv:1708.06733). `poison_accuracy`: share called
    what it is: Acc_corr of Goel et al. (arXiv:2402.14015).

    Args:
        triggered: logits, float [n, classes].
        labels: true ones, int64 [n].
    """
    others = labels != target
    predicted, true = triggered.argmax(axis=1)[others], labels[others]
    return {"poison_success": share(predicted == target), "poison_accuracy": share(predicted == true)}


def confusion(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, int]) -> dict[str, float]:
    """Test samples of two classes, each of which is called the other, after Goel et al. (arXiv:2201.06640).

    `confusion_count` is their number, `confusion_error` their share of the two classes' samples, `confusion_accuracy`
    the share that is called what it is: Acc_corr of Goel et al. (arXiv:2402.14015).

    Args:
        logits: float [n, classes].
        labels: true ones, int64 [n].
    """
    ours = np.isin(labels, classes)
    predicted, true = logits.argmax(axis=1)[ours], labels[ours]
    swapped = np.isin(predicted, classes) & (predicted != true)
    return {
        "confusion_count": float(swapped.sum()),
        "confusion_error": share(swapped),
        "confusion_accuracy": share(predicted == true),
    }


def share(chosen: np.ndarray) -> float:
    """Of all, bool [n], how many; NaN of none."""
    return float(chosen.mean()) if len(chosen) else math.nan

"""Where the damage goes: confusion before and after, and the classes to which forgotten samples move.

Matrices are int64 [classes, classes]: rows are true classes, columns predicted ones, entries numbers of samples.
That forgotten samples are no longer recognised says little; a retrained network sends them to the classes that
look like theirs, a network that was pushed sends them where it was pushed.
"""

import numpy as np
import pandas as pd

from bench.metrics.judged import Judged, Part

SETS = {"forget": "forget_train", "forget_test": "forget_test", "test": "retain_test"}


def confusion(part: Part) -> np.ndarray:
    """Number of samples by true and predicted class, int64 [classes, classes]."""
    classes = part.logits.shape[1]
    cells = part.labels * classes + part.logits.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def destinations(part: Part) -> np.ndarray:
    """Share of the samples that is predicted as each class, float64 [classes]; NaN without samples."""
    predicted = confusion(part).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return predicted / predicted.sum()


def distance(matrix: np.ndarray, other: np.ndarray) -> float:
    """Total variation between two confusion matrices of the same samples, in [0, 1].

    sum of |a - b| over all cells / (2 n): the least share of samples whose prediction must change to make one matrix
    the other. Of forgotten samples of one class it is the total variation of their destinations; of several
    classes, the mean of that, weighted with their samples. Unlike `disagreement` it does not ask which samples.
    Target: what one retrain has to another.
    """
    return float(np.abs(matrix - other).sum() / (2 * matrix.sum()))


def confusion_distances(run: Judged, retrain: Judged) -> dict[str, float]:
    """`confusion_SET`: `distance` to retrain on D_f and on forgotten and retained test samples, where there are any."""
    return {
        f"confusion_{where}": distance(confusion(getattr(run, part)), confusion(getattr(retrain, part)))
        for where, part in SETS.items()
        if len(getattr(run, part))
    }


def moves(original: Part, run: Part, retrain: Part) -> pd.DataFrame:
    """To which classes the samples move: a row a true and a predicted class that occur together in any of the three.

    Returns:
        columns `class`, `destination`, and `original`, `run`, `retrain`: each network's share of the samples of
        `class` that it predicts as `destination`; for one `class` each column sums to 1.
    """
    networks = {"original": original, "run": run, "retrain": retrain}
    counts = np.stack([confusion(part) for part in networks.values()])
    true, predicted = np.nonzero(counts.any(axis=0))
    shares = counts[:, true, predicted] / counts.sum(axis=2)[:, true]
    return pd.DataFrame({"class": true, "destination": predicted} | dict(zip(networks, shares, strict=True)))

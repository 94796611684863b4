"""What features and weights say of an unlearned network: linear probe, CKA, distances, relearning. No torch.

Formulas, targets and sources: docs/metrics.md. For none is higher, or lower, better: the target is retrain's value.
"""

import math
from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
LEAST = 4  # samples of which unbiased CKA is defined


def linear_probe(features: np.ndarray, gone: np.ndarray) -> dict[str, float]:
    """Whether a linear classifier finds the forgotten classes in a layer's features (Alain and Bengio 2016).

    Logistic regression (L2, C = 1) on standardised features, both sides weighing the same, cross-fitted on
    stratified folds; area under the ROC curve and balanced accuracy, mean over the folds.

    Args:
        features: float [n, d], of samples that no network was trained on.
        gone: whether each is of a forgotten class, bool [n].

    Returns:
        `probe_auc` and `probe_accuracy`; nothing where either side has a single sample or none.
    """
    folds = min(FOLDS, int(gone.sum()), int((~gone).sum()))
    if folds < 2:
        return {}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    scoring = {"probe_auc": "roc_auc", "probe_accuracy": "balanced_accuracy"}
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    scores = cross_validate(classifier, features.astype(np.float64), gone.astype(int), cv=split, scoring=scoring)
    return {name: float(scores[f"test_{name}"].mean()) for name in scoring}


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion, of two Gram matrices [n, n], n >= 4.

    HSIC_1 of Song et al. (JMLR 13, 2012); equation 3 of Nguyen et al. (arXiv:2010.15327).
    """
    n = len(k)
    k, m = (matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean() for matrix in (k, m))  # spares rounding
    k, m = (matrix - np.diag(np.diag(matrix)) for matrix in (k, m))
    product, sums = np.vdot(k, m), k.sum() * m.sum() / ((n - 1) * (n - 2))
    return float((product + sums - 2 / (n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3)))


def linear_cka(k: np.ndarray, m: np.ndarray) -> float:
    """Centred kernel alignment of two layers by their linear Gram matrices X X^T and Y Y^T, float64 [n, n].

    Kornblith et al. (arXiv:1905.00414), section 3, with `hsic` in place of the biased estimator, whose CKA of
    unrelated features is near 1 where these have more dimensions than there are samples.

    Returns:
        At most 1, and 1 for features that are equal up to rotation, scale and shift; about 0 for unrelated ones, and
        0 for constant ones.

    Raises:
        ValueError: fewer than four samples.
    """
    if len(k) < LEAST:
        raise ValueError(f"unbiased CKA takes {LEAST} samples; here are {len(k)}")
    norm = hsic(k, k) * hsic(m, m)
    return hsic(k, m) / math.sqrt(norm) if norm > 0 else 0.0


def weight_distances(network: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Euclidean distance of the weights to a reference's, relative to the norm of the reference's.

    Args:
        network, reference: the parameters of both, by the same names ('stages.0.conv1.weight').

    Returns:
        By layer ('stages.0.conv1': its weight and bias as one vector), and under '' of all parameters at once.
        A layer whose reference is zero is left out, unless both are: then 0.
    """
    squares: dict[str, list[float]] = {}
    for name, other in reference.items():
        b = other.astype(np.float64)
        change, size = ((network[name].astype(np.float64) - b) ** 2).sum(), (b**2).sum()
        for layer in {name.rpartition(".")[0] or name, ""}:
            total = squares.setdefault(layer, [0.0, 0.0])
            total[0] += float(change)
            total[1] += float(size)
    return {
        layer: math.sqrt(change / size) if size else 0.0
        for layer, (change, size) in squares.items()
        if size or not change
    }


def relearning(steps: np.ndarray, accuracy: np.ndarray, level: float) -> dict[str, float]:
    """Time and area of a relearning curve.

    Args:
        steps: ascending from 0, [p].
        accuracy: on the forgotten data after so many steps, [p].
        level: the accuracy from which on they count as relearned.

    Returns:
        `relearn_steps`, those of the first point at the level, and the last of all where none is (a lower bound);
        `relearn_reached`, 1 or 0; `relearn_area`, the mean of the accuracy over the steps, by the trapezoid rule.
    """
    reached = accuracy >= level
    first = int(reached.argmax()) if reached.any() else -1
    return {
        "relearn_steps": float(steps[first]),
        "relearn_reached": float(reached.any()),
        "relearn_area": float(np.trapezoid(accuracy, steps) / steps[-1]),
    }

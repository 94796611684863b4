"""Accuracies of a run, as fractions in [0, 1]. Formulas and sources: docs/metrics.md."""

import math

import numpy as np

from bench.metrics.judged import Judged, Part


def accuracy(part: Part) -> float:
    """Share of samples whose largest logit is the true class's; NaN without samples."""
    return float(part.correct.mean()) if len(part) else math.nan


def accuracies(run: Judged) -> dict[str, float]:
    """Every accuracy by name; one that the request has no samples for is left out.

    `UA`, `RA`, `TA`: Fan et al., SalUn (arXiv:2310.12508), section 4. `ACC_r`, `ACC_f`: Kodge et al.
    (arXiv:2312.00761), section 5, on test data and for class requests only.
    """
    forget_train, retain_train = accuracy(run.forget_train), accuracy(run.retain_train)
    retain_test = accuracy(run.retain_test)
    found = {
        "UA": 1 - forget_train,
        "RA": retain_train,
        "TA": retain_test,
        "ACC_f_train": forget_train,
        "ACC_r_train": retain_train,
        "ACC_r_test": retain_test,
        "ACC_r_validation": accuracy(run.retain_validation),
    }
    if len(run.forget_test):
        forget_test = accuracy(run.forget_test)
        found |= {
            "ACC_r": retain_test,
            "ACC_f": forget_test,
            "ACC_f_test": forget_test,
            "ACC_f_validation": accuracy(run.forget_validation),
        }
    return found


def per_class(logits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy on each class's samples, float64 [classes]; NaN for a class without samples."""
    correct = np.bincount(labels[logits.argmax(axis=1) == labels], minlength=classes)
    total = np.bincount(labels, minlength=classes)
    return np.divide(correct, total, out=np.full(classes, math.nan), where=total > 0)

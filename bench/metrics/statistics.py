"""From runs to rows of the leaderboard: mean over seeds, interval, gap to retrain, noise floor."""

import math

import numpy as np
from scipy import stats

LEVEL = 0.95


def over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and Student-t 95 % interval of the mean; the bounds are NaN for a single value.

    Args:
        values: float64 [n], one a seed.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def noise_floor(retrain: np.ndarray, n: int) -> float:
    """How far another honest retrain's mean may lie from the retrain row: 95 % of |gap| stay below it.

    For the means of independent normal samples of sizes n and m with one variance, estimated from the
    m retrains: t(0.975, m - 1) * s * sqrt(1/n + 1/m).

    Args:
        retrain: the metric on the m retrains, one a seed.
        n: seeds of the row whose gap is compared.

    Returns:
        NaN with fewer than two retrains.
    """
    m = len(retrain)
    if m < 2 or n < 1:
        return math.nan
    return float(stats.t.ppf((1 + LEVEL) / 2, m - 1) * np.std(retrain, ddof=1) * math.sqrt(1 / n + 1 / m))

"""95 % intervals of what attacks report: area under the ROC curve, shares, true positives at few false ones."""

import math

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95
Z = float(stats.norm.ppf((1 + LEVEL) / 2))


def auc(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve, ties counting a half, and DeLong's variance of it, by ranks in n log n.

    Source: DeLong et al., Biometrics 44 (1988); by mid-ranks, Sun and Xu, IEEE Signal Processing Letters 21 (2014).

    Args:
        members, others: scores, higher for members, float64 [m] and [n], at least two each.
    """
    m, n = len(members), len(others)
    ranks = stats.rankdata(np.concatenate([members, others]))
    below = (ranks[:m] - stats.rankdata(members)) / n  # share of the others below each member
    above = 1 - (ranks[m:] - stats.rankdata(others)) / m  # share of the members above each other
    return float(below.mean()), float(below.var(ddof=1) / m + above.var(ddof=1) / n)


def auc_interval(value: float, variance: float, m: int, n: int) -> tuple[float, float]:
    """Interval of an area under the ROC curve on the logit scale, which keeps it between 0 and 1.

    Source: Perme and Manevski, Statistical Methods in Medical Research 28 (2019), who find DeLong's variance on the
    logit scale right in every scenario but the separable one. There (and where all scores are equal) the variance is 0,
    and the interval is the set of areas that the value is compatible with by Hanley and McNeil's variance of
    exponential scores, as Newcombe proposes (Statistics in Medicine 25 (2006), 559-573).
    """
    if variance > 0 and 0 < value < 1:
        half = Z * math.sqrt(variance) / (value * (1 - value))
        low, high = special.expit(special.logit(value) + np.array([-half, half]))
        return float(low), float(high)

    def excess(area: float) -> float:
        return (value - area) ** 2 - Z**2 * hanley_mcneil(area, m, n)

    tiny = 1e-12
    low = 0.0 if value <= 0 else optimize.brentq(excess, tiny, min(value, 1 - tiny))
    high = 1.0 if value >= 1 else optimize.brentq(excess, max(value, tiny), 1 - tiny)
    return float(low), float(high)


def hanley_mcneil(area: float, m: int, n: int) -> float:
    """Variance of the estimated area where scores are exponential, with m and n replaced by their mean.

    Sources: Hanley and McNeil, Radiology 143 (1982); the mean is Newcombe's (2006).
    """
    each = (m + n) / 2 - 1
    return area * (1 - area) * (1 + each * ((1 - area) / (2 - area) + area / (1 + area))) / (m * n)


def binomial_interval(successes: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share (Biometrika 26, 1934); it covers 95 % or more."""
    alpha = 1 - LEVEL
    low = stats.beta.ppf(alpha / 2, successes, n - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - alpha / 2, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)


def tpr_at(members: np.ndarray, others: np.ndarray, fpr: float) -> tuple[float, float, float]:
    """Share of members that score above all but a share `fpr` of the others, with Clopper and Pearson's interval.

    The threshold is the k-th highest of the others, k = fpr (n + 1) rounded down: another non-member exceeds it with
    probability k / (n + 1) at most, so the rate holds beyond these samples. (Where fpr n is whole, k - 1 is the
    number of false positives that `fpr(threshold) < fpr` allows, as in Carlini et al.'s code.) The interval is of the
    share at this threshold.

    Returns:
        share, low, high; NaN where there are too few others for any threshold, fewer than 1 / fpr - 1.
    """
    k = math.floor(fpr * (len(others) + 1) + 1e-9)
    if k < 1 or not len(members):
        return math.nan, math.nan, math.nan
    threshold = np.partition(others, len(others) - k)[len(others) - k]
    hits = int((members > threshold).sum())
    return hits / len(members), *binomial_interval(hits, len(members))

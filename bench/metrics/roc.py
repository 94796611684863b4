"""From scores of members and non-members to what an attack reaches, each figure with its interval.

An attack judges one model of each side at a time, by what it learned from the others: a fold. Its scores are of
as many folds as there are models, so every figure has an interval over models beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

LEVEL = 0.95
RATES = {"tpr_1pct": 0.01, "tpr_01pct": 0.001}  # false-positive rates at which true positives are counted
FALSE_POSITIVES = 10  # that a rate must amount to: with fewer, one sample more or less is another result

# Scores of members [models, samples] and of non-members [models, samples], float64; high says member.
Fold = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Estimates:
    """Metrics by name, and why those that are NaN could not be estimated.

    Attributes:
        values: every metric; its interval is under NAME_low and NAME_high.
        missing: a reason for each name whose value is NaN.
    """

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: "Estimates") -> "Estimates":
        return Estimates(self.values | other.values, self.missing | other.missing)


def without(names: Sequence[str], reason: str) -> Estimates:
    """These metrics, none of which could be estimated."""
    return Estimates(dict.fromkeys(names, math.nan), dict.fromkeys(names, reason))


def model_counts(name: str, **counts: int) -> Estimates:
    """NAME_models_SIDE: how many models of each side there were."""
    return Estimates({f"{name}_models_{side}": float(count) for side, count in counts.items()})


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """P(a member scores above a non-member), ties counting half: the area under the ROC curve."""
    ranks = stats.rankdata(np.concatenate([members, others], axis=None))
    n = members.size
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * others.size))


def clopper_pearson(successes: float, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a proportion (Clopper and Pearson 1934), by quantiles of the beta distribution."""
    tail = (1 - LEVEL) / 2
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def true_positive_rate(members: np.ndarray, others: np.ndarray, rate: float, sides: int = 1) -> float:
    """Share of members that score beyond all but `rate` of the non-members.

    The false-positive rate never exceeds `rate`; taking the nearest point of the ROC curve, as some code does,
    may. With two sides, half of it lies in each tail, so that unusually low scores give a member away too.
    """
    allowed = int(rate / sides * len(others) + 1e-9)  # false positives in each tail
    ordered = np.sort(others)
    found = members > ordered[-1 - allowed]
    if sides == 2:
        found |= members < ordered[allowed]
    return float(found.mean())


def auc_variance(members: np.ndarray, others: np.ndarray) -> float:
    """Variance of the AUC over samples, each [n] and [h] drawn anew (DeLong et al., Biometrics 44, 1988)."""
    found = 0.0
    for scores, against in ((members, np.sort(others)), (others, np.sort(members))):
        places = (np.searchsorted(against, scores, "left") + np.searchsorted(against, scores, "right")) / 2
        found += float(np.var(places / len(against), ddof=1) / len(scores)) if len(scores) > 1 else 0.25
    return found


def over_folds(values: np.ndarray, sampling: float = 0.0) -> tuple[float, float, float]:
    """Mean over folds and a 95 % interval of it, Student's t; the bounds are NaN for a single fold.

    Folds share all but one of the models that they learn from, so their values are correlated and s²/n is too
    small a variance of the mean: s² (1/n + 1/(n - 1)) takes its place. Source: Nadeau and Bengio, Machine
    Learning 52 (2003), for cross-validation, n - 1 being the models learned from for each one that is judged.

    Args:
        values: [folds], each in [0, 1].
        sampling: variance that all folds have in common, since they are of the same samples.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    tail = (1 + LEVEL) / 2
    over_models = stats.t.ppf(tail, n - 1) ** 2 * np.var(values, ddof=1) * (1 / n + 1 / (n - 1))
    half = math.sqrt(over_models + stats.norm.ppf(tail) ** 2 * sampling)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def accuracies(folds: Sequence[Fold], threshold: float | None = None) -> np.ndarray:
    """Balanced accuracy of each fold, [folds]: the mean of both sides' shares that are called right.

    A score equal to the threshold counts half on either side. Without a threshold, each fold takes the one that
    parts the other folds best, and its direction: an attack on low scores is an attack.
    """
    found = []
    for i, (members, others) in enumerate(folds):
        cut, sign = (threshold, 1) if threshold is not None else _best_cut([f for j, f in enumerate(folds) if j != i])
        right = [
            np.heaviside(side * sign * (scores - cut), 0.5).mean() for side, scores in ((1, members), (-1, others))
        ]
        found.append(sum(right) / 2)
    return np.array(found)


def _best_cut(folds: Sequence[Fold]) -> tuple[float, int]:
    """The score that parts members from non-members best, and 1 if members lie above it, -1 if below."""
    members, others = (np.sort(np.concatenate([fold[side] for fold in folds], axis=None)) for side in (0, 1))
    cuts = np.unique(np.concatenate([members, others]))
    below = [np.searchsorted(side, cuts, "right") / len(side) for side in (others, members)]
    above = below[0] - below[1]  # TPR - FPR of calling member what exceeds the cut
    best = int(np.abs(above).argmax())
    here, after = cuts[best], cuts[min(best + 1, len(cuts) - 1)]
    return float(here + (after - here) / 2), 1 if above[best] >= 0 else -1


def judge(
    name: str, folds: Sequence[Fold], threshold: float | None = None, sides: int = 1, drawn: float = 0.0
) -> Estimates:
    """AUC, leakage, balanced accuracy and true positives at low false-positive rates of one attack.

    Args:
        name: what the metrics' names begin with.
        folds: scores of each model that was judged.
        threshold: above it a score says member; None has it learned from the other folds.
        sides: 2 if low scores give members away as high ones do; 1 if the score took care of that.
        drawn: weight of the variance over samples. 0 if members and non-members are the same samples on different
            models, so that their drawing is no difference; 1 if they are different samples; 1 + k / (k - 1) if
            scores were learned from them, too, in k parts (as in `over_folds`).

    Returns:
        NAME_auc, NAME_accuracy: mean over folds, interval over models.
        NAME_leakage: |2 AUC - 1|, from 0 (chance) to 1; an AUC of 0 leaks as one of 1 does.
        NAME_tpr_1pct, NAME_tpr_01pct: over all folds' scores together; Clopper-Pearson interval in which a sample
        counts once, though it was judged once a model. NaN with fewer non-members than `FALSE_POSITIVES` / rate.
    """
    areas = np.array([auc(*fold) for fold in folds])
    right = accuracies(folds, threshold) if threshold is not None or len(folds) > 1 else np.array([math.nan])
    over_samples = np.zeros(2)
    if drawn:
        sizes = sum(1 / side.shape[1] for side in folds[0])
        over_samples[0] = np.mean([auc_variance(members[0], others[0]) for members, others in folds])
        over_samples[1] = right.mean() * (1 - right.mean()) * sizes / 4
    made = Estimates()
    for metric, values, sampling in zip(("auc", "accuracy"), (areas, right), drawn * over_samples, strict=True):
        made |= _with_interval(f"{name}_{metric}", *over_folds(values, sampling), "one model has no other beside it")
    made.values[f"{name}_leakage"] = abs(2 * made.values[f"{name}_auc"] - 1)
    members, others = (np.concatenate([fold[side] for fold in folds], axis=None) for side in (0, 1))
    for metric, rate in RATES.items():
        if len(others) * rate < FALSE_POSITIVES:
            needed = math.ceil(FALSE_POSITIVES / rate)
            made |= without(
                [f"{name}_{metric}{end}" for end in ("", "_low", "_high")],
                f"{len(others)} scores of non-members; a false-positive rate of {rate:.1%} needs {needed}",
            )
            continue
        share, samples = true_positive_rate(members, others, rate, sides), folds[0][0].shape[1]
        made |= _with_interval(f"{name}_{metric}", share, *clopper_pearson(share * samples, samples), "")
    return made


def _with_interval(name: str, value: float, low: float, high: float, reason: str) -> Estimates:
    values = {name: value, f"{name}_low": low, f"{name}_high": high}
    return Estimates(values, {key: reason for key, found in values.items() if math.isnan(found)})


def names(attack: str) -> list[str]:
    """What `judge` returns for an attack."""
    with_interval = [f"{attack}_{metric}" for metric in ("auc", "accuracy", *RATES)]
    return [f"{name}{end}" for name in with_interval for end in ("", "_low", "_high")] + [f"{attack}_leakage"]

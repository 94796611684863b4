"""How far the margins of networks that unlearned lie from those of retrained ones: KLoM and the challenge's ε.

Both compare, sample by sample, the distribution of `likelihood.margin` over models, float64 [models, samples]. Both
depend strongly on the number of models, so each comes with what honest retrains score against each other.
Formulas, sources and known defects of public code: docs/metrics.md.
"""

import math

import numpy as np

from bench.metrics.likelihood import LIMIT, checked
from bench.metrics.roc import Estimates, model_counts, without

BINS = 20
EMPTY = 1e-5  # probability of a bin in which no retrained model lies
DELTA = 1e-5
CAP = 50.0  # ε of samples that part the models without error
PEAKED = 0.01  # below this ratio of the narrower range to the wider one, ε is the cap
BUCKET = 0.5  # width of the score's steps of ε


# KLoM: KL divergence of margins


def klom(unlearned: np.ndarray, retrained: np.ndarray, legacy: bool = False) -> Estimates:
    """KLoM: KL(unlearned ‖ retrained) of each sample's margins over models, in 20 bins over their common range.

    Source: Georgiev et al. (arXiv:2410.23232), appendix E; bins, limit and floor of the authors' code
    (RoyRin/data-unlearning-bench). There the largest margin falls out of the last bin; here it is in it.

    Args:
        unlearned: margins [m, n] on the method's models, of any samples: the forget set's, the retain set's.
        retrained: margins [k, n] of the same samples on retrained models.
        legacy: `klom_legacy` beside it, with the last bin open to the right, as published.

    Returns:
        klom, klom_p95: mean and 95th percentile over samples.
        klom_floor: mean KLoM of every other retrained model against those between.
        klom_halves: of every other model of the method against the same; the floor is to be compared with this.
    """
    unlearned, retrained = checked(unlearned, retrained)
    m, k = len(unlearned), len(retrained)
    of_each = klom_of_each(unlearned, retrained)
    made = model_counts("klom", unlearned=m, retrained=k)
    made.values.update(klom=float(of_each.mean()), klom_p95=float(np.quantile(of_each, 0.95)))
    if legacy:
        made |= _mean("klom_legacy", klom_of_each(unlearned, retrained, legacy=True))
    for name, (first, second) in halves(unlearned, retrained).items():
        if len(first) and len(second):
            made.values[f"klom_{name}"] = float(klom_of_each(first, second).mean())
        else:
            made |= without([f"klom_{name}"], f"models: {m} unlearned, {k} retrained; too few to halve")
    return made


def halves(unlearned: np.ndarray, retrained: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What an honest retrain scores, and the method with as many models: 'floor' and 'halves', models of two sides.

    The floor sets seeds 0, 2, ... of the retrained models against seeds 1, 3, ...; for the method its own seeds
    0, 2, ... stand in their place. No seed is on both sides, since what a seed's models share would tell.
    """
    models = min(len(unlearned[::2]), len(retrained[::2]))
    return {"floor": (retrained[::2][:models], retrained[1::2]), "halves": (unlearned[::2][:models], retrained[1::2])}


def klom_of_each(unlearned: np.ndarray, retrained: np.ndarray, legacy: bool = False) -> np.ndarray:
    """KLoM of each sample, [n]. With `legacy` NaN where all of the method's models share the largest margin."""
    edges = _edges(unlearned, retrained)
    p, q = (_counts(margins, edges, legacy) for margins in (unlearned, retrained))
    with np.errstate(invalid="ignore"):
        p, q = p / p.sum(axis=0), q / np.maximum(q.sum(axis=0), 1)
        q = np.where(p > 0, np.maximum(q, EMPTY), q)
        if legacy:
            q = q / q.sum(axis=0)  # SciPy's entropy makes them sum to one again
    return np.where(p == 0, 0.0, p * np.log(np.where(p == 0, 1.0, p) / np.where(p == 0, 1.0, q))).sum(axis=0)


def _edges(*margins: np.ndarray) -> np.ndarray:
    """Edges of each sample's bins, [BINS + 1, n]: equal steps from the smallest margin to the largest."""
    every = np.clip(np.concatenate(margins), -LIMIT, LIMIT)
    low, high = every.min(axis=0), every.max(axis=0)
    return np.linspace(low, np.where(low < high, high, low + 1), BINS + 1)


def _counts(margins: np.ndarray, edges: np.ndarray, legacy: bool = False) -> np.ndarray:
    """How many models' margins lie in each bin, [BINS, n]. The last bin has its right edge, but not in `legacy`."""
    margins = np.clip(margins, -LIMIT, LIMIT)
    reached = np.stack([(margins >= edge).sum(axis=0) for edge in edges])  # the last counts the right edge itself
    if not legacy:
        reached[-1] = 0
    return reached[:-1] - reached[1:]


def _mean(name: str, of_each: np.ndarray) -> Estimates:
    if bad := int(np.isnan(of_each).sum()):
        return without([name], f"0/0 on {bad} of {len(of_each)} samples")
    return Estimates({name: float(of_each.mean())})


# ε: forgetting quality of the NeurIPS 2023 challenge


def epsilon(unlearned: np.ndarray, retrained: np.ndarray, delta: float = DELTA) -> Estimates:
    """Forgetting quality of the NeurIPS 2023 challenge: how well any threshold on margins tells the models apart.

    Source: Triantafillou et al. (arXiv:2406.09073); decision rules and score from google-deepmind/
    unlearning_evaluation, which tries thresholds 0.01 apart; here every threshold that matters is tried.

    Args:
        unlearned, retrained: margins [m, n], [k, n] of the forget set.
        delta: δ of (ε, δ)-unlearning.

    Returns:
        epsilon_median: over samples. epsilon_separated: share of the samples whose ε is the cap.
        epsilon_score: forgetting quality F in [0, 1]; 1 if no sample has an ε above 0.5.
        epsilon_largest: log(min(m, k) - 1), the largest finite ε that so many models can show.
        epsilon_score_floor, epsilon_score_halves: the score of every other retrained model, and of every other
        one of the method's, against the retrained models between; to be compared with each other.
    """
    unlearned, retrained = checked(unlearned, retrained)
    m, k = len(unlearned), len(retrained)
    of_each = epsilon_of_each(unlearned, retrained, delta)
    made = model_counts("epsilon", unlearned=m, retrained=k)
    made.values.update(epsilon_median=float(np.median(of_each)), epsilon_separated=float((of_each == CAP).mean()))
    made |= _score("epsilon_score", of_each, min(m, k))
    if min(m, k) >= 2:
        made.values["epsilon_largest"] = math.log(min(m, k) - 1)
    for name, (first, second) in halves(unlearned, retrained).items():
        models = min(len(first), len(second))
        made |= _score(f"epsilon_score_{name}", epsilon_of_each(first, second, delta) if models else first, models)
    return made


def challenge_score(quality: float, retain: float, test: float, retrain_retain: float, retrain_test: float) -> float:
    """The challenge's final score: forgetting quality times accuracies on retain and test set over retrain's."""
    return quality * (retain / retrain_retain) * (test / retrain_test)


def epsilon_of_each(unlearned: np.ndarray, retrained: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """ε of each sample, [n], from 0 to `CAP`.

        ε = max over rules of max(log(1 - δ - FPR) - log FNR, log(1 - δ - FNR) - log FPR)

    One kind of rule calls positive what exceeds a threshold, the positive side being that of the larger median;
    the other what lies in an interval, the positive side being that of the narrower range. A rule without any
    error gives the cap; one with a single kind of error is dropped, for want of models. The rates change only at
    margins that occur, so cutting the ordered margins between each two of them tries every rule there is.
    """
    medians, ranges = ([of(a, axis=0) for a in (unlearned, retrained)] for of in (np.median, np.ptp))
    order = np.argsort(np.concatenate([unlearned, retrained]), axis=0)
    ordered = np.take_along_axis(np.concatenate([unlearned, retrained]), order, axis=0)
    below = _below(order < len(unlearned), ordered), _below(order >= len(unlearned), ordered)
    first = _rule_table(len(unlearned), len(retrained), delta)  # the method's models are positive
    second = _rule_table(len(retrained), len(unlearned), delta).T
    above = [side[-1] - side for side in below]
    best = np.where(medians[1] > medians[0], second[above[0], above[1]], first[above[0], above[1]]).max(axis=0)
    narrow = ranges[0] < ranges[1]  # of equal ranges the retrained models' counts as the narrower
    for table, samples in ((first, narrow), (second, ~narrow)):
        counts = [side[:, samples] for side in below]
        found = best[samples]
        for cut in range(len(ordered)):
            inside = [side[cut + 1 :] - side[cut] for side in counts]
            np.maximum(found, table[inside[0], inside[1]].max(axis=0), out=found)
        best[samples] = found
    best[np.minimum(*ranges) < PEAKED * np.maximum(*ranges)] = CAP
    return np.minimum(best, CAP)


def _below(side: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """How many of a side's margins lie below each cut of the ordered ones, [N + 1, n]; equal ones are never parted."""
    total, samples = ordered.shape
    counts = np.concatenate([np.zeros((1, samples), dtype=np.int64), side.cumsum(axis=0)])
    for cut in range(total - 1, 0, -1):
        tied = ordered[cut - 1] == ordered[cut]
        counts[cut, tied] = counts[cut + 1, tied]
    return counts


def _rule_table(positives: int, negatives: int, delta: float) -> np.ndarray:
    """ε of a rule that calls a positive and b negative models positive, [positives + 1, negatives + 1]."""
    fnr = 1 - np.arange(positives + 1)[:, None] / positives
    fpr = np.arange(negatives + 1) / negatives
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.fmax(np.log(1 - delta - fpr) - np.log(fnr), np.log(1 - delta - fnr) - np.log(fpr))
    found = np.where((fnr == 0) | (fpr == 0), 0.0, np.fmax(found, 0))
    return np.where((fnr == 0) & (fpr == 0), np.inf, found)


def _score(name: str, of_each: np.ndarray, models: int) -> Estimates:
    """Mean over samples of the points that their ε earns: 1 below 0.5, half as many in each further step of 0.5."""
    steps = math.floor(math.ceil(math.log(models - 1)) / BUCKET) if models >= 2 else 0
    if not steps:
        return without([name], f"models: {models} of a side; ε has no step to fall into with fewer than 3")
    points = np.append(0.5 ** np.arange(steps), 0.0)
    return Estimates({name: float(points[np.minimum(of_each // BUCKET, steps).astype(int)].mean())})

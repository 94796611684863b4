"""Attacks that learn to tell members from non-members by a feature of their predictions, with scikit-learn.

    threshold   no classifier: the feature itself, with the sign that is higher for members
    logistic    logistic regression on the standardised feature
    boosting    histogram gradient boosting
    svc         the SVC of the published attacks

The learned ones are cross-fitted: a sample is scored by a classifier that was fitted without it. Members and
non-members are equally many of each class. The order of the samples and the numbering of the classes play no part.
"""

import hashlib
import heapq
import math
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from bench.metrics.features import FEATURES, HIGHER_UNSEEN, Features
from bench.metrics.intervals import auc, auc_interval, tpr_at
from bench.metrics.judged import Part

Score = Callable[[np.ndarray], np.ndarray]  # features [n, d] -> scores [n]; above 0 says member
CLASSIFIERS = ("threshold", "logistic", "boosting", "svc")
FOLDS = 5
RATES = {"tpr1": 0.01, "tpr01": 0.001}  # false positives, as shares
EXACT_SVC = 5_000  # samples up to which the published classifier is fitted as it stands
BINS = 512  # to which more are reduced
EXACT_FOLD, BINS_FOLD = 1_000, 64  # the same in cross-fitted attacks, which no paper defines


# --- the published classifier ----------------------------------------------------------------------


def fitted_svc(features: np.ndarray, labels: np.ndarray, exact_up_to: float = EXACT_SVC, bins: int = BINS) -> SVC:
    """The classifier of both published attacks: RBF kernel, C = 3, gamma 'auto' (1 / features).

    Fitting takes time with the square of the samples. Above `exact_up_to` of them, samples of one label that lie close
    together enter as one point: at their mean, with their number as its weight. For equal samples that is the same
    problem; the others are so near beside the kernel's width that hardly a decision changes
    (benchmarks/results/attacks_svc.md).

    Args:
        features: float64 [n, d].
        labels: 0 or 1, [n].
        exact_up_to: math.inf for the published fit whatever its size.
        bins: intervals and quantiles of one feature, half the boxes of several.
    """
    svc = SVC(kernel="rbf", C=3, gamma="auto")
    if len(features) <= exact_up_to:
        return svc.fit(features, labels)
    near = slices(features[:, 0], bins) if features.shape[1] == 1 else boxes(features, labels, 2 * bins)
    _, point, count = np.unique(2 * near + labels, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(point, column) / count for column in features.T], axis=1)
    return svc.fit(means, np.bincount(point, labels) > count / 2, sample_weight=count)


def slices(values: np.ndarray, count: int) -> np.ndarray:
    """Number of the slice that each value lies in, int [n]: what one interval and one quantile have in common.

    There are `count` of each. The equal intervals divide the range, but are no narrower than 1 / count and no wider
    than 32 / count, since the kernel's width is 1.
    """
    width = float(np.clip(np.ptp(values), 1, 32)) / count
    grid = np.arange(np.floor(values.min() / width), np.ceil(values.max() / width) + 1) * width
    return np.searchsorted(np.union1d(grid, np.quantile(values, np.linspace(0, 1, count + 1))), values)


def boxes(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Number of the box that each sample lies in, int [n]: `count` of each label, small where samples lie far apart.

    The box with the largest sum of squared distances to its mean is cut at the mean of its most varied coordinate,
    again and again, much as Wu (Graphics Gems II, 1991) cuts colours. Quantiles serve vectors badly: nearly all samples
    are alike and the few others fill the space.
    """
    numbers = np.zeros(len(features), dtype=np.int64)
    for label in (0, 1):
        heap = [_box(features, np.flatnonzero(labels == label), 0)]
        while len(heap) < count and heap[0][0] < 0:
            _, number, axis, inside = heapq.heappop(heap)
            column = features[inside, axis]
            left = column <= column.mean()
            if left.all() or not left.any():  # equal but for rounding
                heapq.heappush(heap, (0.0, number, axis, inside))
                continue
            heapq.heappush(heap, _box(features, inside[left], number))
            heapq.heappush(heap, _box(features, inside[~left], len(heap)))
        for _, number, _, inside in heap:
            numbers[inside] = number
    return numbers


def _box(features: np.ndarray, inside: np.ndarray, number: int) -> tuple[float, int, int, np.ndarray]:
    """A box for the heap: minus its scatter, its number (no two have one), its most varied axis, its samples."""
    scatter = features[inside].var(axis=0) * len(inside)
    return -float(scatter.sum()), number, int(scatter.argmax()), inside


# --- cross-fitted attacks --------------------------------------------------------------------------


def classifier_attacks(
    members: Part,
    unseen: Part,
    classifiers: tuple[str, ...] = CLASSIFIERS,
    features: tuple[str, ...] = FEATURES,
    seed: int = 0,
) -> dict[str, float]:
    """Every classifier on every feature, `mia_CLASSIFIER_FEATURE_` and:

        auc, auc_low, auc_high        area under the ROC curve, 95 % interval
        leak                          2 |auc - 0.5|: below 0.5 is leakage too
        accuracy                      balanced, at the classifier's own threshold; not of `threshold`
        tpr1, tpr01 (_low, _high)     true positives at 1 % and 0.1 % false ones, Clopper-Pearson interval

    The threshold of a learned attack is learned too: where members have the higher loss (forgotten too well), its
    area is above 0.5, that of `threshold` below. All is NaN with fewer than 2 FOLDS samples on a side, a rate also
    with fewer non-members than it needs (`intervals.tpr_at`).
    """
    read, member, fold = dealt(members, unseen, seed)
    found: dict[str, float] = {}
    for classifier in classifiers:
        for feature in features:
            if classifier == "threshold" and feature == "prob":
                continue  # a vector has no order
            scores = cross_fitted(classifier, feature, read, member, fold) if len(read) else np.zeros(0)
            measures = measured(scores, member, None if classifier == "threshold" else fold)
            found |= {f"mia_{classifier}_{feature}_{name}": value for name, value in measures.items()}
    return found


def dealt(members: Part, unseen: Part, seed: int = 0) -> tuple[Features, np.ndarray, np.ndarray]:
    """As many members as non-members of each class, dealt into folds at random.

    The draws depend on `seed` and the predictions alone, which are sorted and then seed the generator. (One seed for
    all would deal the same ranks into the same folds each time. As what is high in one fold is low in the rest, areas
    of identical distributions would then not be 0.5 on average.)

    Returns:
        features of the samples that were drawn, whether each is a member, bool [n], and its fold, int [n]; nothing
        where a side has fewer than 2 FOLDS.
    """
    drawn = []
    for side, (part, other) in enumerate(((members, unseen), (unseen, members))):
        order, generator = canonical(part, side, seed)
        order = generator.permutation(order)
        labels, keep = part.labels[order], np.zeros(len(part), dtype=bool)
        for c in np.unique(labels):
            keep[np.flatnonzero(labels == c)[: (other.labels == c).sum()]] = True
        drawn.append(part[order[keep]])
    n = len(drawn[0]) if len(drawn[0]) >= 2 * FOLDS else 0
    both = Part(*(np.concatenate([getattr(part, name)[:n] for part in drawn]) for name in ("logits", "labels")))
    return Features(both), np.repeat([True, False], n), np.tile(np.arange(n) % FOLDS, 2)


def canonical(part: Part, side: int, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    """Positions of the samples in an order that their predictions alone decide, int [n], and a generator of them."""
    features = Features(part)
    order = np.lexsort((features.entropy, features.loss, features.margin))
    logits = np.sort(part.logits[order], axis=1).astype(np.float32)  # as stored: no machine rounds them otherwise
    digest = hashlib.sha256(logits.tobytes() + bytes([side]) + (str(seed).encode() if seed else b"")).digest()
    return order, np.random.default_rng(int.from_bytes(digest[:8], "big"))


def cross_fitted(classifier: str, feature: str, read: Features, member: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Score of each sample by the classifier that was fitted on the other folds, float64 [n]; above 0 is 'member'."""
    values = read[feature]
    if classifier == "threshold":
        return -values[:, 0] if feature in HIGHER_UNSEEN else values[:, 0]
    scores = np.empty(len(values))
    for k in range(FOLDS):
        rest = fold != k
        score = _fitted(classifier, values[rest], member[rest].astype(np.int64))
        scores[~rest] = score(values[~rest])
    return scores


def fitted_logistic(values: np.ndarray, labels: np.ndarray, class_weight: str | None = None) -> Score:
    """Logistic regression on standardised features, as a function of other samples' features."""
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    fitted = LogisticRegression(class_weight=class_weight).fit((values - mean) / std, labels)
    return lambda asked: fitted.decision_function((asked - mean) / std)


def _fitted(classifier: str, values: np.ndarray, labels: np.ndarray) -> Score:
    match classifier:
        case "logistic":
            return fitted_logistic(values, labels)
        case "boosting":
            # few and small trees: a hundred of 31 leaves follow the noise of one feature and attack worse
            trees = HistGradientBoostingClassifier(
                max_iter=10, learning_rate=0.2, max_leaf_nodes=8, early_stopping=False, random_state=0
            )
            return trees.fit(values, labels).decision_function
        case "svc":
            return fitted_svc(values, labels, EXACT_FOLD, BINS_FOLD).decision_function
    raise ValueError(f"unknown classifier '{classifier}'; there are: {', '.join(CLASSIFIERS)}")


def measured(scores: np.ndarray, member: np.ndarray, fold: np.ndarray | None) -> dict[str, float]:
    """What `classifier_attacks` reports of the scores of one attack; `fold` is None of one that is not cross-fitted.

    Only scores of one classifier compare. So the area is the mean over folds, and the rates are those of the ranks
    within folds (scores that level off differ by fold more than by sample).

    The variance of a cross-fitted area is twice that of independent folds: each pair of samples counts twice, once the
    first to fit and the second to judge and once the other way. Without this the interval of two identical
    distributions misses 0.5 in more than 10 of 100 cases. With it, it is as wide as if one half were judged by a
    classifier of the other.
    """
    n = int(member.sum())
    names = ["auc", "auc_low", "auc_high", "leak"] + (["accuracy"] if fold is not None else [])
    names += [f"{rate}{end}" for rate in RATES for end in ("", "_low", "_high")]
    if n == 0:
        return dict.fromkeys(names, math.nan)
    folds = [np.flatnonzero(fold == k) for k in range(FOLDS)] if fold is not None else [np.arange(2 * n)]
    areas, variances = np.array([auc(scores[i][member[i]], scores[i][~member[i]]) for i in folds]).T
    area, variance = float(areas.mean()), float(variances.mean() / len(folds)) * (1 if fold is None else 2)
    values = [area, *auc_interval(area, variance, n, n), 2 * abs(area - 0.5)]
    if fold is not None:
        values.append(float(((scores > 0) == member).mean()))
    ranks = np.empty(2 * n)
    for i in folds:
        ranks[i] = stats.rankdata(scores[i]) / (len(i) + 1)
    for rate in RATES.values():
        values += tpr_at(ranks[member], ranks[~member], rate)
    return dict(zip(names, values, strict=True))

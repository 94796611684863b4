"""How far a run's outputs lie from those of a retrained network on the same samples, and the published scores.

The distances take log-probabilities, float64 [n, classes], of two networks: of the run, `log_p`, and of the network
that it is compared with, `log_q`, row by row for the same samples. `js` and `kl` give one value a sample, which
depends on that sample alone; the metric is their mean. `distances` makes all of them from logits, `to_retrain` from
two judged runs on each set of samples:

    forget       D_f: what the papers report; whether the run answers like a network that never saw these samples
    retain       D_r: damage done to what should have stayed
    test         retained test samples: damage that a user meets
    forget_test  test samples of forgotten classes, where there are such: D_f without what was memorised

0 is out of reach for every distance: two honest retrains lie apart too. The target is what one retrain has to another.
The scores at the end take accuracies and attack results, as fractions. With `legacy=True` a formula is that of public
code which differs from its paper and whose numbers are quoted; such values stand under a name of their own.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import log_softmax, rel_entr

from bench.metrics.judged import Judged, Part

SETS = {"forget": "forget_train", "retain": "retain_train", "test": "retain_test", "forget_test": "forget_test"}
REFERENCES = 4  # retrains that a run's outputs are compared with; with more, time goes with the seeds' square
AGAINST_RETRAINS = (  # what metrics begin with that compare outputs or weights with those of retrains
    *("activation_", "js_", "kl_", "disagreement_", "completeness_", "confusion_forget", "confusion_test"),
    *("weights_retrain", "cka_retrain", "cka_forget_retrain"),
)
AVERAGED = ("UA", "RA", "TA", "mia_salun")


def to_retrain(run: Judged, retrain: Judged) -> dict[str, float]:
    """Every distance on every set that has samples, as `DISTANCE_SET` (`js_forget`, ...).

    Raises:
        ValueError: the two were not judged on the same samples.
    """
    return {
        f"{name}_{where}": value
        for where, part, other in _pairs(run, retrain)
        for name, value in distances(part.logits, other.logits).items()
    }


def churn(run: Judged, original: Judged) -> dict[str, float]:
    """`churn_SET`: share of samples whose predicted class unlearning changed, in [0, 1].

    P[f_after(x) != f_before(x)]: `disagreement` with the original in place of retrain. Target: retrain's churn from
    the same original; on retained data 0 would be ideal, but retraining does not reach it either.
    Source: Milani Fard et al., "Launch and Iterate: Reducing Prediction Churn", NIPS 2016.
    """
    return {f"churn_{where}": disagreement(a.logits, b.logits) for where, a, b in _pairs(run, original)}


def _pairs(run: Judged, other: Judged) -> Iterator[tuple[str, Part, Part]]:
    for where, attribute in SETS.items():
        ours, theirs = getattr(run, attribute), getattr(other, attribute)
        if not np.array_equal(ours.labels, theirs.labels):
            raise ValueError(f"{attribute}: the two runs were not judged on the same samples")
        if len(ours):
            yield where, ours, theirs


def distances(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Every distance between two networks by name, from their logits [n, classes] for the same n > 0 samples."""
    log_p, log_q = log_softmax(logits, axis=1), log_softmax(reference, axis=1)
    unlike = disagreement(logits, reference)
    return {
        **activation(log_p, log_q),
        "js": float(js(log_p, log_q).mean()),
        "js_legacy": float(js(log_p, log_q, legacy=True).mean()),
        "kl_retrain_run": float(kl(log_q, log_p).mean()),
        "kl_run_retrain": float(kl(log_p, log_q).mean()),
        "disagreement": unlike,
        "completeness": 1 - unlike,
    }


def activation(log_p: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
    """Activation distance in its three published definitions, of the softmax outputs p and q.

    activation_l2    mean of |p - q|_2, in [0, sqrt 2]. Chundawat et al., arXiv:2205.08096, metrics.py (`actv_dist`).
    activation_rms   square root of the mean of |p - q|_2^2, in [0, sqrt 2], never below the first. SUPREME,
                     arXiv:2606.00380, activation_distance.py, which cites the paper above.
    activation_l1    mean of |p - q|_1, in [0, 2], twice the total variation. Golatkar et al., arXiv:2003.02960,
                     their notebook (`activations_distance`).

    All three are printed as "activation distance"; a number without its definition cannot be compared.
    Reported on D_f; Golatkar et al. on D_r and test too.
    """
    difference = np.exp(log_p) - np.exp(log_q)
    squared = (difference**2).sum(axis=1)
    return {
        "activation_l2": float(np.sqrt(squared).mean()),
        "activation_rms": float(np.sqrt(squared.mean())),
        "activation_l1": float(np.abs(difference).sum(axis=1).mean()),
    }


def js(log_p: np.ndarray, log_q: np.ndarray, legacy: bool = False) -> np.ndarray:
    """Jensen-Shannon divergence in nats, [n]: symmetric, in [0, ln 2], 0 where the two are equal.

    (KL(p|m) + KL(q|m)) / 2 with m = (p + q) / 2. Reported on D_f. Source: Lin, "Divergence measures based on the
    Shannon entropy", IEEE Trans. Inf. Theory 37(1), 1991; for unlearning arXiv:2205.08096.

    Args:
        legacy: (KL(m|p) + KL(m|q)) / (2 classes) instead: what `F.kl_div(log p, m)` with its default reduction gives
            in the code of arXiv:2205.08096 and all that took it over (SSD, SUPREME). It has no bound, and it shrinks
            with the number of classes, so it does not compare between data sets. There a probability that
            underflows gives inf or NaN; here it does not.
    """
    if legacy:
        log_m = np.logaddexp(log_p, log_q) - math.log(2)
        return (np.exp(log_m) * (2 * log_m - log_p - log_q)).sum(axis=1) / (2 * log_p.shape[1])
    p, q = np.exp(log_p), np.exp(log_q)
    m = (p + q) / 2
    return np.clip((rel_entr(p, m) + rel_entr(q, m)).sum(axis=1) / 2, 0, math.log(2))  # rounding leaves the range


def kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence KL(p|q) in nats, [n]; in [0, inf), not symmetric.

    `kl_retrain_run` is KL(retrain|run): large where the run excludes what retrain deems possible; a masked logit
    of -1e4 counts with 1e4 times the probability that retrain gives to its class. `kl_run_retrain` is KL(run|retrain).
    A few samples may make up the whole mean; `js` is the bounded one.
    """
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0)


def disagreement(logits: np.ndarray, reference: np.ndarray) -> float:
    """Share of samples for which the two networks predict different classes, in [0, 1]; labels play no part.

    Target: what two retrains disagree. `completeness`, 1 minus it, is Cao and Yang's share of inputs with equal
    predictions of unlearned and retrained system ("Towards Making Systems Forget with Machine Unlearning",
    IEEE S&P 2015). Surveys also take the Jaccard index of the two sets of (sample, prediction): that
    is c / (2 - c) of the completeness c, the same order.
    """
    return float((logits.argmax(axis=1) != reference.argmax(axis=1)).mean())


def zrf(logits: np.ndarray, incompetent: np.ndarray) -> dict[str, float]:
    """Zero retrain forgetting: how close the run is to a network that was never trained, on D_f (or another set).

    zrf_js2      1 - mean JS in bits, in [0, 1]; 1 where the two outputs are equal
    zrf_legacy   1 - mean of `js(legacy=True)`, in (-inf, 1]: as published code computes it. For K classes it is
                 1 minus something of the order 1/K: values of 0.9 and more quoted from papers are of this kind.

    High is no aim: retrain classifies most of D_f of a random request rightly, and a network that answers at
    random has more than it. Target: retrain's value against the same untrained network.
    Source: Chundawat et al., arXiv:2205.08096, and metrics.py (`UnLearningScore`).

    Args:
        logits, incompetent: of the run and of a randomly initialised network of its architecture, [n, classes].
    """
    log_p, log_q = log_softmax(logits, axis=1), log_softmax(incompetent, axis=1)
    return {
        "zrf_js2": float(1 - js(log_p, log_q).mean() / math.log(2)),
        "zrf_legacy": float(1 - js(log_p, log_q, legacy=True).mean()),
    }


def nomus(test: float, mia: float, weight: float = 0.5) -> float:
    """Normalized machine unlearning score: weight * test accuracy + (1 - weight) * (1 - 2 |mia - 0.5|), in [0, 1].

    Choi and Na, arXiv:2311.02240. `mia` is the accuracy of the loss attack on D_f against unseen samples
    (`mia_loss_accuracy`). Published as the higher the better; but it wants the attack at 0.5, also where retrain
    itself is not, and pays a point of accuracy with half a point of leakage. Target: retrain's value.
    """
    return weight * test + (1 - weight) * (1 - 2 * abs(mia - 0.5))


def aus(test: float, original: float, forget: float, whole_classes: bool, legacy: bool = False) -> float:
    """Adaptive unlearning score: (1 - (original - test)) / (1 + delta), in [0, 2].

    delta is the accuracy on forgotten classes' test samples where whole classes are forgotten, and |forget - test|
    with the accuracy on D_f elsewhere. Published as the higher the better, above 1 where the test accuracy
    rose. Target: retrain's value. Source: Cotogni et al., DUCK, arXiv:2312.02052, and `AUS` in its main_def.py.

    Args:
        test, original: accuracy on retained test samples, of the run and of the original.
        forget: accuracy on forgotten test samples (whole classes), or on D_f.
        legacy: |forget - test| also for whole classes, as ERASURE (measures.py) has it: it scores the original about
            twice as high as retrain.
    """
    delta = forget if whole_classes and not legacy else abs(forget - test)
    return (1 - (original - test)) / (1 + delta)


def average_gap(run: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Mean of |run - retrain| over UA, RA, TA and the attack `mia_salun`, in [0, 1]; target 0, not reached by noise.

    Fan et al., SalUn, arXiv:2310.12508, Table 1: there of means over trials, as on the leaderboard. Of single runs
    it is larger, since the gaps' noise does not cancel. It weighs the four alike, whatever their noise.
    """
    return float(np.mean([abs(run[name] - retrain[name]) for name in AVERAGED]))


def indiscernibility(mia: float) -> float:
    """1 - |mia - 0.5| / 0.5 of an attack's accuracy, in [0, 1]; 1 where it is at chance, on either side less.

    Cadet et al., Deep Unlearn, arXiv:2410.01276; indiscernibility.py. `mia` is `mia_loss_accuracy`. Target: retrain's
    value, below 1 where the attack tells D_f from unseen samples without any leak, as it may for whole classes.
    """
    return 1 - abs(mia - 0.5) / 0.5


def retention_deviation(run: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Sum of |1 - run / retrain| over the accuracies on D_f, D_r and test, in [0, inf); target 0, not reached by noise.

    Cadet et al., Deep Unlearn, arXiv:2410.01276; their retention.py holds the ratios, the sum is ours to read from
    the name. A ratio has no bound where retrain's accuracy is small, so it is no measure of forgotten classes. NaN
    where retrain's is 0, which the authors' code refuses as well.

    Args:
        run, retrain: accuracies by the same names.
    """
    if not all(retrain.values()):
        return math.nan
    return float(sum(abs(1 - run[name] / retrain[name]) for name in retrain))


def apart(retrain: np.ndarray) -> np.ndarray:
    """Distances of m retrains to each other, spread as if each had been compared with retrains of its own.

    The mean distance of retrain i to the m - 1 others is a_i + mean of a_j (j not i) + noise, if a_i is how far out it
    lies. As the others are the same but for i, the values vary by (m - 2) / (m - 1) of what the a_i do, while a
    method's runs, each beside a retrain that it is left out of, vary by all of it.

    Args:
        retrain: one value a seed, float64 [m].

    Returns:
        float64 [m], with the same mean; the first value alone where m < 3, since two share their one distance, and
        unchanged where each was compared with `REFERENCES` of more.
    """
    m = len(retrain)
    if m < 3:
        return retrain[:1]
    if m > REFERENCES + 1:
        return retrain
    mean = retrain.mean()
    return np.asarray(mean + (retrain - mean) * (m - 1) / (m - 2))

"""Likelihood-ratio attacks on what networks say of the forget set: U-LiRA, RULI, RMIA.

Each asks whether a network that unlearned a sample can be told from one that never learned it, sample by sample,
from how other seeds' networks answer. They read margins (`margin`), float64 [models, samples], where row i of every
array is seed i. A model is judged by distributions that were fitted on the others:

    fold i: fit on every model but U_i and R_i; score U_i (member) and R_i (non-member) by the same function

Both are left out together, so both meet fits of the same size and of the same models; were only the judged one left
out, identical distributions would have an AUC below 0.5. Where the sides differ in number, a fold leaves out
several of the longer one.

Formulas, sources and known defects of public code: docs/metrics.md.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.ndimage import convolve1d
from scipy.special import expit, gammaln, logsumexp
from scipy.stats import norm

from bench.metrics.roc import Estimates, Fold, auc, judge, model_counts, names, over_folds, without

MIN_MODELS = 3  # of each side: one that is judged, two to fit a mean and a spread
MIN_SPREAD = 1e-2  # smallest standard deviation of a fit, in nats: saturated networks agree to the last bit
PRIOR_MODELS = 2  # weight of the samples' common variance in each one's own, in models
LIMIT = 100.0  # margins beyond it count as it where many samples' are pooled, in nats
PARTS = 5  # of the samples, where those that are judged are not those that densities are fitted to
GRID = 8  # points of the pooled density for each bandwidth
VULNERABLE_RATE = 1e-4  # false-positive rate above whose score RULI calls a sample vulnerable
PROTECTED = 0.1  # a posterior so near to 0.5 makes a sample protected

Density = Callable[[np.ndarray, np.ndarray], np.ndarray]  # margins [j, n], fitted models [a, n] -> log density [j, n]


def margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logit-scaled confidence log p_y - log(1 - p_y) = z_y - logsumexp of the other logits, float64 [..., n].

    Finite for finite logits, however sure the network is: no probability is ever computed.
    Source: Carlini et al., LiRA (arXiv:2112.03570).

    Args:
        logits: [..., n, classes], at least two classes.
        labels: int [n].
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape[-1] < 2:
        raise ValueError(f"a margin needs two classes; there is {logits.shape[-1]}")
    labels = np.asarray(labels)[:, None]
    own = np.take_along_axis(logits, np.broadcast_to(labels, (*logits.shape[:-1], 1)), axis=-1)[..., 0]
    others = np.where(labels == np.arange(logits.shape[-1]), -np.inf, logits)
    highest = others.max(axis=-1)
    return own - highest - np.log(np.exp(others - highest[..., None]).sum(axis=-1))


def log_confidence(margins: np.ndarray) -> np.ndarray:
    """Log of the true class's softmax probability, from margins."""
    return -np.logaddexp(0.0, -margins)


# Densities


def gaussian(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Log density of a normal distribution for each sample, of the mean and spread of other models' margins."""
    return norm.logpdf(x, fitted.mean(axis=0), np.maximum(fitted.std(axis=0, ddof=1), MIN_SPREAD))


def student(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Log density of Student's t, the predictive distribution of the next model's margin.

    A flat prior of the mean; of the variance one worth `PRIOR_MODELS` models, at the samples' median variance:
    with a handful of models a sample's own is too noisy to divide by.

        t with ν = ν₀ + n - 1 degrees of freedom, scale² = (1 + 1/n) (ν₀ s₀² + (n - 1) s²) / ν

    Source: after Brännvall, BaVarIA (arXiv:2603.11799); the prior's weight is ours.
    """
    n = len(fitted)
    variance = fitted.var(axis=0, ddof=1)
    freedom = PRIOR_MODELS + n - 1
    common = np.median(variance)
    scale = (1 + 1 / n) * (PRIOR_MODELS * common + (n - 1) * variance) / freedom
    scale = np.maximum(scale, MIN_SPREAD**2)
    shape = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - np.log(freedom * math.pi * scale) / 2
    return shape - (freedom + 1) / 2 * np.log1p((x - fitted.mean(axis=0)) ** 2 / (freedom * scale))


def kernel(bandwidth: float) -> Density:
    """Log density of a Gaussian kernel estimate for each sample."""

    def density(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
        far = (x[:, None] - fitted[None]) / bandwidth
        return logsumexp(-(far**2) / 2, axis=1) - math.log(len(fitted) * bandwidth * math.sqrt(2 * math.pi))

    return density


# Folds


def left_out(*models: int) -> Iterator[list[np.ndarray]]:
    """For each fold, the indices that are left out of each of these numbers of models."""
    folds = min(models)
    for i in range(folds):
        yield [np.arange(i, count, folds) for count in models]


def cross_fitted(unlearned: np.ndarray, retrained: np.ndarray, density: Density) -> list[Fold]:
    """Log likelihood ratios, unlearned over retrained, of each model by the fits on the others."""
    folds = []
    for u, r in left_out(len(unlearned), len(retrained)):
        fits = np.delete(unlearned, u, axis=0), np.delete(retrained, r, axis=0)
        members, others = (density(x, fits[0]) - density(x, fits[1]) for x in (unlearned[u], retrained[r]))
        folds.append((members, others))
    return folds


def checked(*margins: np.ndarray) -> list[np.ndarray]:
    """The margins as float64 [models, samples] of the same samples; else `ValueError`."""
    arrays = [np.asarray(m, dtype=np.float64) for m in margins]
    if any(a.ndim != 2 or not a.size or a.shape[1:] != arrays[0].shape[1:] for a in arrays):
        raise ValueError(f"margins are [models, samples] of the same samples, not {[a.shape for a in arrays]}")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("margins must be finite")
    return arrays


def _too_few(**counts: int) -> str:
    """Why no fold can be made of so few models; empty if there are enough."""
    if min(counts.values()) >= MIN_MODELS:
        return ""
    there = ", ".join(f"{count} {side}" for side, count in counts.items())
    return f"models: {there}; each side needs {MIN_MODELS}, one to judge and two to fit"


# Attacks


def ulira(unlearned: np.ndarray, retrained: np.ndarray, legacy: bool = False) -> Estimates:
    """U-LiRA: per-sample likelihood ratio of 'unlearned it' against 'never saw it'.

    `ulira` takes Student's t predictive distributions, `ulira_gaussian` normal ones as published.
    Source: Hayes et al. (arXiv:2403.01218); the statistic of LiRA (arXiv:2112.03570).

    Args:
        unlearned: margins [m, n] of the forget set on the method's models.
        retrained: margins [k, n] of the same samples on models trained without them.
        legacy: `ulira_legacy` beside them, as Deep Unlearn's code has it: a normal distribution fitted on the very
            models that it judges, whatever their spread. Its statistic is 0/1, whether the sample is classified
            right; where all models agree on one, the score is 0/0 and no figure is left. Pass those flags.
    """
    unlearned, retrained = checked(unlearned, retrained)
    counts = {"unlearned": len(unlearned), "retrained": len(retrained)}
    made = model_counts("ulira", **counts)
    wanted = ["ulira", "ulira_gaussian"] + (["ulira_legacy"] if legacy else [])
    if reason := _too_few(**counts):
        return made | without([name for attack in wanted for name in names(attack)], reason)
    made |= judge("ulira", cross_fitted(unlearned, retrained, student), threshold=0.0)
    made |= judge("ulira_gaussian", cross_fitted(unlearned, retrained, gaussian), threshold=0.0)
    return made | _ulira_legacy(unlearned, retrained) if legacy else made


def _ulira_legacy(unlearned: np.ndarray, retrained: np.ndarray) -> Estimates:
    spread = np.stack([unlearned.std(axis=0), retrained.std(axis=0)])
    if flat := int((spread == 0).any(axis=0).sum()):
        reason = f"legacy: on {flat} of {spread.shape[1]} samples all models of a side agree, and 0/0 has no rank"
        return without(names("ulira_legacy"), reason)

    def ratio(x: np.ndarray) -> np.ndarray:
        return norm.logpdf(x, unlearned.mean(axis=0), spread[0]) - norm.logpdf(x, retrained.mean(axis=0), spread[1])

    pairs = left_out(len(unlearned), len(retrained))
    return judge("ulira_legacy", [(ratio(unlearned[u]), ratio(retrained[r])) for u, r in pairs], threshold=0.0)


def ruli(
    unlearned: np.ndarray, retrained: np.ndarray, original: np.ndarray | None = None, bandwidth: float = 1.0
) -> Estimates:
    """RULI's efficacy test: as U-LiRA, with kernel densities, and apart for vulnerable and protected samples.

    Source: RULI (arXiv:2506.13009); bandwidth and thresholds from the authors' code.

    Args:
        unlearned, retrained: as in `ulira`.
        original: margins [o, n] on the models before unlearning, which were trained on the samples; they tell
            which ones are vulnerable.
        bandwidth: of the kernels, in nats.

    Returns:
        `ruli_...` over all samples, `ruli_vulnerable_auc` and `ruli_protected_auc` with their interval, and the
        numbers of such samples, `ruli_vulnerable_samples` and `ruli_protected_samples`.
    """
    unlearned, retrained = checked(unlearned, retrained)
    counts = {"unlearned": len(unlearned), "retrained": len(retrained)}
    made = model_counts("ruli", **counts)
    groups = [f"ruli_{group}_{end}" for group in ("vulnerable", "protected") for end in ("auc", "auc_low", "auc_high")]
    if reason := _too_few(**counts):
        return made | without([*names("ruli"), *groups], reason)
    folds = cross_fitted(unlearned, retrained, kernel(bandwidth))
    made |= judge("ruli", folds, threshold=0.0)
    if original is None:
        return made | without(groups, "no original models tell which samples are vulnerable")
    if reason := _too_few(original=len(original), retrained=len(retrained)):
        return made | without(groups, reason)
    for group, mask in zip(("vulnerable", "protected"), vulnerability(original, retrained), strict=True):
        made |= _auc_of(f"ruli_{group}", folds, mask, f"no sample is {group}")
    return made


def vulnerability(original: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which samples the original models give away by LiRA, and which LiRA cannot tell, bool [n] each.

    A sample's score is the mean over folds of its log likelihood ratio, trained on it over not. Vulnerable are
    those above the score of `VULNERABLE_RATE` of the retrained models' (with fewer samples than its inverse:
    above all of them); protected are those whose posterior lies within `PROTECTED` of 0.5.
    """
    original, retrained = checked(original, retrained)
    folds = cross_fitted(original, retrained, student)
    member, other = (np.concatenate([fold[side] for fold in folds]).mean(axis=0) for side in (0, 1))
    threshold = np.sort(other)[-1 - int(VULNERABLE_RATE * len(other))]
    return member > threshold, np.abs(expit(member) - 0.5) <= PROTECTED


def _auc_of(name: str, folds: list[Fold], samples: np.ndarray, reason: str) -> Estimates:
    """AUC on some of the samples, and their number."""
    made = Estimates({f"{name}_samples": float(samples.sum())})
    keys = [f"{name}_auc", f"{name}_auc_low", f"{name}_auc_high"]
    if not samples.any():
        return made | without(keys, reason)
    values = over_folds(np.array([auc(members[:, samples], others[:, samples]) for members, others in folds]))
    return made | Estimates(dict(zip(keys, values, strict=True)))


def ruli_privacy(
    unlearned: np.ndarray, unseen: np.ndarray, labels: np.ndarray, unseen_labels: np.ndarray, bandwidth: float = 1.0
) -> Estimates:
    """RULI's privacy test: forgotten samples against samples never seen, both on the models that unlearned.

    Unlearning shifts every sample's margin; a reference on the same models shares the shift. RULI takes the
    sample's own margins on models that unlearned others; a request whose forget set is the same for every seed
    has none, so densities here are of all forgotten, and of all unseen, samples of the class: of four fifths of
    both, on the other models, for the fifth that is judged.

    Args:
        unlearned: margins [m, n] of the forget set on the method's models.
        unseen: margins [m, h] of samples that were in no training set, on the same models in the same order.
        labels, unseen_labels: classes [n], [h]; classes that one of the sides lacks are left out.
        bandwidth: of the kernels, in nats.
    """
    (unlearned,), (unseen,) = checked(unlearned), checked(unseen)
    if len(unlearned) != len(unseen):
        raise ValueError(f"both margins are of the same models, not of {len(unlearned)} and {len(unseen)}")
    made = model_counts("ruli_privacy", unlearned=len(unlearned))
    if len(unlearned) < 2:
        return made | without(names("ruli_privacy"), "one model: there is no other to fit on")
    scored = []
    for c in np.intersect1d(labels, unseen_labels):
        sides = [
            np.clip(m[:, np.asarray(of) == c], -LIMIT, LIMIT)
            for m, of in ((unlearned, labels), (unseen, unseen_labels))
        ]
        parts = [_dealt(side, shuffle) for shuffle, side in enumerate(sides)]
        for part in range(PARTS):
            fits = [side[:, of != part] for side, of in zip(sides, parts, strict=True)]
            judged = [side[:, of == part] for side, of in zip(sides, parts, strict=True)]
            scored.append([np.log(_pooled(fits[0], x, bandwidth) / _pooled(fits[1], x, bandwidth)) for x in judged])
    if not scored:
        return made | without(names("ruli_privacy"), "no unseen sample is of a class that was forgotten")
    members, others = (np.concatenate([pair[side] for pair in scored], axis=1) for side in (0, 1))
    folds = [(members[i : i + 1], others[i : i + 1]) for i in range(len(unlearned))]
    return made | judge("ruli_privacy", folds, threshold=0.0, drawn=1 + PARTS / (PARTS - 1))


def _dealt(margins: np.ndarray, shuffle: int) -> np.ndarray:
    """A part from 0 to PARTS - 1 for each sample, [n]: shuffled from the order of their margins, not of the data.

    Each side has its own shuffle: parts of like ranks on both would teach the chance difference that they test.
    """
    parts = np.random.default_rng(shuffle).permutation(margins.shape[1]) % PARTS
    return parts[np.argsort(np.argsort(margins.mean(axis=0)))]


def _pooled(fitted: np.ndarray, at: np.ndarray, bandwidth: float) -> np.ndarray:
    """Kernel density at each model's margins `at` [m, a] of all samples' margins `fitted` [m, n] on the other models.

    Margins are spread over a grid of `GRID` points a bandwidth, so time goes with their number and not with its
    square. One observation, spread evenly over -LIMIT to LIMIT, keeps the density from zero.
    """
    step = bandwidth / GRID
    grid = np.arange(-LIMIT, LIMIT + 2 * step, step)
    place = (fitted - grid[0]) / step
    below = place.astype(np.int64)
    weights = np.zeros((len(fitted), len(grid)))
    for model, (index, share) in enumerate(zip(below, place - below, strict=True)):
        weights[model] = np.bincount(index, 1 - share, len(grid)) + np.bincount(index + 1, share, len(grid))
    reach = np.arange(-6 * GRID, 6 * GRID + 1) / GRID
    smooth = convolve1d(weights.sum(axis=0) - weights, norm.pdf(reach) / bandwidth, axis=1, mode="constant")
    total = np.stack([np.interp(x, grid, curve) for x, curve in zip(at, smooth, strict=True)])
    return (np.maximum(total, 0) + 1 / (2 * LIMIT)) / ((len(fitted) - 1) * fitted.shape[1] + 1)


def rmia(
    unlearned: np.ndarray,
    retrained: np.ndarray,
    unseen_unlearned: np.ndarray,
    unseen_retrained: np.ndarray,
    original: np.ndarray | None = None,
    unseen_original: np.ndarray | None = None,
    gamma: float = 1.0,
    offline_a: float = 0.3,
) -> Estimates:
    """RMIA: the share of unseen samples z over which a sample x stands out on the judged model.

        score(x) = P_z[ (p(x|θ) / p(x)) / (p(z|θ) / p(z)) >= γ ]

    p(x|θ) is the true class's probability on the judged model, p(x) its mean over reference models: half of it
    over models trained on x (`original`), half over models that were not (`retrained`); without originals, the
    offline form ((1 + a) p_out(x) + 1 - a) / 2. Members are forgotten samples on the models that unlearned them,
    non-members the same samples on retrained ones. Two-sided: an over-forgotten sample scores low.
    Source: Zarifzadeh et al. (arXiv:2312.03262); γ and a are the defaults of their code, ml_privacy_meter.

    Args:
        unlearned, retrained, original: margins [models, n] of the forget set.
        unseen_unlearned, unseen_retrained, unseen_original: margins [models, p] of samples that none was trained
            on, on the same models in the same order.
    """
    forget = checked(unlearned, retrained, *([] if original is None else [original]))
    unseen = checked(unseen_unlearned, unseen_retrained, *([] if unseen_original is None else [unseen_original]))
    if [len(a) for a in forget] != [len(a) for a in unseen]:
        raise ValueError("the margins of unseen samples are of other models than those of the forget set")
    counts = dict(zip(("unlearned", "retrained", "original"), map(len, forget), strict=False))
    made = model_counts("rmia", **counts)
    if min(counts.values()) < 2:
        there = ", ".join(f"{count} {side}" for side, count in counts.items())
        return made | without(names("rmia"), f"models: {there}; one is judged, others are its reference")
    forget, unseen = ([log_confidence(a) for a in arrays] for arrays in (forget, unseen))

    def relative(sets: list[np.ndarray], out: list[np.ndarray]) -> Iterator[np.ndarray]:
        """log p(x|θ) / p(x) of the models that are left out: the unlearned ones, then the retrained ones."""
        means = [_log_mean(np.delete(a, i, axis=0)) for a, i in zip(sets[1:], out[1:], strict=True)]
        offline = np.log((1 + offline_a) / 2 * np.exp(means[0]) + (1 - offline_a) / 2)
        reference = offline if len(means) == 1 else np.logaddexp(*means) - math.log(2)
        return (sets[side][out[side]] - reference for side in (0, 1))

    folds = []
    for out in left_out(*counts.values()):
        sides = zip(relative(forget, out), relative(unseen, out), strict=True)
        members, others = (_share_below(x - math.log(gamma), z) for x, z in sides)
        folds.append((members, others))
    return made | judge("rmia", folds, sides=2)


def _share_below(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """For each model, the share of its z [j, p] that are at most x [j, n]."""
    found = [np.searchsorted(np.sort(of), at, "right") / len(of) for at, of in zip(x, z, strict=True)]
    return np.stack(found)


def _log_mean(logs: np.ndarray) -> np.ndarray:
    return logsumexp(logs, axis=0) - math.log(len(logs))

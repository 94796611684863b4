"""What a difference between rows of the leaderboard is worth.

    equivalence                          the verdict: indistinguishable from retrain, different, or undecided
    hierarchical_bootstrap               interval over training seeds, unlearning seeds and targets
    paired_tests, holm                   each method against retrain, corrected for their number
    rank_ranges, overall_ranks,          ranks as ranges, and what becomes of them without a metric or a seed
    rank_stability
    critical_difference                  average ranks over data sets, and which of them differ

No metric is better high or low: methods are ranked by the distance of their mean to retrain's.
Seeds with a failed run are left out by the caller; NaN goes through to the result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import stdtr, stdtrit  # Student's t: its distribution function and quantiles

from bench.metrics.statistics import LEVEL

ALPHA = 1 - LEVEL
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
ROUNDING = 1e-9  # below it metrics, all of the order 1, are equal
REPLICATES = 10_000

INDISTINGUISHABLE, DIFFERENT, UNDECIDED = "indistinguishable from retrain", "differs from retrain", "undecided"


@dataclass(frozen=True)
class Equivalence:
    """A method's gap to retrain, tested for being smaller than the margin.

    Attributes:
        gap: mean - retrain's mean.
        margin: the largest gap that counts as none, from `equivalence_margin`.
        low, high: 90 % interval of the gap; it lies within the margin just where p < 0.05.
        p: of the two one-sided tests; small where the gap is shown to be smaller than the margin.
        verdict: INDISTINGUISHABLE, DIFFERENT (by Welch's two-sided test at 5 %), or UNDECIDED.
    """

    gap: float
    margin: float
    low: float
    high: float
    p: float
    verdict: str


def equivalence_margin(retrain: np.ndarray, least: float = ROUNDING) -> float:
    """1.96 s of the m retrains, but no less than `least`: 95 of 100 honest retrains lie within it of their mean.

    It is what `noise_floor` of one run tends to with many retrains. The floor itself is no margin: that of means
    shrinks with the seeds, so that with enough of them even a retrain fails, and Student's t widens it where
    retrains are few: with three, a method four standard deviations off would pass in a quarter of all cases.
    With this margin it is the verdict that needs seeds: with two retrains it is never given.

    Args:
        least: the smallest difference that matters, such as 1/n for a share of n samples.
    """
    if len(retrain) < 2:
        return math.nan
    return max(Z * float(np.std(retrain, ddof=1)), least)


def equivalence(values: np.ndarray, retrain: np.ndarray, least: float = ROUNDING) -> Equivalence:
    """Two one-sided Welch t-tests (TOST) of a method's gap to retrain against `equivalence_margin`.

    Absence of a significant difference is no evidence of equality; this is. A gap that is significant and yet
    smaller than the margin is INDISTINGUISHABLE: one honest retrain differs from the next by more.
    Source: Schuirmann, J. Pharmacokin. Biopharm. 15(6), 1987; Welch, Biometrika 34, 1947.

    Args:
        values, retrain: the metric on the method's and on retrain's runs, one a seed. With one of either the
            verdict is UNDECIDED and the numbers are NaN.
        least: see `equivalence_margin`.
    """
    n, m = len(values), len(retrain)
    margin = equivalence_margin(retrain, least)
    gap = float(np.mean(values) - np.mean(retrain)) if n and m else math.nan
    if min(n, m) < 2:
        return Equivalence(gap, margin, math.nan, math.nan, math.nan, UNDECIDED)
    a, b = np.var(values, ddof=1) / n, np.var(retrain, ddof=1) / m
    error = math.sqrt(a + b)
    if error == 0:
        p = 0.0 if abs(gap) < margin else 1.0
        return Equivalence(gap, margin, gap, gap, p, DIFFERENT if p else INDISTINGUISHABLE)
    share = a / (a + b)
    freedom = 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (m - 1))
    half = float(stdtrit(freedom, 1 - ALPHA) * error)
    p = float(stdtr(freedom, (abs(gap) - margin) / error))
    if p < ALPHA:
        verdict = INDISTINGUISHABLE
    else:
        verdict = DIFFERENT if 2 * stdtr(freedom, -abs(gap) / error) < ALPHA else UNDECIDED
    return Equivalence(gap, margin, gap - half, gap + half, p, verdict)


def hierarchical_bootstrap(
    values: np.ndarray, rng: np.random.Generator, replicates: int = REPLICATES
) -> tuple[float, float, float]:
    """Mean and 95 % interval over training seeds, the unlearning seeds within each, and targets.

    A replicate draws training seeds, then for each of these its unlearning seeds, and once the targets, which
    all seeds share; each with replacement. The quantiles are widened so that for one level the interval has the
    length of Student's, with n the fewest seeds or targets drawn from ("expanded percentile": Hesterberg, Am. Stat.
    69(4), 2015, arXiv:1411.5279). To draw unlearning seeds as well counts their noise twice, on the careful side.
    With n < 5 of a single level the bounds are nearly the extremes, which cover 1 - 2^(1-n) at most.

    Args:
        values: float64 [training seeds, unlearning seeds, targets]; a level that is not there has length 1. A gap
            to retrain is bootstrapped as differences to the same training seed's retrain.
        rng: from `bench.seeds`.

    Returns:
        mean and bounds; these are NaN where each level has length 1.
    """
    training, unlearning, targets = values.shape
    mean = float(values.mean())
    drawn = [size for size in (training if training > 1 else unlearning, targets) if size > 1]
    if not drawn:
        return mean, math.nan, math.nan
    i = rng.integers(training, size=(replicates, training, 1, 1))
    j = rng.integers(unlearning, size=(replicates, training, unlearning, 1))
    k = rng.integers(targets, size=(replicates, 1, 1, targets))
    n = min(drawn)
    tail = stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(ALPHA / 2, n - 1))
    low, high = np.quantile(values[i, j, k].mean(axis=(1, 2, 3)), [tail, 1 - tail])
    return mean, float(low), float(high)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values: below alpha, all of them, with probability of any false one at most alpha.

    The i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_j). NaN stays NaN and is no test.
    Source: Holm, Scand. J. Statist. 6, 1979.
    """
    adjusted = np.full(len(p), math.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN comes last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def paired_tests(values: pd.DataFrame) -> pd.DataFrame:
    """Each method against retrain by a t-test paired over seeds, Holm-corrected over the methods.

    The t-test, because with five seeds the signed-rank test cannot fall below 1/16.

    Args:
        values: one metric; index seeds, columns methods, with `retrain` among them.

    Returns:
        index method; columns `gap` (mean difference), `p`, `p_holm`.
    """
    differences = values.drop(columns="retrain").sub(values["retrain"], axis=0)
    p = np.array([_paired_p(differences[method].to_numpy()) for method in differences])
    return pd.DataFrame(
        {"gap": differences.mean(skipna=False), "p": p, "p_holm": holm(p)},
        index=pd.Index(differences.columns, name="method"),
    )


def _paired_p(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) < ROUNDING:  # no variance to test with
        return 1.0 if abs(differences[0]) < ROUNDING else 0.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


def seed_draws(seeds: int, rng: np.random.Generator, replicates: int = REPLICATES) -> np.ndarray:
    """Seeds drawn with replacement, int64 [replicates, seeds]; one draw serves all methods, which pairs them."""
    return rng.integers(seeds, size=(replicates, seeds))


def rank_ranges(values: pd.DataFrame, draws: np.ndarray) -> pd.DataFrame:
    """Ranks of the methods by |mean - retrain's mean|, 1 the nearest, and the range in which 95 % of draws put them.

    Methods and retrain are resampled together, so that what they share with a seed cancels. Equal distances share
    the best rank for `rank` and `low`, the worst for `high`.

    Args:
        values: as for `paired_tests`.
        draws: positions of seeds, int [replicates, seeds], from `seed_draws`.

    Returns:
        index method, columns `rank`, `low`, `high`, integers; in the order of the ranks.
    """
    gaps = values.drop(columns="retrain").sub(values["retrain"], axis=0)
    away = np.abs(gaps.to_numpy()[draws].mean(axis=1)).round(9)  # [replicates, methods]
    tail = ALPHA / 2
    best, worst = (stats.rankdata(away, method=tie, axis=1) for tie in ("min", "max"))
    table = pd.DataFrame(
        {
            "rank": stats.rankdata(gaps.mean().abs().round(9), method="min"),
            "low": np.quantile(best, tail, axis=0, method="inverted_cdf"),
            "high": np.quantile(worst, 1 - tail, axis=0, method="inverted_cdf"),
        },
        index=pd.Index(gaps.columns, name="method"),
        dtype=int,
    )
    return table.sort_values(["rank", "low", "high"], kind="stable")


def overall_ranks(runs: pd.DataFrame) -> pd.Series:
    """Mean over metrics of each method's rank by |mean over seeds - retrain's|; equal distances share a mean rank.

    Args:
        runs: tidy, columns `method`, `metric`, `seed`, `value`, with `retrain` among the methods, averaged over
            targets. A method without a metric has no rank in it.

    Returns:
        index method, sorted.
    """
    means = runs.pivot_table(index="metric", columns="method", values="value")
    gaps = means.drop(columns="retrain").sub(means["retrain"], axis=0).abs().round(9)
    return gaps.rank(axis=1).mean().sort_values(kind="stable")


def rank_stability(runs: pd.DataFrame) -> pd.DataFrame:
    """What becomes of `overall_ranks` when a metric, or a seed, is left out.

    Returns:
        a row a metric and a row a seed, none of a kind with but one; columns `kind` ('metric' or 'seed'),
        `left_out`, `tau` (Kendall's tau-b between the rankings with and without), `shift` (largest change of a
        method's place) and `first` (the method that then is first).
    """
    whole = overall_ranks(runs)
    places = whole.rank()
    rows = []
    for kind in ("metric", "seed"):
        names = runs[kind].unique()
        for left_out in names if len(names) > 1 else ():
            rest = overall_ranks(runs[runs[kind] != left_out])
            both = rest.index.intersection(whole.index, sort=True)
            shift = (rest.rank() - places)[both].abs().max()
            tau = stats.kendalltau(whole[both], rest[both]).statistic
            rows.append({"kind": kind, "left_out": left_out, "tau": tau, "shift": shift, "first": rest.index[0]})
    return pd.DataFrame(rows, columns=["kind", "left_out", "tau", "shift", "first"])


@dataclass(frozen=True)
class CriticalDifference:
    """What a critical-difference diagram shows.

    Attributes:
        ranks: average rank of each method, sorted; 1 is best.
        p: Friedman's test that all methods are alike.
        difference: Nemenyi's; average ranks nearer than it do not differ at 5 %.
        pairs: columns `method`, `other`, `p`, `p_holm`: Wilcoxon's signed-rank test of each pair.
        nemenyi, wilcoxon: methods that are not told apart, by either; the bars of the diagram.
    """

    ranks: pd.Series
    p: float
    difference: float
    pairs: pd.DataFrame
    nemenyi: list[list[str]]
    wilcoxon: list[list[str]]


def critical_difference(scores: pd.DataFrame) -> CriticalDifference:
    """Friedman's test over blocks, then Nemenyi's, and pairwise Wilcoxon tests with Holm's correction.

    Blocks must be independent: benchmarks and requests, averaged over seeds; seeds of one benchmark tell
    only about that benchmark. Nemenyi's difference is q(0.95, k) / sqrt(2) * sqrt(k (k + 1) / (6 N)) for k methods
    and N blocks; whether it parts two methods depends on which others are compared, Wilcoxon's test does not.
    Source: Demšar, JMLR 7, 2006; Benavoli et al., JMLR 17(5), 2016.

    Args:
        scores: index blocks, columns three or more methods; the lower the better, such as |gap to retrain|. Blocks
            with a NaN are left out.
    """
    scores = scores.dropna().round(9)
    blocks, methods = scores.shape
    ranks = scores.rank(axis=1).mean().sort_values(kind="stable")
    quantile = stats.studentized_range.ppf(LEVEL, methods, math.inf) / math.sqrt(2)
    difference = float(quantile * math.sqrt(methods * (methods + 1) / (6 * blocks)))
    pairs = pd.DataFrame(
        [(a, b, _wilcoxon_p(scores[a] - scores[b])) for i, a in enumerate(ranks.index) for b in ranks.index[i + 1 :]],
        columns=["method", "other", "p"],
    )
    pairs["p_holm"] = holm(pairs["p"].to_numpy())
    apart = {(row.method, row.other) for row in pairs[pairs["p_holm"] < ALPHA].itertuples()}
    far = {(a, b) for a, b in zip(pairs["method"], pairs["other"], strict=True) if ranks[b] - ranks[a] >= difference}
    p = float(stats.friedmanchisquare(*scores.to_numpy().T).pvalue)
    order = list(ranks.index)
    return CriticalDifference(ranks, p, difference, pairs, _bars(order, far), _bars(order, apart))


def _wilcoxon_p(differences: pd.Series) -> float:
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def _bars(order: Sequence[str], apart: set[tuple[str, str]]) -> list[list[str]]:
    """Longest runs of consecutive methods, at least two, of which no two are apart."""
    bars: list[list[str]] = []
    end = 0
    for start in range(len(order)):
        reach = start + 1
        while reach < len(order) and not any((a, order[reach]) in apart for a in order[start:reach]):
            reach += 1
        if reach - start > 1 and reach > end:
            bars.append(list(order[start:reach]))
        end = max(end, reach)
    return bars

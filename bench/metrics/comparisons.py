"""What a difference between rows of the leaderboard is worth.

    equivalence                  the verdict: indistinguishable from retrain, different, or undecided
    bootstrap                    intervals and ranges over training seeds, unlearning seeds and targets
    paired_tests, holm           differences tested over seeds, corrected for their number
    rank_ranges, rank_stability  ranks by distance to retrain: as ranges, and without a metric or a seed
    critical_difference          average ranks over blocks, and which of them differ

No metric is better high or low: methods are ranked by the distance of their mean to retrain's, and over several
metrics by the mean of these distances. Seeds with a failed run are left out by the caller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import stdtr, stdtrit  # Student's t: its distribution function and quantiles

from bench.metrics.statistics import LEVEL

ALPHA = 1 - LEVEL
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
ROUNDING = 1e-9  # below it metrics, all of the order 1, are equal
REPLICATES = 2_000  # draws of a bootstrap: the share beyond a bound is then known to 0.35 points

FEWEST = 3  # runs of either side that a verdict takes: two may agree to the last sample by chance

INDISTINGUISHABLE, DIFFERENT, UNDECIDED = "indistinguishable", "different", "undecided"


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
        values, retrain: the metric on the method's and on retrain's runs, one a seed. With fewer than `FEWEST` of
            either the verdict is UNDECIDED, and interval and p are NaN.
        least: see `equivalence_margin`.
    """
    n, m = len(values), len(retrain)
    margin = equivalence_margin(retrain, least)
    gap = float(np.mean(values) - np.mean(retrain)) if n and m else math.nan
    if min(n, m) < FEWEST:
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


@dataclass(frozen=True)
class Bootstrap:
    """Draws of runs with replacement; the same draws for all methods and metrics, which pairs them.

    Attributes:
        weights: of each run in the mean of each draw, float64 [draws, runs]; rows sum to 1.
        fewest: seeds or targets drawn from, whichever are fewer; 1 where there is but one run of each target.
    """

    weights: np.ndarray
    fewest: int

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean of each draw, float64 [draws, columns], of values [runs, columns]; it passes over NaN."""
        present = np.isfinite(values)
        share = self.weights @ present
        total = self.weights @ np.where(present, values, 0)
        return np.divide(total, share, out=np.full(share.shape, math.nan), where=share > 0)

    def interval(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the 95 % interval of each column's mean; NaN where there is but one run of each target.

        The quantiles are widened so that for one level the interval has the length of Student's, with n the fewest
        seeds or targets ("expanded percentile": Hesterberg, Am. Stat. 69(4), 2015, arXiv:1411.5279). With n < 5 of a
        single level the bounds are nearly the extremes, which cover 1 - 2^(1-n) at most.

        Args:
            values: float64 [runs, columns]; no column is NaN throughout.
        """
        if self.fewest < 2 or not values.size:
            nothing = np.full(values.shape[1], math.nan)
            return nothing, nothing
        tail = stats.norm.cdf(math.sqrt(self.fewest / (self.fewest - 1)) * stats.t.ppf(ALPHA / 2, self.fewest - 1))
        means = self.means(values)
        low, high = bounds = np.quantile(means, [tail, 1 - tail], axis=0)  # NaN where a draw has no mean
        lacking = np.isnan(bounds).any(axis=0)
        if lacking.any():  # numpy's nanquantile goes column by column
            low[lacking], high[lacking] = np.nanquantile(means[:, lacking], [tail, 1 - tail], axis=0)
        return low, high


def bootstrap(
    training: int, unlearning: int, targets: int, rng: np.random.Generator, draws: int = REPLICATES
) -> Bootstrap:
    """The hierarchical bootstrap of training seeds x unlearning seeds x targets.

    A draw takes training seeds, then for each of these its unlearning seeds, and once the targets, which all seeds
    share; each with replacement. To draw unlearning seeds as well counts their noise twice, on the careful side.
    Source: Davison and Hinkley, Bootstrap Methods and Their Application, 1997, section 3.8; crossed with targets as
    in Owen, Ann. Appl. Stat. 1(2), 2007.

    Args:
        training, unlearning, targets: how many there are; runs are in this order, targets changing fastest.
        rng: from `bench.seeds`.
    """
    i = rng.integers(training, size=(draws, training, 1))
    j = rng.integers(unlearning, size=(draws, training, unlearning))
    k = rng.integers(targets, size=(draws, targets))
    runs = _counts((i * unlearning + j).reshape(draws, -1), training * unlearning)
    weights = (runs[:, :, None] * _counts(k, targets)[:, None, :]).reshape(draws, -1)
    seeds = training if training > 1 else unlearning
    return Bootstrap(weights / weights.shape[1], seeds if targets == 1 else min(seeds, targets))


def _counts(drawn: np.ndarray, n: int) -> np.ndarray:
    """How often each of n was drawn, int64 [draws, n]."""
    rows = np.arange(len(drawn))[:, None] * n
    return np.bincount((drawn + rows).ravel(), minlength=len(drawn) * n).reshape(-1, n)


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


def paired_tests(differences: pd.DataFrame) -> pd.DataFrame:
    """t-tests of paired differences against 0, Holm-corrected over the columns.

    The t-test, because with five seeds the signed-rank test cannot fall below 1/16.

    Args:
        differences: a row a seed, a column a comparison; NaN where a seed has none.

    Returns:
        index the columns; columns `difference` (the mean), `n` (seeds), `p`, `p_holm`.
    """
    p = np.array([_paired_p(differences[column].dropna().to_numpy()) for column in differences])
    return pd.DataFrame(
        {"difference": differences.mean(), "n": differences.count(), "p": p, "p_holm": holm(p)},
        index=differences.columns,
    )


def _paired_p(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) < ROUNDING:  # no variance to test with
        return 1.0 if abs(differences[0]) < ROUNDING else 0.0 if len(differences) >= FEWEST else math.nan
    return float(stats.ttest_1samp(differences, 0).pvalue)


def distances(gaps: pd.DataFrame) -> pd.Series:
    """Mean over metrics of |mean gap to retrain| of each method; of one metric, its |mean gap|.

    Args:
        gaps: a row a run; columns (metric, method), each method with each metric.

    Returns:
        index method, in the order of the columns.
    """
    return gaps.mean().abs().groupby(level="method", sort=False).mean().round(9)


def rank_ranges(gaps: pd.DataFrame, draws: Bootstrap) -> pd.DataFrame:
    """Ranks of the methods by `distances`, 1 the nearest, and the range in which 95 % of draws put them.

    Methods are resampled together, so that what they share with a seed or a target cancels. Equal distances share
    the best rank for `rank` and `low`, the worst for `high`.

    Args:
        gaps: as for `distances`, with the runs that `draws` has weights for.

    Returns:
        index method, in the order of the columns; columns `rank`, `low`, `high`, integers.
    """
    methods = gaps.columns.unique("method")
    means = np.abs(draws.means(gaps.to_numpy()))  # [draws, metrics x methods]
    away = means.reshape(len(means), -1, len(methods)).mean(axis=1).round(9)
    away = np.ascontiguousarray(away.T)  # [methods, draws]; one method at a time, which the processor's cache holds
    best = 1 + np.array([(away < own).sum(axis=0) for own in away])
    worst = len(methods) - np.array([(away > own).sum(axis=0) for own in away])
    return pd.DataFrame(
        {
            "rank": stats.rankdata(distances(gaps)[methods], method="min"),
            "low": np.quantile(best, ALPHA / 2, axis=1, method="inverted_cdf"),
            "high": np.quantile(worst, 1 - ALPHA / 2, axis=1, method="inverted_cdf"),
        },
        index=methods,
        dtype=int,
    )


def rank_stability(gaps: pd.DataFrame) -> pd.DataFrame:
    """The ranks by `distances`, with everything and with a metric, or a training seed, left out.

    Args:
        gaps: as for `distances`; its index has a level `seed`.

    Returns:
        a row a method and leaving-out: `kind` ('none', 'metric' or 'seed'), `left_out`, `tau` (Kendall's tau-b of
        the distances to those with everything), `method`, `distance`, `rank` (equal distances share the mean rank).
        Where there is one metric, or one seed, it is not left out.
    """
    metrics, seeds = gaps.columns.unique("metric"), gaps.index.unique("seed")
    left: list[tuple[str, Any, pd.DataFrame]] = [("none", "", gaps)]
    if len(metrics) > 1:
        left += [("metric", metric, gaps.drop(columns=metric, level="metric")) for metric in metrics]
    if len(seeds) > 1:
        left += [("seed", seed, gaps[gaps.index.get_level_values("seed") != seed]) for seed in seeds]
    whole, parts = distances(gaps), []
    for kind, left_out, rest in left:
        away = distances(rest)
        tau = stats.kendalltau(whole, away[whole.index]).statistic
        row = {"kind": kind, "left_out": left_out, "tau": tau, "distance": away, "rank": away.rank()}
        parts.append(pd.DataFrame(row).reset_index())
    return pd.concat(parts, ignore_index=True)[["kind", "left_out", "tau", "method", "distance", "rank"]]


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

"""Statistics against scipy, enumeration, simulation and published examples."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.metrics.comparisons import (
    DIFFERENT,
    INDISTINGUISHABLE,
    UNDECIDED,
    Bootstrap,
    bootstrap,
    critical_difference,
    distances,
    equivalence,
    equivalence_margin,
    holm,
    paired_tests,
    rank_ranges,
    rank_stability,
)
from bench.metrics.statistics import noise_floor, over_seeds

fractions = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=8).map(np.array)


# --- equivalence ---------------------------------------------------------------------------------


def samples(n: int, shift: float = 0.0, seed: int = 0, spread: float = 0.02) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.9 + shift, spread, n)


@pytest.mark.parametrize(("n", "m", "shift"), [(5, 5, 0.0), (5, 10, 0.02), (3, 8, -0.05), (10, 4, 0.04)])
def test_tost_is_statsmodels_formula(n, m, shift):
    """`ttost_ind` with unequal variances, by hand; and as two of scipy's one-sided tests of shifted samples."""
    values, retrain = samples(n, shift, seed=1, spread=0.03), samples(m, seed=2)
    found = equivalence(values, retrain)
    a, b = values.var(ddof=1) / n, retrain.var(ddof=1) / m
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    gap, error = values.mean() - retrain.mean(), math.sqrt(a + b)
    below = stats.t.sf((gap + found.margin) / error, freedom)
    above = stats.t.cdf((gap - found.margin) / error, freedom)
    assert found.p == pytest.approx(max(below, above))
    welch = {"b": retrain, "equal_var": False}
    below = stats.ttest_ind(values + found.margin, alternative="greater", **welch).pvalue
    above = stats.ttest_ind(values - found.margin, alternative="less", **welch).pvalue
    assert found.p == pytest.approx(max(below, above))
    interval = stats.ttest_ind(values, **welch).confidence_interval(0.90)
    assert (found.gap, found.low, found.high) == pytest.approx((gap, interval.low, interval.high))


@settings(max_examples=100, deadline=None)
@given(fractions, fractions)
def test_verdict_says_where_the_interval_lies(values, retrain):
    found = equivalence(values, retrain)
    inside = -found.margin < found.low and found.high < found.margin
    if abs(max(-found.low, found.high) - found.margin) > 1e-9:  # not on the edge
        assert (found.verdict == INDISTINGUISHABLE) == inside
    mirrored = equivalence(1 - values, 1 - retrain)
    assert mirrored.p == pytest.approx(found.p, abs=1e-6, nan_ok=True)


def test_margin_is_the_floor_of_one_run_among_many_retrains():
    retrain = samples(20_000)
    assert equivalence_margin(retrain) == pytest.approx(noise_floor(retrain, 1), rel=1e-3)
    few = samples(4)
    assert equivalence_margin(few) == pytest.approx(1.959964 * few.std(ddof=1))
    assert equivalence_margin(few, least=0.5) == 0.5
    assert math.isnan(equivalence_margin(few[:1]))


def verdicts(seeds: int, shift: float, trials: int = 600) -> dict[str, float]:
    """How often each verdict is given to a method whose mean lies `shift` standard deviations from retrain's."""
    rng = np.random.default_rng(0)
    given = [equivalence(rng.normal(shift, 1, seeds), rng.normal(0, 1, seeds)).verdict for _ in range(trials)]
    return {verdict: given.count(verdict) / trials for verdict in (INDISTINGUISHABLE, DIFFERENT, UNDECIDED)}


def test_ten_more_retrains_are_indistinguishable_and_what_is_far_is_not():
    assert verdicts(10, 0)[INDISTINGUISHABLE] > 0.93
    assert verdicts(10, 1.96)[INDISTINGUISHABLE] < 0.11  # at the margin: 5 %, and a little since it is estimated
    assert verdicts(10, 4)[DIFFERENT] > 0.99
    assert verdicts(5, 0)[INDISTINGUISHABLE] == pytest.approx(0.62, abs=0.07)


def test_few_seeds_give_no_false_comfort():
    assert verdicts(2, 0)[INDISTINGUISHABLE] == 0
    for seeds in (3, 5):
        assert verdicts(seeds, 4)[INDISTINGUISHABLE] == 0


def test_the_floor_itself_would_be_no_margin():
    """Student's t widens it where retrains are few: four standard deviations off, and inside in a quarter of cases."""
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(1000):
        values, retrain = rng.normal(4, 1, 3), rng.normal(0, 1, 3)
        found = equivalence(values, retrain)
        passed += max(-found.low, found.high) < noise_floor(retrain, 1)
    assert passed / 1000 == pytest.approx(0.25, abs=0.04)


def test_runs_without_variance_have_a_verdict():
    perfect = np.ones(5)
    assert equivalence(perfect, perfect[:3]).verdict == INDISTINGUISHABLE
    assert equivalence(np.full(4, 0.1), np.full(3, 0.1)).verdict == INDISTINGUISHABLE  # means that round differently
    assert equivalence(np.full(5, 0.99), perfect).verdict == DIFFERENT
    assert equivalence(np.full(5, 0.99), perfect, least=0.02).verdict == INDISTINGUISHABLE


def test_two_runs_that_agree_to_the_last_sample_decide_nothing():
    assert equivalence(np.ones(2), np.ones(5)).verdict == UNDECIDED
    assert equivalence(np.zeros(2), np.ones(2)).verdict == UNDECIDED
    assert equivalence(np.ones(3), np.ones(3)).verdict == INDISTINGUISHABLE
    assert math.isnan(paired_tests(pd.DataFrame({"a": [0.1, 0.1]}))["p"].item())


def test_one_run_is_undecided():
    for values, retrain in ((samples(1), samples(5)), (samples(5), samples(1)), (samples(5), samples(0))):
        found = equivalence(values, retrain)
        assert found.verdict == UNDECIDED
        assert math.isnan(found.p)


# --- bootstrap -----------------------------------------------------------------------------------


def hierarchical_bootstrap(
    values: np.ndarray, rng: np.random.Generator, replicates: int = 10_000
) -> tuple[float, float, float]:
    """Mean and bounds of values [training seeds, unlearning seeds, targets]."""
    low, high = bootstrap(*values.shape, rng, replicates).interval(values.reshape(-1, 1))
    return float(np.nanmean(values)), float(low[0]), float(high[0])


def coverage(shape: tuple[int, int, int], spreads: tuple[float, float, float], trials: int = 400) -> float:
    """Share of intervals that hold the true mean, of normal effects of training seed, unlearning seed and target."""
    rng = np.random.default_rng(0)
    training, unlearning, targets = shape
    inside = 0
    for _ in range(trials):
        values = rng.normal(0, spreads[0], (training, 1, 1)) + rng.normal(0, spreads[2], (1, 1, targets))
        values = values + rng.normal(0, spreads[1], (training, unlearning, 1))
        _, low, high = hierarchical_bootstrap(values, rng, replicates=1000)
        inside += low <= 0 <= high
    return inside / trials


def test_interval_covers_a_known_normal_mean():
    assert coverage((10, 1, 1), (1, 0, 0)) == pytest.approx(0.95, abs=0.03)
    assert coverage((1, 10, 1), (0, 1, 0)) == pytest.approx(0.95, abs=0.03)


def test_interval_over_all_levels_is_on_the_careful_side():
    assert 0.93 <= coverage((8, 2, 5), (1, 0.7, 0.7)) <= 0.995


def test_one_level_has_students_length_and_all_resamples_quantiles():
    values = samples(6, seed=4)
    mean, low, high = hierarchical_bootstrap(values[:, None, None], np.random.default_rng(0), replicates=100_000)
    student = over_seeds(values)
    assert mean == pytest.approx(student[0])
    assert high - low == pytest.approx(student[2] - student[1], rel=0.15)
    tail = stats.norm.cdf(math.sqrt(6 / 5) * stats.t.ppf(0.025, 5))
    every = np.array(list(itertools.product(values, repeat=6))).mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.quantile(every, [tail, 1 - tail])), abs=0.05 * (high - low))


def test_unlearning_seeds_are_drawn_anew_in_each_training_seed():
    """The first is always +1, the second -1: over 20 training seeds that averages out, in one draw it would not."""
    values = np.broadcast_to(np.array([1.0, -1.0])[None, :, None], (20, 2, 1))
    _, low, high = hierarchical_bootstrap(values, np.random.default_rng(0))
    expected = math.sqrt(20 / 19) * stats.t.ppf(0.975, 19) / math.sqrt(40)
    assert (low, high) == pytest.approx((-expected, expected), abs=0.05)


def test_targets_are_drawn_once_for_all_seeds():
    """Four targets at +1, four at -1, for each training seed alike: more seeds do not tell more about other targets."""
    values = np.broadcast_to(np.array([1.0, -1.0] * 4)[None, None, :], (20, 1, 8))
    _, low, high = hierarchical_bootstrap(values, np.random.default_rng(0))
    expected = math.sqrt(8 / 7) * stats.t.ppf(0.975, 7) / math.sqrt(8)
    assert (low, high) == pytest.approx((-expected, expected), abs=0.15)  # a mean of eight has steps of 0.25


def test_levels_that_do_not_vary_add_nothing():
    values = np.random.default_rng(1).normal(size=(8, 1, 1))
    bounds = [
        hierarchical_bootstrap(np.broadcast_to(values, shape), np.random.default_rng(0), replicates=50_000)
        for shape in ((8, 1, 1), (8, 3, 1), (8, 1, 9))
    ]
    for found in bounds[1:]:
        assert found == pytest.approx(bounds[0], abs=0.06 * (bounds[0][2] - bounds[0][1]))
    assert hierarchical_bootstrap(np.full((5, 2, 3), 0.5), np.random.default_rng(0)) == (0.5, 0.5, 0.5)


def test_one_run_of_each_target_has_no_bounds():
    for shape in ((1, 1, 1), (1, 1, 4)):
        mean, low, high = hierarchical_bootstrap(np.full(shape, 0.7), np.random.default_rng(0))
        assert mean == pytest.approx(0.7)
        assert math.isnan(low)
        assert math.isnan(high)


def test_draws_are_those_of_loops():
    """Weights against a mean over runs that are drawn one by one, by the same generator."""
    training, unlearning, targets, draws = 3, 2, 4, 50
    values = np.random.default_rng(5).normal(size=(training, unlearning, targets))
    found = bootstrap(training, unlearning, targets, np.random.default_rng(0), draws)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    assert found.fewest == 3
    rng = np.random.default_rng(0)
    i = rng.integers(training, size=(draws, training, 1))
    j = rng.integers(unlearning, size=(draws, training, unlearning))
    k = rng.integers(targets, size=(draws, targets))
    expected = [
        np.mean([values[i[r, a, 0], j[r, a, b], c] for a in range(training) for b in range(unlearning) for c in k[r]])
        for r in range(draws)
    ]
    np.testing.assert_allclose(found.means(values.reshape(-1, 1))[:, 0], expected)


def test_means_pass_over_nan():
    """Draws of three seeds, the second without a value: its draws are of the others, and one of it alone has none."""
    draws = Bootstrap(np.array([[1, 1, 1], [2, 1, 0], [0, 3, 0]]) / 3, 3)
    means = draws.means(np.array([[1.0], [np.nan], [3.0]]))
    np.testing.assert_allclose(means[:, 0], [2, 1, np.nan])


# --- paired tests --------------------------------------------------------------------------------


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.6])), [0.04, np.nan, 0.6])
    np.testing.assert_allclose(holm(np.array([0.7, 0.6])), [1, 1])
    assert holm(np.array([])).shape == (0,)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_as_the_step_down_procedure(p, alpha):
    adjusted = holm(np.array(p))
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected.add(i)
    assert {i for i, value in enumerate(adjusted) if value <= alpha} == rejected


def per_seed(seeds: int = 5, **shifts: float) -> pd.DataFrame:
    """A metric of methods that share what a seed does to them."""
    rng = np.random.default_rng(7)
    common = rng.normal(0.9, 0.05, seeds)
    names = {"retrain": 0.0, **shifts}
    return pd.DataFrame({name: common + shift + rng.normal(0, 0.01, seeds) for name, shift in names.items()})


def gaps_of(values: pd.DataFrame) -> pd.DataFrame:
    return values.drop(columns="retrain").sub(values["retrain"], axis=0)


def test_paired_tests_are_scipys():
    values = per_seed(near=0.0, far=0.1, below=-0.05)
    found = paired_tests(gaps_of(values))
    for method in ("near", "far", "below"):
        assert found.loc[method, "p"] == pytest.approx(stats.ttest_rel(values[method], values["retrain"]).pvalue)
        assert found.loc[method, "difference"] == pytest.approx((values[method] - values["retrain"]).mean())
    np.testing.assert_allclose(found["p_holm"], holm(found["p"].to_numpy()))
    assert found.loc["far", "p_holm"] < 0.01 < 0.1 < found.loc["near", "p_holm"]


def test_a_seed_without_a_difference_is_left_out():
    differences = gaps_of(per_seed(6, a=0.02))
    differences.loc[6] = np.nan
    found = paired_tests(differences).loc["a"]
    assert found["n"] == 6
    assert found["p"] == pytest.approx(stats.ttest_1samp(differences["a"][:6], 0).pvalue)


def test_differences_without_variance_are_none_or_certain():
    differences = pd.DataFrame({"same": [0.0] * 4, "other": [-0.1] * 4})
    assert paired_tests(differences)["p"].to_dict() == {"same": 1.0, "other": 0.0}
    assert math.isnan(paired_tests(differences.iloc[:1]).loc["other", "p"])


# --- ranks ---------------------------------------------------------------------------------------


def of_metrics(**metrics: pd.DataFrame) -> pd.DataFrame:
    """Gaps as ranks take them: index seed, columns (metric, method)."""
    table = pd.concat({metric: gaps_of(values) for metric, values in metrics.items()}, axis=1)
    return table.rename_axis(columns=["metric", "method"], index="seed")


def all_draws(seeds: int) -> tuple[np.ndarray, Bootstrap]:
    """Every way to draw seeds, as positions and as weights."""
    draws = np.array(list(itertools.product(range(seeds), repeat=seeds)))
    return draws, Bootstrap((draws[:, :, None] == np.arange(seeds)).mean(axis=1), seeds)


def test_ranks_and_their_ranges_by_brute_force():
    """All 27 draws of three seeds, ranked with loops, by the mean over two metrics of |mean gap|."""
    one, two = per_seed(3, a=0.02, b=-0.03, c=0.01, d=0.01), per_seed(3, a=0.01, b=0.02, c=0.04, d=-0.01)
    for values in (one, two):
        values["e"] = values["d"]  # equal in every draw
    draws, weights = all_draws(3)
    best, worst = {m: [] for m in "abcde"}, {m: [] for m in "abcde"}

    def away_in(positions) -> dict[str, float]:
        drawn = [values.iloc[positions] for values in (one, two)]
        return {m: round(np.mean([abs((t[m] - t["retrain"]).mean()) for t in drawn]), 9) for m in "abcde"}

    for draw in draws:
        away = away_in(draw)
        for m in "abcde":
            best[m].append(1 + sum(other < away[m] for other in away.values()))
            worst[m].append(sum(other <= away[m] for other in away.values()))
    found = rank_ranges(of_metrics(one=one, two=two), weights)
    place = math.ceil(0.025 * 27)  # the first of the ordered draws that 2.5 % do not exceed
    for m in "abcde":
        assert found.loc[m, "low"] == sorted(best[m])[place - 1]
        assert found.loc[m, "high"] == sorted(worst[m])[27 - place]
    away = away_in([0, 1, 2])
    assert found["rank"].to_dict() == {m: 1 + sum(other < away[m] for other in away.values()) for m in "abcde"}
    assert found.loc["d"].to_dict() == found.loc["e"].to_dict()


def test_ranges_are_narrow_where_seeds_move_all_methods_together():
    draws = bootstrap(10, 1, 1, np.random.default_rng(0))
    values = of_metrics(UA=per_seed(10, a=0.02, b=0.05, c=0.10))
    assert rank_ranges(values, draws).to_dict("index") == {
        "a": {"rank": 1, "low": 1, "high": 1},
        "b": {"rank": 2, "low": 2, "high": 2},
        "c": {"rank": 3, "low": 3, "high": 3},
    }
    found = rank_ranges(of_metrics(UA=per_seed(10, a=0.02, b=0.0205, c=0.0195)), draws)
    assert (found["high"] - found["low"]).max() >= 1


def by_hand() -> pd.DataFrame:
    """Mean gaps UA .05 .15 .4, RA .15 .05 .25, js .1 .2 .01 of a, b, c."""
    return of_metrics(
        UA=pd.DataFrame({"retrain": [0.5, 0.5], "a": [0.5, 0.6], "b": [0.7, 0.6], "c": [0.1, 0.1]}),
        RA=pd.DataFrame({"retrain": [1.0, 1.0], "a": [0.9, 0.8], "b": [1.0, 0.9], "c": [0.8, 0.7]}),
        js=pd.DataFrame({"retrain": [0.1, 0.1], "a": [0.2, 0.2], "b": [0.3, 0.3], "c": [0.1, 0.12]}),
    )


def test_distances_by_hand():
    assert distances(by_hand()).to_dict() == pytest.approx({"a": 0.1, "b": 0.4 / 3, "c": 0.22})


def test_rank_stability_tells_which_metric_or_seed_decides():
    found = rank_stability(by_hand()).set_index(["kind", "left_out"])
    left = list(dict.fromkeys(found.index))
    assert left == [("none", ""), ("metric", "UA"), ("metric", "RA"), ("metric", "js"), ("seed", 0), ("seed", 1)]

    def of(kind: str, left_out, column: str) -> dict[str, float]:
        rows = found[[key == (kind, left_out) for key in found.index]]
        return dict(zip(rows["method"], rows[column], strict=True))

    assert of("none", "", "rank") == {"a": 1, "b": 2, "c": 3}
    assert of("metric", "UA", "distance") == pytest.approx({"a": 0.125, "b": 0.125, "c": 0.13})
    assert of("metric", "UA", "rank") == {"a": 1.5, "b": 1.5, "c": 3}
    assert of("metric", "UA", "tau")["a"] == pytest.approx(2 / math.sqrt(2 * 3))  # tau-b: one tie of three
    assert of("metric", "js", "rank") == {"a": 1.5, "b": 1.5, "c": 3}
    # seed 1 alone: UA .1 .1 .4, RA .2 .1 .3, js .1 .2 .02
    assert of("seed", 0, "distance") == pytest.approx({"a": 0.4 / 3, "b": 0.4 / 3, "c": 0.24})


def test_a_single_metric_or_seed_cannot_be_left_out():
    assert set(rank_stability(by_hand()[["UA"]])["kind"]) == {"none", "seed"}
    assert set(rank_stability(by_hand().iloc[:1])["kind"]) == {"none", "metric"}


# --- critical difference -------------------------------------------------------------------------

AUC = pd.DataFrame(  # Demšar, JMLR 7, 2006, Table 6: C4.5 with and without tuned m and cf, on 14 data sets
    [
        (0.763, 0.768, 0.771, 0.798),
        (0.599, 0.591, 0.590, 0.569),
        (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657),
        (0.882, 0.888, 0.886, 0.898),
        (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685),
        (0.583, 0.583, 0.563, 0.625),
        (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000),
        (0.940, 0.962, 0.965, 0.962),
        (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.9751, 0.975),  # printed as a tie; the paper's ranks are of values that were not rounded
        (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "m", "cf", "m+cf"],
)


def test_critical_difference_of_a_published_example():
    found = critical_difference(1 - AUC)
    assert found.ranks.round(3).to_dict() == {"m+cf": 1.964, "m": 2.0, "cf": 2.893, "C4.5": 3.143}
    assert found.difference == pytest.approx(1.25, abs=0.005)
    assert found.p == pytest.approx(stats.friedmanchisquare(*AUC.to_numpy().T).pvalue)
    assert found.nemenyi == [["m+cf", "m", "cf", "C4.5"]]  # 1.179 < 1.25


@pytest.mark.parametrize(("methods", "quantile"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_nemenyis_quantiles_are_those_of_the_table(methods, quantile):
    scores = pd.DataFrame(np.random.default_rng(0).normal(size=(6, methods)))
    expected = quantile * math.sqrt(methods * (methods + 1) / 36)
    assert critical_difference(scores).difference == pytest.approx(expected, rel=5e-4)


def test_bars_join_neighbours_that_are_not_told_apart():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.1, (20, 1))
    scores = pd.DataFrame(base + rng.normal(0, 0.1, (20, 5)) + [0, 0, 3, 3.05, 6], columns=list("abcde"))
    scores.loc[20] = [1, 2, np.nan, 4, 5]  # an incomplete block does not count
    found = critical_difference(scores)
    assert [sorted(bar) for bar in found.wilcoxon] == [["a", "b"], ["c", "d"]]
    assert found.pairs.set_index(["method", "other"]).shape == (10, 2)
    for row in found.pairs.itertuples():
        difference = scores[row.method][:20] - scores[row.other][:20]
        assert row.p == pytest.approx(stats.wilcoxon(difference).pvalue)
    expected = [
        {a, b} for a, b in itertools.combinations("abcde", 2) if abs(found.ranks[a] - found.ranks[b]) < found.difference
    ]
    joined = [set(pair) for bar in found.nemenyi for pair in itertools.combinations(bar, 2)]
    assert sorted(map(sorted, expected)) == sorted(map(sorted, {frozenset(pair) for pair in joined}))


def test_a_bar_joins_only_methods_of_which_no_two_are_apart():
    """`a` differs from neither, now below both and now far above them; `b` is below `c` each time."""
    rng = np.random.default_rng(0)
    b = rng.normal(0, 1, 20)
    a = b + np.where(np.arange(20) < 14, -0.1, 1) * rng.uniform(0.9, 1.1, 20)
    found = critical_difference(pd.DataFrame({"a": a, "b": b, "c": b + rng.uniform(0.01, 0.02, 20)}))
    assert list(found.ranks.index) == ["a", "b", "c"]
    assert list(found.pairs["p_holm"] < 0.05) == [False, False, True]
    assert found.wilcoxon == [["a", "b"]]


def test_equal_methods_are_never_told_apart():
    scores = pd.DataFrame({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3], "c": [0.2, 0.1, 0.4]})
    found = critical_difference(scores)
    assert found.ranks["a"] == found.ranks["b"]
    assert found.pairs["p"].max() == 1.0
    assert len(found.wilcoxon) == 1

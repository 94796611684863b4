"""Intervals and rates of attacks against scikit-learn, SciPy's own tests and counting."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from bench.metrics.roc import (
    accuracies,
    auc,
    auc_variance,
    clopper_pearson,
    judge,
    names,
    over_folds,
    true_positive_rate,
)

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=float))


def labelled(members, others):
    return np.repeat([1, 0], [len(members), len(others)]), np.concatenate([members, others])


@given(members=scores, others=scores)
@settings(max_examples=50, deadline=None)
def test_auc_is_scikit_learns_also_where_scores_tie(members, others):
    assert auc(members, others) == pytest.approx(roc_auc_score(*labelled(members, others)))
    assert auc(members, others) + auc(others, members) == pytest.approx(1)


@given(members=scores, others=scores, rate=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]))
@settings(max_examples=50, deadline=None)
def test_true_positive_rate_is_the_best_point_of_the_curve_at_or_below_the_false_positive_rate(members, others, rate):
    false, true, _ = roc_curve(*labelled(members, others), drop_intermediate=False)
    assert true_positive_rate(members, others, rate) == pytest.approx(true[false <= rate + 1e-9].max())


def test_two_sided_rate_finds_low_scores_within_the_same_false_positives():
    others = np.arange(1000.0)
    members = np.repeat([-5.0, 500.0, 2000.0], [30, 50, 20])
    assert true_positive_rate(members, others, 0.01, sides=2) == pytest.approx(0.5)
    assert true_positive_rate(members, others, 0.01, sides=1) == pytest.approx(0.2)
    assert true_positive_rate(others, others, 0.01, sides=2) == pytest.approx(0.01)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (10, 20), (20, 20), (3, 1000)])
def test_clopper_pearson_is_the_exact_binomial_interval(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(successes, trials) == pytest.approx((expected.low, expected.high))


def test_interval_over_folds_widens_for_shared_models_and_stays_in_the_unit_interval():
    values = np.array([0.4, 0.5, 0.6])
    mean, low, high = over_folds(values)
    assert mean == pytest.approx(0.5)
    assert high - 0.5 == pytest.approx(4.302653 * 0.1 * math.sqrt(1 / 3 + 1 / 2))
    assert low == pytest.approx(1 - high)
    assert over_folds(np.array([0.1, 0.9]))[1:] == (0.0, 1.0)
    assert all(math.isnan(bound) for bound in over_folds(np.array([0.5]))[1:])


def test_variance_of_the_auc_over_samples_is_what_drawing_samples_shows():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(0.7, 2, 40), rng.normal(0, 1, 60)) for _ in range(1000)]
    expected = np.var([auc(*draw) for draw in draws])
    assert np.mean([auc_variance(*draw) for draw in draws]) == pytest.approx(expected, rel=0.15)


def test_samples_that_were_drawn_apart_widen_the_interval():
    rng = np.random.default_rng(0)
    folds = [(rng.normal(size=(1, 30)), rng.normal(size=(1, 30)))] * 3  # no difference between models
    widths = []
    for drawn in (0, 1):
        found = judge("attack", folds, threshold=0.0, drawn=drawn).values
        widths += [
            found["attack_auc_high"] - found["attack_auc_low"],
            found["attack_accuracy_high"] - found["attack_accuracy_low"],
        ]
    assert widths[:2] == [0, 0]
    assert widths[2] == pytest.approx(2 * 1.96 * math.sqrt(auc_variance(folds[0][0][0], folds[0][1][0])), rel=1e-3)
    assert 0.2 < widths[3] < 0.3  # of a share of about a half, over 60 samples


def test_threshold_is_learned_from_the_other_folds_in_either_direction():
    high = [(np.array([[3.0, 4.0]]), np.array([[1.0, 2.0]]))] * 3
    low = [(others, members) for members, others in high]
    assert accuracies(high) == pytest.approx(1)
    assert accuracies(low) == pytest.approx(1)
    odd = [*high[:2], low[0]]  # what two folds teach is wrong of the third
    assert accuracies(odd)[2] == pytest.approx(0)


def test_judge_names_everything_it_returns_and_gives_a_reason_for_every_gap():
    rng = np.random.default_rng(0)
    folds = [(rng.normal(1, 1, (1, 500)), rng.normal(0, 1, (1, 500))) for _ in range(3)]
    made = judge("attack", folds, threshold=0.5)
    assert set(made.values) == set(names("attack"))
    assert made.values["attack_tpr_1pct_low"] < made.values["attack_tpr_1pct"] < made.values["attack_tpr_1pct_high"]
    assert {key for key, value in made.values.items() if math.isnan(value)} == set(made.missing)
    assert set(made.missing) == {"attack_tpr_01pct", "attack_tpr_01pct_low", "attack_tpr_01pct_high"}
    assert "1500 scores of non-members" in made.missing["attack_tpr_01pct"]


def test_leakage_is_the_same_for_an_attack_and_its_reverse():
    rng = np.random.default_rng(1)
    folds = [(rng.normal(1, 1, (1, 60)), rng.normal(0, 1, (1, 60))) for _ in range(3)]
    reverse = [(-members, -others) for members, others in folds]
    both = [judge("attack", f, sides=2).values["attack_leakage"] for f in (folds, reverse)]
    assert both[0] == pytest.approx(both[1])
    assert both[0] > 0.3

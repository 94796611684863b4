"""KLoM and ε against counting by hand, SciPy and trying every threshold, on honest, parted and few models."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy

from bench.metrics.quality import challenge_score, epsilon, epsilon_of_each, klom, klom_of_each


def bank(shift: float = 0.0, models: int = 6, samples: int = 40, seed: int = 0):
    rng = np.random.default_rng([seed, models])
    return np.linspace(0, 8, samples) + shift + rng.normal(size=(models, samples))


ties = st.integers(-3, 3).map(float)  # few values, so that margins coincide
margins = st.one_of(ties, st.floats(-150, 150, allow_subnormal=False, width=32))
sides = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda sizes: st.tuples(
        arrays(float, (sizes[0], sizes[2]), elements=margins), arrays(float, (sizes[1], sizes[2]), elements=margins)
    )
)


# KLoM


def klom_by_hand(unlearned, retrained, legacy=False):
    found = []
    for s in range(unlearned.shape[1]):
        p, q = (np.clip(m[:, s], -100, 100) for m in (unlearned, retrained))
        low, high = min(p.min(), q.min()), max(p.max(), q.max())
        edges = np.linspace(low, high if low < high else low + 1, 21)
        if legacy:
            p, q = ([(np.digitize(side, edges) == b).sum() for b in range(1, 21)] for side in (p, q))
            p, q = (np.array(side) / (sum(side) or 1) for side in (p, q))
            found.append(entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q)) if p.any() else math.nan)
        else:
            p, q = (np.histogram(side, edges)[0] / len(side) for side in (p, q))
            found.append(sum(a * math.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a))
    return np.array(found)


@given(sides=sides)
@settings(max_examples=100, deadline=None)
def test_klom_is_the_histogram_of_each_sample(sides):
    assert klom_of_each(*sides) == pytest.approx(klom_by_hand(*sides), abs=1e-12)
    with np.errstate(all="ignore"):
        expected = klom_by_hand(*sides, legacy=True)
        assert klom_of_each(*sides, legacy=True) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(sides=sides)
@settings(max_examples=30, deadline=None)
def test_klom_is_finite_not_negative_and_zero_of_the_same_models(sides):
    found = klom_of_each(*sides)
    assert np.isfinite(found).all()
    assert (found > -1e-12).all()
    assert klom_of_each(sides[0], sides[0]) == pytest.approx(0)


def test_published_klom_drops_the_largest_margin():
    """Ten models at 0 and one at 1 against eleven at 0: the one that differs is the one that is lost."""
    unlearned, retrained = np.zeros((11, 1)), np.zeros((11, 1))
    unlearned[-1] = 1
    made = klom(unlearned, retrained, legacy=True).values
    assert made["klom_legacy"] == pytest.approx(0)
    assert made["klom"] == pytest.approx(10 / 11 * math.log(10 / 11) + 1 / 11 * math.log(1 / 11 / 1e-5))


def test_published_klom_of_a_hundred_honest_retrains_is_far_from_zero():
    """A peer's code gives 0.34 for two draws of 100 from one distribution; a value means nothing without that."""
    rng = np.random.default_rng(0)
    assert klom_of_each(*rng.normal(size=(2, 100, 2000)), legacy=True).mean() == pytest.approx(0.34, abs=0.05)


def test_legacy_klom_of_models_that_all_share_the_largest_margin_has_a_reason():
    made = klom(np.ones((3, 2)), np.zeros((3, 2)), legacy=True)
    assert math.isnan(made.values["klom_legacy"])
    assert "2 of 2 samples" in made.missing["klom_legacy"]


def test_klom_of_honest_retrains_lies_at_its_floor_and_of_a_shift_above():
    retrained = bank(models=10, samples=400)
    honest = klom(bank(models=10, samples=400, seed=1), retrained).values
    assert honest["klom_halves"] == pytest.approx(honest["klom_floor"], rel=0.05)
    shifted = klom(bank(2, models=10, samples=400, seed=1), retrained).values
    assert shifted["klom_halves"] > shifted["klom_floor"] + 0.5
    assert shifted["klom_floor"] == honest["klom_floor"]


# ε


def epsilon_by_hand(unlearned, retrained, delta=1e-5):
    """Every threshold and interval between margins that occur, one rule at a time."""
    found = []
    for s in range(unlearned.shape[1]):
        u, r = list(unlearned[:, s]), list(retrained[:, s])
        ranges = [max(side) - min(side) for side in (u, r)]
        if min(ranges) < 0.01 * max(ranges):
            found.append(50.0)
            continue
        values = sorted({*u, *r})
        best = 0.0
        positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
        for t in values:
            best = max(best, _rule([x >= t for x in positive], [x >= t for x in negative], delta))
        positive, negative = (u, r) if ranges[0] < ranges[1] else (r, u)
        for low in values:
            for high in values:
                inside = [[low <= x <= high for x in side] for side in (positive, negative)]
                best = max(best, _rule(*inside, delta))
        found.append(min(best, 50.0))
    return np.array(found)


def _rule(positive, negative, delta):
    fnr, fpr = 1 - np.mean(positive), np.mean(negative)
    if fnr == 0 and fpr == 0:
        return math.inf
    if fnr == 0 or fpr == 0:
        return 0.0
    terms = [(1 - delta - fpr, fnr), (1 - delta - fnr, fpr)]
    return max([0.0] + [math.log(a) - math.log(b) for a, b in terms if a > 0])


@given(sides=sides)
@settings(max_examples=150, deadline=None)
def test_epsilon_is_the_best_of_all_rules(sides):
    assert epsilon_of_each(*sides) == pytest.approx(epsilon_by_hand(*sides))


def test_a_grid_of_thresholds_as_published_never_finds_more():
    """Steps of 0.01 as in the challenge's code, over the whole range."""
    unlearned, retrained = bank(0.6, models=8, samples=6, seed=1), bank(models=8, samples=6)
    exact = epsilon_of_each(unlearned, retrained)
    for s in range(6):
        u, r = unlearned[:, s], retrained[:, s]
        positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
        grid = np.arange(min(u.min(), r.min()), max(u.max(), r.max()), 0.01)
        on_grid = max(_rule(positive >= t, negative >= t, 1e-5) for t in grid)
        assert on_grid <= exact[s] + 1e-12


def test_epsilon_of_parted_and_of_equal_models():
    parted = epsilon(bank(50), bank(seed=1)).values
    assert parted["epsilon_separated"] == 1
    assert parted["epsilon_score"] == 0
    assert parted["epsilon_median"] == 50
    same = epsilon(bank(), bank()).values
    assert same["epsilon_median"] < 0.5
    assert same["epsilon_score"] == pytest.approx(1)


def test_epsilon_of_constant_margins_tells_equal_from_different():
    same = np.full((4, 3), 1e30)
    assert (epsilon_of_each(same, same) == 0).all()
    assert (epsilon_of_each(same, same / 2) == 50).all()
    assert (epsilon_of_each(same, bank(models=4, samples=3)) == 50).all()  # peaked beside the other


def test_score_halves_its_points_with_every_half_of_epsilon():
    """Ten models: log 9 = 2.2, so six steps of 0.5 up to 3."""
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(0.5, 1, (10, 300)), rng.normal(0, 1, (10, 300))
    points = [0.5 ** math.floor(e / 0.5) if e < 3 else 0.0 for e in epsilon_by_hand(unlearned, retrained)]
    found = epsilon(unlearned, retrained).values
    assert found["epsilon_score"] == pytest.approx(np.mean(points))
    assert found["epsilon_largest"] == pytest.approx(math.log(9))


def test_floors_and_halves_have_equally_many_models_and_no_seed_twice():
    unlearned, retrained = bank(2, models=12, seed=1), bank(models=12)
    found = epsilon(unlearned, retrained).values | klom(unlearned, retrained).values
    for name, first in (("floor", retrained), ("halves", unlearned)):
        sides = first[::2], retrained[1::2]
        assert found[f"epsilon_score_{name}"] == epsilon(*sides).values["epsilon_score"]
        assert found[f"klom_{name}"] == klom(*sides).values["klom"]
    assert found["epsilon_score_floor"] > found["epsilon_score_halves"]


def test_challenge_score_weighs_quality_by_both_accuracies():
    assert challenge_score(0.5, 0.9, 0.8, 1.0, 0.8) == pytest.approx(0.45)


# Both


@given(sides=sides, seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_order_of_models_and_of_samples_changes_nothing(sides, seed):
    rng = np.random.default_rng(seed)
    models = [rng.permutation(len(side)) for side in sides]
    samples = rng.permutation(sides[0].shape[1])
    moved = [side[order][:, samples] for side, order in zip(sides, models, strict=True)]
    for of_each in (klom_of_each, epsilon_of_each):
        assert of_each(*moved) == pytest.approx(of_each(*sides)[samples])


@pytest.mark.parametrize("models", [1, 2, 3, 6])
def test_few_models_are_counted_and_every_gap_has_its_reason(models):
    made = klom(bank(models=models), bank(models=models, seed=1)) | epsilon(
        bank(models=models), bank(models=models, seed=1)
    )
    assert {key for key, value in made.values.items() if math.isnan(value)} == set(made.missing)
    assert all(made.missing.values())
    assert made.values["klom_models_unlearned"] == made.values["epsilon_models_retrained"] == models
    assert math.isnan(made.values["klom_floor"]) == (models < 2)
    assert math.isnan(made.values["epsilon_score"]) == (models < 3)
    assert math.isnan(made.values["epsilon_score_floor"]) == (models < 6)

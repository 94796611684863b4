"""Likelihood-ratio attacks against double loops, on identical, planted, saturated and few models."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity

from bench.metrics.likelihood import (
    LIMIT,
    _pooled,
    kernel,
    log_confidence,
    margin,
    rmia,
    ruli,
    ruli_privacy,
    ulira,
    vulnerability,
)

SEEDS, SAMPLES, UNSEEN = 5, 60, 80


def bank(shift: float = 0.0, models: int = SEEDS, samples: int = SAMPLES, seed: int = 0, wobble: float = 0.2):
    """Margins [models, samples] of samples that differ in place and spread; some models are surer than others."""
    rng = np.random.default_rng([samples, 7])
    place, spread = rng.normal(4, 2, samples), rng.gamma(2, 0.5, samples)
    rng = np.random.default_rng([seed, models])
    return place + shift + spread * rng.normal(size=(models, samples)) + wobble * rng.normal(size=(models, 1))


def every_attack(unlearned, retrained, seed=0):
    """Every metric of the module at once, with unseen samples that look alike everywhere."""
    rng = np.random.default_rng(seed)
    unseen = [bank(samples=UNSEEN, seed=s, models=len(m)) for s, m in ((20, unlearned), (21, retrained))]
    labels, unseen_labels = rng.integers(0, 3, unlearned.shape[1]), rng.integers(0, 3, UNSEEN)
    return (
        ulira(unlearned, retrained, legacy=True)
        | ruli(unlearned, retrained, original=retrained + 3)
        | ruli_privacy(unlearned, unseen[0], labels, unseen_labels)
        | rmia(unlearned, retrained, *unseen)
    )


# The statistic


def test_margin_is_the_logit_of_the_confidence_and_broadcasts_over_models():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (4, 6, 5)).astype(np.float32), rng.integers(0, 5, 6)
    p = np.take_along_axis(softmax(logits.astype(np.float64), axis=2), labels[None, :, None], axis=2)[..., 0]
    assert margin(logits, labels) == pytest.approx(np.log(p / (1 - p)))
    assert margin(logits[2], labels) == pytest.approx(margin(logits, labels)[2])
    assert log_confidence(margin(logits, labels)) == pytest.approx(np.log(p))


@given(
    height=st.floats(0, 1e30),
    classes=st.integers(2, 5),
    label=st.integers(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_margin_is_finite_however_sure_the_network_is(height, classes, label):
    logits = np.zeros((1, classes))
    logits[0, 0] = height
    found = margin(logits, np.array([label]))
    assert np.isfinite(found).all()
    expected = height - math.log(classes - 1) if label == 0 else -np.logaddexp(height, math.log(classes - 2 or 1e-300))
    assert found[0] == pytest.approx(expected, abs=1e-9)


def test_margin_is_the_same_in_any_batch_and_under_any_order_of_the_classes():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 5, (30, 4)), rng.integers(0, 4, 30)
    whole = margin(logits, labels)
    assert (margin(logits[7:8], labels[7:8]) == whole[7:8]).all()
    order = np.array([2, 0, 3, 1])
    assert margin(logits[:, order], np.argsort(order)[labels]) == pytest.approx(whole, abs=1e-12)


def test_margin_refuses_a_single_class():
    with pytest.raises(ValueError, match="two classes"):
        margin(np.zeros((3, 1)), np.zeros(3, dtype=int))


# U-LiRA


def ulira_by_loops(unlearned, retrained, density):
    """AUC of each fold and accuracy, one model and one sample at a time."""
    areas, right = [], []
    for i in range(len(unlearned)):
        scores = {1: [], 0: []}
        for member, judged in ((1, unlearned), (0, retrained)):
            for s in range(unlearned.shape[1]):
                fits = [[m[j, s] for j in range(len(m)) if j != i] for m in (unlearned, retrained)]
                pools = [np.array([[m[j, t] for j in range(len(m)) if j != i] for t in range(m.shape[1])])
                         for m in (unlearned, retrained)]  # fmt: skip
                ratio = density(judged[i, s], fits[0], pools[0]) - density(judged[i, s], fits[1], pools[1])
                scores[member].append(ratio)
                right.append(ratio > 0 if member else ratio < 0)
        areas.append(roc_auc_score([1] * len(scores[1]) + [0] * len(scores[0]), scores[1] + scores[0]))
    return np.mean(areas), np.mean(right)


def normal(x, fit, pool):
    return stats.norm.logpdf(x, np.mean(fit), max(np.std(fit, ddof=1), 0.01))


def students_t(x, fit, pool):
    n, prior = len(fit), np.median([np.var(other, ddof=1) for other in pool])
    freedom = 2 + n - 1
    variance = max((1 + 1 / n) * (2 * prior + (n - 1) * np.var(fit, ddof=1)) / freedom, 1e-4)
    return stats.t.logpdf(x, freedom, np.mean(fit), math.sqrt(variance))


@pytest.mark.parametrize(("name", "density"), [("ulira", students_t), ("ulira_gaussian", normal)])
@pytest.mark.parametrize("models", [3, 4])
def test_ulira_is_the_double_loop(name, density, models):
    unlearned, retrained = bank(0.7, models, 12, 1), bank(0, models, 12, 2)
    area, right = ulira_by_loops(unlearned, retrained, density)
    found = ulira(unlearned, retrained).values
    assert found[f"{name}_auc"] == pytest.approx(area)
    assert found[f"{name}_accuracy"] == pytest.approx(right)


def test_identical_distributions_have_an_auc_of_a_half_within_its_interval():
    """Over many banks the interval must hold 0.5 about as often as it says, and the mean must not lean."""
    held, areas = [], []
    for seed in range(100):
        found = ulira(bank(seed=2 * seed, wobble=0.5), bank(seed=2 * seed + 1, wobble=0.5)).values
        held.append(found["ulira_auc_low"] <= 0.5 <= found["ulira_auc_high"])
        areas.append(found["ulira_auc"])
    assert np.mean(held) >= 0.88  # 0.95, less three standard errors
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas) / math.sqrt(len(areas))


def test_one_model_more_on_a_side_does_not_lean_the_auc():
    areas = [ulira(bank(seed=2 * s, models=4), bank(seed=2 * s + 1, models=9)).values["ulira_auc"] for s in range(60)]
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas) / math.sqrt(len(areas))


@pytest.mark.parametrize("shift", [3.0, -3.0], ids=["remembered", "over-forgotten"])
def test_planted_leak_is_found_on_either_side(shift):
    found = every_attack(bank(shift, seed=1), bank(seed=2)).values
    for attack in ("ulira", "ulira_gaussian", "ruli", "rmia", "ruli_privacy"):
        assert found[f"{attack}_leakage"] > 0.5, attack
        assert not found[f"{attack}_auc_low"] <= 0.5 <= found[f"{attack}_auc_high"], attack
    for attack in ("ulira", "ulira_gaussian", "ruli", "rmia"):
        assert found[f"{attack}_accuracy"] > 0.75, attack


def test_a_leak_of_spread_alone_is_found():
    """Unlearned models that agree more closely than retrained ones do: no mean has moved."""
    rng = np.random.default_rng(0)
    unlearned, retrained = 0.1 * rng.normal(size=(6, 200)), rng.normal(size=(6, 200))
    assert ulira(unlearned, retrained).values["ulira_auc_low"] > 0.7


def test_true_positives_are_counted_where_there_are_enough_samples():
    found = ulira(bank(2.0, 5, 2100, 1), bank(0, 5, 2100, 2)).values  # 10,500 non-members
    assert 0.01 < found["ulira_tpr_01pct"] < found["ulira_tpr_1pct"] <= 1
    assert found["ulira_tpr_1pct_low"] < found["ulira_tpr_1pct"] < found["ulira_tpr_1pct_high"]
    same = ulira(bank(0, 5, 2100, 1), bank(0, 5, 2100, 2)).values
    assert same["ulira_tpr_1pct"] < 0.03


def test_legacy_ulira_gives_nothing_where_models_agree_on_a_flag_and_the_mended_one_does():
    unlearned, retrained = bank(0.7, seed=1), bank(seed=2)
    flags = ulira((unlearned > 0).astype(float), (retrained > 0).astype(float), legacy=True)
    assert math.isnan(flags.values["ulira_legacy_auc"])
    assert "agree" in flags.missing["ulira_legacy_auc"]
    assert not math.isnan(flags.values["ulira_auc"])


def test_legacy_ulira_calls_identical_distributions_apart_since_it_scores_what_it_fitted():
    found = ulira(bank(seed=1, samples=400), bank(seed=2, samples=400), legacy=True).values
    assert found["ulira_legacy_auc"] > 0.7
    assert found["ulira_auc_low"] <= 0.5 <= found["ulira_auc_high"]


# RULI


def test_kernel_density_is_scikit_learns():
    fitted, at = bank(models=4, samples=3), bank(models=2, samples=3, seed=5)
    for s in range(3):
        reference = KernelDensity(bandwidth=0.7).fit(fitted[:, s, None]).score_samples(at[:, s, None])
        assert kernel(0.7)(at, fitted)[:, s] == pytest.approx(reference)


def test_kernel_density_far_from_every_model_still_tells_the_nearer_side():
    """RULI's code divides likelihoods, which are 0/0 there."""
    unlearned, retrained = bank(seed=1) + 5000, bank(seed=2)
    found = ruli(unlearned, retrained).values
    assert found["ruli_auc"] == 1
    assert found["ruli_accuracy"] == 1


def test_vulnerable_and_protected_samples_are_those_planted():
    memorised = np.arange(SAMPLES) < 15
    original, unlearned = bank(seed=3), bank(seed=1)
    original[:, memorised] += 12
    unlearned[:, memorised] += 4
    retrained = bank(seed=2)
    vulnerable, protected = vulnerability(original, retrained)
    assert vulnerable[memorised].mean() > 0.9
    assert vulnerable[~memorised].mean() < 0.2
    assert not (vulnerable & protected).any()
    found = ruli(unlearned, retrained, original=original).values
    assert found["ruli_vulnerable_auc"] > 0.8
    assert found["ruli_vulnerable_auc"] > found["ruli_auc"]
    assert found["ruli_vulnerable_samples"] == vulnerable.sum()
    assert found["ruli_protected_samples"] == protected.sum()


def test_no_vulnerable_sample_is_a_reason_and_no_error():
    made = ruli(bank(seed=1), bank(seed=2), original=bank(seed=2))
    assert made.values["ruli_vulnerable_samples"] == 0
    assert made.missing["ruli_vulnerable_auc"] == "no sample is vulnerable"


@given(bandwidth=st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=5, deadline=None)
def test_pooled_density_on_the_grid_is_the_sum_over_kernels(bandwidth):
    fitted, at = bank(models=3, samples=9), bank(models=3, samples=4, seed=9)
    expected = np.zeros_like(at)
    for i, s in np.ndindex(at.shape):
        others = [fitted[j, t] for j in range(3) if j != i for t in range(9)]
        kernels = sum(stats.norm.pdf(at[i, s], other, bandwidth) for other in others)
        expected[i, s] = (kernels + 1 / (2 * LIMIT)) / (len(others) + 1)
    assert _pooled(fitted, at, bandwidth) == pytest.approx(expected, rel=0.01, abs=1e-4)


def test_privacy_of_samples_that_look_unseen_is_chance_and_of_remembered_ones_is_not():
    rng = np.random.default_rng(0)
    labels, unseen_labels = np.repeat([0, 1], 100), np.repeat([0, 1], 150)
    place = np.array([2.0, 8.0])  # classes differ; the attack must not take that for a leak

    def margins(of, shift=0.0):
        return place[of] + shift + rng.normal(0, 2, len(of)) + rng.normal(0, 0.5, (SEEDS, len(of)))

    unseen = margins(unseen_labels)
    chance = ruli_privacy(margins(labels), unseen, labels, unseen_labels).values
    assert chance["ruli_privacy_auc_low"] <= 0.5 <= chance["ruli_privacy_auc_high"]
    assert abs(chance["ruli_privacy_auc"] - 0.5) < 0.08
    assert ruli_privacy(margins(labels, 3), unseen, labels, unseen_labels).values["ruli_privacy_auc"] > 0.75
    other = ruli_privacy(margins(labels), unseen, labels, unseen_labels + 2)
    assert "class" in other.missing["ruli_privacy_auc"]


def test_privacy_interval_allows_for_the_drawing_of_samples():
    """The same samples under every model: their chance difference is none of the models' doing."""
    held = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sides = [rng.normal(4, 2, n) + 0.3 * rng.normal(size=(3, n)) for n in (40, 60)]
        found = ruli_privacy(*sides, np.zeros(40), np.zeros(60)).values
        held.append(found["ruli_privacy_auc_low"] <= 0.5 <= found["ruli_privacy_auc_high"])
    assert np.mean(held) >= 0.85  # 0.95, less three standard errors


# RMIA


def rmia_by_loops(unlearned, retrained, unseen_u, unseen_r, original=None, unseen_o=None, gamma=1.0, a=0.3):
    p = {k: 1 / (1 + np.exp(-m)) for k, m in
         {"u": unlearned, "r": retrained, "zu": unseen_u, "zr": unseen_r}.items()}  # fmt: skip
    if original is not None:
        p |= {"o": 1 / (1 + np.exp(-original)), "zo": 1 / (1 + np.exp(-unseen_o))}
    areas = []
    for i in range(len(unlearned)):
        rest = [j for j in range(len(retrained)) if j != i]

        def reference(s, z, rest=rest):
            out = np.mean([p[f"{z}r"][j, s] for j in rest])
            if original is None:
                return ((1 + a) * out + 1 - a) / 2
            return (out + np.mean([p[f"{z}o"][j, s] for j in rest])) / 2

        scores = []
        for side in "ur":
            for s in range(unlearned.shape[1]):
                x = p[side][i, s] / reference(s, "")
                zs = [p[f"z{side}"][i, t] / reference(t, "z") for t in range(unseen_u.shape[1])]
                scores.append(np.mean([x / z >= gamma for z in zs]))
        areas.append(roc_auc_score(np.repeat([1, 0], unlearned.shape[1]), scores))
    return np.mean(areas)


@pytest.mark.parametrize("gamma", [1.0, 1.2])
@pytest.mark.parametrize("online", [False, True])
def test_rmia_is_the_double_loop(gamma, online):
    sets = [bank(0.5, 3, 8, 1), bank(0, 3, 8, 2), bank(0, 3, 11, 3), bank(0, 3, 11, 4)]
    more = [bank(1, 3, 8, 5), bank(0, 3, 11, 6)] if online else []
    found = rmia(*sets, *more, gamma=gamma).values
    assert found["rmia_auc"] == pytest.approx(rmia_by_loops(*sets, *more, gamma=gamma))


def test_rmia_reads_the_models_that_there_are():
    sets = [bank(seed=1), bank(seed=2), bank(samples=UNSEEN, seed=3), bank(samples=UNSEEN, seed=4, models=4)]
    with pytest.raises(ValueError, match="other models"):
        rmia(*sets)


# What must hold of all


def test_order_of_samples_changes_nothing():
    unlearned, retrained, original = bank(1, seed=1), bank(seed=2), bank(4, seed=3)
    unseen = [bank(samples=UNSEEN, seed=s) for s in (4, 5)]
    labels, unseen_labels = np.arange(SAMPLES) % 3, np.arange(UNSEEN) % 3
    order, unseen_order = (np.random.default_rng(0).permutation(n) for n in (SAMPLES, UNSEEN))

    def all_of(o, z):
        u, r = unlearned[:, o], retrained[:, o]
        a, b = (m[:, z] for m in unseen)
        return (
            ulira(u, r, legacy=True)
            | ruli(u, r, original[:, o])
            | ruli_privacy(u, a, labels[o], unseen_labels[z])
            | rmia(u, r, a, b)
        ).values

    before, after = all_of(np.arange(SAMPLES), np.arange(UNSEEN)), all_of(order, unseen_order)
    assert after == pytest.approx(before, nan_ok=True)


def test_order_of_seeds_changes_nothing():
    sets = [bank(1, seed=1), bank(seed=2), bank(samples=UNSEEN, seed=3), bank(samples=UNSEEN, seed=4)]
    order = np.array([3, 1, 4, 0, 2])
    labels, unseen_labels = np.arange(SAMPLES) % 3, np.arange(UNSEEN) % 3

    def all_of(u, r, a, b):
        made = ulira(u, r, legacy=True) | ruli(u, r, r + 3) | rmia(u, r, a, b)
        return (made | ruli_privacy(u, a, labels, unseen_labels)).values

    assert all_of(*(m[order] for m in sets)) == pytest.approx(all_of(*sets), nan_ok=True)


@pytest.mark.parametrize("models", [1, 2, 3])
def test_few_models_are_counted_and_every_gap_has_its_reason(models):
    made = every_attack(bank(1, models, seed=1), bank(0, models, seed=2))
    assert {key for key, value in made.values.items() if math.isnan(value)} == set(made.missing)
    assert all(made.missing.values())
    assert made.values["ulira_models_unlearned"] == made.values["rmia_models_retrained"] == models
    assert math.isnan(made.values["ulira_auc"]) == (models < 3)
    assert math.isnan(made.values["rmia_auc"]) == (models < 2)
    if models < 3:
        assert f"{models} unlearned" in made.missing["ulira_auc"]


def test_names_do_not_depend_on_what_could_be_estimated():
    few, many = (every_attack(bank(models=k, seed=1), bank(models=k, seed=2)) for k in (1, SEEDS))
    assert set(few.values) == set(many.values) - {"ruli_vulnerable_samples", "ruli_protected_samples"}


@pytest.mark.parametrize("height", [40.0, 1e4, 1e30])
def test_saturated_networks_that_agree_to_the_bit_are_indistinguishable_and_nothing_is_nan(height):
    """100 % accuracy, softmax 1.0 in every digit."""
    labels = np.arange(SAMPLES) % 3
    logits = np.broadcast_to(height * np.eye(3)[labels], (SEEDS, SAMPLES, 3))
    same = margin(logits, labels)
    unseen = margin(
        np.broadcast_to(height * np.eye(3)[np.arange(UNSEEN) % 3], (SEEDS, UNSEEN, 3)), np.arange(UNSEEN) % 3
    )
    made = ulira(same, same) | ruli(same, same) | rmia(same, same, unseen, unseen)
    made |= ruli_privacy(same, unseen, labels, np.arange(UNSEEN) % 3)
    for attack in ("ulira", "ulira_gaussian", "ruli", "rmia"):
        assert made.values[f"{attack}_auc"] == 0.5
        assert made.values[f"{attack}_accuracy"] == 0.5
    assert made.values["ruli_privacy_auc_low"] <= 0.5 <= made.values["ruli_privacy_auc_high"]
    told = {key for key in made.values if "tpr" in key or "vulnerable" in key or "protected" in key}
    assert set(made.missing) <= told


def test_saturated_networks_whose_margins_differ_are_told_apart_where_probabilities_are_equal():
    """Both sides answer with a probability of 1.0 in float64; their margins still differ by a nat."""
    rng = np.random.default_rng(0)
    retrained = 60 + 0.05 * rng.normal(size=(SEEDS, SAMPLES))
    assert (np.exp(log_confidence(retrained)) == 1).all()
    assert ulira(retrained + 1, retrained[::-1]).values["ulira_auc"] > 0.95


@pytest.mark.parametrize(
    "bad",
    [np.zeros(3), np.full((3, 4), np.nan), np.zeros((3, 5)), np.zeros((0, 4))],
    ids=["1d", "nan", "width", "none"],
)
def test_other_shapes_and_nan_are_refused(bad):
    with pytest.raises(ValueError):
        ulira(np.zeros((3, 4)), bad)

"""Distances and confusion against scipy, torch, loops and published numbers; what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from bench.metrics.confusion import (
    confusion,
    confusion_distances,
    destinations,
    distance,
    moves,
)
from bench.metrics.distances import (
    activation,
    apart,
    aus,
    average_gap,
    churn,
    disagreement,
    distances,
    indiscernibility,
    js,
    kl,
    nomus,
    retention_deviation,
    to_retrain,
    zrf,
)
from bench.metrics.judged import Judged, Part
from bench.metrics.statistics import noise_floor

CLASSES = 4
LN2 = math.log(2)


def logits(n: int = 50, seed: int = 0, classes: int = CLASSES, spread: float = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (n, classes))


def logs(values: np.ndarray) -> np.ndarray:
    return log_softmax(values, axis=1)


def pairs(largest: float):
    """Logits of two networks for the same samples."""
    shapes = st.tuples(st.integers(1, 6), st.integers(2, 5))
    values = st.floats(-largest, largest, allow_subnormal=False)
    return shapes.flatmap(
        lambda shape: st.tuples(arrays(float, shape, elements=values), arrays(float, shape, elements=values))
    )


# --- one value a sample --------------------------------------------------------------------------


def test_js_is_scipys():
    a, b = logits(seed=1), logits(seed=2)
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(softmax(a, axis=1), softmax(b, axis=1), strict=True)]
    np.testing.assert_allclose(js(logs(a), logs(b)), expected, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs(1e4))
def test_js_is_symmetric_and_between_0_and_ln_2(pair):
    a, b = map(logs, pair)
    found = js(a, b)
    assert (found >= 0).all()
    assert (found <= LN2).all()
    np.testing.assert_array_equal(found, js(b, a))


@settings(max_examples=60, deadline=None)
@given(pairs(20))
def test_js_is_0_where_the_two_are_equal_and_only_there(pair):
    a, b = map(logs, pair)
    np.testing.assert_array_equal(js(a, a), 0)
    apart = np.abs(np.exp(a) - np.exp(b)).max(axis=1) > 1e-6
    assert (js(a, b)[apart] > 0).all()


def test_js_of_outputs_with_nothing_in_common_is_ln_2():
    sure = 1e4 * np.eye(3)
    np.testing.assert_allclose(js(logs(sure), logs(sure[[1, 2, 0]])), LN2)


def test_kl_is_scipys():
    a, b = logits(seed=1), logits(seed=2)
    expected = stats.entropy(softmax(a, axis=1), softmax(b, axis=1), axis=1)
    np.testing.assert_allclose(kl(logs(a), logs(b)), expected, rtol=1e-9)


def test_kl_directions_by_name():
    """KL(retrain|run) counts a masked class with the probability that retrain gives to it; KL(run|retrain) does not."""
    retrain, run = np.zeros((1, 2)), np.array([[0.0, -1e4]])
    found = distances(run, retrain)
    assert found["kl_retrain_run"] == pytest.approx(0.5e4, rel=1e-3)
    assert found["kl_run_retrain"] == pytest.approx(LN2)


@pytest.mark.parametrize("of_sample", [js, kl, lambda p, q: js(p, q, legacy=True)])
def test_a_samples_value_does_not_depend_on_its_batch(of_sample):
    a, b = logits(seed=1), logits(seed=2)
    whole = of_sample(logs(a), logs(b))
    for chosen in ([7], [7, 0, 49], list(range(50))[::-1]):
        np.testing.assert_array_equal(of_sample(logs(a[chosen]), logs(b[chosen])), whole[chosen])


# --- published formulas, right and wrong ---------------------------------------------------------


def test_legacy_js_is_what_the_published_code_computes():
    a, b = logits(seed=1), logits(seed=2)
    p, q = (torch.from_numpy(softmax(x, axis=1)) for x in (a, b))
    m = (p + q) / 2
    with pytest.warns(UserWarning, match="mean"):  # the default reduction divides by the classes, too
        expected = 0.5 * functional.kl_div(p.log(), m) + 0.5 * functional.kl_div(q.log(), m)
    assert distances(a, b)["js_legacy"] == pytest.approx(float(expected))
    assert zrf(a, b)["zrf_legacy"] == pytest.approx(1 - float(expected))


@pytest.mark.parametrize(("classes", "expected"), [(2, -5.56), (100, 0.869), (1000, 0.987)])
def test_legacy_zrf_of_disjoint_outputs_depends_on_the_number_of_classes(classes, expected):
    """Probabilities of 1 and 1e-12; rightly it is 0."""
    one, other = np.full((2, 1, classes), math.log(1e-12))
    one[0, 0] = other[0, 1] = 0
    found = zrf(one, other)
    assert found["zrf_legacy"] == pytest.approx(expected, abs=0.005)
    assert found["zrf_js2"] == pytest.approx(0, abs=1e-8)


def test_js_and_its_legacy_of_one_sure_and_one_uniform_output():
    sure, uniform = np.log([[0.97, 0.01, 0.01, 0.01]]), np.log(np.full((1, 4), 0.25))
    found = distances(sure, uniform)
    assert found["js"] == pytest.approx(0.320, abs=5e-4)
    assert found["js_legacy"] == pytest.approx(0.126, abs=5e-4)


def test_the_three_activation_distances_by_loops():
    a, b = logits(seed=1), logits(seed=2)
    l1, l2 = [], []
    for p, q in zip(softmax(a, axis=1), softmax(b, axis=1), strict=True):
        l1.append(sum(abs(x - y) for x, y in zip(p, q, strict=True)))
        l2.append(math.dist(p, q))
    found = activation(logs(a), logs(b))
    assert found["activation_l1"] == pytest.approx(sum(l1) / 50)
    assert found["activation_l2"] == pytest.approx(sum(l2) / 50)
    assert found["activation_rms"] == pytest.approx(math.sqrt(sum(x * x for x in l2) / 50))
    assert found["activation_l2"] < found["activation_rms"] < found["activation_l1"]


@settings(max_examples=60, deadline=None)
@given(pairs(1e4))
def test_every_distance_stays_in_its_range(pair):
    found = distances(*pair)
    ends = {"activation_l1": 2, "activation_l2": math.sqrt(2), "activation_rms": math.sqrt(2), "js": LN2}
    for name, value in found.items():
        assert -1e-12 <= value <= ends.get(name, math.inf if name.startswith(("kl", "js_legacy")) else 1) + 1e-12


def test_a_network_is_at_no_distance_from_itself():
    found = distances(logits(), logits())
    assert found.pop("completeness") == 1
    assert all(value == pytest.approx(0, abs=1e-12) for value in found.values())
    assert zrf(logits(), logits()) == pytest.approx({"zrf_js2": 1, "zrf_legacy": 1})


def test_a_network_without_noise_is_nearer_to_retrains_than_they_are_to_each_other():
    """So 0 is no target, and less than retrain's value no success."""
    steady = logits(500, seed=1)
    retrains = [steady + logits(500, seed=seed, spread=1) for seed in (2, 3)]
    between, to_steady = distances(*retrains), distances(steady, retrains[0])
    assert all(to_steady[name] < between[name] for name in ("js", "activation_l2", "kl_run_retrain", "disagreement"))


def test_disagreement_and_completeness_by_a_loop():
    a, b = logits(seed=1), logits(seed=2)
    unlike = sum(
        max(range(4), key=lambda c: x[c]) != max(range(4), key=lambda c: y[c]) for x, y in zip(a, b, strict=True)
    )
    assert 0 < unlike < 50
    assert distances(a, b)["disagreement"] == unlike / 50
    assert distances(a, b)["completeness"] == pytest.approx(1 - unlike / 50)


@pytest.mark.parametrize("metric", [distances, zrf])
def test_order_of_samples_and_of_classes_does_not_matter(metric):
    a, b = logits(seed=1), logits(seed=2)
    rng = np.random.default_rng(3)
    samples, classes = rng.permutation(50), rng.permutation(CLASSES)
    assert metric(a[samples], b[samples]) == pytest.approx(metric(a, b), rel=1e-12)
    assert metric(a[:, classes], b[:, classes]) == pytest.approx(metric(a, b), rel=1e-12)


def test_shifted_logits_are_the_same_output():
    a, b = logits(seed=1), logits(seed=2)
    assert distances(a + np.arange(50)[:, None], b) == pytest.approx(distances(a, b))


# --- runs ----------------------------------------------------------------------------------------


def judged(seed: int = 0, whole: bool = True, label_seed: int = 9) -> Judged:
    """A run on random logits; its labels are the same for every seed."""
    sizes = {"forget_train": 20, "retain_train": 60, "forget_test": 8 if whole else 0, "retain_test": 30}
    labels = np.random.default_rng(label_seed)
    parts = {
        name: Part(logits(n, 10 * seed + i), labels.integers(CLASSES, size=n))
        for i, (name, n) in enumerate(sizes.items())
    }
    return Judged(
        **parts, forget_validation=parts["forget_test"], retain_validation=parts["retain_test"], whole_classes=whole
    )


def test_distances_to_retrain_on_each_set_by_name():
    run, retrain = judged(1), judged(2)
    found = to_retrain(run, retrain)
    assert len(found) == 4 * len(distances(logits(), logits()))
    assert found["js_forget"] == distances(run.forget_train.logits, retrain.forget_train.logits)["js"]
    assert found["disagreement_forget_test"] == disagreement(run.forget_test.logits, retrain.forget_test.logits)
    assert churn(run, retrain)["churn_retain"] == found["disagreement_retain"]
    assert not any(name.endswith("forget_test") for name in to_retrain(judged(1, False), judged(2, False)))


def test_runs_on_other_samples_are_not_compared():
    with pytest.raises(ValueError, match="forget_train"):
        to_retrain(judged(1), judged(2, label_seed=8))


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retained", "forgotten", "expected"),
    [(94.47, 95.03, 0.51), (94.68, 0, 1.00), (86.71, 15.37, 0.80), (85.30, 12.33, 0.81), (88.73, 2.43, 0.92)],
)
def test_aus_gives_the_published_numbers(retained, forgotten, expected):
    """Rows of a published table of class removal: original, retrain, gradient ascent, boundary shrink, DELETE."""
    assert aus(retained / 100, 0.9447, forgotten / 100, whole_classes=True) == pytest.approx(expected, abs=0.005)


def test_aus_of_random_samples_wants_the_test_accuracy_on_them():
    assert aus(0.9, 0.9, 0.9, whole_classes=False) == 1
    assert aus(0.9, 0.9, 1.0, whole_classes=False) == pytest.approx(1 / 1.1)


def test_legacy_aus_prefers_the_original_to_retrain():
    original, retrain = {"test": 0.94, "forget": 0.95}, {"test": 0.94, "forget": 0.0}
    legacy = [aus(**row, original=0.94, whole_classes=True, legacy=True) for row in (original, retrain)]
    assert legacy[0] > 1.9 * legacy[1]
    right = [aus(**row, original=0.94, whole_classes=True) for row in (original, retrain)]
    assert right[0] < 0.52 < right[1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((0.63, 99.88, 94.06, 2.70), 3.78),
        ((7.61, 99.67, 92.83, 37.36), 7.15),
        ((0.69, 99.50, 94.01, 1.70), 4.12),
        ((4.19, 97.74, 91.59, 9.84), 2.26),
        ((2.85, 99.62, 93.93, 14.39), 1.15),
    ],
)
def test_average_gap_gives_saluns_numbers(row, expected):
    """SalUn's Table 1, CIFAR-10, 10 % at random: FT, RL, GA, l1-sparse, SalUn."""
    names = ("UA", "RA", "TA", "mia_salun")
    retrain = dict(zip(names, (5.24, 100.0, 94.26, 12.88), strict=True))
    assert average_gap(dict(zip(names, row, strict=True)), retrain) == pytest.approx(expected, abs=0.0051)


def test_scores_by_hand():
    assert nomus(0.8, 0.5) == pytest.approx(0.9)
    assert nomus(0.8, 0.75) == nomus(0.8, 0.25) == pytest.approx(0.65)
    assert nomus(0.8, 1.0, weight=0.25) == pytest.approx(0.2)
    assert [indiscernibility(mia) for mia in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 0]
    retrain = {"forget": 0.5, "retain": 1.0, "test": 0.8}
    assert retention_deviation({"forget": 0.6, "retain": 0.9, "test": 0.8}, retrain) == pytest.approx(0.2 + 0.1)
    assert retention_deviation(retrain, retrain) == 0
    assert math.isnan(retention_deviation(retrain, {"forget": 0.0, "retain": 1.0, "test": 0.8}))


# --- confusion -----------------------------------------------------------------------------------


def test_confusion_is_scikit_learns():
    part = judged(1).retain_train
    expected = confusion_matrix(part.labels, part.logits.argmax(axis=1), labels=range(CLASSES))
    np.testing.assert_array_equal(confusion(part), expected)
    np.testing.assert_allclose(destinations(part), expected.sum(axis=0) / 60)
    assert np.isnan(destinations(part[:0])).all()


def test_distance_of_one_class_is_the_total_variation_of_its_destinations():
    a, b = (Part(logits(40, seed), np.full(40, 2)) for seed in (1, 2))
    expected = sum(abs(p - q) for p, q in zip(destinations(a), destinations(b), strict=True)) / 2
    assert distance(confusion(a), confusion(b)) == pytest.approx(expected)


def test_distance_is_the_share_of_predictions_that_must_change():
    """Within each class the predictions that have no partner in the other network, by a greedy matching."""
    a, b = judged(1).retain_train, judged(2).retain_train
    unmatched = 0
    for c in range(CLASSES):
        rest = list(b.logits[b.labels == c].argmax(axis=1))
        for k in a.logits[a.labels == c].argmax(axis=1):
            if k in rest:
                rest.remove(k)
            else:
                unmatched += 1
    assert distance(confusion(a), confusion(b)) == pytest.approx(unmatched / 60)


def test_confusion_distances_are_between_0_and_the_disagreement():
    run, retrain = judged(1), judged(2)
    found, unlike = confusion_distances(run, retrain), to_retrain(run, retrain)
    assert set(found) == {"confusion_forget", "confusion_forget_test", "confusion_test"}
    assert all(0 < found[f"confusion_{where}"] <= unlike[f"disagreement_{where}"] for where in ("forget", "test"))
    assert set(confusion_distances(judged(1, whole=False), judged(2, whole=False))) == {
        "confusion_forget",
        "confusion_test",
    }
    assert not any(confusion_distances(run, run).values())


def test_confusion_does_not_depend_on_the_order_of_samples_nor_its_distance_on_that_of_classes():
    rng = np.random.default_rng(3)
    samples, classes = rng.permutation(60), rng.permutation(CLASSES)
    a, b = judged(1).retain_train, judged(2).retain_train
    np.testing.assert_array_equal(confusion(a[samples]), confusion(a))
    renamed = [Part(part.logits[:, classes], classes.argsort()[part.labels]) for part in (a, b)]
    assert distance(*map(confusion, renamed)) == distance(confusion(a), confusion(b))


def test_moves_tells_where_each_network_sends_a_class():
    original, run, retrain = (judged(seed).retain_train for seed in (1, 2, 3))
    table = moves(original, run, retrain)
    for row in table.itertuples():
        for part, share in ((original, row.original), (run, row.run), (retrain, row.retrain)):
            of_class = part.logits[part.labels == row[1]].argmax(axis=1)
            assert share == pytest.approx((of_class == row.destination).mean())
    np.testing.assert_allclose(table.groupby("class")[["original", "run", "retrain"]].sum(), 1)
    assert (table[["original", "run", "retrain"]].max(axis=1) > 0).all()


def test_a_floor_of_distances_between_few_retrains_holds_as_often_as_it_says():
    """Networks on a line, some farther out than others; each retrain beside the others, then a run beside all five."""
    rng = np.random.default_rng(0)

    def held(values_of) -> float:
        inside = 0
        for _ in range(1500):
            out = rng.normal(size=10)
            pair = np.add.outer(out, out)
            own = np.array([(pair[i, :5].sum() - pair[i, i]) / 4 for i in range(5)])
            runs = pair[5:, :5].mean(axis=1)
            inside += abs(runs.mean() - own.mean()) < noise_floor(values_of(own), 5)
        return inside / 1500

    assert held(apart) == pytest.approx(0.95, abs=0.02)
    assert held(lambda own: own) < 0.92


def test_distances_of_two_retrains_are_one_and_of_many_are_left():
    assert len(apart(np.array([0.3, 0.3]))) == 1
    many = np.arange(6.0)
    np.testing.assert_array_equal(apart(many), many)
    np.testing.assert_allclose(apart(np.array([1.0, 2, 3])), [0, 2, 4])

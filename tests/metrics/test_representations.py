"""CKA, probes and distances against definitions written out, closed forms and properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.representations import hsic, linear_cka, linear_probe, relearning, weight_distances


def features(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def gram(x: np.ndarray) -> np.ndarray:
    return x @ x.T


def rotation(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(features(d, d, seed))[0]


# -- CKA ------------------------------------------------------------------------------------------


def test_hsic_is_the_mean_over_all_distinct_quadruples():
    """The U-statistic that HSIC_1 is: E[k(i,j) m(i,j)] + E[k(i,j) m(q,r)] - 2 E[k(i,j) m(i,q)]."""
    k, m = gram(features(7, 3, 0)), gram(features(7, 4, 1))
    terms = [
        k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q]
        for i, j, q, r in itertools.permutations(range(7), 4)
    ]
    assert hsic(k, m) == pytest.approx(np.mean(terms), rel=1e-12)


def test_hsic_of_linear_kernels_estimates_the_squared_covariance_without_bias():
    """For y = a x + noise with x of variance 1, HSIC is cov(x, y)^2 = a^2; few samples, many draws."""
    draw, found = np.random.default_rng(0), []
    for _ in range(4000):
        x = draw.normal(size=(6, 1))
        found.append(hsic(gram(x), gram(0.7 * x + draw.normal(size=(6, 1)))))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.49) < 4 * error


def test_cka_approaches_the_feature_space_form_as_samples_grow():
    """Kornblith et al.: |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of centred columns; its bias goes with d / n."""
    x = features(4000, 3, 0)
    y = x @ features(3, 3, 1) + features(4000, 3, 2)
    a, b = x - x.mean(0), y - y.mean(0)
    form = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(gram(x), gram(y)) == pytest.approx(form, abs=2e-3)


def test_cka_of_unrelated_features_is_near_0_where_the_biased_form_is_near_1():
    x, y = features(60, 2000, 0), features(60, 2000, 1)
    a, b = (gram(v - v.mean(0)) for v in (x, y))
    assert np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.9
    assert abs(linear_cka(gram(x), gram(y))) < 0.1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 30), st.integers(1, 40), st.floats(0.01, 100))
def test_cka_is_symmetric_at_most_1_and_blind_to_rotation_scale_shift_and_order(seed, n, d, scale):
    x, y = features(n, d, seed), features(n, 3, seed + 1)
    value = linear_cka(gram(x), gram(y))
    assert value <= 1 + 1e-9
    assert linear_cka(gram(y), gram(x)) == pytest.approx(value, abs=1e-9)
    turned = scale * x @ rotation(d, seed + 2) + features(1, d, seed + 3)
    assert linear_cka(gram(x), gram(turned)) == pytest.approx(1, abs=1e-6)
    order = np.random.default_rng(seed).permutation(n)
    assert linear_cka(gram(x[order]), gram(y[order])) == pytest.approx(value, abs=1e-9)


def test_constant_features_have_cka_0_and_three_samples_none():
    assert linear_cka(np.zeros((5, 5)), gram(features(5, 2, 0))) == 0
    with pytest.raises(ValueError, match="takes 4 samples; here are 3"):
        linear_cka(np.eye(3), np.eye(3))


# -- the linear probe -----------------------------------------------------------------------------


def test_probe_finds_a_class_that_is_linearly_separable_and_none_in_noise():
    gone = np.arange(400) % 10 == 0
    x = features(400, 5, 0)
    noise = linear_probe(x, gone)
    x[gone, 2] += 20
    found = linear_probe(x, gone)
    assert found == {"probe_auc": 1.0, "probe_accuracy": 1.0}
    assert abs(noise["probe_auc"] - 0.5) < 0.2
    assert abs(noise["probe_accuracy"] - 0.5) < 0.2


def test_probe_is_blind_to_scale_and_shift_of_each_feature():
    gone = np.arange(200) % 4 == 0
    x = features(200, 4, 0) + gone[:, None]
    a, b = linear_probe(x, gone), linear_probe(x * [1, 10, 1e3, 1e-3] + [0, 5, -1e3, 1], gone)
    assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize("few", [0, 1, 199, 200])
def test_probe_is_left_out_without_two_samples_on_either_side(few):
    assert linear_probe(features(200, 3, 0), np.arange(200) < few) == {}


# -- weights --------------------------------------------------------------------------------------


def test_distances_are_of_layers_and_of_the_whole():
    reference = {"a.weight": np.array([[3.0, 0.0]]), "a.bias": np.array([4.0]), "token": np.array([2.0])}
    network = {"a.weight": np.array([[3.0, 3.0]]), "a.bias": np.array([0.0]), "token": np.array([2.0])}
    assert weight_distances(network, reference) == pytest.approx({"a": 1.0, "token": 0.0, "": 5 / 29**0.5})
    assert set(weight_distances(reference, reference).values()) == {0.0}


def test_a_reference_of_zeros_has_distance_0_to_zeros_and_none_to_others():
    zeros, ones = {"a.w": np.zeros(2), "b.w": np.ones(2)}, {"a.w": np.ones(2), "b.w": np.ones(2)}
    assert weight_distances(zeros, zeros) == {"a": 0, "b": 0, "": 0}
    assert weight_distances(ones, zeros) == pytest.approx({"b": 0, "": 1})


# -- relearning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "steps", "reached"),
    [([0.9, 0.1, 0.2, 0.3], 0, 1), ([0, 0.5, 0.8, 1], 20, 1), ([0, 0, 0, 0.7], 50, 0), ([0, 0, 0, 0.8], 50, 1)],
)
def test_relearn_time_is_the_first_point_at_the_level_or_all_steps(accuracy, steps, reached):
    found = relearning(np.array([0, 10, 20, 50]), np.array(accuracy), 0.8)
    assert (found["relearn_steps"], found["relearn_reached"]) == (steps, reached)


def test_relearn_area_is_the_integral_over_uneven_steps():
    steps = np.array([0, 10, 50])
    assert relearning(steps, steps / 50, 1.0)["relearn_area"] == pytest.approx(0.5)
    assert relearning(steps, np.ones(3), 1.0)["relearn_area"] == 1

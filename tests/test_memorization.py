"""Memorization and its proxies against loops, closed forms and other libraries; and planted wrong labels."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from bench.config import Recipe
from bench.memorization import Proxies, curvature, embeddings, memorization, proxies, subset_outputs, symmetric_kl
from bench.metrics.memorization import entanglement, rank_correlations
from bench.training import Samples, View, cross_entropy, predict, shuffled, train
from tests.conftest import CLASSES, blobs, build

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05)


def view(n: int = 60, seed: int = 0, key=("m",), labels: Tensor | None = None) -> View:
    images, true = blobs(n, seed=seed)
    return View(Samples(images, true if labels is None else labels), torch.arange(n), shuffled(n, key), key)


# -- the estimator --------------------------------------------------------------------------------


def test_memorization_equals_the_definition_counted_in_loops():
    draw = torch.Generator().manual_seed(0)
    member, correct = (torch.rand(9, 30, generator=draw) < share for share in (0.7, 0.5))
    member[0], member[1] = True, False
    expected = []
    for i in range(30):
        counts = {(seen, right): 0 for seen in (True, False) for right in (True, False)}
        for k in range(9):
            counts[bool(member[k, i]), bool(correct[k, i])] += 1
        share = {seen: counts[seen, True] / (counts[seen, True] + counts[seen, False]) for seen in (True, False)}
        expected.append(share[True] - share[False])
    found = memorization(member, correct)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("always", [True, False])
def test_a_sample_in_every_subset_or_in_none_is_an_error(always):
    member = torch.eye(5, dtype=torch.bool)
    member[:, [1, 3]] = always
    with pytest.raises(ValueError, match="2 samples were in every subset or in none; train more models"):
        memorization(member, torch.ones(5, 5, dtype=torch.bool))


def test_a_subsets_model_is_trained_on_its_members_and_judged_on_all():
    members = torch.arange(0, 60, 2)  # of two classes alone
    data = view()
    images, labels = blobs(60)
    model = train(build(1), data.select(members), cross_entropy, RECIPE)
    expected = model(images).argmax(1) == labels
    found, confidence = subset_outputs(build(1), data, members, RECIPE)
    probabilities = model(images).double().softmax(1)[torch.arange(len(labels)), labels]
    torch.testing.assert_close(confidence, probabilities, atol=1e-6, rtol=0)
    assert torch.equal(found, expected)
    assert found.dtype == torch.bool
    assert not found[1::2].any()
    assert found[members].any()


def test_planted_wrong_labels_are_memorised_most_and_learned_with_least_confidence():
    flipped = torch.tensor([3, 18, 29, 44, 55])
    labels = blobs(60)[1]
    labels[flipped] = (labels[flipped] + torch.tensor([1, 2, 3, 1, 2])) % CLASSES
    recipe = Recipe(epochs=60, batch_size=16, lr=0.1, schedule="one-cycle")
    draw = torch.Generator().manual_seed(0)
    member, correct = (torch.zeros(20, 60, dtype=torch.bool) for _ in range(2))
    for k in range(20):
        member[k, torch.randperm(60, generator=draw)[:42]] = True
        data = view(key=("m", k), labels=labels)
        correct[k], _ = subset_outputs(build(k), data, member[k].nonzero().flatten(), recipe)
    found = memorization(member, correct)
    assert set(found.topk(5).indices.tolist()) == set(flipped.tolist())
    assert found[flipped].min() > 0.6
    rest = torch.ones(60, dtype=torch.bool)
    rest[flipped] = False
    assert found[rest].max() < 0.4
    scores = proxies(build(0), view(labels=labels), view(40, seed=1), recipe, CLASSES)
    assert set(scores.confidence.topk(5, largest=False).indices.tolist()) == set(flipped.tolist())
    assert rank_correlations({"memorization": found.numpy(), "c": scores.confidence.numpy()})["c"] < 0


# -- the proxies ----------------------------------------------------------------------------------


def one_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x[None]), y[None]).backward()
    return x.grad


def test_curvature_equals_a_loop_over_single_samples_in_eval_mode():
    model, data = build(0, torch.float64).train(), view(9)
    images, labels = blobs(9, torch.float64)
    model(images)  # statistics that are not those of a batch
    data = View(Samples(images, labels), data.rows, data.order)
    judge, expected = copy.deepcopy(model).eval(), []
    for x, y in zip(images, labels, strict=True):
        g = one_gradient(judge, x, y)
        z = 0.01 * g.sign() / g.sign().pow(2).sum().sqrt()
        expected.append((one_gradient(judge, x + z, y) - g).pow(2).sum().sqrt())
    found = curvature(model, data)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-10, rtol=1e-8)
    assert found.min() > 0
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for a, b in zip(model.buffers(), judge.buffers(), strict=True):
        assert torch.equal(a, b)


def test_curvature_of_a_linear_classifier_is_its_closed_form():
    """The input gradient of softmax regression is W^T (p - e_y); an input that no weight reads does not move."""
    rng = np.random.default_rng(0)
    weight, x, y = rng.normal(size=(3, 6)), rng.normal(size=(11, 6)), rng.integers(0, 3, 11)
    weight[:, 4] = 0
    model = nn.Linear(6, 3, bias=False).double()
    model.weight.data = torch.from_numpy(weight)

    def gradient(x: np.ndarray) -> np.ndarray:
        e = np.exp(x @ weight.T)
        return (e / e.sum(1, keepdims=True) - np.eye(3)[y]) @ weight

    g = gradient(x)
    change = gradient(x + 0.3 * np.sign(g) / np.sqrt(5)) - g
    data = View(Samples(torch.from_numpy(x), torch.from_numpy(y)), torch.arange(11), shuffled(11, ()))
    found = curvature(model, data, step=0.3)
    np.testing.assert_allclose(found.numpy(), np.linalg.norm(change, axis=1), atol=1e-12)


def test_symmetric_kl_is_the_sum_of_both_directions():
    draw = torch.Generator().manual_seed(0)
    a, b = (5 * torch.randn(20, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    p, q = Categorical(logits=a), Categorical(logits=b)
    found = symmetric_kl(a, b)
    torch.testing.assert_close(found, kl_divergence(p, q) + kl_divergence(q, p), atol=1e-10, rtol=1e-10)
    jeffreys = stats.entropy(p.probs, q.probs, axis=1) + stats.entropy(q.probs, p.probs, axis=1)
    np.testing.assert_allclose(found.numpy(), jeffreys, atol=1e-10)
    assert torch.equal(symmetric_kl(a, a), torch.zeros(20, dtype=torch.float64))


@pytest.fixture(scope="module")
def measured() -> Proxies:
    return proxies(build(1), view(), view(40, seed=1, key=("held out",)), RECIPE, CLASSES)


def test_recording_does_not_change_the_training(measured):
    """Dropout, BatchNorm and all: features and outputs are those of a plain training, to the bit."""
    plain = train(build(1), view(), cross_entropy, RECIPE)
    assert torch.equal(measured.embeddings, embeddings(plain, view().samples, CLASSES).double())
    before = predict(plain, view())
    after = predict(train(plain, view(40, seed=1, key=("held out",)), cross_entropy, RECIPE), view())
    p, q = (Categorical(logits=z.double()) for z in (before, after))
    assert torch.equal(measured.holdout, symmetric_kl(before.double(), after.double()) / 2)
    mean = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    torch.testing.assert_close(measured.holdout, mean, atol=1e-10, rtol=1e-8)
    assert measured.holdout.min() > 0


def test_confidence_is_the_mean_over_epochs_of_what_the_steps_saw():
    """A loop of its own: the probability before each step's update, in training mode."""
    start, data = build(1), view()
    start.drop.p = 0.0
    images, labels = blobs(60)
    model = copy.deepcopy(start).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    seen: dict[int, list[float]] = {row: [] for row in range(60)}
    for epoch in range(3):
        for rows in data.order(epoch).split(16):
            logits = model(images[rows])
            for row, z in zip(rows.tolist(), logits.detach().double(), strict=True):
                seen[row].append(float(z.softmax(0)[labels[row]]))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
    assert {len(values) for values in seen.values()} == {3}
    expected = torch.tensor([sum(seen[row]) / 3 for row in range(60)], dtype=torch.float64)
    confidence = proxies(start, data, view(40, seed=1), RECIPE, CLASSES).confidence
    torch.testing.assert_close(confidence, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


def test_curvature_is_the_mean_over_the_ends_of_the_epochs(measured):
    ends = [train(build(1), view(), cross_entropy, RECIPE.model_copy(update={"epochs": e})) for e in (1, 2, 3)]
    expected = sum(curvature(model, view()) for model in ends) / 3
    torch.testing.assert_close(measured.curvature, expected, atol=1e-7, rtol=1e-4)


def test_distance_is_to_the_mean_of_all_embeddings(measured):
    phi = measured.embeddings.numpy()
    assert phi.shape == (60, 12)
    np.testing.assert_allclose(measured.distance.numpy(), np.sqrt(((phi - phi.mean(0)) ** 2).sum(1)), atol=1e-10)


def test_embeddings_are_what_the_head_turns_into_logits():
    model, samples = build(0).train(), Samples(*blobs(7))
    phi = embeddings(model, samples, CLASSES)
    assert model.training
    torch.testing.assert_close(model.eval().head(phi), model(samples.images))


# -- what is told of them -------------------------------------------------------------------------


@pytest.fixture
def phi() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 4)) * np.arange(1, 5) + rng.integers(0, 2, (50, 1)) * 3.0


FORGET = np.array([1, 2, 3, 5, 8, 13, 21, 34])


def squared(x: np.ndarray) -> float:
    return float(np.dot(x, x))


def test_entanglement_equals_its_formula_term_by_term(phi):
    gone = [phi[i] for i in FORGET]
    kept = [phi[i] for i in range(50) if i not in FORGET]
    mu_s, mu_r = sum(gone) / 8, sum(kept) / 42
    within = sum(squared(x - mu_s) for x in gone) / 8 + sum(squared(x - mu_r) for x in kept) / 42
    mu = sum([*gone, *kept]) / 50
    middle = (mu_s + mu_r) / 2
    expected = {
        name: within / ((squared(mu_r - m) + squared(mu_s - m)) / 2)
        for name, m in {"es_global": mu, "es_midpoint": middle}.items()
    }
    assert entanglement(phi, FORGET) == pytest.approx(expected, rel=1e-10)


def test_entanglement_does_not_depend_on_origin_and_unit(phi):
    expected = entanglement(phi, FORGET)
    assert entanglement(-7.5 * phi, FORGET) == pytest.approx(expected, rel=1e-9)
    assert entanglement(phi + np.array([100, -3, 0, 12]), FORGET) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 8, 25, 40])
def test_both_variants_differ_by_the_sizes_of_the_sides_alone(phi, size):
    """The centres lie on a line through both middles, so midpoint / global = 2 (r^2 + s^2) for shares r and s.

    That is 1 for sides of one size, and tends to 2 for a small forget set.
    """
    s = size / 50
    found = entanglement(phi, np.arange(size))
    assert found["es_midpoint"] == pytest.approx(2 * (s**2 + (1 - s) ** 2) * found["es_global"], rel=1e-9)


def test_sides_far_apart_are_less_entangled(phi):
    moved = phi.copy()
    moved[FORGET] += 50
    assert entanglement(moved, FORGET)["es_global"] < 0.1 * entanglement(phi, FORGET)["es_global"]


def test_rank_correlations_give_ties_their_mean_rank():
    rng = np.random.default_rng(0)
    scores = {name: rng.integers(0, 5, 40).astype(float) for name in ("memorization", "a", "b")}
    scores["a"] -= scores["memorization"]

    def mean_ranks(values: np.ndarray) -> list[float]:
        return [np.mean([r for r, j in enumerate(np.argsort(values)) if values[j] == v]) for v in values]

    found = rank_correlations(scores)
    assert found.keys() == {"a", "b"}
    for name, value in found.items():
        expected = np.corrcoef(mean_ranks(scores[name]), mean_ranks(scores["memorization"]))[0, 1]
        assert value == pytest.approx(expected, abs=1e-12)
        assert value == pytest.approx(stats.spearmanr(scores[name], scores["memorization"])[0], abs=1e-12)
    assert rank_correlations(scores, to="b").keys() == {"memorization", "a"}

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bench.config import Recipe
from bench.grams import Gram, layer_grams
from bench.problem import Problem
from bench.training import Samples, View, predict, shuffled
from methods.kodge import (
    Kodge,
    Search,
    first_of_class,
    forget_update,
    gram_solve,
    projection,
    scaling,
    some_of,
)
from methods.retrain import Retrain
from tests.conftest import build, make_problem


def dense_projection(r: np.ndarray, alpha: float) -> np.ndarray:
    """The paper's route: thin SVD of the d x n representation, scaled singular values."""
    u, s, _ = np.linalg.svd(r, full_matrices=False)
    share = s**2 / (s**2).sum()
    return u @ np.diag(alpha * share / ((alpha - 1) * share + 1)) @ u.T


def representation(d: int, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(d, n)) * np.geomspace(1, 0.01, d)[:, None]


@pytest.fixture(autouse=True)
def _same_random_inputs_each_time():
    torch.manual_seed(0)


def unseeded(c: int | None, layer: str) -> torch.Generator:
    return torch.Generator().manual_seed(0)


def class_score(logits: torch.Tensor, labels: torch.Tensor, c: int) -> float:
    """ACC_r (1 - ACC_f) of forgetting class c."""
    correct = (logits.argmax(1) == labels).double()
    return float(correct[labels != c].mean() * (1 - correct[labels == c].mean()))


@pytest.mark.parametrize("alpha", [0.25, 1, 3, 100, 1000])
@pytest.mark.parametrize(("d", "n"), [(12, 40), (12, 5)])
def test_closed_form_equals_the_dense_svd(alpha, d, n):
    r = representation(d, n, seed=int(alpha * 4))
    ours = projection(torch.from_numpy(r @ r.T), alpha)
    np.testing.assert_allclose(ours.numpy(), dense_projection(r, alpha), atol=1e-12)


def test_float32_is_close_to_the_dense_svd_in_float64():
    r = representation(200, 500, seed=1)
    ours = projection(torch.from_numpy(r @ r.T).float(), 1000)
    np.testing.assert_allclose(ours.numpy(), dense_projection(r, 1000), atol=2e-5)


@pytest.mark.parametrize(("alpha_r", "alpha_f"), [(100, 3), (1, 1), (1000, 30)])
def test_update_is_the_weight_times_p_transposed(alpha_r, alpha_f):
    retain, forget = representation(9, 50, seed=2), representation(9, 50, seed=3)[::-1]
    m_r, m_f = dense_projection(retain, alpha_r), dense_projection(forget, alpha_f)
    p = np.eye(9) - (m_f - m_f @ m_r)
    weight = np.random.default_rng(4).normal(size=(4, 9))
    grams = [torch.from_numpy(r @ r.T) for r in (retain, forget.copy())]
    ours = forget_update(torch.from_numpy(weight), *grams, alpha_r, alpha_f)
    np.testing.assert_allclose(ours.numpy(), weight @ p.T, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(alpha=st.floats(0.1, 1e4), seed=st.integers(0, 999))
def test_projection_is_symmetric_with_eigenvalues_from_0_to_1(alpha, seed):
    r = representation(7, 20, seed)
    m = projection(torch.from_numpy(r @ r.T), alpha)
    values = torch.linalg.eigvalsh(m)
    assert torch.allclose(m, m.mT, atol=1e-10)
    assert values.min() > -1e-10
    assert values.max() < 1 + 1e-10


@pytest.mark.parametrize("alpha", [0.25, 1, 3, 1000])
@pytest.mark.parametrize("n", [0, 1, 7, 30, 31])
def test_fewer_inputs_than_dimensions_are_solved_in_their_own_number(alpha, n):
    """Two groups of 30 dimensions: n x n and d x d give the dense SVD's projection alike."""
    weight = torch.randn(2, 4, 30, dtype=torch.float64)
    x = torch.stack([torch.from_numpy(representation(30, n, seed).T) for seed in (n, n + 50)])
    gram = Gram()
    gram.add(x)
    assert (gram.few() is None) == (n >= 30)
    for _ in range(2):  # the second time as a matrix
        (ours,) = scaling(gram, [weight])(alpha)
        for group in range(2):
            m = dense_projection(x[group].numpy().T, alpha) if n else np.zeros((30, 30))
            np.testing.assert_allclose(ours[group].numpy(), weight[group].numpy() @ m, atol=1e-11)
        gram.matrix()


def test_float32_is_close_in_the_inputs_number_too():
    r = representation(300, 120, seed=1)
    weight = np.random.default_rng(0).normal(size=(5, 300))
    gram = Gram([torch.from_numpy(r.T).float()[None]])
    (ours,) = scaling(gram, [torch.from_numpy(weight).float()[None]])(1000)
    expected = weight @ dense_projection(r, 1000)
    np.testing.assert_allclose(ours[0].numpy(), expected, atol=2e-5 * np.abs(weight).max())


def test_a_layer_that_sees_zeros_is_left_alone():
    weight = torch.randn(3, 5)
    assert torch.equal(gram_solve(weight, torch.zeros(5, 5), 100), torch.zeros(3, 5))


def test_a_linear_net_loses_the_forget_subspace_and_keeps_the_retain_subspace():
    """Retain inputs span e0, e1, forget inputs span e1, e2: e2 must go, e0, e1 and the unused e3 must stay."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 50 + [1] * 50)
    images = torch.zeros(100, 4, dtype=torch.float64)
    images[:50, [0, 1]] = torch.randn(50, 2, generator=rng, dtype=torch.float64)
    images[50:, [1, 2]] = torch.randn(50, 2, generator=rng, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 2)).double()
    before = model[0].weight.detach().clone()
    after = Kodge(alpha_r=1e8, alpha_f=1e8).unlearn(model, Problem.from_tensors(images, labels, labels == 1))[0].weight
    np.testing.assert_allclose(after[:, 2].detach(), 0, atol=1e-6)
    np.testing.assert_allclose(after[:, [0, 1, 3]].detach(), before[:, [0, 1, 3]], atol=1e-6)


def test_the_whole_update_equals_dense_svds_layer_by_layer(trained):
    """Representations by torch's own unfold, thin SVDs, W P^T: nothing of ours but the sample choice."""
    model, problem = copy.deepcopy(trained).double(), make_problem(dtype=torch.float64)
    method = Kodge(alpha_r=30, alpha_f=3, samples=60, window=None, max_patches=None)
    updated = method.unlearn(model, problem)

    inputs: dict[str, list[torch.Tensor]] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0].detach()))
    retained = torch.cat([(problem.retain.samples.labels == c).nonzero().flatten()[:20] for c in (0, 1, 3)])
    for rows in retained, some_of(problem.forget, 60, problem).rows:
        model.eval()(problem.retain.samples.images[rows])
    for name, layer in layers.items():
        conv = isinstance(layer, nn.Conv2d)
        r, f = (
            F.unfold(a, 3, padding=1).transpose(0, 1).flatten(1).numpy() if conv else a.T.numpy() for a in inputs[name]
        )
        m_r, m_f = dense_projection(r, 30), dense_projection(f, 3)
        weight = layer.weight.detach().flatten(1).numpy()
        expected = weight @ (np.eye(len(m_r)) - m_f + m_r @ m_f)
        ours = updated.get_submodule(name).weight.detach().flatten(1).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_leaves_biases_and_normalisation_untouched(trained):
    after = Kodge(alpha_r=10, alpha_f=30).unlearn(trained, make_problem()).state_dict()
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, after[name])}
    assert changed == {"conv.weight", "hidden.weight", "head.weight"}


def test_forgets_the_class_and_keeps_the_others(trained):
    problem = make_problem()
    after = Kodge().unlearn(trained, problem)
    predicted = predict(after, problem.validation).argmax(1)
    truth = problem.validation.labels
    assert (predicted[truth == 2] == 2).float().mean() <= 0.1
    assert (predicted[truth != 2] == truth[truth != 2]).float().mean() >= 0.9


def test_grid_choice_is_the_best_single_setting_on_validation(trained):
    grid_r, grid_f = (10, 100), (0.5, 3, 30)
    problem = make_problem()
    chosen = Kodge(alpha_r=grid_r, alpha_f=grid_f).unlearn(trained, problem)
    view = problem.validation

    def score(model):
        return class_score(predict(model, view), view.labels, 2)

    single = {(r, f): Kodge(alpha_r=r, alpha_f=f).unlearn(trained, make_problem()) for r in grid_r for f in grid_f}
    best = max(score(m) for m in single.values())
    picked = problem.notes["alpha_r"], problem.notes["alpha_f"]
    assert score(chosen) == best == score(single[picked])
    assert all(torch.equal(a, b) for a, b in zip(chosen.parameters(), single[picked].parameters(), strict=True))


class Answers(nn.Module):
    """Gives the logits that it holds of sample i to the image i, and counts what it is asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.asked = logits, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.logits[x.flatten()]


def numbered(labels: torch.Tensor) -> View:
    """A view whose images are their own numbers."""
    n = len(labels)
    return View(Samples(torch.arange(n).view(n, 1), labels), torch.arange(n), shuffled(n, ("test",)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), good=st.floats(0, 1))
def test_search_finds_what_looking_at_everything_would_find(seed, good):
    """Of all candidates the best score, of equal ones the lowest rank; none that does not beat the original."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (340,), generator=draw)
    right = nn.functional.one_hot(labels, 3).float()
    logits = []
    for _ in range(7):
        chance = good * float(torch.rand((), generator=draw))
        kept = torch.rand(340, generator=draw) < torch.where(labels == 1, 0.1, chance)
        logits.append(torch.where(kept[:, None], right, torch.rand(340, 3, generator=draw)))
    logits[5] = logits[3]  # a tie
    original, *others = logits
    search, best = Search(original, numbered(labels), (1,)), None
    for rank in torch.randperm(6, generator=draw).tolist():
        best = rank if search.won_by(Answers(others[rank]), rank) else best
    scores = [class_score(z, labels, 1) for z in others]
    top = max(scores) - 1e-12  # equal products of different counts may differ in their last bit
    first = next(rank for rank, score in enumerate(scores) if score >= top)
    assert best == (first if top > class_score(original, labels, 1) else None)


def test_search_gives_a_candidate_up_when_it_cannot_win_any_more():
    """What the original is least sure of comes first: 400 retained samples, of which it errs on 20."""
    labels = torch.cat([torch.zeros(400), torch.ones(100)]).long()
    right = nn.functional.one_hot(labels, 2).float()
    original = right.clone()
    original[150:170] = 1 - right[150:170]
    view = numbered(labels)
    forgot = Answers(torch.where(labels[:, None] == 1, 1 - right, original))
    search = Search(original, view, (1,))
    assert search.won_by(forgot, 0)
    assert forgot.asked == 500
    remembers, errs = Answers(original), Answers(1 - right)
    worse = torch.where(labels[:, None] == 1, 1 - right, original)
    worse[170:172] = 1 - right[170:172]
    worse[150:170] = 1 - right[150:170]
    assert not search.won_by(remembers, 1)
    assert remembers.asked == 100  # all of the class are remembered
    assert not search.won_by(errs, 2)
    assert errs.asked == 200  # the class, and 100 of the others
    assert not search.won_by(Answers(worse), 3)


def test_retain_samples_are_the_first_of_each_class():
    assert first_of_class(make_problem().train, 3, 4).rows.tolist() == [3, 7, 11, 15]


@pytest.mark.parametrize("gone", [(2,), (0, 2), (1, 2, 3)])
def test_gram_without_classes_is_that_of_the_others_samples(gone, trained):
    """Leave-some-out by subtraction equals a pass over the samples that are left."""
    model, problem = copy.deepcopy(trained).double(), make_problem(dtype=torch.float64)
    pool = replace(problem.pool(), forgotten_classes=gone)
    ours = Kodge(alpha_r=1, alpha_f=1, samples=36, window=None, max_patches=None).prepare(model, pool).grams
    left = torch.cat([first_of_class(pool.train, c, 12).rows for c in range(4) if c not in gone])
    direct = layer_grams(model, pool.train.select(left), None, None, unseeded)
    assert ours.keys() == direct.keys()
    for name, gram in direct.items():
        np.testing.assert_allclose(ours[name].without(gone).matrix().numpy(), gram.matrix().numpy(), atol=1e-10)


def test_one_preparation_serves_all_classes_at_about_one_pass(trained):
    """Each of four classes, 30 samples a class on the retain side: 120 forwards shared, then the forget set's."""
    method = Kodge(alpha_r=30, alpha_f=3, samples=90)
    problems = {c: make_problem(forget=make_problem().train.labels == c) for c in range(4)}
    pool = replace(make_problem().pool(), forgotten_classes=(0, 1, 2, 3))
    with pool.meter.running():
        state = method.prepare(pool.meter.attach(copy.deepcopy(trained)), pool)
    assert pool.meter.forward == 120
    for problem in problems.values():
        with problem.meter.running():
            model = problem.meter.attach(copy.deepcopy(trained))
            shared = method.unlearn(model, replace(problem, prepared=state))
        assert problem.meter.forward == 40
        alone = method.unlearn(trained, replace(problem, key=pool.key[:-1]))
        for a, b in zip(shared.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_preparing_is_one_pass_in_large_batches_whatever_the_classes(trained):
    """160 samples of four classes: two forward passes of 100 or fewer, and the original's on validation data."""
    sizes = []
    model = copy.deepcopy(trained)
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    Kodge(samples=120).prepare(model, make_problem().pool())
    assert sizes == [100, 60, 40]


def test_ten_settings_look_at_validation_data_less_than_ten_times(trained):
    problem = make_problem()
    with problem.meter.running():
        Kodge(alpha_r=(1, 10, 100, 1000, 10000), alpha_f=(0.1, 100)).unlearn(trained, problem)
    assert problem.meter.counts()["read"]["validation"] < 10 * 40


def test_validation_without_the_forgotten_class_is_an_error(trained):
    images, labels = make_problem().validation.samples.images, make_problem().validation.labels
    problem = make_problem(validation=(images[labels != 2], labels[labels != 2]))
    with pytest.raises(ValueError, match="no validation sample of class 2"):
        Kodge().unlearn(trained, problem)


def test_where_no_setting_beats_the_original_it_is_kept_and_noted():
    """A network that never met the class and gets all others right scores 1, which nothing can beat."""
    problem = make_problem(recipe=Recipe(epochs=8, batch_size=16, lr=0.05))
    model = Retrain().unlearn(build(0), problem)
    after = Kodge(alpha_r=(10, 100), alpha_f=(1, 3)).unlearn(model, problem)
    assert problem.notes == {"alpha_r": None, "alpha_f": None}
    assert all(torch.equal(a, b) for a, b in zip(after.parameters(), model.parameters(), strict=True))


def test_says_why_it_cannot_serve():
    with pytest.raises(ValueError, match="whole classes"):
        Kodge().unlearn(nn.Linear(1, 1), make_problem("random"))
    with pytest.raises(ValueError, match="at least that many"):
        Kodge(samples=2).prepare(build(0), make_problem().pool())


def test_a_layer_that_is_never_called_is_named(trained):
    model = copy.deepcopy(trained)
    model.forgotten = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="forgotten"):
        Kodge(alpha_r=10, alpha_f=3).unlearn(model, make_problem())


def test_a_transformer_forgets_by_one_projection_for_queries_keys_and_values():
    """W (I - M_f + M_r M_f) of the stacked matrix is that of each third with the same P."""
    weight = torch.randn(12, 4, dtype=torch.float64)
    retain, forget = (
        torch.from_numpy(r @ r.T) for r in (representation(4, 20, 1), representation(4, 20, 2)[::-1].copy())
    )
    whole = forget_update(weight, retain, forget, 100, 3)
    thirds = [forget_update(part, retain, forget, 100, 3) for part in weight.chunk(3)]
    torch.testing.assert_close(whole, torch.cat(thirds), atol=1e-12, rtol=0)

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
from bench.layers import Convolution
from bench.models import seeded
from bench.problem import Problem
from bench.training import predict
from methods.kodge import (
    Kodge,
    PatchPicker,
    class_score,
    first_of_class,
    forget_update,
    gram_solve,
    layer_grams,
    projection,
    some_of,
)
from methods.retrain import Retrain
from tests.conftest import build, make_problem

PLAIN = Convolution((1, 1), (0, 0, 0, 0), (1, 1), 1)


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


def unseeded(layer: str) -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
        return class_score(predict(model, view), view.labels, (2,), 4)

    single = {(r, f): Kodge(alpha_r=r, alpha_f=f).unlearn(trained, make_problem()) for r in grid_r for f in grid_f}
    best = max(score(m) for m in single.values())
    picked = problem.notes["alpha_r"], problem.notes["alpha_f"]
    assert score(chosen) == best == score(single[picked])
    assert all(torch.equal(a, b) for a, b in zip(chosen.parameters(), single[picked].parameters(), strict=True))


def test_score_is_retained_times_one_minus_forgotten_accuracy():
    logits = torch.eye(3)[[0, 0, 1, 2, 2, 1]]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert class_score(logits, labels, (2,), 3) == pytest.approx(3 / 4 * (1 - 1 / 2))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Conv2d(4, 2, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 2, (3, 2), dilation=(2, 1), padding=(2, 1)),
        nn.Conv2d(4, 3, 3, padding="same"),
        nn.Conv2d(4, 6, 1),
    ],
)
def test_convolution_gram_equals_that_of_torchs_unfold(conv):
    images = torch.randn(230, 4, 7, 6, dtype=torch.float64)  # more than two forward batches
    model = nn.Sequential(conv.double(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    problem = Problem.from_tensors(images, torch.arange(230) % 2, torch.arange(4))
    gram = layer_grams(model, problem.forget | problem.retain, None, None, unseeded)["0.weight"]
    padding = 1 if conv.padding == "same" else conv.padding
    patches = F.unfold(images, conv.kernel_size, conv.dilation, padding, conv.stride).transpose(1, 2).flatten(0, 1)
    np.testing.assert_allclose(gram[0].numpy(), (patches.T @ patches).numpy(), rtol=1e-10, atol=1e-9)


def test_grouped_convolution_is_that_of_each_group_alone():
    images = torch.randn(20, 4, 5, 5, dtype=torch.float64)
    problem = Problem.from_tensors(images, torch.arange(20) % 2, torch.arange(4))
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2).double()
    gram = layer_grams(nn.Sequential(conv), problem.forget | problem.retain, None, None, unseeded)["0.weight"]
    for group, half in enumerate(images.split(2, dim=1)):
        patches = F.unfold(half, 3, padding=1).transpose(1, 2).flatten(0, 1)
        np.testing.assert_allclose(gram[group].numpy(), (patches.T @ patches).numpy(), rtol=1e-10, atol=1e-9)


def test_picked_patches_are_so_many_distinct_ones_inside_one_window():
    """Each pixel carries its own number, so a patch tells where it was cut."""
    maps = torch.arange(3 * 12 * 12, dtype=torch.float64).reshape(3, 1, 12, 12)
    picker = PatchPicker((2, 2), PLAIN, 3, 3, 40, torch.Generator().manual_seed(1))
    first = picker(maps[:2])[0]
    second = picker(maps[2:])[0]
    patches = torch.cat([first, second])
    assert len(patches) == 40
    assert len(patches.unique(dim=0)) == 40
    assert (first < 2 * 144).all()
    assert (second >= 2 * 144).all()
    rows, columns = patches % 144 // 12, patches % 12
    for extent in (rows, columns):
        assert extent.max() - extent.min() == 5  # a window of 3 kernels: 6 pixels, 5 apart at most
    np.testing.assert_array_equal((patches - patches[:, :1]).numpy(), np.tile([0, 1, 12, 13], (40, 1)))


def test_small_maps_are_taken_whole():
    maps = torch.arange(36.0).reshape(1, 1, 6, 6)
    patches = PatchPicker((2, 2), PLAIN, 1, 3, None, torch.Generator())(maps)
    assert patches.shape == (1, 25, 4)


def test_retain_samples_are_the_first_of_each_class():
    assert first_of_class(make_problem().train, 3, 4).rows.tolist() == [3, 7, 11, 15]


@pytest.mark.parametrize("gone", [(2,), (0, 2), (1, 2, 3)])
def test_gram_without_classes_is_that_of_the_others_samples(gone, trained):
    """Leave-some-out by subtraction equals a pass over the samples that are left."""
    model, problem = copy.deepcopy(trained).double(), make_problem(dtype=torch.float64)
    pool = replace(problem.pool(), forgotten_classes=gone)
    ours = Kodge(samples=36, window=None, max_patches=None).prepare(model, pool).without(gone)
    left = torch.cat([first_of_class(pool.train, c, 12).rows for c in range(4) if c not in gone])
    direct = layer_grams(model, pool.train.select(left), None, None, unseeded)
    assert ours.keys() == direct.keys()
    for name, gram in direct.items():
        np.testing.assert_allclose(ours[name].numpy(), gram.numpy(), atol=1e-10)


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


def test_few_patches_may_leave_a_batch_without_any():
    images = torch.randn(350, 2, 6, 6, dtype=torch.float64)
    problem = Problem.from_tensors(images, torch.arange(350) % 2, torch.arange(4))
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    gram = layer_grams(model, problem.forget | problem.retain, None, 2, unseeded)["0.weight"]
    assert torch.linalg.matrix_rank(gram[0]) == 2


def test_a_convolution_used_twice_is_seen_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1).double()

        def forward(self, x):
            return self.conv(self.conv(x))

    model, images = Twice(), torch.randn(230, 1, 4, 4, dtype=torch.float64)
    problem = Problem.from_tensors(images, torch.arange(230) % 2, torch.arange(4))
    gram = layer_grams(model, problem.forget | problem.retain, None, None, unseeded)["conv.weight"][0]
    seen = [F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1) for x in (images, model.conv(images).detach())]
    np.testing.assert_allclose(gram.numpy(), sum(p.T @ p for p in seen).numpy(), rtol=1e-10, atol=1e-9)
    capped = layer_grams(model, problem.forget | problem.retain, None, 500, unseeded)["conv.weight"][0]
    assert 0 < capped.trace() < gram.trace()


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


def test_attention_mlp_patches_and_head_of_a_transformer_are_covered():
    """torchvision's ViT hands its attention's weights to a function: inputs are captured here at the modules."""
    from torchvision.models.vision_transformer import VisionTransformer

    with seeded(0):
        model = VisionTransformer(8, 4, 1, 2, 16, 32, num_classes=2).double().eval()
    images = torch.randn(120, 3, 8, 8, dtype=torch.float64)
    problem = Problem.from_tensors(images, torch.arange(120) % 2, torch.arange(4))
    grams = layer_grams(model, problem.train, None, None, unseeded)

    seen: dict[str, torch.Tensor] = {}
    block = model.encoder.layers[0]
    block.ln_1.register_forward_hook(lambda m, i, o: seen.update(qkv=o.detach()))
    block.self_attention.register_forward_hook(lambda m, i, o: seen.update(projected=o[0].detach()))
    block.mlp[0].register_forward_pre_hook(lambda m, i: seen.update(fc1=i[0].detach()))
    block.mlp[3].register_forward_pre_hook(lambda m, i: seen.update(fc2=i[0].detach()))
    model.heads.head.register_forward_pre_hook(lambda m, i: seen.update(head=i[0].detach()))
    model(images)
    patches = F.unfold(images, 4, stride=4).transpose(1, 2)
    attention = "encoder.layers.encoder_layer_0.self_attention"
    expected = {
        "conv_proj.weight": patches,
        f"{attention}.in_proj_weight": seen["qkv"],
        "encoder.layers.encoder_layer_0.mlp.0.weight": seen["fc1"],
        "encoder.layers.encoder_layer_0.mlp.3.weight": seen["fc2"],
        "heads.head.weight": seen["head"],
    }
    assert grams.keys() == expected.keys() | {f"{attention}.out_proj.weight"}
    for name, inputs in expected.items():
        rows = inputs.flatten(0, -2)
        np.testing.assert_allclose(grams[name][0].numpy(), (rows.T @ rows).numpy(), rtol=1e-9, atol=1e-9)
    # The projection's input a is what its output W a + b comes from: W G W^T must be that of the outputs less b.
    out = block.self_attention.out_proj
    outputs = (seen["projected"] - out.bias).detach().flatten(0, 1)
    weight = out.weight.detach()
    gram = grams[f"{attention}.out_proj.weight"][0]
    np.testing.assert_allclose((weight @ gram @ weight.T).numpy(), (outputs.T @ outputs).numpy(), rtol=1e-8, atol=1e-8)


def test_a_transformer_forgets_by_one_projection_for_queries_keys_and_values():
    """W (I - M_f + M_r M_f) of the stacked matrix is that of each third with the same P."""
    weight = torch.randn(12, 4, dtype=torch.float64)
    retain, forget = (
        torch.from_numpy(r @ r.T) for r in (representation(4, 20, 1), representation(4, 20, 2)[::-1].copy())
    )
    whole = forget_update(weight, retain, forget, 100, 3)
    thirds = [forget_update(part, retain, forget, 100, 3) for part in weight.chunk(3)]
    torch.testing.assert_close(whole, torch.cat(thirds), atol=1e-12, rtol=0)

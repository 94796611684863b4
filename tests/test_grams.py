"""Gram matrices of layers' inputs, against torch's own unfold and hooks at the modules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bench.grams import FOLD, REST, ClassGrams, Gram, PatchPicker, class_grams, layer_grams, pass_over
from bench.layers import Convolution
from bench.models import build, seeded
from bench.problem import Problem
from bench.training import View

PLAIN = Convolution((1, 1), (0, 0, 0, 0), (1, 1), 1)


@pytest.fixture(autouse=True)
def _same_random_inputs_each_time():
    torch.manual_seed(0)


def unseeded(c: int | None, layer: str) -> torch.Generator:
    return torch.Generator().manual_seed(0)


def one_draw(c: int | None) -> torch.Generator:
    return torch.Generator().manual_seed(1 if c is None else c)


def view_of(images: torch.Tensor, classes: int = 2) -> View:
    return Problem.from_tensors(images, torch.arange(len(images)) % classes, torch.arange(4)).train


def numbers(gram: Gram) -> int:
    """How many numbers it holds."""
    return sum(t.numel() for t in (*gram.rows, gram.upper) if t is not None)


@settings(max_examples=30, deadline=None)
@given(d=st.sampled_from([1, 5, 256, 257, 600]), sizes=st.lists(st.integers(0, 700), min_size=1, max_size=4))
def test_the_sum_of_outer_products_however_it_is_handed_over(d, sizes):
    gram, parts = Gram(), [torch.randn(2, n, d, dtype=torch.float64) for n in sizes]
    for part in parts:
        gram.add(part)
        assert numbers(gram) <= 2 * d * (d + FOLD)
    rows = torch.cat(parts, 1)
    assert (gram.few() is None) == (rows.shape[1] >= d)
    if rows.shape[1] < d:
        assert torch.equal(gram.few(), rows)
    np.testing.assert_allclose(gram.matrix().numpy(), (rows.mT @ rows).numpy(), atol=1e-9)
    torch.testing.assert_close(gram.matrix(), gram.matrix().mT)


def test_inputs_that_are_kept_are_not_those_that_the_network_may_write_over():
    gram, rows = Gram(), torch.ones(1, 2, 5)
    gram.add(rows)
    rows.zero_()
    assert torch.equal(gram.matrix(), torch.full((1, 5, 5), 2.0))


@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(*[st.integers(0, 12)] * 4), gone=st.sets(st.sampled_from([0, 1, 2]), min_size=1))
def test_what_is_left_of_a_sum_without_some_classes(sizes, gone):
    """Eight dimensions: classes as inputs or as matrices, all together as inputs or as a matrix."""
    rows = {c: torch.randn(1, n, 8, dtype=torch.float64) for c, n in zip((0, 1, 2, REST), sizes, strict=True)}
    parts = {c: Gram() for c in rows}
    for c, inputs in rows.items():
        parts[c].add(inputs)
    grams = ClassGrams(parts)
    expected = sum(r.mT @ r for c, r in rows.items() if c not in gone)
    for _ in range(2):  # asking changes nothing
        left = grams.without(tuple(gone))
        assert (left.few() is not None) == (sum(sizes) < 8)
        np.testing.assert_allclose(left.matrix().numpy(), expected.numpy(), atol=1e-12)


def test_what_is_kept_of_a_layer_is_bounded_by_its_width_whatever_the_number_of_samples():
    """2,000 samples of five tokens against 16 to 128 dimensions, classes apart included."""
    model = build("vit-small", (1, 8, 8), 10, 0)
    weights = dict(model.named_parameters())
    found = pass_over(model, view_of(torch.randn(2000, 1, 8, 8), 10), None, None, unseeded, (3, 4))
    for name, parts in found.items():
        d = weights[name][0].numel()
        assert all(numbers(gram) <= d * (d + FOLD) for gram in parts.values())


def test_each_class_has_its_share_of_patches_in_a_window_of_its_own():
    maps = torch.arange(6 * 12 * 12, dtype=torch.float64).reshape(6, 1, 12, 12)
    classes = torch.tensor([0, 1, 1, 7, 0, 0])
    picker = PatchPicker((2, 2), PLAIN, 6, 3, 20, one_draw, classes)
    found = [picker(maps[:4]), picker(maps[4:])]
    patches = torch.cat([rows[0] for rows, _ in found])
    image = torch.cat([found[0][1], 4 + found[1][1]])
    assert torch.equal((patches[:, 0] // 144).long(), image)
    assert classes[image].bincount(minlength=8).tolist() == [20, 20, 0, 0, 0, 0, 0, 20]
    assert len(patches.unique(dim=0)) == 60
    windows = []
    for c in (0, 1, 7):
        rows, columns = (extent[classes[image] == c] for extent in (patches % 144 // 12, patches % 12))
        assert rows.max() - rows.min() == columns.max() - columns.min() == 5
        windows.append((int(rows.min()), int(columns.min())))
    assert len(set(windows)) > 1


def test_classes_apart_are_what_a_pass_over_each_alone_gives():
    """A ViT of torchvision hands tokens over before samples; a Swin has several windows a sample."""
    from torchvision.models.swin_transformer import SwinTransformer
    from torchvision.models.vision_transformer import VisionTransformer

    with seeded(0):
        vit = VisionTransformer(8, 4, 1, 2, 16, 32, num_classes=3)
        swin = SwinTransformer([2, 2], 8, [2], [2], [2, 2], num_classes=3)
    images = torch.randn(30, 3, 8, 8, dtype=torch.float64)
    labels = torch.arange(30) % 3
    view = view_of(images, 3)
    for model in (vit.double(), swin.double()):
        found = pass_over(model, view, None, None, unseeded, (0, 2))
        for name, parts in found.items():
            assert parts.keys() == {0, 2, REST}
            for c in (0, 2, REST):
                rows = (labels == (1 if c == REST else c)).nonzero().flatten()
                alone = layer_grams(model, view.select(rows), None, None, unseeded)[name]
                expected = alone.matrix().numpy()
                np.testing.assert_allclose(parts[c].matrix().numpy(), expected, atol=1e-9, err_msg=name)


def test_inputs_that_no_sample_changes_count_for_every_class():
    """As the table of relative positions that Swin v2 puts through a layer."""

    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.bias = nn.Linear(4, 2).double(), nn.Linear(3, 2).double()
            self.table = torch.randn(7, 3, dtype=torch.float64)

        def forward(self, x):
            return self.head(x) + self.bias(self.table).mean(0)

    model, images = Biased(), torch.randn(30, 4, dtype=torch.float64)
    left = class_grams(model, view_of(images, 3), None, None, unseeded, (0, 1))["bias.weight"].without((1,))
    expected = 2 * model.table.T @ model.table
    np.testing.assert_allclose(left.matrix()[0].numpy(), expected.numpy(), atol=1e-12)


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
    gram = layer_grams(model, problem.forget | problem.retain, None, None, unseeded)["0.weight"].matrix()
    padding = 1 if conv.padding == "same" else conv.padding
    patches = F.unfold(images, conv.kernel_size, conv.dilation, padding, conv.stride).transpose(1, 2).flatten(0, 1)
    np.testing.assert_allclose(gram[0].numpy(), (patches.T @ patches).numpy(), rtol=1e-10, atol=1e-9)


def test_grouped_convolution_is_that_of_each_group_alone():
    images = torch.randn(20, 4, 5, 5, dtype=torch.float64)
    problem = Problem.from_tensors(images, torch.arange(20) % 2, torch.arange(4))
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2).double()
    gram = layer_grams(nn.Sequential(conv), problem.forget | problem.retain, None, None, unseeded)["0.weight"].matrix()
    for group, half in enumerate(images.split(2, dim=1)):
        patches = F.unfold(half, 3, padding=1).transpose(1, 2).flatten(0, 1)
        np.testing.assert_allclose(gram[group].numpy(), (patches.T @ patches).numpy(), rtol=1e-10, atol=1e-9)


def test_picked_patches_are_so_many_distinct_ones_inside_one_window():
    """Each pixel carries its own number, so a patch tells where it was cut."""
    maps = torch.arange(3 * 12 * 12, dtype=torch.float64).reshape(3, 1, 12, 12)
    picker = PatchPicker((2, 2), PLAIN, 3, 3, 40, one_draw)
    first, second = picker(maps[:2])[0][0], picker(maps[2:])[0][0]
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
    patches = PatchPicker((2, 2), PLAIN, 1, 3, None, one_draw)(maps)[0]
    assert patches.shape == (1, 25, 4)


def test_few_patches_may_leave_a_batch_without_any():
    images = torch.randn(350, 2, 6, 6, dtype=torch.float64)
    problem = Problem.from_tensors(images, torch.arange(350) % 2, torch.arange(4))
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    gram = layer_grams(model, problem.forget | problem.retain, None, 2, unseeded)["0.weight"].matrix()
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
    gram = layer_grams(model, problem.forget | problem.retain, None, None, unseeded)["conv.weight"].matrix()[0]
    seen = [F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1) for x in (images, model.conv(images).detach())]
    np.testing.assert_allclose(gram.numpy(), sum(p.T @ p for p in seen).numpy(), rtol=1e-10, atol=1e-9)
    capped = layer_grams(model, problem.forget | problem.retain, None, 500, unseeded)["conv.weight"].matrix()[0]
    assert 0 < capped.trace() < gram.trace()


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
        np.testing.assert_allclose(grams[name].matrix()[0].numpy(), (rows.T @ rows).numpy(), rtol=1e-9, atol=1e-9)
    # The projection's input a is what its output W a + b comes from: W G W^T must be that of the outputs less b.
    out = block.self_attention.out_proj
    outputs = (seen["projected"] - out.bias).detach().flatten(0, 1)
    weight = out.weight.detach()
    gram = grams[f"{attention}.out_proj.weight"].matrix()[0]
    np.testing.assert_allclose((weight @ gram @ weight.T).numpy(), (outputs.T @ outputs).numpy(), rtol=1e-8, atol=1e-8)

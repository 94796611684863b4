"""Insertion, deletion and the map from gates, on networks whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.explanations import deletion, gate_map, insertion, scores
from bench.models import build


class Corner(nn.Module):
    """The first class's logit is the sum of the upper left quarter; the second's is 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = x[:, :, :2, :2].sum((1, 2, 3))
        return torch.stack([s, torch.zeros_like(s)], 1)


def corner_map(high: float) -> torch.Tensor:
    maps = torch.zeros(1, 4, 4)
    maps[:, :2, :2] = high
    return maps


def test_deletion_is_the_area_under_the_curve_by_hand():
    """Of 16 pixels the four that count go first: sigmoid of 4, 3, 2, 1, 0 and then 0 for good."""
    images = torch.ones(1, 1, 4, 4)
    curve = torch.sigmoid(torch.tensor([4.0, 3, 2, 1] + [0.0] * 13)).double()
    expected = np.trapezoid(curve.numpy(), np.arange(17) / 16)
    assert float(deletion(Corner(), images, corner_map(1), 1).area) == pytest.approx(expected, abs=1e-6)


def test_steps_of_several_pixels_end_at_the_last_pixel():
    images = torch.ones(1, 1, 4, 4)
    curve = torch.sigmoid(torch.tensor([4.0, 0, 0, 0])).double()  # after 0, 6, 12 and all 16 pixels
    expected = np.trapezoid(curve.numpy(), np.array([0, 6, 12, 16]) / 16)
    assert float(deletion(Corner(), images, corner_map(1), 6).area) == pytest.approx(expected, abs=1e-6)


def test_another_class_is_followed_where_one_is_named():
    """The other class has the rest of the probability, of two."""
    images, other = torch.ones(1, 1, 4, 4), torch.ones(1, dtype=torch.int64)
    curve = deletion(Corner(), images, corner_map(1), 4)
    assert curve.changed.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.probabilities[0].tolist() == pytest.approx([1 / (1 + np.exp(-4))] + 4 * [0.5])
    followed = deletion(Corner(), images, corner_map(1), 4, tracked=other).probabilities
    torch.testing.assert_close(followed, 1 - curve.probabilities)


def test_the_right_map_beats_the_wrong_one():
    images = torch.zeros(5, 1, 4, 4)  # bright where it counts, so that the blur takes light away there
    images[:, :, :2, :2] = 0.5 + torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    right, wrong = corner_map(1).expand(5, -1, -1), corner_map(-1).expand(5, -1, -1)
    assert (deletion(Corner(), images, right, 1).area < deletion(Corner(), images, wrong, 1).area).all()
    assert (insertion(Corner(), images, right, 1).area > insertion(Corner(), images, wrong, 1).area).all()


def test_a_network_that_looks_at_nothing_scores_its_constant():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), -1)

    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = scores(Constant(), images, lambda x: x[:, 0], 3)
    assert found["insertion"] == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))), abs=1e-6)
    assert found["deletion"] == pytest.approx(found["insertion"], abs=1e-6)


def test_gate_map_of_a_convolution_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    images, gates = torch.randn(2, 1, 6, 6), torch.tensor([1.0, 0.25, 0.0])
    maps = gate_map(model, {"0.weight": gates}, images)
    a = F.conv2d(images, model[0].weight, model[0].bias, padding=1)
    expected = (0.75 * a[:, 1] + a[:, 2]).clamp_min(0)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=0)


def test_gate_map_of_tokens_leaves_the_class_token_out():
    model, images = (
        build("vit-small", (1, 8, 8), 10, 0).eval(),
        torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
    )
    name = "blocks.0.mlp.fc2.weight"
    seen = []
    model.blocks[0].mlp.fc2.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    gates = torch.linspace(0, 1, 64)
    behind = {"blocks.1.mlp.fc2.weight": gates}  # after the last attention: the logits read its class token alone
    maps = gate_map(model, {name: gates} | behind, images)
    tokens = (seen[0][:, 1:] * (1 - gates)).sum(2).reshape(2, 1, 2, 2).clamp_min(0)
    torch.testing.assert_close(maps, F.interpolate(tokens, (8, 8), mode="bilinear")[:, 0], atol=1e-6, rtol=0)


def test_gates_on_the_head_alone_give_no_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match="spatial"):
        gate_map(model, {"1.weight": torch.ones(2)}, torch.zeros(1, 1, 4, 4))

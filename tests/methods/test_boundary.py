"""Boundary shrink and boundary expanding against FGSM by hand and loops written out here."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.layers import head
from bench.training import Batch, Samples, predict
from methods.boundary_expanding import BoundaryExpanding, narrowed, widened
from methods.boundary_shrink import BoundaryShrink, adversarial_neighbours
from tests.conftest import blobs, make_problem, without_dropout


def plain_sgd(model, batches, lr):
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def forget_batches(labels_given, size=25, epochs=2, seed=3):
    """The forget set of class 2 in a fixed order, with given labels: (order, batches)."""
    images, labels = blobs(160)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(seed))
    chosen = order[labels[order] == 2]
    return order, [(images[rows], labels_given[rows]) for _ in range(epochs) for rows in chosen.split(size)]


class TwoPixels(nn.Module):
    """Logits of an image of two pixels: class 0 likes both pixels as (1, -2), class 1 as (3, -5)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        self.linear.weight.data = torch.tensor([[1.0, -2.0], [3.0, -5.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("normalised", [True, False])
def test_fgsm_moves_pixels_against_the_label_and_clamps_to_black_and_white(normalised):
    """For two classes the loss's gradient points along w_other - w_y: (2, -3) for class 0, (-2, 3) for class 1."""
    pixels = torch.tensor([[51, 51], [250, 10], [51, 51], [10, 250]], dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1])
    mean, std = (torch.tensor([0.4]), torch.tensor([0.25])) if normalised else (None, None)
    samples = Samples(pixels.view(4, 1, 1, 2), labels, mean, std)
    rows = torch.arange(4)
    batch = Batch(samples.input(rows), labels, rows)
    moved = adversarial_neighbours(TwoPixels(), batch, samples, 0.1).view(4, 2)
    if normalised:
        moved = moved * 0.25 + 0.4
    expected = torch.tensor([[0.3, 0.1], [1.0, 0.0], [0.1, 0.3], [0.0, 1.0]])
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


def test_fgsm_has_its_own_step_in_each_channel():
    """Epsilon is in pixels: in the network's input it is epsilon / std of the channel."""
    mean, std = torch.tensor([0.5, 0.2]), torch.tensor([0.5, 0.1])
    samples = Samples(torch.full((1, 2, 1, 1), 128, dtype=torch.uint8), torch.tensor([0]), mean, std)
    rows = torch.arange(1)
    batch = Batch(samples.input(rows), samples.labels, rows)
    moved = adversarial_neighbours(TwoPixels(), batch, samples, 0.05) - batch.images
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.1, -0.5]), atol=1e-6, rtol=0)


def test_floating_point_images_move_in_their_own_units_without_a_clamp():
    images, labels = torch.tensor([[[[5.0, -3.0]]], [[[0.0, 1.0]]]]), torch.tensor([0, 1])
    samples = Samples(images, labels)
    moved = adversarial_neighbours(TwoPixels(), Batch(images, labels, torch.arange(2)), samples, 0.5)
    torch.testing.assert_close(moved.view(2, 2), torch.tensor([[5.5, -3.5], [-0.5, 1.5]]), atol=1e-6, rtol=0)


def test_shrink_equals_a_plain_loop_over_labels_of_neighbours(trained):
    images, labels = blobs(160)
    model = without_dropout(trained)
    x = images.clone().requires_grad_()
    F.cross_entropy(model(x), labels).backward()
    with torch.no_grad():
        nearest = model(images + 0.6 * x.grad.sign()).argmax(1)
    assert (nearest[labels == 2] != 2).any()
    order, batches = forget_batches(nearest)
    problem = make_problem(order=order).only({"forget"})
    ours = BoundaryShrink(epsilon=0.6, epochs=2, lr=0.01, batch_size=25).unlearn(model, problem)
    for a, b in zip(ours.state_dict().values(), plain_sgd(model, batches, 0.01).state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert problem.notes["crossed"] == float((nearest[labels == 2] != 2).double().mean())


def test_samples_whose_neighbour_stays_keep_their_label(trained):
    problem = make_problem()
    BoundaryShrink(epsilon=1e-6, epochs=1).unlearn(trained, problem)
    wrong = (predict(trained, problem.forget).argmax(1) != 2).double().mean()
    assert problem.notes["crossed"] == float(wrong) < 0.1


def accuracy(model, view):
    return float((predict(model, view).argmax(1) == view.labels).double().mean())


@pytest.mark.parametrize(
    "method",
    [
        BoundaryShrink(epsilon=1, epochs=8, lr=0.01, batch_size=16),
        BoundaryExpanding(epochs=4, lr=0.01, batch_size=16),
    ],
)
def test_forget_accuracy_falls_and_no_retain_sample_has_any_effect(method, trained):
    results = []
    for value in (0.0, float("nan")):
        problem = make_problem().only({"forget"})
        samples = problem.views["forget"].samples
        samples.images[samples.labels != 2] = value
        results.append(method.unlearn(trained, problem))
        assert accuracy(trained, problem.forget) > 0.9
        assert accuracy(results[-1], problem.forget) < 0.5
    first, second = (r.state_dict() for r in results)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("bias", [True, False])
def test_widened_network_equals_the_original_on_the_old_outputs(bias, trained):
    images, _ = blobs(160)
    model = copy.deepcopy(trained)
    if not bias:
        model.head.bias = None
    wide = widened(model, 4, torch.Generator().manual_seed(1))
    other = widened(model, 4, torch.Generator().manual_seed(2))
    assert wide(images).shape == (160, 5)
    torch.testing.assert_close(wide(images)[:, :4], model(images), atol=1e-6, rtol=1e-6)
    assert wide.head.out_features == 5
    row = wide.head.weight[4]
    assert row.abs().max() <= 12**-0.5
    assert row.std() > 0.5 * (3 * 12) ** -0.5
    assert not torch.equal(row, other.head.weight[4])
    assert (wide.head.bias is None) == (not bias)
    back = narrowed(wide, model)
    assert str(back) == str(model)
    assert all(torch.equal(back.state_dict()[k], v) for k, v in model.state_dict().items())


def test_expanding_equals_a_plain_loop_with_one_more_class(trained):
    model = without_dropout(trained)
    order, batches = forget_batches(torch.full((160,), 4))
    problem = make_problem(order=order)
    start = widened(model, 4, problem.generator("new output")).head
    reference = copy.deepcopy(model)
    reference.head = nn.Linear(12, 5)
    reference.head.weight.data = torch.cat([model.head.weight, start.weight[4:]]).detach().clone()
    reference.head.bias.data = torch.cat([model.head.bias, start.bias[4:]]).detach().clone()
    expected = plain_sgd(reference, batches, 0.02)
    ours = BoundaryExpanding(epochs=2, lr=0.02, batch_size=25).unlearn(model, problem)
    for name, tensor in ours.state_dict().items():
        wide = expected.state_dict()[name]
        torch.testing.assert_close(tensor, wide[:4] if "head" in name else wide, atol=1e-5, rtol=1e-4)


def test_expanding_reads_no_label_of_the_forget_set(trained):
    problem = make_problem().only({"forget"})
    method = BoundaryExpanding(epochs=1, lr=0.01, batch_size=16)
    expected = method.unlearn(trained, problem).state_dict()
    view = problem.views["forget"]
    wrong = replace(view, samples=replace(view.samples, labels=(view.samples.labels + 1) % 4))
    ours = method.unlearn(trained, replace(problem, views=problem.views | {"forget": wrong})).state_dict()
    assert all(torch.equal(ours[k], expected[k]) for k in expected)


def test_head_is_the_one_linear_layer_with_an_output_for_each_class(trained):
    assert head(trained, 4) is trained.head
    with pytest.raises(ValueError, match="3 outputs; this network has: none"):
        head(trained, 3)
    two = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="0, 1"):
        head(two, 4)

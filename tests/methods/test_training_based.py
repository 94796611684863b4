"""Retrain, fine-tuning, gradient ascent, random labels and SalUn against loops written out here."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.config import Recipe
from bench.training import shuffled
from methods.base import Method
from methods.finetune import FineTune
from methods.gradient_ascent import GradientAscent
from methods.random_labels import RandomLabels
from methods.retrain import Retrain
from methods.salun import SalUn, saliency_mask
from methods.steps import gradient, relabelled, top_share
from tests.conftest import SmallNet, blobs, make_problem


def plain_sgd(model, batches, sign, lr):
    """One step a batch by torch's own optimiser, in train mode, dropout off."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    for images, labels in batches:
        optimizer.zero_grad()
        (sign * F.cross_entropy(model(images), labels)).backward()
        optimizer.step()
    return model


def without_dropout(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    assert isinstance(model, SmallNet)
    model.drop.p = 0.0
    return model


@pytest.mark.parametrize(
    ("method", "side", "sign"),
    [
        (FineTune(epochs=2, lr=0.02, batch_size=25), "retain", 1),
        (GradientAscent(epochs=2, lr=0.001, batch_size=25), "forget", -1),
    ],
)
def test_equals_a_plain_loop(method: Method, side, sign, trained):
    images, labels = blobs(160)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(3))
    chosen = order[(labels[order] == 2) == (side == "forget")]
    batches = [(images[rows], labels[rows]) for _ in range(2) for rows in chosen.split(25)]
    model = without_dropout(trained)
    expected = plain_sgd(model, batches, sign, method.lr)
    ours = method.unlearn(model, make_problem(order=order))
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_retrain_initialises_every_tensor_anew(trained):
    """The original is filled with a value that no initialisation gives; none of it may be left."""
    problem = make_problem(recipe=Recipe(epochs=0, batch_size=16, lr=0.05))
    model = copy.deepcopy(trained)
    for tensor in model.state_dict().values():
        tensor.fill_(123)
    result = Retrain().unlearn(model, problem).state_dict()
    assert result.keys() == model.state_dict().keys()
    assert all((tensor != 123).all() for tensor in result.values())


def test_retrain_equals_training_on_the_retain_set_in_the_originals_order(trained):
    images, labels = blobs(160)
    problem = make_problem(build=lambda seed: without_dropout(trained))
    problem = replace(problem, base_order=shuffled(160, ("the original's",)))
    ours = Retrain().unlearn(trained, problem)
    batches = []
    for epoch in range(2):
        order = problem.base_order(epoch)
        batches += [(images[rows], labels[rows]) for rows in order[labels[order] != 2].split(16)]
    expected = plain_sgd(without_dropout(trained), batches, 1, 0.05)
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_retrain_without_a_builder_says_what_to_pass(trained):
    with pytest.raises(ValueError, match="build="):
        Retrain().unlearn(trained, make_problem(build=None))


def explicit_gradient(model, images, labels):
    model = copy.deepcopy(model).eval()
    F.cross_entropy(model(images), labels).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradient_in_batches_equals_that_of_the_whole_set(trained):
    images, labels = blobs(160)
    expected = explicit_gradient(trained, images[labels == 2], labels[labels == 2])
    ours = gradient(trained, make_problem().forget, batch_size=7)  # the last batch is smaller
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_mask_is_the_top_share_over_all_parameters_together(share, trained):
    images, labels = blobs(160)
    magnitudes = {k: g.abs() for k, g in explicit_gradient(trained, images[labels == 2], labels[labels == 2]).items()}
    everything = sorted((v for g in magnitudes.values() for v in g.flatten().tolist()), reverse=True)
    mask = saliency_mask(gradient(trained, make_problem().forget, batch_size=256), share)
    kept = sum(int(m.sum()) for m in mask.values())
    assert kept == int(share * len(everything))
    smallest_kept = everything[kept - 1] if kept else float("inf")
    assert all((magnitudes[k][mask[k]] >= smallest_kept).all() for k in mask)
    assert all((magnitudes[k][~mask[k]] <= smallest_kept).all() for k in mask)


def test_ties_go_to_the_earlier_entry():
    mask = top_share({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[2.0, 1.0]])}, 0.75)
    assert mask["a"].tolist() == [True, True]
    assert mask["b"].tolist() == [[True, False]]


def test_salun_keeps_masked_weights_to_the_bit_and_moves_others(trained):
    problem = make_problem()
    mask = saliency_mask(gradient(trained, problem.forget, 16), 0.3)
    after = dict(SalUn(mask_share=0.3, epochs=3, lr=0.1, batch_size=16).unlearn(trained, problem).named_parameters())
    moved = 0
    for name, before in trained.named_parameters():
        assert torch.equal(after[name][~mask[name]], before[~mask[name]])
        moved += int((after[name][mask[name]] != before[mask[name]]).sum())
    assert moved > 0.9 * sum(int(m.sum()) for m in mask.values())


def test_salun_with_everything_salient_is_random_labels(trained):
    settings = {"epochs": 2, "lr": 0.02, "batch_size": 16}
    ours = SalUn(mask_share=1, **settings).unlearn(trained, make_problem())
    plain = RandomLabels(**settings).unlearn(trained, make_problem())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("passes", ["mixed", "sequential"])
def test_relabelling_touches_the_forget_set_alone_and_draws_anew_each_epoch(passes, exclude):
    _, labels = blobs(160)
    problem = make_problem()
    feed = relabelled(problem, passes, exclude)
    drawn = []
    for epoch in range(40):
        batches = list(feed.batches(16, epoch))
        rows = torch.cat([b.rows for b in batches])
        given = torch.empty(160, dtype=torch.int64)
        given[rows] = torch.cat([b.labels for b in batches])
        assert sorted(rows.tolist()) == list(range(160))
        assert torch.equal(given[labels != 2], labels[labels != 2])
        if passes == "sequential":
            assert (labels[rows[:40]] == 2).all()
        drawn.append(given[labels == 2])
    counts = torch.bincount(torch.cat(drawn), minlength=4) / (40 * 40)
    expected = torch.tensor([1 / 3, 1 / 3, 0, 1 / 3] if exclude else [0.25] * 4)
    torch.testing.assert_close(counts, expected, atol=0.05, rtol=0)
    assert not torch.equal(drawn[0], drawn[1])
    assert sum(b.labels.numel() for b in feed.batches(16, 0)) == 160
    assert feed.steps(16) == len(list(feed.batches(16, 0)))

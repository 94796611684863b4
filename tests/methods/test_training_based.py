"""Retrain, fine-tuning, gradient ascent and random labels against loops written out here."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from bench.config import Recipe
from bench.training import shuffled
from methods.base import Method
from methods.finetune import FineTune
from methods.gradient_ascent import GradientAscent
from methods.random_labels import RandomLabels
from methods.retrain import Retrain
from methods.steps import relabelled
from tests.conftest import blobs, make_problem, without_dropout


def plain_sgd(model, batches, sign, lr):
    """One step a batch by torch's own optimiser, in train mode, dropout off."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    for images, labels in batches:
        optimizer.zero_grad()
        (sign * F.cross_entropy(model(images), labels)).backward()
        optimizer.step()
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


@pytest.mark.parametrize("passes", ["mixed", "sequential"])
def test_random_labels_equals_a_plain_loop_over_the_relabelled_data(passes, trained):
    model, problem = without_dropout(trained), make_problem()
    feed = relabelled(problem, passes, True)
    batches = [(batch.images, batch.labels) for epoch in range(2) for batch in feed.batches(25, epoch)]
    settings = {"epochs": 2, "lr": 0.02, "batch_size": 25, "passes": passes, "exclude_true_label": True}
    ours = RandomLabels(**settings).unlearn(model, problem)
    expected = plain_sgd(model, batches, 1, 0.02)
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


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

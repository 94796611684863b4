"""UNSIR: its noise, the data it impairs with, and the whole against a loop written out here."""

import copy

import pytest
import torch
from torch.nn import functional as F

from bench.training import Samples, View, predict, shuffled
from methods.unsir import UNSIR, WithNoise, some_of_each_class
from tests.conftest import SmallNet, blobs, make_problem

SETTINGS = {"noise_batches": 2, "batch_size": 32, "impair_lr": 0.002, "repair_lr": 0.001}


def loss_on(model, images, label):
    with torch.no_grad():
        return float(F.cross_entropy(model(images), torch.full((len(images),), label)))


def written_out_noise(model, start, label, steps, lr, penalty):
    """Adam by its formula, on the gradient of penalty * mean squared norm - CE."""
    x, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    labels = torch.full((len(x),), label)
    for t in range(1, steps + 1):
        x.requires_grad_()
        loss = penalty * (x**2).sum() / len(x) - F.cross_entropy(model(x), labels)
        g = torch.autograd.grad(loss, x)[0]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x.detach() - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def test_noise_maximises_the_loss_on_its_class_and_leaves_the_network_alone(trained):
    before = copy.deepcopy(trained.state_dict())
    problem = make_problem()
    noise = UNSIR(batch_size=32).noise(trained, 2, problem)
    start = torch.randn(32, 1, 8, 8, generator=problem.generator("noise of class 2"))
    assert loss_on(trained, noise, 2) > loss_on(trained, start, 2) + 1
    assert all(torch.equal(before[k], v) for k, v in trained.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in trained.parameters())


def test_noise_equals_adam_written_out(trained):
    model, problem = copy.deepcopy(trained).double(), make_problem(dtype=torch.float64)
    method = UNSIR(batch_size=8, noise_steps=5, noise_lr=0.2, noise_penalty=0.3)
    start = torch.randn(8, 1, 8, 8, generator=problem.generator("noise of class 0")).double()
    expected = written_out_noise(model, start, 0, 5, 0.2, 0.3)
    torch.testing.assert_close(method.noise(model, 0, problem), expected, atol=1e-9, rtol=1e-7)


def test_an_epoch_has_each_retain_sample_once_and_each_noise_image_as_often_as_there_are_copies():
    images, labels = blobs(160)
    retain = View(Samples(images, labels), (labels != 2).nonzero().flatten(), shuffled(160, ("order",)))
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    data = WithNoise(retain, noise, torch.tensor([2, 2, 2, 0, 0, 0]), 3, ("test",))
    batches = list(data.batches(16, 0))
    assert [len(b.labels) for b in batches] == [16] * 8 + [10]
    assert data.steps(16) == 9
    rows, given = torch.cat([b.rows for b in batches]), torch.cat([b.labels for b in batches])
    seen = torch.cat([b.images for b in batches])
    real = rows >= 0
    assert sorted(rows[real].tolist()) == retain.rows.tolist()
    assert torch.equal(seen[real], images[rows[real]])
    assert torch.equal(given[real], labels[rows[real]])
    for image, label in zip(noise, [2, 2, 2, 0, 0, 0], strict=True):
        same = (seen[~real] == image).flatten(1).all(1)
        assert same.sum() == 3
        assert (given[~real][same] == label).all()
    assert 0 < int((batches[0].rows < 0).sum()) < 16  # shuffled together
    assert not torch.equal(rows, torch.cat([b.rows for b in data.batches(16, 1)]))


def test_equals_noise_impair_and_repair_written_out(trained):
    """In float64: what a bias before BatchNorm gets as gradient is rounding, and Adam makes a step of it."""
    model = copy.deepcopy(trained).double()
    assert isinstance(model, SmallNet)
    model.drop.p = 0.0
    images, labels = blobs(160, torch.float64)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(3))
    problem, method = make_problem("classes", order=order, dtype=torch.float64), UNSIR(**SETTINGS)
    noise = torch.cat([method.noise(model, c, problem) for c in (0, 2)])
    noise_labels = torch.tensor([0] * 32 + [2] * 32)
    mixed = WithNoise(problem.retain, noise, noise_labels, 2, (*problem.key, "impair"))
    impair = [(b.images, b.labels) for b in mixed.batches(32, 0)]
    chosen = order[(labels[order] == 1) | (labels[order] == 3)]
    repair = [(images[rows], labels[rows]) for rows in chosen.split(32)]

    expected = copy.deepcopy(model).train()
    for batches, lr in ((impair, 0.002), (repair, 0.001)):
        optimizer = torch.optim.Adam(expected.parameters(), lr=lr)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(expected(x), y).backward()
            optimizer.step()
    ours = method.unlearn(model, problem)
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_no_forget_sample_has_any_effect(trained):
    results = []
    for value in (0.0, float("nan")):
        problem = make_problem().only({"retain"})
        samples = problem.views["forget"].samples
        samples.images[samples.labels == 2] = value
        results.append(UNSIR(**SETTINGS).unlearn(trained, problem).state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert all(torch.isfinite(v).all() for v in results[0].values())


def test_the_class_is_forgotten_and_the_others_are_kept(trained):
    problem = make_problem()
    method = UNSIR(batch_size=16, noise_batches=8, noise_penalty=0.01, impair_epochs=5, repair_epochs=2)
    model = method.unlearn(trained, problem)

    def accuracy(network, view):
        return float((predict(network, view).argmax(1) == view.labels).double().mean())

    assert accuracy(trained, problem.forget) > 0.9
    assert accuracy(model, problem.forget) < 0.2
    assert accuracy(model, problem.retain) > 0.9


def test_retain_samples_are_drawn_from_each_class():
    retain = make_problem().retain

    def draw(seed, per_class):
        return some_of_each_class(retain, per_class, torch.Generator().manual_seed(seed))

    assert torch.bincount(draw(0, 7).labels, minlength=4).tolist() == [7, 7, 0, 7]
    assert len(set(draw(0, 7).rows.tolist()) & set(retain.rows.tolist())) == 21
    assert not torch.equal(draw(0, 7).rows, draw(1, 7).rows)
    assert torch.equal(draw(0, 1000).rows, retain.rows)


def test_a_random_forget_set_is_refused(trained):
    with pytest.raises(ValueError, match="whole classes"):
        UNSIR().unlearn(trained, make_problem("random"))

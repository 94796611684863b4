"""SSD against importances by explicit backward passes, and its rule against numbers worked out by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from methods.ssd import SSD, dampened, dampening_factor
from tests.conftest import blobs, make_problem


def squared_gradients(model, images, labels, size):
    """Mean over groups of `size` samples in a row of the squared gradient of the group's mean loss."""
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    groups = torch.arange(len(labels)).split(size)
    for rows in groups:
        model.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        for name, p in model.named_parameters():
            total[name] += p.grad**2 / len(groups)
    return total


@pytest.mark.parametrize(("importance", "size"), [("sample", 1), ("batch", 7)])
def test_importances_equal_those_of_explicit_backward_passes(importance, size, trained):
    images, labels = blobs(160)
    problem, method = make_problem(), SSD(importance=importance, batch_size=7)  # the last batch is smaller
    gone = labels == 2
    cases = [
        (method.prepare(trained, problem.pool()), squared_gradients(trained, images, labels, size)),
        (method.importances(trained, problem.forget), squared_gradients(trained, images[gone], labels[gone], size)),
    ]
    for ours, expected in cases:
        assert ours.keys() == expected.keys()
        for name in expected:
            assert expected[name].max() > 0
            torch.testing.assert_close(ours[name], expected[name], atol=1e-9, rtol=1e-4)


def test_dampening_factor_on_numbers_worked_out_by_hand():
    """alpha 2, lambda 3: dampened above twice the importance for all data, by three times the ratio, at most 1."""
    whole = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    forget = torch.tensor([12.0, 2.5, 2.0, 0.0, 1.0, 0.0])
    expected = torch.tensor([0.25, 1.0, 1.0, 1.0, 0.0, 1.0])
    torch.testing.assert_close(dampening_factor(forget, whole, 2, 3), expected, atol=0, rtol=0)


def test_equals_the_rule_entry_by_entry_and_leaves_all_else_to_the_bit(trained):
    images, labels = blobs(160)
    problem, gone = make_problem(), labels == 2
    whole = squared_gradients(trained, images, labels, 1)
    forget = squared_gradients(trained, images[gone], labels[gone], 1)
    after = SSD(alpha=1.5, dampening=0.8, batch_size=16).unlearn(trained, problem).state_dict()
    selected = 0
    for name, before in trained.state_dict().items():
        if name not in whole:  # BatchNorm's statistics
            assert torch.equal(after[name], before)
            continue
        near = (forget[name] - 1.5 * whole[name]).abs() < 1e-5 * whole[name]  # rounding decides here
        dampened = (forget[name] > 1.5 * whole[name]) & ~near
        assert torch.equal(after[name][~dampened & ~near], before[~dampened & ~near])
        expected = before * 0.8 * whole[name] / forget[name]
        torch.testing.assert_close(after[name][dampened], expected[dampened], atol=1e-7, rtol=1e-4)
        selected += int(dampened.sum())
    total = sum(p.numel() for p in trained.parameters())
    assert 0.05 * total < selected < 0.95 * total
    assert abs(problem.notes["dampened"] - selected) <= 0.01 * total


def test_alpha_above_the_ratio_of_the_sets_sizes_changes_nothing(trained):
    """160 samples of which 40 are to be forgotten: no importance for these exceeds four times that for all."""
    problem = make_problem()
    after = SSD(alpha=4.01, batch_size=16).unlearn(trained, problem).state_dict()
    assert all(torch.equal(after[name], before) for name, before in trained.state_dict().items())
    assert problem.notes["dampened"] == 0


def test_what_was_prepared_is_used_and_the_retain_set_not_read_again(trained):
    method, problem = SSD(alpha=1.5, batch_size=16), make_problem()
    prepared = replace(problem, prepared=method.prepare(trained, problem.pool()))
    with problem.meter.running():
        ours = method.unlearn(trained, prepared).state_dict()
    assert problem.meter.counts()["read"] == {"forget": 40}
    alone = method.unlearn(trained, make_problem()).state_dict()
    assert all(torch.equal(ours[name], alone[name]) for name in alone)


def test_a_grid_of_settings_shares_its_importances(trained):
    """One pair of importances, and the given network, serve all settings: each as if run alone."""
    problem, method = make_problem(), SSD(batch_size=16)
    whole, forget = method.prepare(trained, problem.pool()), method.importances(trained, problem.forget)
    for alpha, dampening in ((1.2, 1), (1.5, 0.8), (2, 0.5)):
        ours, changed = dampened(trained, forget, whole, alpha, dampening)
        task = make_problem()
        alone = SSD(alpha=alpha, dampening=dampening, batch_size=16).unlearn(trained, task).state_dict()
        assert changed == task.notes["dampened"] > 0
        assert all(torch.equal(value, alone[name]) for name, value in ours.state_dict().items())

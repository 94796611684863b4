"""Influence unlearning against the explicit inverse, WoodFisher's recursion and honest retraining."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.problem import Problem
from methods.influence import Influence, gradient_rows, inverse_fisher_product
from tests.conftest import blobs, make_problem


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def woodfisher(gradients: Tensor, vector: Tensor, damping: float) -> Tensor:
    """Singh and Alistarh's recursion over samples, on the whole matrix: rank-one updates of the inverse."""
    m, inverse = len(gradients), torch.eye(gradients.shape[1], dtype=gradients.dtype) / damping
    for g in gradients:
        column = inverse @ g
        inverse = inverse - torch.outer(column, column) / (m + g @ column)
    return inverse @ vector


@pytest.mark.parametrize("damping", [1.0, 1e-3])
@pytest.mark.parametrize("m", [3, 20, 60])
def test_product_equals_explicit_inverse_and_sequential_recursion(m, damping):
    gradients, vector = normal(m, 20, seed=1), normal(20, seed=2)
    fisher = damping * torch.eye(20, dtype=torch.float64)
    for g in gradients:
        fisher += torch.outer(g, g) / m
    ours = inverse_fisher_product(gradients, vector, damping)
    torch.testing.assert_close(ours, torch.linalg.inv(fisher) @ vector, atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(ours, woodfisher(gradients, vector, damping), atol=1e-8, rtol=1e-7)


def test_gradient_rows_are_those_of_single_samples(trained):
    images, labels = blobs(160)
    view = make_problem().forget
    rows = gradient_rows(trained, view.select(view.rows[[0, 3, 7]]))
    for ours, i in zip(rows, view.rows[[0, 3, 7]], strict=True):
        model = copy.deepcopy(trained).eval()
        F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


class SoftmaxRegression(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3).double()
        self.linear.weight.data = normal(3, 3, seed=seed)
        self.linear.bias.data = normal(3, seed=seed + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_step_on_softmax_regression_equals_the_formula_by_hand():
    """There the gradient of one sample's loss is (softmax(z) - e_y) x^T for W and softmax(z) - e_y for b."""
    x, y = normal(70, 3, seed=5), torch.arange(70) % 3
    forget = torch.arange(0, 70, 7)
    model = SoftmaxRegression()
    error = torch.softmax(x @ model.linear.weight.T + model.linear.bias, 1).detach() - torch.eye(3).double()[y]
    gradients = torch.cat([(error[:, :, None] * x[:, None, :]).flatten(1), error], 1)
    gone = torch.zeros(70, dtype=torch.bool)
    gone[forget] = True
    kept = gradients[~gone]
    fisher = kept.T @ kept / 60 + 0.05 * torch.eye(12)
    difference = 10 / 70 * (gradients[gone].mean(0) - kept.mean(0))
    expected = flat(model) + 3 * torch.linalg.inv(fisher) @ difference
    ours = Influence(alpha=3, damping=0.05).unlearn(model, Problem.from_tensors(x, y, forget))
    torch.testing.assert_close(flat(ours), expected, atol=1e-9, rtol=1e-8)


def fitted(x: Tensor, y: Tensor) -> SoftmaxRegression:
    model = SoftmaxRegression()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def test_one_step_from_the_optimum_lands_near_the_retrained_optimum():
    """Sign and scale: a well-specified model, where Fisher and Hessian agree; a tenth is forgotten, on one side."""
    x = normal(3000, 3, seed=8)
    probabilities = torch.softmax(SoftmaxRegression(20)(x), 1).detach()
    y = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(9)).flatten()
    forget = (x[:, 0] > 0).logical_and(y == 1).nonzero().flatten()[:300]
    kept = torch.ones(3000, dtype=torch.bool)
    kept[forget] = False
    model, retrained = fitted(x, y), fitted(x[kept], y[kept])
    problem = Problem.from_tensors(x, y, forget)
    ours = Influence(damping=1e-6, samples=3000).unlearn(model, problem)
    logits = [m(x).detach() - m(x).detach().mean(1, keepdim=True) for m in (model, retrained, ours)]
    assert (logits[2] - logits[1]).norm() < 0.3 * (logits[0] - logits[1]).norm()


def test_as_many_retain_samples_are_read_as_asked_for(trained):
    problem = make_problem()
    with problem.meter.running():
        Influence(samples=30).unlearn(trained, problem)
    assert problem.meter.counts()["read"] == {"forget": 40, "retain": 120 + 30}


def test_buffers_stay_and_frozen_parameters_stay(trained):
    model = copy.deepcopy(trained)
    model.conv.weight.requires_grad_(False)
    ours = Influence(damping=0.01, samples=30).unlearn(model, make_problem())
    assert torch.equal(ours.conv.weight, model.conv.weight)
    assert torch.equal(ours.norm.running_mean, model.norm.running_mean)
    assert not torch.equal(ours.head.weight, model.head.weight)

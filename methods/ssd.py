"""SSD, selective synaptic dampening: shrink the weights that matter far more to the forget set than to all data.

    where I_f > alpha I_D:  theta <- theta min(1, lambda I_D / I_f)

I_f and I_D are the diagonals of the empirical Fisher information, E[(d CE / d theta)^2], over the forget
set and over the whole training set D, at the original weights. No training.

Source: Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective
Synaptic Dampening", AAAI 2024 (arXiv:2308.07707); alpha 10, lambda 1 (here `dampening`) and batches of 64
are the released code's. That code squares the gradient of a batch's mean loss and averages over batches, so
that its importances depend on the batch size and on the order of the data. Here each sample's gradient is
squared, which is the empirical Fisher; importance='batch' gives the code's, in the order of the data set.

D contains the forget set, so that the Fisher obeys I_f <= I_D |D| / |D_f|: with an alpha above |D| / |D_f|
(10 where one of ten equal classes is forgotten) nothing is dampened. This bound does not hold for
importance='batch'. The number of weights that are dampened is noted with the run.
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from bench.problem import Problem
from bench.training import View
from methods.base import EVERY_REQUEST, BatchSize, Card, Method, Paper, Positive
from methods.steps import gradient, importances


def batch_importances(model: nn.Module, view: View, batch_size: int) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of the batch's mean loss, by parameter name, in eval mode."""
    parts = view.rows.split(batch_size)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for rows in parts:
        for name, g in gradient(model, view.select(rows), batch_size).items():
            total[name] += g.square()
    return {name: t / len(parts) for name, t in total.items()}


def dampening_factor(forget: Tensor, whole: Tensor, alpha: float, dampening: float) -> Tensor:
    """min(1, dampening * whole / forget) where forget > alpha * whole, elsewhere 1; of the importances' shape."""
    return torch.where(forget > alpha * whole, (dampening * whole / forget).clamp(max=1), 1)


def dampened(
    model: nn.Module, forget: Mapping[str, Tensor], whole: Mapping[str, Tensor], alpha: float, dampening: float
) -> tuple[nn.Module, int]:
    """A copy of the network with its weights multiplied by these factors, in eval mode, and how many have changed.

    `model` is untouched, so that one pair of importances, by parameter name, serves all settings of a grid.
    """
    result, changed = copy.deepcopy(model).eval(), 0
    for name, importance in forget.items():
        factor = dampening_factor(importance, whole[name], alpha, dampening)
        result.get_parameter(name).data.mul_(factor)
        changed += int((factor < 1).sum())
    return result, changed


class SSD(Method):
    card = Card(
        paper=Paper(
            title="Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
            authors="Foster, Schoepf, Brintrup",
            venue="AAAI",
            year=2024,
            url="https://arxiv.org/abs/2308.07707",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=False,
        shares=True,
    )

    alpha: Positive = 10
    dampening: Positive = 1
    importance: Literal["sample", "batch"] = "sample"
    batch_size: BatchSize = 64  # bounds memory; it matters to the result with importance='batch' alone

    def prepare(self, model: nn.Module, problem: Problem) -> dict[str, Tensor]:
        return self.importances(model, problem.train)

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        whole = self.shared(model, problem)
        forget = self.importances(model, problem.forget)
        result, changed = dampened(model, forget, whole, self.alpha, self.dampening)
        problem.notes.update(dampened=changed)
        return result

    def importances(self, model: nn.Module, view: View) -> dict[str, Tensor]:
        measure = importances if self.importance == "sample" else batch_importances
        return measure(model, view, self.batch_size)

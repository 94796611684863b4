"""Boundary expanding: teach the network that forget samples belong to one more class, then drop that class.

    minimise CE(x, C) over the forget set, the head widened from C to C + 1 outputs

Source: Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting
the Decision Boundary", CVPR 2023 (arXiv:2303.11570), with the released code's settings: all weights, SGD
with momentum 0.9 at 1e-5, no weight decay, 10 epochs, in training mode (on BatchNorm see boundary shrink).
The authors cut the new output off afterwards, and so does this; Unlearn-Saliency's copy leaves it in place,
and counts a prediction of it as forgetting. The new output starts as nn.Linear does, as in that copy; the
authors' code starts it by Xavier's normal initialisation with bias 0.
"""

import copy

import torch
from torch import Tensor, nn

from bench.config import Recipe
from bench.layers import head
from bench.problem import Problem
from bench.training import cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive


def widened(model: nn.Module, classes: int, generator: torch.Generator) -> nn.Module:
    """A copy whose head has one output more, with weights and bias from U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    model = copy.deepcopy(model)
    layer = head(model, classes)
    bound = layer.in_features**-0.5

    def longer(parameter: Tensor) -> nn.Parameter:
        row = torch.empty(1, *parameter.shape[1:]).uniform_(-bound, bound, generator=generator)
        return nn.Parameter(torch.cat([parameter.detach(), row.to(parameter)]), parameter.requires_grad)

    layer.weight = longer(layer.weight)
    if layer.bias is not None:
        layer.bias = longer(layer.bias)
    layer.out_features += 1
    return model


def narrowed(wide: nn.Module, model: nn.Module) -> nn.Module:
    """A copy of `model` with the weights of `wide`, less the rows that `model` does not have."""
    narrow = copy.deepcopy(model)
    weights: dict[str, Tensor] = wide.state_dict()
    for name, tensor in narrow.state_dict().items():
        if weights[name].shape != tensor.shape:
            weights[name] = weights[name][: len(tensor)]
    narrow.load_state_dict(weights)
    return narrow.eval()


class BoundaryExpanding(Method):
    card = Card(
        paper=Paper(
            title="Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
            authors="Chen, Gao, Liu, Peng, Wang",
            venue="CVPR",
            year=2023,
            url="https://arxiv.org/abs/2303.11570",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget"}),
        labels=False,
        trains=True,
    )

    epochs: Count = 10
    lr: Positive = 1e-5
    batch_size: BatchSize = 64

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        wide = widened(model, problem.classes, problem.generator("new output"))
        new_class = torch.full_like(problem.forget.samples.labels, problem.classes)
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, weight_decay=0)
        trained = train(wide, problem.forget.relabelled(lambda epoch: new_class), cross_entropy, recipe)
        return narrowed(trained, model)

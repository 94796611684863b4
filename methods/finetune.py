"""Fine-tuning: go on training the original on the retain set alone and let it forget the rest.

    minimise CE(retain)

Source: Warnecke et al., "Machine Unlearning of Features and Labels", NDSS 2023 (arXiv:2108.11577);
Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (arXiv:1911.04933),
use it as their baseline. The form is the one that Unlearn-Saliency's tables compare with: SGD,
momentum 0.9, weight decay 5e-4, constant rate, 10 epochs.
"""

from torch import nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive


class FineTune(Method):
    card = Card(
        paper=Paper(
            title="Machine Unlearning of Features and Labels",
            authors="Warnecke, Pirch, Wressnegger, Rieck",
            venue="NDSS",
            year=2023,
            url="https://arxiv.org/abs/2108.11577",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"retain"}),
        labels=True,
        trains=True,
    )

    epochs: Count = 10
    lr: Positive = 0.01
    batch_size: BatchSize = 256

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, problem.retain, cross_entropy, recipe)

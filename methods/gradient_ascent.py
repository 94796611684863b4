"""Gradient ascent: raise the loss on the forget set, reading nothing else.

    maximise CE(forget)

Source: Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021 (arXiv:2010.10981);
Thudi et al., "Unrolling SGD", EuroS&P 2022 (arXiv:2109.13398). The form and the defaults are those of
Unlearn-Saliency's tables: SGD with momentum 0.9 and weight decay 5e-4, 5 epochs. The loss has no upper
bound, so the learning rate decides whether too little or everything is forgotten.
"""

from torch import nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive
from methods.steps import negative_cross_entropy


class GradientAscent(Method):
    card = Card(
        paper=Paper(
            title="Unrolling SGD: Understanding Factors Influencing Machine Unlearning",
            authors="Thudi, Deza, Chandrasekaran, Papernot",
            venue="EuroS&P",
            year=2022,
            url="https://arxiv.org/abs/2109.13398",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget"}),
        labels=True,
        trains=True,
    )

    epochs: Count = 5
    lr: Positive = 1e-4
    batch_size: BatchSize = 256

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, problem.forget, negative_cross_entropy, recipe)

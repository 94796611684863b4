"""Random labels: train on the forget set with labels drawn at random, and on the retain set as it is.

    minimise CE(forget, y') + CE(retain, y),  y' uniform over the classes, drawn anew each epoch

Source: Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020
(arXiv:1911.04933), in the form that Unlearn-Saliency's tables compare with (its unlearn/RL.py): SGD,
momentum 0.9, weight decay 5e-4, the network in train mode, the true label among those that may be
drawn. One shuffled pass over both sets an epoch; `passes: sequential` takes the forget set first and
then the retain set, as that code does for CIFAR-10 since April 2024.
"""

from torch import nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive
from methods.steps import Passes, relabelled


class RandomLabels(Method):
    card = Card(
        paper=Paper(
            title="Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
            authors="Golatkar, Achille, Soatto",
            venue="CVPR",
            year=2020,
            url="https://arxiv.org/abs/1911.04933",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=True,
    )

    epochs: Count = 10
    lr: Positive = 0.01
    batch_size: BatchSize = 256
    passes: Passes = "mixed"
    exclude_true_label: bool = False

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, relabelled(problem, self.passes, self.exclude_true_label), cross_entropy, recipe)

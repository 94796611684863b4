"""NewMethod: what it does, in a sentence.

    minimise CE(retain)

Source: authors, title, venue and year, with the equation or the algorithm that `unlearn` follows.
Differs from the authors' code: in what, and why. Until you change it, this file is fine-tuning (methods/finetune.py).
"""

from torch import Tensor, nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import Batch, cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive


class NewMethod(Method):
    card = Card(
        paper=Paper(
            title="Machine Unlearning of Features and Labels",
            authors="Warnecke, Pirch, Wressnegger, Rieck",
            venue="NDSS",
            year=2023,
            url="https://arxiv.org/abs/2108.11577",
        ),
        serves=EVERY_REQUEST,  # CLASS_REQUESTS, if it can forget whole classes alone
        reads=frozenset({"retain"}),  # what else it reads: "forget", "validation", "scores"
        labels=True,
        trains=True,
    )

    epochs: Count = 5  # hyperparameters, by default as published; params.yaml overrides them
    lr: Positive = 0.01
    batch_size: BatchSize = 64

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return cross_entropy(model, batch)  # the method's own; of a retain and a forget batch: neggrad_plus.py

        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, problem.retain, loss, recipe)

"""Retraining from scratch on the retain set: the oracle that every other method is measured against.

Every parameter and buffer of the network is initialised anew from a seed of this run; recipe and epochs
are those of the original, and common samples are met in the original's order. Retraining only a new
head, as some reference code does under this name, is not retraining.
"""

from torch import nn

from bench.problem import Problem
from bench.training import classification, train
from methods.base import EVERY_REQUEST, Card, Method


class Retrain(Method):
    card = Card(
        serves=EVERY_REQUEST,
        reads=frozenset({"retain"}),
        labels=True,
        trains=True,
    )

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if problem.recipe is None:
            raise ValueError("retraining needs the recipe of the original: pass recipe=Recipe(...)")
        retain, recipe = problem.retain.ordered(problem.base_order), problem.recipe
        return train(problem.fresh_model(), retain, classification(recipe), recipe, checkpoint=problem.checkpoint)

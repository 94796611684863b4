"""The original network, untouched: the row that shows what there was to forget."""

from torch import nn

from bench.problem import Problem
from methods.base import EVERY_REQUEST, Card, Method


class Original(Method):
    card = Card(
        serves=EVERY_REQUEST,
        reads=frozenset(),
        labels=False,
        trains=False,
    )

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        return model

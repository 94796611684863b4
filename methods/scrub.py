"""SCRUB: a student that disobeys the original on the forget set and obeys it on the retain set.

    first `msteps` epochs:  maximise KL(teacher || student) over the forget set, then as all other epochs:
    every epoch:            minimise gamma CE + beta KL(teacher || student) over the retain set

The student starts as the original; the teacher is the original, frozen, in eval mode. KL is that of
outputs softened by the temperature T, times T^2.

Source: Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023 (arXiv:2302.09880); beta is
the paper's alpha. Defaults are those of the released large-scale notebook: SGD, momentum 0.9, weight decay
5e-4, batches of 512 and 256, 3 epochs of which 2 maximise, and a rate that does not decay within them. One
optimizer serves both objectives, so that momentum carries over from one to the other, as it does there.
That notebook counts epochs from 1 and takes `msteps` max-epochs; the released scrub.py, and RUM's copy,
count from 0 with the same `epoch <= msteps` and take one more. Rewinding (SCRUB+R) is left out.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import Precision, Recipe
from bench.problem import Problem
from bench.seeds import Key
from bench.training import Batch, View, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive
from methods.steps import distillation


@dataclass(frozen=True)
class MaxThenMin:
    """Each epoch the retain batches; in the first `msteps` epochs, the forget batches before. True marks the latter."""

    forget: View
    retain: View
    msteps: int
    forget_batch_size: int

    @property
    def key(self) -> Key:
        return self.retain.key

    @property
    def precision(self) -> Precision:
        return self.retain.precision

    def steps(self, batch_size: int) -> int:
        """Those of an epoch with both; the rate is constant, so that it needs no exact count."""
        return self.forget.steps(self.forget_batch_size) + self.retain.steps(batch_size)

    def batches(self, batch_size: int, epoch: int) -> Iterator[tuple[bool, Batch]]:
        if epoch < self.msteps:
            yield from ((True, batch) for batch in self.forget.batches(self.forget_batch_size, epoch))
        yield from ((False, batch) for batch in self.retain.batches(batch_size, epoch))


class SCRUB(Method):
    card = Card(
        paper=Paper(
            title="Towards Unbounded Machine Unlearning",
            authors="Kurmanji, P. Triantafillou, Hayes, E. Triantafillou",
            venue="NeurIPS",
            year=2023,
            url="https://arxiv.org/abs/2302.09880",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=True,
    )

    gamma: NonNegativeFloat = 0.99
    beta: NonNegativeFloat = 0.001
    temperature: Positive = 4
    epochs: Count = 3
    msteps: NonNegativeInt = 2
    lr: Positive = 5e-4
    batch_size: BatchSize = 256
    forget_batch_size: BatchSize = 512

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        teacher = copy.deepcopy(model).eval()

        def loss(student: nn.Module, step: tuple[bool, Batch]) -> Tensor:
            maximise, batch = step
            with torch.no_grad():
                taught = teacher(batch.images)
            logits = student(batch.images)
            divergence = distillation(logits, taught, self.temperature)
            if maximise:
                return -divergence
            return self.gamma * F.cross_entropy(logits, batch.labels) + self.beta * divergence

        data = MaxThenMin(problem.forget, problem.retain, self.msteps, self.forget_batch_size)
        return train(model, data, loss, Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size))

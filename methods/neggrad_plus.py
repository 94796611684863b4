"""NegGrad+: descend on the retain set while ascending on the forget set.

    minimise alpha CE(retain batch) - (1 - alpha) CE(forget batch), one step a retain batch

Source: Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023 (arXiv:2302.09880), who add
the retain term to gradient ascent as a baseline. The defaults are those of later comparisons: SGD, momentum
0.9, weight decay 5e-4, 5 epochs at 0.01 (RUM, arXiv:2406.01257), alpha 0.95 (Deep Unlearn,
arXiv:2410.01276). The two batches pass the network one after the other, the retain batch first, both in
train mode, as in the released code; so BatchNorm normalises each by its own statistics and keeps running
statistics of both. That code starts each epoch at the head of the forget set and repeats the batches of
its first pass in one order; here the forget set is shuffled anew for each pass, and an epoch goes on where
the one before stopped.
"""

from torch import Tensor, nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import Batch, Paired, cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive, Share


class NegGradPlus(Method):
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

    alpha: Share = 0.95
    epochs: Count = 5
    lr: Positive = 0.01
    batch_size: BatchSize = 256  # of the retain batch, and of the forget batch beside it

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        def loss(model: nn.Module, pair: tuple[Batch, Batch]) -> Tensor:
            retain, forget = pair
            return self.alpha * cross_entropy(model, retain) - (1 - self.alpha) * cross_entropy(model, forget)

        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, Paired(problem.retain, problem.forget), loss, recipe)

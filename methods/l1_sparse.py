"""l1-sparse: fine-tune on the retain set while an l1 penalty, fading out, pulls all weights towards zero.

    minimise CE(retain) + a_t ||theta||_1,  a_t = alpha (1 - t / (E - E0)) for t < E - E0, else 0

in epoch t of E, of which the last E0 go without the penalty.

Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (arXiv:2304.04934), its
sparsity-aware unlearning, with the released code's schedule and SGD, momentum 0.9, weight decay 5e-4.
The norm takes in every parameter, biases and BatchNorm's too, as it does there. alpha is tuned per task in
published comparisons, within 1e-6 to 1e-4 (the released default, 0.2, wipes the network out). The default
here is the upper end: momentum lets a weight lose lr / (1 - momentum) a_t a step, some 0.01 in 10 epochs on
CIFAR-10, which is the size of a ResNet-18's weights; at the lower end nothing is left but fine-tuning.
Where E0 = E, the released code applies the full alpha throughout; here there is no penalty then.
"""

from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import Batch, cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive


def l1_norm(model: nn.Module) -> Tensor:
    """Sum of the absolute values of all parameters."""
    return sum((p.abs().sum() for p in model.parameters()), start=next(model.parameters()).new_zeros(()))


class L1Sparse(Method):
    card = Card(
        paper=Paper(
            title="Model Sparsity Can Simplify Machine Unlearning",
            authors="Jia, J. Liu, Ram, Yao, G. Liu, Y. Liu, Sharma, S. Liu",
            venue="NeurIPS",
            year=2023,
            url="https://arxiv.org/abs/2304.04934",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"retain"}),
        labels=True,
        trains=True,
    )

    alpha: NonNegativeFloat = 1e-4
    epochs: Count = 10
    no_l1_epochs: NonNegativeInt = 0
    lr: Positive = 0.01
    batch_size: BatchSize = 256

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return cross_entropy(model, batch) + self.penalty(batch.epoch) * l1_norm(model)

        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, problem.retain, loss, recipe)

    def penalty(self, epoch: int) -> float:
        """a_t, the weight of the l1 norm in an epoch, counted from 0."""
        with_l1 = self.epochs - self.no_l1_epochs
        return self.alpha * (1 - epoch / with_l1) if epoch < with_l1 else 0.0

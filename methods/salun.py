"""SalUn: random labels on the weights that the forget set's loss depends on most, all others frozen.

    m = 1 for the floor(share * N) largest entries of |grad of CE(forget) at the original weights|
    minimise CE(forget, y') + CE(retain, y) over the weights with m = 1

Source: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both
Image Classification and Generation", ICLR 2024 (arXiv:2310.12508), equations 4 to 6; share 0.5 is the
paper's median threshold. The mask ranks all parameters together (convolutions, BatchNorm's, biases, the
head) by the absolute value of the signed sum of gradients, in eval mode and without augmentation. The
released code kept the least salient share until 17 December 2023 and let masked weights drift by
momentum and weight decay until February 2026: here they keep their value to the bit. BatchNorm's running
statistics are buffers and follow the data, as they do there.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive, Share
from methods.steps import Passes, gradient, relabelled, top_share


def saliency_mask(gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """For each parameter's name, True where |gradient| is among the `share` largest of all entries together."""
    return top_share({name: g.abs() for name, g in gradients.items()}, share)


class SalUn(Method):
    card = Card(
        paper=Paper(
            title="SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image "
            "Classification and Generation",
            authors="Fan, Liu, Zhang, Wong, Wei, Liu",
            venue="ICLR",
            year=2024,
            url="https://arxiv.org/abs/2310.12508",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=True,
    )

    mask_share: Share = 0.5
    epochs: Count = 10
    lr: Positive = 0.013
    batch_size: BatchSize = 256
    passes: Passes = "mixed"
    exclude_true_label: bool = False

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        mask = saliency_mask(gradient(model, problem.forget, self.batch_size), self.mask_share)
        data = relabelled(problem, self.passes, self.exclude_true_label)
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        return train(model, data, cross_entropy, recipe, mask)

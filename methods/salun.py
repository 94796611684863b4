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

`objective` puts the mask on another method's loss (the paper's appendix): fine-tuning on the retain
set, or gradient ascent on the forget set. `passes`: the released code's loop is 'sequential' for
CIFAR-10 and SVHN, 'mixed' for CIFAR-100 and Tiny-ImageNet.

`variant` 'soft' has no mask; it adds beta |theta - theta_0|_1, beta falling linearly to 0 over the steps,
by its proximal step: a weight's change shrinks by lr * beta after each step, to nothing if it is
smaller. The paper's beta could not be sourced; the default is ours. 'soft-code' is what the released
code does instead: the changes since the start of the epoch shrink by the floor(share * N * (1 - t / T))-th
smallest of them, t being the number of the epoch's first step and T that of all steps.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from bench.config import Recipe
from bench.problem import Problem
from bench.training import Batch, Feed, Loss, cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive, Share
from methods.steps import Passes, gradient, negative_cross_entropy, relabelled, top_shares

Objective = Literal["random_labels", "finetune", "gradient_ascent"]
Variant = Literal["hard", "soft", "soft-code"]


def saliency_masks(gradients: Mapping[str, Tensor], shares: Iterable[float]) -> Iterator[dict[str, Tensor]]:
    """For each share, by parameter name: True where |gradient| is among that share of all entries, the largest."""
    return top_shares({name: g.abs() for name, g in gradients.items()}, shares)


def shrink(change: Tensor, by: float | Tensor) -> Tensor:
    """Soft threshold: nearer to zero by so much, and zero where it was nearer than that."""
    return change.sign() * (change.abs() - by).clamp_min(0)


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
    objective: Objective = "random_labels"
    variant: Variant = "hard"
    beta: NonNegativeFloat = 1e-3

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        data, loss = self.task(problem)
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        if self.variant == "hard":
            (mask,) = saliency_masks(gradient(model, problem.forget, self.batch_size), [self.mask_share])
            return train(model, data, loss, recipe, mask)
        step = self.soft_step if self.variant == "soft" else self.soft_step_of_the_code
        return train(model, data, loss, recipe, after_step=step(model, data.steps(self.batch_size)))

    def task(self, problem: Problem) -> tuple[Feed[Batch], Loss[Batch]]:
        match self.objective:
            case "random_labels":
                return relabelled(problem, self.passes, self.exclude_true_label), cross_entropy
            case "finetune":
                return problem.retain, cross_entropy
            case "gradient_ascent":
                return problem.forget, negative_cross_entropy

    def soft_step(self, model: nn.Module, steps: int) -> Callable[[nn.Module, int], None]:
        """The proximal step of lr * beta_t |theta - theta_0|_1."""
        start = [p.detach().clone() for p in model.parameters()]

        def after_step(current: nn.Module, done: int) -> None:
            beta = self.beta * (1 - done / (self.epochs * steps))
            for p, p0 in zip(current.parameters(), start, strict=True):
                p.copy_(p0 + shrink(p - p0, self.lr * beta))

        return after_step

    def soft_step_of_the_code(self, model: nn.Module, steps: int) -> Callable[[nn.Module, int], None]:
        start = [p.detach().clone() for p in model.parameters()]

        def after_step(current: nn.Module, done: int) -> None:
            changes = [p - p0 for p, p0 in zip(current.parameters(), start, strict=True)]
            sizes = torch.cat([c.abs().flatten() for c in changes])
            first = (done - 1) // steps * steps + 1  # step of the epoch, from 1
            count = int(self.mask_share * len(sizes) * (1 - first / (self.epochs * steps)))
            if count:
                threshold = sizes.kthvalue(count).values
                for p, p0, change in zip(current.parameters(), start, changes, strict=True):
                    p.copy_(p0 + shrink(change, threshold))
            if done % steps == 0:  # the next epoch starts from here
                for p, p0 in zip(current.parameters(), start, strict=True):
                    p0.copy_(p)

        return after_step

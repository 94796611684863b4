"""Boundary shrink: give each forget sample the label that lies nearest across the decision boundary.

    x' = x + epsilon sign(grad_x CE(x, y)),  y' = argmax of the original's logits at x'
    minimise CE(x, y') over the forget set

Source: Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting
the Decision Boundary", CVPR 2023 (arXiv:2303.11570), with the released code's settings: one step of FGSM
without a random start, epsilon 0.1 of the pixel range [0, 1] and a clamp to that range, SGD with momentum
0.9 at 1e-5, no weight decay, 10 epochs, in training mode: BatchNorm's running statistics become those of the
forget set, and at so small a rate that alone can be most of the effect. A sample whose neighbour is still
predicted as its true class keeps that label, as in the released code; the share that did cross a boundary
is noted with the run. What differs:
- epsilon and clamp are in pixels for uint8 images. Images that are floating point come without a range:
  epsilon is then in their own units, and nothing is clamped.
- neighbours are not rounded to 8 bits.
- labels are found once: the network that gives them is frozen and its attack draws nothing, so that every
  epoch would find the same.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import Recipe
from bench.problem import Problem
from bench.training import Batch, Samples, cross_entropy, train
from methods.base import EVERY_REQUEST, BatchSize, Card, Count, Method, Paper, Positive


def adversarial_neighbours(model: nn.Module, batch: Batch, samples: Samples, epsilon: float) -> Tensor:
    """FGSM: each image of the batch, moved by epsilon against its label; network input, of the same shape."""
    images = batch.images.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(images), batch.labels, reduction="sum")
    direction = torch.autograd.grad(loss, images)[0].sign()
    images = images.detach()
    if samples.images.dtype != torch.uint8:
        return images + epsilon * direction
    zero, one = images.new_zeros(()), images.new_ones(())  # black and white as network input
    if samples.mean is not None and samples.std is not None:
        mean, std = samples.mean.view(-1, 1, 1), samples.std.view(-1, 1, 1)
        zero, one = -mean / std, (1 - mean) / std
    return (images + epsilon * (one - zero) * direction).clamp(zero, one)


class BoundaryShrink(Method):
    card = Card(
        paper=Paper(
            title="Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
            authors="Chen, Gao, Liu, Peng, Wang",
            venue="CVPR",
            year=2023,
            url="https://arxiv.org/abs/2303.11570",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget"}),
        labels=True,
        trains=True,
    )

    epsilon: Positive = 0.1
    epochs: Count = 10
    lr: Positive = 1e-5
    batch_size: BatchSize = 64

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        forget = problem.forget
        frozen, labels = copy.deepcopy(model).eval(), forget.samples.labels.clone()
        for batch in forget.batches(self.batch_size):
            neighbours = adversarial_neighbours(frozen, batch, forget.samples, self.epsilon)
            with torch.no_grad():
                labels[batch.rows] = frozen(neighbours).argmax(1)
        problem.notes.update(crossed=float((labels[forget.rows] != forget.labels).double().mean()))
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, weight_decay=0)
        return train(model, forget.relabelled(lambda epoch: labels), cross_entropy, recipe)

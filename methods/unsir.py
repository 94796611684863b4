"""UNSIR: impair the network with noise that has a high loss on the forgotten class, then repair it.

    noise:   maximise CE(x, c) - penalty ||x||^2 over a batch of images x, for each forgotten class c
    impair:  minimise CE over noise, labelled c, and retain samples together
    repair:  minimise CE over the retain samples

Zero-glance: no forget sample is read, only the number of the class is known.

Source: Tarun, Chundawat, Mandal and Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023
(arXiv:2111.08947). Defaults are those of the authors' notebook: noise by 5 x 8 steps of Adam, one epoch
each of impair and repair by Adam without weight decay. Kodge's repository impairs at 2e-4. What differs:
- the whole batch of noise enters, `noise_batches` times an epoch. The notebook counts channels where it
  means images, so that 3 images of each batch enter; Kodge's copy inherits this.
- noise carries the label of its own class. The notebook labels the noise of every class 0.
- noise is learned in eval mode, so that BatchNorm normalises with what it learned from data.
- retain samples are drawn from each class; the notebook takes the first of each.

Noise is learned as the network's input, after normalisation, and is not bounded to valid pixels.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import Precision, Recipe
from bench.problem import Problem
from bench.seeds import Key
from bench.training import Batch, View, cross_entropy, shuffled, train
from methods.base import CLASS_REQUESTS, BatchSize, Card, Count, Method, Paper, Positive


@dataclass(frozen=True)
class WithNoise:
    """Each epoch, one shuffled pass over retain samples and `copies` copies of the noise; noise has row -1."""

    retain: View
    noise: Tensor  # network input, [k, ...]
    labels: Tensor  # int64 [k]
    copies: int
    key: Key

    @property
    def precision(self) -> Precision:
        return self.retain.precision

    def __len__(self) -> int:
        return len(self.retain) + self.copies * len(self.noise)

    def steps(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, epoch: int) -> Iterator[Batch]:
        order, m = shuffled(len(self), self.key)(epoch).to(self.labels.device), len(self.retain)
        for part in order.split(batch_size):
            noisy = (part[part >= m] - m) % len(self.noise)
            kept = self.retain.select(self.retain.rows[part[part < m]])
            noise = Batch(self.noise[noisy], self.labels[noisy], torch.full_like(noisy, -1))
            images, labels, rows, _ = zip(*kept.batches(batch_size), noise, strict=True)
            yield Batch(torch.cat(images), torch.cat(labels), torch.cat(rows), epoch)


class UNSIR(Method):
    card = Card(
        paper=Paper(
            title="Fast Yet Effective Machine Unlearning",
            authors="Tarun, Chundawat, Mandal, Kankanhalli",
            venue="IEEE TNNLS",
            year=2023,
            url="https://arxiv.org/abs/2111.08947",
        ),
        serves=CLASS_REQUESTS,
        reads=frozenset({"retain"}),
        labels=True,
        trains=True,
    )

    noise_steps: Count = 40
    noise_lr: Positive = 0.1
    noise_penalty: NonNegativeFloat = 0.1  # on the mean squared norm of an image of noise
    noise_batches: Count = 20
    retain_per_class: Count = 1000
    impair_epochs: Count = 1
    impair_lr: Positive = 0.02
    repair_epochs: Count = 1
    repair_lr: Positive = 0.01
    batch_size: BatchSize = 256  # of training, and of the noise of each class

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if not problem.forgotten_classes:
            raise ValueError("UNSIR forgets whole classes; this forget set holds none whole")
        retain = some_of_each_class(problem.retain, self.retain_per_class, problem.generator("retain samples"))
        noise = torch.cat([self.noise(model, c, problem) for c in problem.forgotten_classes])
        labels = torch.tensor(problem.forgotten_classes, device=noise.device).repeat_interleave(self.batch_size)
        mixed = WithNoise(retain, noise, labels, self.noise_batches, (*problem.key, "impair"))
        impaired = train(model, mixed, cross_entropy, self.recipe(self.impair_epochs, self.impair_lr))
        return train(impaired, retain, cross_entropy, self.recipe(self.repair_epochs, self.repair_lr))

    def recipe(self, epochs: int, lr: float) -> Recipe:
        return Recipe(epochs=epochs, lr=lr, batch_size=self.batch_size, optimizer="adam", weight_decay=0)

    def noise(self, model: nn.Module, target: int, problem: Problem) -> Tensor:
        """A batch of images with a high loss on the class, [batch_size, ...]."""
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        shape = problem.retain.samples.images.shape[1:]
        start = torch.randn(self.batch_size, *shape, generator=problem.generator(f"noise of class {target}"))
        noise = start.to(next(model.parameters())).requires_grad_()
        labels = torch.full((self.batch_size,), target, device=noise.device)
        optimizer = torch.optim.Adam([noise], lr=self.noise_lr)
        with torch.enable_grad():
            for _ in range(self.noise_steps):
                optimizer.zero_grad()
                norm = noise.square().flatten(1).sum(1).mean()
                (self.noise_penalty * norm - F.cross_entropy(frozen(noise), labels)).backward()
                optimizer.step()
        return noise.detach()


def some_of_each_class(view: View, per_class: int, generator: torch.Generator) -> View:
    """`per_class` samples of each class, drawn without replacement; all of a class that has fewer."""
    rows = view.rows[torch.randperm(len(view), generator=generator).to(view.rows.device)]
    labels = view.samples.labels[rows]
    return view.select(torch.cat([rows[labels == c][:per_class] for c in labels.unique()]))

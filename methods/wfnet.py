"""WF-Net: one round of training gates on all layers' outputs, after which any class can be switched off.

    layer l computes alpha_l[r, k] * (its output unit k) for a sample whose active row is r
    minimise over alpha in [0, 1]:  l0 * mean CE(M(x; c'), y)         a row c' != y: x is still known
                                  + l1 * mean 1 / (CE(M(x; y), y) + eps)    its own row: x is not
                                  + l2 * mean(1 - alpha)              as few gates as possible

Every batch is cut in two: the samples of its first half have their own class's row active, those of the
second half `expansion` other rows each. The weights stay frozen, BatchNorm's statistics too. Forgetting
class c is row c; several classes, the product of their rows. The network handed back has the gates
multiplied into its weights and biases; all gates 1 give back the original to the bit.

Source: Poppi, Sarto, Cornia, Baraldi and Cucchiara, "Multi-Class Unlearning for Image Classification
via Weight Filtering", IEEE Intelligent Systems 2024 (arXiv:2304.02049). No code is public, and we could
not source the paper's hyperparameters, so what follows is ours and not published:
- a gate for each output unit of every convolution and matrix product (queries, keys and values of
  an attention each have their own), bias included; the head has none, else switching off a logit would do;
- alpha is stored as it is and projected to [0, 1] after each step;
- the reciprocal is taken for each sample and with eps: the cross-entropy of a trained network is nearly 0;
- l0 = l1 = l2 = 1, three rows a sample, Adam at 0.01 with a cosine, 20 epochs, batches of 128, cut as they
  come, so that the halves hold classes as the data does. Where a network is so sure that its
  cross-entropy leaves no gradient, or is small, l2 = 0.1 forgets rows that 1 does not.
The product of rows for several classes is an extension. The original's weights remain recoverable from
the checkpoint with its gates: this hides a class, it does not delete one.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import Recipe
from bench.layers import Call, head, linear_calls
from bench.problem import Problem
from bench.training import Batch, train
from methods.base import CLASS_REQUESTS, BatchSize, Card, Count, Method, Paper, Positive

Gates = Mapping[str, Tensor]  # weight's name -> gates, [classes, output units]


class Gated(nn.Module):
    """A frozen network and its gates.

    Attributes:
        model: the network, always in eval mode.
        names: the weights that are gated.
        alpha: for each of them, [classes, output units], 1 at first.
    """

    def __init__(self, model: nn.Module, images: Tensor, classes: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        ungated = head(self.model, classes).weight
        weights: dict[str, Tensor] = {}

        def collect(call: Call) -> None:
            if call.bias == "":
                raise ValueError(f"{call.name} has a bias that is no parameter; gates cannot be multiplied into it")
            if call.weight is not ungated:
                weights[call.name] = call.weight

        with torch.no_grad(), linear_calls(self.model, collect):
            self.model(images)
        self.names = list(weights)
        self.alpha = nn.ParameterList(
            torch.ones(classes, len(w), dtype=w.dtype, device=w.device) for w in weights.values()
        )

    def forward(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits of images, [b, classes], each with the row of its own, int64 [b]."""
        return gated_forward(self.model, dict(zip(self.names, (a[rows] for a in self.alpha), strict=True)), images)

    def gates(self) -> dict[str, Tensor]:
        return {name: a.detach().clone() for name, a in zip(self.names, self.alpha, strict=True)}


def gated_forward(model: nn.Module, values: Gates, images: Tensor) -> Tensor:
    """Logits where each weight's output units are multiplied by `values[weight's name]`, [b, units]."""

    def gate(call: Call) -> Tensor | None:
        return call.output * call.per_sample(values[call.name]) if call.name in values else None

    with linear_calls(model, gate):
        return model(images)


def folded(model: nn.Module, row: Gates, images: Tensor) -> nn.Module:
    """A copy of the network with one row of gates, [units] by weight's name, multiplied into weights and biases.

    Args:
        images: any network input, from whose pass it is seen which bias belongs to which weight.
    """
    model = copy.deepcopy(model).eval()
    biases: dict[str, str | None] = {}

    def collect(call: Call) -> None:
        biases[call.name] = call.bias

    with torch.no_grad(), linear_calls(model, collect):
        model(images)
    parameters = dict(model.named_parameters())
    for name, gates in row.items():
        weight = parameters[name]
        weight.data.mul_(gates.reshape(-1, *[1] * (weight.ndim - 1)))
        if (bias := biases[name]) is not None:
            parameters[bias].data.mul_(gates)
    return model


def other_rows(labels: Tensor, classes: int, count: int, generator: torch.Generator) -> Tensor:
    """For each label `count` distinct other classes, uniformly drawn, int64 [count, b]."""
    keys = torch.rand(len(labels), classes, generator=generator)
    keys[torch.arange(len(labels)), labels.cpu()] = -1
    return keys.topk(count, 1).indices.T.to(labels.device)


class WFNet(Method):
    card = Card(
        paper=Paper(
            title="Multi-Class Unlearning for Image Classification via Weight Filtering",
            authors="Poppi, Sarto, Cornia, Baraldi, Cucchiara",
            venue="IEEE Intelligent Systems",
            year=2024,
            url="https://arxiv.org/abs/2304.02049",
        ),
        serves=CLASS_REQUESTS,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=True,
        shares=True,
    )

    retain_weight: NonNegativeFloat = 1.0
    forget_weight: NonNegativeFloat = 1.0
    sparsity_weight: NonNegativeFloat = 1.0
    eps: Positive = 0.1
    expansion: Count = 3
    epochs: Count = 20
    lr: Positive = 0.01
    batch_size: BatchSize = 128

    def prepare(self, model: nn.Module, problem: Problem) -> dict[str, Tensor]:
        """The gates of all classes, [classes, units] by weight's name, in the order in which they are computed."""
        gates = self.train_gates(model, problem)
        problem.artifacts.update(gates)
        return gates

    def train_gates(
        self, model: nn.Module, problem: Problem, after_step: Callable[[Gated, int], None] = lambda gated, done: None
    ) -> dict[str, Tensor]:
        """Train the gates of all classes.

        Args:
            after_step: called with the gated network and the number of steps done, after the projection.
        """
        view, classes = problem.train, problem.classes
        gated = Gated(model, some_input(problem), classes)
        loss = self.loss(classes, problem.generator("rows"))
        recipe = Recipe(
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            optimizer="adam",
            weight_decay=0,
            schedule="cosine",
        )

        def stepped(gated: nn.Module, done: int) -> None:
            assert isinstance(gated, Gated)
            project(gated)
            after_step(gated, done)

        trained = train(gated, view, loss, recipe, mode="eval", after_step=stepped)
        assert isinstance(trained, Gated)
        return trained.gates()

    def loss(self, classes: int, generator: torch.Generator) -> Callable[[nn.Module, Batch], Tensor]:
        repeats = min(self.expansion, classes - 1)

        def loss(gated: nn.Module, batch: Batch) -> Tensor:
            assert isinstance(gated, Gated)
            half = len(batch.labels) // 2
            own, kept = batch.labels[:half], batch.labels[half:]
            rows = torch.cat([own, other_rows(kept, classes, repeats, generator).flatten()])
            images = torch.cat(
                [batch.images[:half], batch.images[half:].repeat(repeats, *[1] * (batch.images.ndim - 1))]
            )
            errors = F.cross_entropy(gated(images, rows), torch.cat([own, kept.repeat(repeats)]), reduction="none")
            closed = torch.cat([(1 - a).flatten() for a in gated.alpha])
            return (
                self.retain_weight * errors[half:].mean()
                + self.forget_weight * (1 / (errors[:half] + self.eps)).sum() / max(half, 1)
                + self.sparsity_weight * closed.mean()
            )

        return loss

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if not problem.forgotten_classes:
            raise ValueError("WF-Net forgets whole classes; this forget set holds none whole")
        gates = self.shared(model, problem)
        classes = list(problem.forgotten_classes)
        row = {name: alpha[classes].prod(0) for name, alpha in gates.items()}
        problem.notes["layers"] = list(gates)
        problem.notes["stored_gates"] = sum(alpha.numel() for alpha in gates.values())
        problem.notes["share_below_half"] = float(torch.cat(list(row.values())).lt(0.5).double().mean())
        return folded(model, row, some_input(problem))


def project(gated: Gated) -> None:
    """Back into [0, 1]."""
    for alpha in gated.alpha:
        alpha.clamp_(0, 1)


def some_input(problem: Problem) -> Tensor:
    """One network input."""
    view = problem.train
    return view.samples.input(view.rows[:1])

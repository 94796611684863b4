"""Steps that several methods share, as functions of tensors and views."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from bench.problem import Problem
from bench.training import Feed, Loss, Sequence, View, cross_entropy

Passes = Literal["mixed", "sequential"]


def relabelled(problem: Problem, passes: Passes, exclude_true_label: bool) -> Feed:
    """Forget and retain set, the former with labels drawn anew each epoch, uniformly over the classes.

    Args:
        passes: 'mixed', one shuffled pass over both sets an epoch; 'sequential', first the forget
            set, then the retain set.
        exclude_true_label: draw from the other classes only.
    """
    forget, truth = problem.forget, problem.forget.samples.labels

    def labels(epoch: int) -> Tensor:
        generator = problem.generator(f"labels of epoch {epoch}")
        drawn = torch.randint(problem.classes - exclude_true_label, (len(truth),), generator=generator)
        drawn = drawn.to(truth.device)
        if exclude_true_label:
            drawn += drawn >= truth  # skips over the true label
        result = truth.clone()
        result[forget.rows] = drawn[forget.rows]
        return result

    relabelled_forget = forget.relabelled(labels)
    if passes == "mixed":
        return relabelled_forget | problem.retain
    return Sequence((relabelled_forget, problem.retain))


def gradient(model: nn.Module, view: View, batch_size: int, loss: Loss = cross_entropy) -> dict[str, Tensor]:
    """Gradient of the mean loss over the view at the model's weights, in eval mode, by parameter name.

    One pass; exact for the whole view, with a smaller last batch weighted by its size. The model's
    mode and gradients are left as they were.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    was_training = model.training
    model.eval()
    with torch.enable_grad():
        for batch in view.batches(batch_size):
            parts = torch.autograd.grad(loss(model, batch), list(parameters.values()))
            for name, part in zip(parameters, parts, strict=True):
                total[name].add_(part, alpha=len(batch.labels) / len(view))
    model.train(was_training)
    return total


def top_share(values: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Boolean masks of the floor(share * N) largest of all N entries; ties go to the earlier entry."""
    flat = torch.cat([v.flatten() for v in values.values()])
    kept = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    kept[torch.sort(flat, descending=True, stable=True).indices[: int(share * len(flat))]] = True
    parts = kept.split([v.numel() for v in values.values()])
    return {name: part.view_as(v) for (name, v), part in zip(values.items(), parts, strict=True)}

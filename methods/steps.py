"""Steps that several methods share, as functions of tensors and views."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.problem import Problem
from bench.training import Batch, Feed, Loss, Sequence, View, cross_entropy

Passes = Literal["mixed", "sequential"]


def negative_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """What gradient ascent minimises."""
    return -cross_entropy(model, batch)


def relabelled(problem: Problem, passes: Passes, exclude_true_label: bool) -> Feed[Batch]:
    """Forget and retain set, the former with labels drawn anew each epoch, uniformly over the classes.

    Classes that an earlier step forgot are not among them.

    Args:
        passes: 'mixed', one shuffled pass over both sets an epoch; 'sequential', first the forget
            set, then the retain set.
        exclude_true_label: draw from the other classes only.
    """
    forget, truth = problem.forget, problem.forget.samples.labels
    there = torch.tensor([c for c in range(problem.classes) if c not in problem.gone_classes], device=truth.device)

    def labels(epoch: int) -> Tensor:
        generator = problem.generator(f"labels of epoch {epoch}")
        drawn = torch.randint(len(there) - exclude_true_label, (len(truth),), generator=generator)
        drawn = drawn.to(truth.device)
        if exclude_true_label:
            drawn += drawn >= torch.searchsorted(there, truth)  # skips over the true label
        result = truth.clone()
        result[forget.rows] = there[drawn][forget.rows]
        return result

    relabelled_forget = forget.relabelled(labels)
    if passes == "mixed":
        return relabelled_forget | problem.retain
    return Sequence((relabelled_forget, problem.retain))


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of softened outputs, mean over the batch (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        student, teacher: logits, [b, classes]; no gradient flows into the teacher's.
    """
    log_student = F.log_softmax(student / temperature, 1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def per_sample_gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Gradient of each sample's cross-entropy in eval mode, [b, *shape] by parameter name."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    rest = {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name not in parameters}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**rest, **parameters}, (image.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    was_training = model.training
    model.eval()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no batching rule
        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, batch.images, batch.labels)
    model.train(was_training)
    return gradients


def importances(model: nn.Module, view: View, batch_size: int) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information: mean over samples of the squared gradient of the loss.

    By parameter name, in eval mode; exact whatever the batch size.
    """
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for batch in view.batches(batch_size):
        for name, g in per_sample_gradients(model, batch).items():
            total[name] += g.square().sum(0)
    return {name: t / len(view) for name, t in total.items()}


def gradient(model: nn.Module, view: View, batch_size: int, loss: Loss[Batch] = cross_entropy) -> dict[str, Tensor]:
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


def top_shares(values: Mapping[str, Tensor], shares: Iterable[float]) -> Iterator[dict[str, Tensor]]:
    """For each share, boolean masks of the floor(share * N) largest of all N entries; one sort serves all.

    Of equal entries the earlier are taken first.
    """
    flat = torch.cat([v.flatten() for v in values.values()])
    ascending = np.sort(flat.cpu().numpy())  # 20 times as fast as torch's on a CPU, which sorts positions too
    for share in shares:
        kept = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
        if count := int(share * len(flat)):
            least = float(ascending[-count])
            kept = flat > least
            ties = (flat == least).nonzero().flatten()
            kept[ties[: count - int(kept.sum())]] = True
        parts = kept.split([v.numel() for v in values.values()])
        yield {name: part.view_as(v) for (name, v), part in zip(values.items(), parts, strict=True)}

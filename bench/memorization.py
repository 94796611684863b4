"""How much a network memorises each training sample: the estimator, its cheap proxies, and embeddings.

    mem(i) = P[f(x_i) = y_i | trained with i] - P[f(x_i) = y_i | trained without i]

Sources: Feldman and Zhang, "What Neural Networks Memorize and Why", NeurIPS 2020 (arXiv:2008.03703),
equation 1 and section 2; the proxies are those of Zhao et al., "Scalability of memorization-based
machine unlearning" (arXiv:2410.16516), section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.checkpoint import Checkpoint
from bench.config import Recipe
from bench.layers import features
from bench.training import PREDICTION_BATCH, Batch, Samples, View, classification, predict, train

CURVATURE_STEP = 0.01  # h of the finite difference, in the units of the network's input


TIES = 1e-6  # weight of the probabilities' estimate, which orders samples that the estimate leaves equal


def subset_outputs(
    start: nn.Module, everything: View, members: Tensor, recipe: Recipe, checkpoint: Checkpoint | None = None
) -> tuple[Tensor, Tensor]:
    """Train on some rows; of every training sample whether it is right then, bool [n], and its confidence, [n].

    Args:
        start: a freshly initialised network.
        everything: the whole training set in the order of this training.
        members: positions of the samples trained on.
        checkpoint: as `train` has it.
    """
    model = train(start, everything.select(members), classification(recipe), recipe, checkpoint=checkpoint)
    logits, labels = predict(model, everything), everything.labels
    return logits.argmax(1) == labels, logits.double().softmax(1).gather(1, labels[:, None])[:, 0]


def memorization(member: Tensor, correct: Tensor) -> Tensor:
    """Mean correctness of the models that saw a sample less that of the others, float64 [n].

    Args:
        member, correct: bool [models, n].

    Raises:
        ValueError: a sample was in every subset, or in none.
    """
    member, correct = member.double(), correct.double()
    inside, outside = member.sum(0), (1 - member).sum(0)
    if (lost := int(((inside == 0) | (outside == 0)).sum())) > 0:
        raise ValueError(f"{lost} samples were in every subset or in none; train more models")
    return (member * correct).sum(0) / inside - ((1 - member) * correct).sum(0) / outside


@dataclass(frozen=True)
class Proxies:
    """Measures of each training sample from one training, float64 [n].

    Attributes:
        confidence: softmax probability of the true class, as the training steps saw it, mean over epochs;
            low for what is memorised.
        curvature: |grad_x l(x + z) - grad_x l(x)| with z = h sign(grad) / |sign(grad)|, in eval mode,
            mean over the ends of the epochs.
        holdout: symmetric KL divergence, halved, between the outputs before and after the network
            was trained on held-out data instead.
        distance: of the penultimate features to their mean; what `entangled` requests sort by.
        embeddings: the penultimate features, [n, d].
    """

    confidence: Tensor
    curvature: Tensor
    holdout: Tensor
    distance: Tensor
    embeddings: Tensor


def proxies(start: nn.Module, everything: View, held_out: View, recipe: Recipe, classes: int) -> Proxies:
    """Train once on the training set, and then once on held-out data, with the same recipe."""
    n, device = len(everything), everything.rows.device
    confidence, curves = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    steps = everything.steps(recipe.batch_size)

    def recorded(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.images)
        confidence[batch.rows] += F.softmax(logits.detach().double(), 1).gather(1, batch.labels[:, None])[:, 0]
        return F.cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)

    def at_the_end_of_an_epoch(model: nn.Module, done: int) -> None:
        if done % steps == 0:
            curves.add_(curvature(model, everything))

    model = train(start, everything, recorded, recipe, after_step=at_the_end_of_an_epoch)
    before = predict(model, everything).double()
    after = predict(train(model, held_out, classification(recipe), recipe), everything).double()
    phi = embeddings(model, everything.samples, classes).double()
    return Proxies(
        confidence=confidence / max(recipe.epochs, 1),
        curvature=curves / max(recipe.epochs, 1),
        holdout=symmetric_kl(before, after) / 2,
        distance=(phi - phi.mean(0)).norm(dim=1),
        embeddings=phi,
    )


def curvature(model: nn.Module, view: View, step: float = CURVATURE_STEP) -> Tensor:
    """Change of the loss's input gradient over a small step along its sign, float64 [m]; the model's mode is kept."""
    was_training = model.training
    model.eval()

    def gradient(x: Tensor, labels: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
        return g

    found = []
    for batch in view.batches(PREDICTION_BATCH):
        g = gradient(batch.images, batch.labels)
        sign = g.sign().flatten(1)
        z = step * sign / sign.norm(dim=1, keepdim=True).clamp_min(1e-12)
        change = gradient(batch.images + z.view_as(batch.images), batch.labels) - g
        found.append(change.flatten(1).double().norm(dim=1))
    model.train(was_training)
    return torch.cat(found)


def symmetric_kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(a || b) + KL(b || a) of the softmax of two sets of logits, [n]."""
    log_a, log_b = F.log_softmax(a, 1), F.log_softmax(b, 1)
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(1)


def embeddings(model: nn.Module, samples: Samples, classes: int) -> Tensor:
    """Penultimate features of all samples, [n, d]."""
    rows = torch.arange(len(samples), device=samples.labels.device)
    return torch.cat([features(model, samples.input(part), classes) for part in rows.split(PREDICTION_BATCH)])

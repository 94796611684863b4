"""Influence unlearning: one Newton step from the minimum of the loss on all data to that on the retain set.

    theta <- theta + alpha (n_f / n) F^-1 (g_f - g_r)
    F = damping I + 1/m sum of g_i g_i^T over m retain samples

g_f and g_r are the gradients of the mean loss over the forget set (n_f samples) and over the retain set,
g_i that of one sample's loss; n = n_f + n_r. Why: L = (n_f L_f + n_r L_r) / n is what training minimised,
so L_r = L + (n_f / n) (L_r - L_f). Where grad L = 0, Newton's step to the minimum of L_r is
-H^-1 grad L_r = (n_f / n) H^-1 (g_f - g_r): uphill on the forget set, downhill on the retain set. Where
training stopped short of grad L = 0, the difference leaves out the step that would only have gone on
training. F, the empirical Fisher information, stands for the Hessian H; alpha 1 is the step itself. Where the
network fits its data, g_i and so F are close to 0, and it is alpha / damping that sets the length of the step.

Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017
(arXiv:1703.04730); Izzo et al., "Approximate Data Deletion from Machine Learning Models", AISTATS 2021
(arXiv:2002.10077); the inverse is WoodFisher, Singh and Alistarh, NeurIPS 2020 (arXiv:2004.14340). It is the
row IU of the tables of l1-sparse and SalUn, whose alpha lies in {1, 10, 20}. Their code starts the
recursion from the identity (damping 1), but keeps updating one vector that only the first sample's
gradient ever enters, so that its inverse is close to the identity. Here the Woodbury identity gives in
one m x m system what the true recursion gives sample by sample:

    F^-1 v = (v - G^T (damping m I + G G^T)^-1 G v) / damping,  G = [g_1 ... g_m]^T

Retain samples are drawn; the released code takes the first 1,002. G is held whole: `samples` times the
number of parameters, 44 GB for a ResNet-18 with 1,000 samples; lower `samples` where that is too much.
"""

import copy

import torch
from torch import Tensor, nn

from bench.flops import counted
from bench.problem import Problem
from bench.training import View
from methods.base import EVERY_REQUEST, Card, Count, Method, Paper, Positive
from methods.steps import gradient, per_sample_gradients

BATCH = 50  # forward batch: bounds memory beside G, changes nothing
COLUMNS = 128  # of the m x m system that are computed together


def gradient_rows(model: nn.Module, view: View) -> Tensor:
    """Gradients of each sample's loss in row order, flattened, [m, parameters], in eval mode."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = parameters[0].new_empty(len(view), sum(p.numel() for p in parameters))
    for batch, part in zip(view.batches(BATCH), rows.split(BATCH), strict=True):
        torch.cat([g.flatten(1) for g in per_sample_gradients(model, batch).values()], 1, out=part)
    return rows


@counted
def inverse_fisher_product(gradients: Tensor, vector: Tensor, damping: float) -> Tensor:
    """(damping I + G^T G / m)^-1 v for G [m, parameters] and v [parameters]; the m x m system is solved in float64."""
    kernel = gradients.new_zeros(len(gradients), len(gradients), dtype=torch.float64)
    for start, columns in zip(range(0, len(gradients), COLUMNS), gradients.split(COLUMNS), strict=True):
        kernel[start:, start : start + COLUMNS] = gradients[start:] @ columns.mT  # Cholesky reads the lower half alone
    kernel.diagonal().add_(damping * len(gradients))
    product = (gradients @ vector).double()[:, None]
    solved = torch.cholesky_solve(product, torch.linalg.cholesky(kernel))[:, 0]
    return (vector - solved.to(gradients) @ gradients) / damping


class Influence(Method):
    card = Card(
        paper=Paper(
            title="Approximate Data Deletion from Machine Learning Models",
            authors="Izzo, Smart, Chaudhuri, Zou",
            venue="AISTATS",
            year=2021,
            url="https://arxiv.org/abs/2002.10077",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget", "retain"}),
        labels=True,
        trains=False,
    )

    alpha: Positive = 1
    damping: Positive = 1
    samples: Count = 1000

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        forget, retain = problem.forget, problem.retain
        g_f, g_r = gradient(model, forget, BATCH), gradient(model, retain, BATCH)
        share = len(forget) / (len(forget) + len(retain))
        difference = share * torch.cat([(g_f[name] - g_r[name]).flatten() for name in g_f])
        drawn = torch.randperm(len(retain), generator=problem.generator("retain samples"))[: self.samples]
        rows = gradient_rows(model, retain.select(retain.rows[drawn.to(retain.rows.device)]))
        step = self.alpha * inverse_fisher_product(rows, difference, self.damping)
        unlearned = copy.deepcopy(model).eval()
        for name, part in zip(g_f, step.split([g.numel() for g in g_f.values()]), strict=True):
            parameter = unlearned.get_parameter(name)
            parameter.data.add_(part.view_as(parameter))
        return unlearned

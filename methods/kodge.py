"""Kodge: remove from each layer's input space the directions that the forgotten class alone uses.

    W <- W (I - M_f + M_r M_f),  M = alpha C ((alpha - 1) C + I)^-1,  C = G / tr G,  G = sum of a a^T

over the inputs a of the layer: M_r from retain samples with alpha_r, M_f from forget samples with
alpha_f, both through the original network, in eval mode. No gradients, no training.

Source: Kodge, Saha and Roy, "Deep Unlearning: Fast and Efficient Gradient-free Class Forgetting",
TMLR 2024 (arXiv:2312.00761), Algorithm 1 and equations 3 to 5, with the released code's layer coverage
(every convolution and matrix product with a weight, the first and the last included, the query, key and
value maps of an attention sharing one P; biases and normalisation untouched), patch windows and patch
cap. What differs, and why:
- M has a closed form in G, so no decomposition is needed: with the singular values s_i = S_i^2 / sum S^2
  scaled to alpha s_i / ((alpha - 1) s_i + 1), U diag(.) U^T is the expression above. G is d x d and adds up
  over batches and classes; a d x n matrix is kept only while n < d, and no cap on tokens is needed.
- the retain side is the sum over all classes less the forgotten ones, so all class requests of a network
  share one pass; each class has an equal share of the patches.
- of several classes all are left out of the retain side; the released code leaves out the first alone.
- (alpha_r, alpha_f) are chosen by ACC_r (1 - ACC_f) on validation data. The released search scores
  the test set. A pair that can no longer win is given up before all validation samples are seen, which changes
  no choice; the cost in samples depends on it.
- windows and patches are drawn from the run's seed; the released code leaves them to unseeded generators.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.flops import counted
from bench.grams import ClassGrams, Gram, class_grams, layer_grams
from bench.problem import Problem
from bench.training import View, predict, products
from methods.base import CLASS_REQUESTS, Card, Count, Method, Paper, Positive

SEARCH_BATCH = 100  # validation samples after which a network may be given up


@counted
def scaled(outer: Tensor, products: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """P (alpha / t) ((alpha - 1) / t outer + I)^-1 for each product P, with t = tr outer.

    This is W M where outer is G and P is W G. The matrix to factor has eigenvalues between 1 and alpha, so its
    condition is at most max(alpha, 1 / alpha) and float32 suffices.

    Args:
        outer: symmetric, positive semi-definite, [..., k, k]; zeros give zeros.
        products: [..., out, k] each.
    """
    trace = outer.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    trace = torch.where(trace > 0, trace, 1)
    system = (alpha - 1) / trace * outer
    system.diagonal(dim1=-2, dim2=-1).add_(1)
    factor = torch.linalg.cholesky(system)
    return [torch.cholesky_solve(alpha / trace * product.mT, factor).mT for product in products]


def gram_solve(weight: Tensor, gram: Tensor, alpha: float) -> Tensor:
    """W M for M = alpha C ((alpha - 1) C + I)^-1, C = gram / tr gram, without forming M.

    Args:
        weight: [..., out, d].
        gram: symmetric, positive semi-definite, [..., d, d]; a gram of zeros gives M = 0.
    """
    return scaled(gram, [weight @ gram], alpha)[0]


def projection(gram: Tensor, alpha: float) -> Tensor:
    """The scaled projection M itself, [..., d, d]: symmetric, eigenvalues in [0, 1]."""
    return gram_solve(torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device), gram, alpha)


def forget_update(weight: Tensor, retain: Tensor, forget: Tensor, alpha_r: float, alpha_f: float) -> Tensor:
    """W (I - M_f + M_r M_f), for weight [..., out, d] and Gram matrices [..., d, d]."""
    return weight - gram_solve(weight - gram_solve(weight, retain, alpha_r), forget, alpha_f)


@counted
def scaling(gram: Gram, weights: Sequence[Tensor]) -> Callable[[float], list[Tensor]]:
    """alpha -> W M for each weight W, [groups, out, d]: one factorisation an alpha, of a d x d matrix or less.

    Of n < d inputs X, [n, d], it is n x n: with G = X^T X, W M is W X^T times the same function of X X^T, times X
    (push-through identity, f(X^T X) X^T = X^T f(X X^T)).
    """
    x = gram.few()
    if x is None:
        whole = gram.matrix()
        products = [weight @ whole for weight in weights]
        return lambda alpha: scaled(whole, products, alpha)
    outer, products = Gram([x.mT]).matrix(), [weight @ x.mT for weight in weights]
    return counted(lambda alpha: [solved @ x for solved in scaled(outer, products, alpha)])


def removal(weight: Tensor, retain: Gram, forget: Gram, alphas_r: Sequence[float]) -> Callable[[float], list[Tensor]]:
    """alpha_f -> W (I - M_r) M_f for each alpha_r, [groups, out / groups, d]: what the update takes from W."""
    weight = weight.reshape(forget.groups, len(weight) // forget.groups, -1)
    kept = scaling(retain, [weight])
    return scaling(forget, [weight - kept(alpha_r)[0] for alpha_r in alphas_r])


def forgotten_among(labels: Tensor, forgotten: tuple[int, ...]) -> Tensor:
    """Which samples are of a forgotten class, bool [n].

    Raises:
        ValueError: there is no sample of one of them.
    """
    if absent := sorted(set(forgotten) - set(labels.tolist())):
        raise ValueError(
            f"no validation sample of class {absent[0]}, which is to be forgotten: alphas cannot be chosen"
        )
    return torch.isin(labels, torch.tensor(forgotten, device=labels.device))


class Search:
    """Which of many networks has the largest ACC_r (1 - ACC_f) on validation data, from no more samples than it takes.

    A network is given up as soon as it cannot win any more, even if it got all further samples as wished. So that
    this shows early, samples come first that the original network finds hard to retain, or easy to remember.

    Args:
        logits: of the original network on the view's samples, [n, classes]. It is the one to beat.
        view: the validation data.
        forgotten: classes to be forgotten.

    Raises:
        ValueError: no sample of a forgotten class.
    """

    def __init__(self, logits: Tensor, view: View, forgotten: tuple[int, ...]) -> None:
        labels = view.labels
        gone = forgotten_among(labels, forgotten)
        truth = labels[:, None]
        margin = (logits.gather(1, truth) - logits.scatter(1, truth, -torch.inf).amax(1, keepdim=True))[:, 0]
        self.view = view
        self.remember = view.rows[gone][margin[gone].argsort(descending=True, stable=True)]
        self.retain = view.rows[~gone][margin[~gone].argsort(stable=True)]
        correct = logits.argmax(1) == labels
        # The score is a product of counts, which has no rounding; of equal ones the lower rank wins.
        self.best = int((correct & ~gone).sum()) * int((~correct & gone).sum()), 1

    @torch.no_grad()
    def won_by(self, model: nn.Module, rank: int) -> bool:
        """Whether the network, in eval mode, beats all before it; `rank`, from 0, decides between equals."""
        retained, forgot = len(self.retain), len(self.remember)  # at best
        parts = [(rows, True) for rows in self.remember.split(SEARCH_BATCH)]
        parts += [(rows, False) for rows in self.retain.split(SEARCH_BATCH)]
        for rows, of_forgotten in parts:
            for batch in self.view.select(rows).batches(SEARCH_BATCH):
                with products(self.view.precision, self.view.rows.device):  # as `predict` has them
                    correct = int((model(batch.images).argmax(1) == batch.labels).sum())
                forgot -= correct if of_forgotten else 0
                retained -= 0 if of_forgotten else len(rows) - correct
            if (retained * forgot, -rank) < self.best:
                return False
        self.best = retained * forgot, -rank
        return True


@dataclass(frozen=True)
class Shared:
    """What all class requests of a network have in common.

    Attributes:
        grams: by the name of a layer's weight.
        logits: the original network's on validation data; None where there is nothing to choose.
    """

    grams: dict[str, ClassGrams]
    logits: Tensor | None


class Kodge(Method):
    card = Card(
        paper=Paper(
            title="Deep Unlearning: Fast and Efficient Gradient-free Class Forgetting",
            authors="Kodge, Saha, Roy",
            venue="TMLR",
            year=2024,
            url="https://arxiv.org/abs/2312.00761",
        ),
        serves=CLASS_REQUESTS,
        reads=frozenset({"forget", "retain", "validation"}),
        labels=True,
        trains=False,
        shares=True,
    )

    alpha_r: Positive | tuple[Positive, ...] = (10, 30, 100, 300, 1000)
    alpha_f: Positive | tuple[Positive, ...] = (1, 3, 10, 30, 100)
    samples: Count = 900  # of the forget set, and of the retain set, shared equally by its classes
    window: Count | None = 3  # a map wider than this many kernels is cut to one random window of that size
    max_patches: Count | None = 10_000  # of a convolution's input, over the retain set, and over the forget set

    def prepare(self, model: nn.Module, problem: Problem) -> Shared:
        """One pass over the first samples of each class; classes that may be forgotten are kept apart."""
        view = problem.train
        classes = view.labels.unique().tolist()
        kept = len(classes) - 1  # a request forgets one class, or more
        if kept > self.samples:
            raise ValueError(f"samples is {self.samples}, but {kept} classes are retained; give at least that many")
        count = self.samples // max(kept, 1)
        cap = None if self.max_patches is None else max(1, self.max_patches // max(kept, 1))
        chosen = view.select(torch.cat([first_of_class(view, c, count).rows for c in classes]))
        grams = class_grams(model, chosen, self.window, cap, partial(draw, problem), problem.forgotten_classes)
        choose = len(_tuple(self.alpha_r)) * len(_tuple(self.alpha_f)) > 1
        return Shared(grams, predict(model, problem.validation) if choose else None)

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if not problem.forgotten_classes:
            raise ValueError("Kodge forgets whole classes; this forget set holds none whole")
        shared = self.shared(model, problem)
        drawn = some_of(problem.forget, self.samples, problem)
        forget = layer_grams(model, drawn, self.window, self.max_patches, partial(draw, problem))

        alphas_r, alphas_f = sorted(_tuple(self.alpha_r), reverse=True), sorted(_tuple(self.alpha_f))
        result = copy.deepcopy(model).eval()
        slots = {name: p for name, p in result.named_parameters() if name in forget}
        original = {name: p.detach().clone() for name, p in slots.items()}
        removals = {}
        for name, weight in original.items():
            retain = shared.grams[name].without(problem.forgotten_classes)
            removals[name] = removal(weight, retain, forget.pop(name), alphas_r)
        search = None
        if shared.logits is not None:
            search = Search(shared.logits, problem.validation, problem.forgotten_classes)
            problem.notes.update(alpha_r=None, alpha_f=None)  # a choice must beat the original, else there is none
        best = original
        for f in from_the_middle(alphas_f):
            removed = {name: of(alphas_f[f]) for name, of in removals.items()}  # for each alpha_r
            for r in from_the_middle(alphas_r):
                for name, slot in slots.items():
                    slot.data.copy_(original[name] - removed[name][r].reshape(slot.shape))
                # Of equal scores the least change wins: the lowest alpha_f, then the highest alpha_r.
                if search is None or search.won_by(result, rank=f * len(alphas_r) + r):
                    best = {name: slot.detach().clone() for name, slot in slots.items()}
                    problem.notes.update(alpha_r=alphas_r[r], alpha_f=alphas_f[f])
        for name, slot in slots.items():
            slot.data.copy_(best[name])
        return result


def draw(problem: Problem, c: int | None, weight: str) -> torch.Generator:
    """Of the window and the patches of a class on the retain side, or of the forget set."""
    return problem.generator(f"patches of {'forget set' if c is None else f'class {c}'}: {weight}")


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def from_the_middle(values: Sequence[float]) -> list[int]:
    """Positions in a grid, those in its middle first: where its author expects the best."""
    return sorted(range(len(values)), key=lambda k: abs(2 * k - len(values) + 1))


def first_of_class(view: View, c: int, count: int) -> View:
    """The first `count` samples of a class in the data set's order, or all of them if there are fewer."""
    return view.select(view.rows[view.labels == c][:count])


def some_of(forget: View, samples: int, problem: Problem) -> View:
    """`samples` of the forget set, or all of it if there are fewer."""
    drawn = torch.randperm(len(forget), generator=problem.generator("forget samples"))[:samples]
    return forget.select(forget.rows[drawn.to(forget.rows.device)])

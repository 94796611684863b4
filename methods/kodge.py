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
  over batches and classes; the d x n matrix never exists, and no cap on tokens is needed.
- the retain side is the sum over all classes less the forgotten ones, so all class requests of a network
  share one pass; each class has an equal share of the patches.
- of several classes all are left out of the retain side; the released code leaves out the first alone.
- (alpha_r, alpha_f) are chosen by ACC_r (1 - ACC_f) on validation data. The released search scores
  the test set.
- windows and patches are drawn from the run's seed; the released code leaves them to unseeded generators.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.layers import Call, Convolution, linear_calls
from bench.problem import Problem
from bench.training import View, accuracy_per_class, predict
from methods.base import CLASS_REQUESTS, Card, Count, Method, Paper, Positive

Grams = dict[str, Tensor]  # layer -> sums of a a^T, [groups, d, d]
BATCH = 100  # forward batch: bounds the memory of unfolded patches


def gram_solve(weight: Tensor, gram: Tensor, alpha: float) -> Tensor:
    """W M for M = alpha C ((alpha - 1) C + I)^-1, C = gram / tr gram, without forming M.

    The matrix to factor has eigenvalues between 1 and alpha, so its condition is at most
    max(alpha, 1 / alpha) and float32 suffices.

    Args:
        weight: [..., out, d].
        gram: symmetric, positive semi-definite, [..., d, d]; a gram of zeros gives M = 0.
    """
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    c = gram / torch.where(trace > 0, trace, 1)
    factor = torch.linalg.cholesky((alpha - 1) * c + torch.eye(c.shape[-1], dtype=c.dtype, device=c.device))
    return torch.cholesky_solve(alpha * c @ weight.mT, factor).mT


def projection(gram: Tensor, alpha: float) -> Tensor:
    """The scaled projection M itself, [..., d, d]: symmetric, eigenvalues in [0, 1]."""
    return gram_solve(torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device), gram, alpha)


def forget_update(weight: Tensor, retain: Tensor, forget: Tensor, alpha_r: float, alpha_f: float) -> Tensor:
    """W (I - M_f + M_r M_f), for weight [..., out, d] and Gram matrices [..., d, d]."""
    return weight - gram_solve(weight - gram_solve(weight, retain, alpha_r), forget, alpha_f)


def class_score(logits: Tensor, labels: Tensor, forgotten: tuple[int, ...], classes: int) -> float:
    """ACC_r (1 - ACC_f): accuracies over the samples of retained and of forgotten classes.

    Raises:
        ValueError: there is no sample of a forgotten class.
    """
    correct, total = accuracy_per_class(logits, labels, classes)
    if absent := [c for c in forgotten if not total[c]]:
        raise ValueError(
            f"no validation sample of class {absent[0]}, which is to be forgotten: alphas cannot be chosen"
        )
    gone = torch.zeros(classes, dtype=torch.bool, device=labels.device)
    gone[list(forgotten)] = True
    retained = correct[~gone].sum() / total[~gone].sum()
    return float(retained * (1 - correct[gone].sum() / total[gone].sum()))


@dataclass(frozen=True)
class ClassGrams:
    """Gram matrices of all classes together, and of some of them alone."""

    total: Grams
    of_class: dict[int, Grams]

    def without(self, classes: tuple[int, ...]) -> Grams:
        """Those of all other classes: a sum of outer products loses a part by subtraction."""
        return {name: g - sum(self.of_class[c][name] for c in classes) for name, g in self.total.items()}


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

    def prepare(self, model: nn.Module, problem: Problem) -> ClassGrams:
        """Gram matrices of the first samples of each class: their sum, and those of classes that may be forgotten."""
        view = problem.train
        classes = view.labels.unique().tolist()
        kept = len(classes) - 1  # a request forgets one class, or more
        if kept > self.samples:
            raise ValueError(f"samples is {self.samples}, but {kept} classes are retained; give at least that many")
        cap = None if self.max_patches is None else max(1, self.max_patches // max(kept, 1))
        total: Grams = {}
        of_class: dict[int, Grams] = {}
        for c in classes:
            part = first_of_class(view, c, self.samples // max(kept, 1))
            grams = layer_grams(model, part, self.window, cap, partial(draw, problem, f"class {c}"))
            total = {name: total[name] + g for name, g in grams.items()} if total else dict(grams)
            if c in problem.forgotten_classes:
                of_class[c] = grams
        return ClassGrams(total, of_class)

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if not problem.forgotten_classes:
            raise ValueError("Kodge forgets whole classes; this forget set holds none whole")
        alphas_r = sorted(_tuple(self.alpha_r), reverse=True)  # least change first: the first best wins
        alphas_f = sorted(_tuple(self.alpha_f))
        retain = self.shared(model, problem).without(problem.forgotten_classes)
        drawn = some_of(problem.forget, self.samples, problem)
        forget = layer_grams(model, drawn, self.window, self.max_patches, partial(draw, problem, "forget set"))

        candidate, best, best_score = copy.deepcopy(model), copy.deepcopy(model), float("-inf")
        slots = {name: p for name, p in candidate.named_parameters() if name in retain}
        weights = {name: grouped(p.detach().clone(), len(retain[name])) for name, p in slots.items()}
        leftover = [{n: w - gram_solve(w, retain[n], a) for n, w in weights.items()} for a in alphas_r]
        choose = len(alphas_r) * len(alphas_f) > 1
        if choose:
            best_score = self.score(model, problem)  # a choice must beat the original, else there is none
            problem.notes.update(alpha_r=None, alpha_f=None)
        for alpha_f in alphas_f:
            for alpha_r, rest in zip(alphas_r, leftover, strict=True):
                for name, weight in weights.items():
                    updated = weight - gram_solve(rest[name], forget[name], alpha_f)
                    slots[name].data.copy_(updated.reshape(slots[name].shape))
                score = self.score(candidate, problem) if choose else 0.0
                if score > best_score:
                    best, best_score = copy.deepcopy(candidate), score
                    problem.notes.update(alpha_r=alpha_r, alpha_f=alpha_f)
        return best.eval()

    def score(self, model: nn.Module, problem: Problem) -> float:
        view = problem.validation
        return class_score(predict(model, view), view.labels, problem.forgotten_classes, problem.classes)


def draw(problem: Problem, part: str, weight: str) -> torch.Generator:
    return problem.generator(f"patches of {part}: {weight}")


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def first_of_class(view: View, c: int, count: int) -> View:
    """The first `count` samples of a class in the data set's order, or all of them if there are fewer."""
    return view.select(view.rows[view.labels == c][:count])


def some_of(forget: View, samples: int, problem: Problem) -> View:
    """`samples` of the forget set, or all of it if there are fewer."""
    drawn = torch.randperm(len(forget), generator=problem.generator("forget samples"))[:samples]
    return forget.select(forget.rows[drawn.to(forget.rows.device)])


def grouped(weight: Tensor, groups: int) -> Tensor:
    """A layer's weight as [groups, out / groups, d]."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


@torch.no_grad()
def layer_grams(
    model: nn.Module,
    view: View,
    window: int | None,
    max_patches: int | None,
    draw: Callable[[str], torch.Generator],
) -> Grams:
    """Sums of a a^T over the inputs of every linear map, by its weight's name: one pass, in eval mode.

    Args:
        model: left in the mode it had.
        view: the samples whose representations are summed.
        window, max_patches: as in `Kodge`; None takes everything.
        draw: weight's name -> generator for its window and its patches.

    Raises:
        ValueError: a layer's weight was never used, so nothing is known of its inputs.
    """
    grams: Grams = {}
    pickers: dict[tuple[str, int], PatchPicker] = {}
    calls: Counter[str] = Counter()  # of each weight within one forward: a network may use one twice

    def collect(call: Call) -> None:
        if call.convolution is None:
            rows = call.input.reshape(1, -1, call.input.shape[-1])
        else:
            use = call.name, calls[call.name]
            calls[call.name] += 1
            if use not in pickers:
                generator = draw(call.name if use[1] == 0 else f"{call.name}, call {use[1]}")
                kernel = (call.weight.shape[2], call.weight.shape[3])
                pickers[use] = PatchPicker(kernel, call.convolution, len(view), window, max_patches, generator)
            rows = pickers[use](call.input)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        product = rows.mT @ rows
        grams[call.name] = grams[call.name] + product if call.name in grams else product

    was_training = model.training
    model.eval()
    with linear_calls(model, collect):
        for batch in view.batches(BATCH):
            calls.clear()
            model(batch.images)
    model.train(was_training)
    layers = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if unseen := sorted(layers - grams.keys()):
        raise ValueError(f"no input was seen at {', '.join(unseen)}: the network does not use these weights")
    return grams


class PatchPicker:
    """Turns a convolution's input maps into its input patches, [groups, patches, d], batch by batch."""

    def __init__(
        self,
        kernel: tuple[int, int],
        convolution: Convolution,
        images: int,
        window: int | None,
        max_patches: int | None,
        generator: torch.Generator,
    ) -> None:
        self.kernel, self.convolution = kernel, convolution
        self.images, self.window, self.max_patches = images, window, max_patches
        self.generator = generator
        self.corner: tuple[int, int] | None = None
        self.chosen: Tensor | None = None  # sorted positions among all patches of all images
        self.first = 0  # number of patches of the images before this batch

    def __call__(self, maps: Tensor) -> Tensor:
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.convolution.stride, self.convolution.dilation
        maps = F.pad(self.crop(maps), self.convolution.padding)
        patches = maps.unfold(2, (kh - 1) * dh + 1, sh).unfold(3, (kw - 1) * dw + 1, sw)[..., ::dh, ::dw]
        n, _, rows, columns = patches.shape[:4]
        here = torch.arange(n * rows * columns, device=maps.device)
        if self.max_patches is not None:
            here = here[self.wanted(rows * columns, len(here)).to(maps.device)]
        per_image = rows * columns
        picked = patches[here // per_image, :, here % per_image // columns, here % columns]  # [p, channels, kh, kw]
        groups = self.convolution.groups
        return picked.reshape(len(here), groups, maps.shape[1] // groups * kh * kw).transpose(0, 1)

    def crop(self, maps: Tensor) -> Tensor:
        kh, kw = self.kernel
        height, width = maps.shape[2:]
        if self.window is None or width <= self.window * kw:
            return maps
        high, wide = min(self.window * kh, height), self.window * kw
        if self.corner is None:
            top = int(torch.randint(height - high + 1, (), generator=self.generator))
            self.corner = top, int(torch.randint(width - wide + 1, (), generator=self.generator))
        top, left = self.corner
        return maps[:, :, top : top + high, left : left + wide]

    def wanted(self, per_image: int, count: int) -> Tensor:
        """Which of this batch's patches are among the chosen ones, as positions within the batch."""
        assert self.max_patches is not None
        if self.chosen is None:
            drawn = torch.randperm(self.images * per_image, generator=self.generator)
            self.chosen = drawn[: self.max_patches].sort().values
        inside = (self.chosen >= self.first) & (self.chosen < self.first + count)
        positions = self.chosen[inside] - self.first
        self.first += count
        return positions

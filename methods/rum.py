"""RUM: refine the forget set into homogeneous parts, then unlearn part by part, each with an algorithm of its own.

    S = S_1 + S_2 + S_3 by rank of a score;  theta_k = U_k(theta_(k-1); forget S_k, retain D - S_1 - ... - S_k)

Source: Zhao, Kurmanji, Barbulescu, Triantafillou and Triantafillou, "What makes unlearning hard and what
to do about it", NeurIPS 2024 (arXiv:2406.01257), section 5: three equal parts of low, medium and high
memorization, in this order; nothing is done for the first, fine-tuning for the second, SalUn for the
third. Parts that are still to come stay in the retain set. With one algorithm for all parts this is their
RUM^F; `control` gives the two rows that it is compared with: 'vanilla', the (last part's) algorithm on
the whole forget set at once, and 'shuffle', the same sizes and algorithms with parts drawn at random.
What differs, and why: every step starts from the network that the step before left. The released code
reloads the original for each step (main_forget.py, lines 666 to 683), and ranks SalUn's mask upside down.

`score` may be 'memorization' (estimated from many networks), a proxy ('confidence', 'holdout',
'curvature'), or 'distance' (of the embedding to the centre of all, for entanglement). For confidence
high means little memorised, so that the order of the parts is turned round. Scores are taken once; the
authors compute 'holdout' anew between steps, and for 'distance' take all parts out of the retain set at once.
"""

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

import methods
from bench.errors import BadInput
from bench.problem import Problem
from bench.requests import HIGH_IS_MEMORIZED
from methods.base import EVERY_REQUEST, Card, Method, Paper, Statement

NOTHING = "original"


class Algorithm(Statement):
    """A method by its name in the registry, and its hyperparameters."""

    method: str
    hyperparameters: dict[str, Any] = Field(default_factory=dict)


class RUM(Method):
    card = Card(
        paper=Paper(
            title="What makes unlearning hard and what to do about it",
            authors="Zhao, Kurmanji, Barbulescu, Triantafillou, Triantafillou",
            venue="NeurIPS",
            year=2024,
            url="https://arxiv.org/abs/2406.01257",
        ),
        serves=EVERY_REQUEST,
        reads=frozenset({"forget", "retain", "scores"}),
        labels=True,
        trains=True,
    )

    score: Literal["memorization", "confidence", "holdout", "curvature", "distance"] = "memorization"
    parts: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = (
        Algorithm(method=NOTHING),
        Algorithm(method="finetune", hyperparameters={"epochs": 10, "lr": 0.1}),
        Algorithm(method="salun", hyperparameters={"epochs": 5, "lr": 0.1}),
    )
    control: Literal["vanilla", "shuffle"] | None = None

    @model_validator(mode="after")
    def _algorithms_exist(self) -> "RUM":
        try:
            algorithms = self.algorithms()
        except BadInput as error:
            raise ValueError(str(error)) from None
        for part, algorithm in zip(self.parts, algorithms, strict=True):
            if not (algorithm.card.reads <= self.card.reads and algorithm.card.serves == EVERY_REQUEST):
                raise ValueError(
                    f"parts: {part.method} cannot serve a part: it wants validation data, or whole classes"
                )
        return self

    def uses(self) -> frozenset[str]:
        return frozenset(part.method for part in self.parts).union(*(a.uses() for a in self.algorithms()))

    def algorithms(self) -> list[Method]:
        return [methods.create(part.method, part.hyperparameters, "parts") for part in self.parts]

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        ((_, left),) = deque(self.steps(model, problem), maxlen=1)
        return left

    def steps(self, model: nn.Module, problem: Problem) -> Iterator[tuple[str, nn.Module]]:
        """Of each part that is not empty the name of its algorithm, and the network after its step."""
        last = -1 if self.control == "vanilla" else 0
        used, algorithms = self.parts[last:], self.algorithms()[last:]
        parts = self.refine(problem, len(algorithms))
        waiting = torch.cat(parts)
        for step, (algorithm, rows) in enumerate(zip(algorithms, parts, strict=True)):
            waiting = waiting[~torch.isin(waiting, rows)]
            if len(rows):
                retain = torch.cat([problem.retain.rows, waiting])
                task = problem.part(rows, retain, step).only(algorithm.card.reads)
                model = algorithm.unlearn(model, task)
                yield used[step].method, model

    def refine(self, problem: Problem, count: int) -> list[Tensor]:
        """The forget set in so many parts of equal size (the first ones larger by one), least memorised first."""
        rows = problem.forget.rows
        if count == 1:  # whatever the order
            return [rows]
        if self.control == "shuffle":
            order = torch.randperm(len(rows), generator=problem.generator("shuffled parts")).to(rows.device)
        else:
            score = problem.score(self.score)[rows]
            order = torch.sort(score if HIGH_IS_MEMORIZED.get(self.score, True) else -score, stable=True).indices
        sizes = [len(part) for part in np.array_split(np.arange(len(rows)), count)]
        return [part.sort().values for part in rows[order].split(sizes)]

"""The contract of an unlearning method, and the types of its hyperparameters."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from bench.problem import Problem
from bench.requests import Kind

CLASS_REQUESTS: frozenset[Kind] = frozenset({"class", "classes"})
EVERY_REQUEST: frozenset[Kind] = frozenset(get_args(Kind))

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=2)]


class Statement(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(Statement):
    """Where a method was published."""

    title: str
    authors: str
    venue: str
    year: int
    url: str


class Card(Statement):
    """What a method is and what it needs: the access card that the leaderboard shows.

    Attributes:
        paper: its source; none for the reference rows.
        serves: the kinds of request that it is meant for; others are shown as not served.
        reads: the data that it may touch, of 'forget', 'retain', 'validation' and 'scores'; asking
            the problem for another makes the run fail.
        labels: whether it reads labels.
        trains: whether it takes gradient steps.
        shares: whether it has a `prepare`, whose round serves all targets of a seed.
    """

    paper: Paper | None = None
    serves: frozenset[Kind]
    reads: frozenset[Literal["forget", "retain", "validation", "scores"]]
    labels: bool
    trains: bool
    shares: bool = False


class Method(BaseModel, ABC):
    """An unlearning method; its fields are its hyperparameters.

    A subclass states its `card` and implements `unlearn`; one whose targets share work implements
    `prepare` too. Unknown hyperparameters and values out of
    range raise pydantic's ValidationError.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    card: ClassVar[Card]

    @abstractmethod
    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        """A network of the same architecture that has forgotten `problem.forget`.

        `model`, the original, is left as it is; so are global random state and grad mode. All draws
        come from the problem. Only data that the card names may be read.
        """

    def uses(self) -> frozenset[str]:
        """Names of the other methods that this one calls; a change of their files makes its results stale."""
        return frozenset()

    def prepare(self, model: nn.Module, problem: Problem) -> Any:
        """What all targets of a seed share, made once from `problem.train`; `unlearn` gets it by `shared`.

        It may depend on `problem.forgotten_classes`, the classes that any target forgets. Its cost
        is split evenly over the targets.
        """
        return None

    def shared(self, model: nn.Module, problem: Problem) -> Any:
        """What `prepare` made; without a round before (in a notebook, in a later step) it is made now."""
        return self.prepare(model, problem.pool()) if problem.prepared is None else problem.prepared

"""The contract of an unlearning method, and the types of its hyperparameters."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from bench.problem import Problem

Kind = Literal["class", "random"]
EVERY_REQUEST: frozenset[Kind] = frozenset({"class", "random"})
CLASS_REQUESTS: frozenset[Kind] = frozenset({"class"})

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
        reads: the data that it may touch, of 'forget', 'retain', 'validation'; asking the problem
            for another makes the run fail.
        labels: whether it reads labels.
        trains: whether it takes gradient steps.
    """

    paper: Paper | None = None
    serves: frozenset[Kind]
    reads: frozenset[Literal["forget", "retain", "validation"]]
    labels: bool
    trains: bool


class Method(BaseModel, ABC):
    """An unlearning method; its fields are its hyperparameters.

    A subclass states its `card` and implements `unlearn`. Unknown hyperparameters and values out of
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

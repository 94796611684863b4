"""What may be asked to be forgotten: the requests of params.yaml as typed models, their targets, their rows."""

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Kind = Literal["class", "classes", "random", "subclass", "memorized", "entangled", "poison", "confusion"]
Level = Literal["low", "medium", "high", "mixed"]
Score = Literal["memorization", "confidence", "holdout", "curvature"]
HIGH_IS_MEMORIZED = {"memorization": True, "confidence": False, "holdout": True, "curvature": True}


class Facts(NamedTuple):
    """What params.yaml needs to know of a data set."""

    images: str  # the set whose images these are; two sets of one name share some
    classes: int | None  # None: the folder says
    subclasses: int = 0  # 0: its classes have none
    folder: bool = False  # of image files, which are brought to a size


DATASETS = {
    "digits": Facts("digits", 10),
    "digits-parity": Facts("digits", 2, subclasses=10),
    "mnist": Facts("mnist", 10),
    "fashion-mnist": Facts("fashion-mnist", 10),
    "svhn": Facts("svhn", 10),
    "cifar10": Facts("cifar10", 10),
    "cifar100": Facts("cifar100", 100),
    "cifar20": Facts("cifar100", 20, subclasses=100),
    "tiny-imagenet": Facts("imagenet", 200),
    "imagenet": Facts("imagenet", 1000, folder=True),
    "imagefolder": Facts("imagefolder", None, folder=True),
}


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError("a name has lower-case letters, digits, '-' and '_' alone")
    return value


def no_duplicates(values: list[Any]) -> list[Any]:
    """The values, each of which may stand once; else `ValueError`."""
    if repeated := sorted({v for v in values if values.count(v) > 1}):
        raise ValueError(f"duplicates: {', '.join(map(str, repeated))}; each may stand once")
    return values


Name = Annotated[str, AfterValidator(_name)]
Proportion = Annotated[float, Field(gt=0, lt=1)]
Discovered = Annotated[float, Field(gt=0, le=1)]  # share of the manipulated samples that is known
ClassIndex = Annotated[int, Field(ge=0)]
Classes = Annotated[list[ClassIndex], Field(min_length=1), AfterValidator(no_duplicates)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(no_duplicates)]


class Section(BaseModel):
    """A block of params.yaml: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassRequest(Section):
    """Forget all training images of a class; one target a class."""

    kind: Literal["class"]
    targets: Annotated[list[ClassIndex], Field(min_length=1), AfterValidator(no_duplicates)]


class ClassesRequest(Section):
    """Forget several classes at once; one target a list, of which each may be longer than the one before."""

    kind: Literal["classes"]
    targets: Annotated[list[Classes], Field(min_length=1)]

    @field_validator("targets")
    @classmethod
    def _different(cls, targets: list[list[int]]) -> list[list[int]]:
        no_duplicates([tuple(sorted(t)) for t in targets])
        return targets


class SubclassRequest(Section):
    """Forget a subclass of a superclass that the network tells apart; one target a subclass."""

    kind: Literal["subclass"]
    targets: Annotated[list[ClassIndex], Field(min_length=1), AfterValidator(no_duplicates)]


class RandomRequest(Section):
    """Forget a fraction of the training set drawn uniformly, the same for every seed and method."""

    kind: Literal["random"]
    fraction: Proportion


class MemorizedRequest(Section):
    """Forget samples chosen by memorization, or by a proxy of it (RUM, arXiv:2406.01257, section 4)."""

    kind: Literal["memorized"]
    level: Level
    size: Annotated[int, Field(ge=1)]
    score: Score = "memorization"


class EntangledRequest(Section):
    """Forget samples chosen by their distance to the centre of all embeddings (RUM, arXiv:2406.01257, section 4)."""

    kind: Literal["entangled"]
    level: Level
    size: Annotated[int, Field(ge=1)]


class PoisonRequest(Section):
    """Forget what is known of a poisoned training set (`bench.corruption`); the rest of the poison stays."""

    kind: Literal["poison"]
    discovered: Discovered = 1.0


class ConfusionRequest(Section):
    """Forget what is known of the images whose two classes were confused (`bench.corruption`); the rest stays."""

    kind: Literal["confusion"]
    discovered: Discovered = 1.0


Single = Annotated[
    ClassRequest
    | ClassesRequest
    | SubclassRequest
    | RandomRequest
    | MemorizedRequest
    | EntangledRequest
    | PoisonRequest
    | ConfusionRequest,
    Field(discriminator="kind"),
]


class SequentialRequest(Section):
    """Requests served one after another, each on the network that the last one left; a target a step.

    A step's target holds all that is forgotten so far. A step with several targets is several steps.
    """

    kind: Literal["sequential"]
    steps: Annotated[list[Single], Field(min_length=1)]


Request = Annotated[Single | SequentialRequest, Field(discriminator="kind")]


def not_in(dataset: str, section: Any) -> list[str]:
    """What a request asks for that the data set does not have."""
    facts = DATASETS[dataset]
    match section:
        case ClassRequest() | ClassesRequest():
            count, what = facts.classes, "class"
            asked = [c for t in section.targets for c in (t if isinstance(t, list) else [t])]
        case SubclassRequest():
            count, what, asked = facts.subclasses, "subclass", section.targets
            if not count:
                some = ", ".join(name for name, facts in DATASETS.items() if facts.subclasses)
                return [f"kind: {dataset} has no subclasses; there are some in: {some}"]
        case _:
            return []
    plural = "classes" if what == "class" else "subclasses"
    return [
        f"targets: {what} {c} is not in {dataset}, whose {plural} are 0 to {count - 1}"
        for c in sorted(set(asked))
        if count is not None and c >= count
    ]


def steps(name: str, request: Any) -> dict[str, Any]:
    """The sections of a request that each name forget sets, by their keys: its steps ('name.steps.0'), or itself."""
    if isinstance(request, SequentialRequest):
        return {f"{name}.steps.{k}": step for k, step in enumerate(request.steps)}
    return {name: request}


def kinds(request: Any) -> frozenset[str]:
    """The kinds that a method must serve for this request."""
    return frozenset(section.kind for section in steps("", request).values())


def target_names(name: str, request: Any) -> list[str]:
    """Names of a request's targets, each a folder of runs: 'class-3', 'classes-0-1', 'sequential-2', 'random'."""
    match request:
        case ClassRequest() | SubclassRequest():
            return [f"{name}-{c}" for c in request.targets]
        case ClassesRequest():
            return ["-".join([name, *map(str, classes)]) for classes in request.targets]
        case SequentialRequest():
            count = sum(len(target_names(name, step)) for step in request.steps)
            return [f"{name}-{k}" for k in range(1, count + 1)]
    return [name]


def rows(name: str, request: Any) -> dict[str, list[str]]:
    """The leaderboard's rows of a request and the targets that each is the mean of.

    Targets that are alike (single classes) are averaged; lists of classes and steps stand apart.
    """
    names = target_names(name, request)
    if isinstance(request, ClassesRequest | SequentialRequest):
        return {target: [target] for target in names}
    return {name: names}


def row_kinds(name: str, request: Any) -> dict[str, frozenset[str]]:
    """The kinds that a method must serve for each of these rows: in a sequence, those of the steps so far."""
    if not isinstance(request, SequentialRequest):
        return dict.fromkeys(rows(name, request), kinds(request))
    found: list[frozenset[str]] = []
    for key, step in steps(name, request).items():
        so_far = (found[-1] if found else frozenset()) | {step.kind}
        found += [so_far] * len(target_names(key, step))
    return dict(zip(rows(name, request), found, strict=True))


REQUESTS: dict[str, type[BaseModel]] = {
    "class": ClassRequest,
    "classes": ClassesRequest,
    "subclass": SubclassRequest,
    "random": RandomRequest,
    "memorized": MemorizedRequest,
    "entangled": EntangledRequest,
    "poison": PoisonRequest,
    "confusion": ConfusionRequest,
    "sequential": SequentialRequest,
}

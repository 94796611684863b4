"""params.yaml as typed models: the only reader of parameters.

`load` reads the file and collects everything that is wrong with it into one `BadInput`, each line
naming its key and what is allowed. Hyperparameters of methods are checked by `check_methods`, which
imports the method files (and so torch); judging does without.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bench.errors import BadInput

PARAMS = Path("params.yaml")
METHODS = Path(__file__).resolve().parent.parent / "methods"

Dataset = Literal["digits", "digits-parity"]
Architecture = Literal["resnet-small", "vit-small"]
Kind = Literal["class", "classes", "random", "subclass", "memorized", "entangled"]
Optimizer = Literal["sgd", "adam"]
Schedule = Literal["constant", "one-cycle", "cosine"]
Level = Literal["low", "medium", "high", "mixed"]
Score = Literal["memorization", "confidence", "holdout", "curvature"]
HIGH_IS_MEMORIZED = {"memorization": True, "confidence": False, "holdout": True, "curvature": True}
CLASSES: dict[str, int] = {"digits": 10, "digits-parity": 2}
SUBCLASSES: dict[str, int] = {"digits-parity": 10}  # of the data sets whose classes have some


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError("a name has lower-case letters, digits, '-' and '_' alone")
    return value


def _no_duplicates(values: list[Any]) -> list[Any]:
    if repeated := sorted({v for v in values if values.count(v) > 1}):
        raise ValueError(f"duplicates: {', '.join(map(str, repeated))}; each may stand once")
    return values


Name = Annotated[str, AfterValidator(_name)]
Proportion = Annotated[float, Field(gt=0, lt=1)]
ClassIndex = Annotated[int, Field(ge=0)]
Classes = Annotated[list[ClassIndex], Field(min_length=1), AfterValidator(_no_duplicates)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_no_duplicates)]


class Section(BaseModel):
    """A block of params.yaml: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Section):
    """How a network is trained: SGD (Nesterov where `nesterov`), or Adam, which takes no momentum from here."""

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Optimizer = "sgd"
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    nesterov: bool = False
    schedule: Schedule = "constant"

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Recipe":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ClassRequest(Section):
    """Forget all training images of a class; one target a class."""

    kind: Literal["class"]
    targets: Annotated[list[ClassIndex], Field(min_length=1), AfterValidator(_no_duplicates)]


class ClassesRequest(Section):
    """Forget several classes at once; one target a list, of which each may be longer than the one before."""

    kind: Literal["classes"]
    targets: Annotated[list[Classes], Field(min_length=1)]

    @field_validator("targets")
    @classmethod
    def _different(cls, targets: list[list[int]]) -> list[list[int]]:
        _no_duplicates([tuple(sorted(t)) for t in targets])
        return targets


class SubclassRequest(Section):
    """Forget a subclass of a superclass that the network tells apart; one target a subclass."""

    kind: Literal["subclass"]
    targets: Annotated[list[ClassIndex], Field(min_length=1), AfterValidator(_no_duplicates)]


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


Single = Annotated[
    ClassRequest | ClassesRequest | SubclassRequest | RandomRequest | MemorizedRequest | EntangledRequest,
    Field(discriminator="kind"),
]


class SequentialRequest(Section):
    """Requests served one after another, each on the network that the last one left; a target a step.

    A step's target holds all that is forgotten so far. A step with several targets is several steps.
    """

    kind: Literal["sequential"]
    steps: Annotated[list[Single], Field(min_length=1)]


Request = Annotated[Single | SequentialRequest, Field(discriminator="kind")]


class Memorization(Section):
    """How memorization and its proxies are estimated (Feldman and Zhang, arXiv:2008.03703, section 2)."""

    models: Annotated[int, Field(ge=2)]  # networks trained, each on a subset of its own
    share: Proportion = 0.7  # of the training set in a subset
    training: Recipe | None = None  # by default the benchmark's


class Benchmark(Section):
    """Data set, network, base-training recipe, requests and seeds: one tab of the leaderboard."""

    dataset: Dataset
    validation: Proportion  # share of the training part held out, stratified by class
    architecture: Architecture
    training: Recipe
    memorization: Memorization | None = None  # wanted by the requests `memorized` and `entangled`, and by RUM
    hyperparameters: Name | None = None  # of methods: those of this other benchmark, where its own are not given
    requests: Annotated[dict[Name, Request], Field(min_length=1)]
    seeds: Seeds

    @field_validator("requests")
    @classmethod
    def _targets(cls, requests: dict[str, Any], info: Any) -> dict[str, Any]:
        """Every class is in the data set, scores are computed, and no two targets share a name (and so a folder)."""
        dataset, wrong = info.data.get("dataset", ""), []
        for name, request in requests.items():
            for key, section in steps(name, request).items():
                wrong += [f"{key}.{line}" for line in _not_in(dataset, section)]
                if section.kind in {"memorized", "entangled"} and info.data.get("memorization", "wrong") is None:
                    wrong.append(f"{key}.kind: {section.kind} needs the benchmark's `memorization: {{models: ...}}`")
        names = [n for name, request in requests.items() for n in {*target_names(name, request), *rows(name, request)}]
        names += ["prepared"]  # the folder of what targets share
        repeated = sorted({n for n in names if names.count(n) > 1})
        wrong += [f"two targets are called '{n}'; rename a request, or leave one out" for n in repeated]
        if wrong:
            raise ValueError("; ".join(wrong))
        return requests


def _not_in(dataset: str, section: Any) -> list[str]:
    """What a request asks for that the data set does not have."""
    match section:
        case ClassRequest() | ClassesRequest():
            count, what = CLASSES.get(dataset, math.inf), "class"
            asked = [c for t in section.targets for c in (t if isinstance(t, list) else [t])]
        case SubclassRequest():
            count, what, asked = SUBCLASSES.get(dataset, 0 if dataset else math.inf), "subclass", section.targets
            if not count:
                return [f"kind: {dataset} has no subclasses; there are some in: {', '.join(SUBCLASSES)}"]
        case _:
            return []
    plural = "classes" if what == "class" else "subclasses"
    return [
        f"targets: {what} {c} is not in {dataset}, whose {plural} are 0 to {count - 1}"
        for c in sorted(set(asked))
        if c >= count
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


class Params(Section):
    """The whole of params.yaml."""

    run: Annotated[list[Name], Field(min_length=1), AfterValidator(_no_duplicates)]
    benchmarks: dict[Name, Benchmark]
    methods: dict[Name, dict[str, Any]]

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark of that name; `BadInput` with the nearest name if there is none."""
        if name not in self.benchmarks:
            raise BadInput(f"{PARAMS}: benchmarks: {unknown(name, self.benchmarks, 'benchmark')}")
        return self.benchmarks[name]

    def hyperparameters(self, method: str, benchmark: str) -> dict[str, Any]:
        """A method's hyperparameters on a benchmark: its own block, overridden under `benchmarks:`.

        A benchmark without an entry there takes that of the benchmark which it names under `hyperparameters`.
        """
        block = dict(self._block(method))
        block.pop("method", None)
        overrides = block.pop("benchmarks", {})
        other = self.benchmarks[benchmark].hyperparameters if benchmark in self.benchmarks else None
        return block | overrides.get(benchmark, overrides.get(other, {}))

    def file(self, method: str) -> str:
        """The file in `methods/` of an entry: the one that `method:` names (a variant), else its own name's."""
        return self._block(method).get("method", method)

    def _block(self, method: str) -> dict[str, Any]:
        if method not in self.methods:
            raise BadInput(f"{PARAMS}: methods: {unknown(method, self.methods, 'method')}")
        return self.methods[method]

    @field_validator("methods", mode="before")
    @classmethod
    def _empty_block(cls, methods: Any) -> Any:
        if isinstance(methods, dict):  # `retrain:` with nothing after it is an empty block
            return {name: {} if block is None else block for name, block in methods.items()}
        return methods


def unknown(name: object, known: Iterable[str], what: str) -> str:
    """'unknown method 'salum': did you mean 'salun'?', or the list of what there is."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known) or 'none'}"
    return f"unknown {what} '{name}'; {hint}"


def method_files(folder: Path = METHODS) -> list[str]:
    """Names of the methods in the folder: every module but the contract and the shared steps."""
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in {"__init__", "base", "steps"})


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        BadInput: the file is missing or not YAML, or any key is wrong; all of it in one message.
    """
    raw = read_yaml(path)
    found: list[str] = []
    params = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        found += explain(error, _section_at)
    found += _cross_references(raw)
    if found or params is None:
        raise BadInput("\n".join(f"{path}: {line}" for line in found))
    return params


def read_yaml(path: Path) -> Any:
    """The file as YAML 1.2, which DVC reads too (PyYAML's 1.1 takes `1e-3` for a string)."""
    try:
        raw = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file here; run the command from the root of the project") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: must be a mapping with the keys {', '.join(Params.model_fields)}")
    return raw


def _cross_references(raw: Mapping[str, Any]) -> list[str]:
    """What one part of the file says of another, and what the folder `methods/` says of both."""
    found = []
    benchmarks, methods, run = raw.get("benchmarks"), raw.get("methods"), raw.get("run")
    if isinstance(run, list) and isinstance(benchmarks, dict):
        found += [
            f"run: {unknown(n, benchmarks, 'benchmark')}" for n in run if isinstance(n, str) and n not in benchmarks
        ]
    if isinstance(benchmarks, dict):
        named = {n: b.get("hyperparameters") for n, b in benchmarks.items() if isinstance(b, dict)}
        found += [
            f"benchmarks.{n}.hyperparameters: {unknown(other, benchmarks, 'benchmark')}"
            for n, other in named.items()
            if isinstance(other, str) and other not in benchmarks
        ]
    if not isinstance(methods, dict):
        return found
    files = method_files()
    for name, block in methods.items():
        file = block.get("method", name) if isinstance(block, dict) else name
        if file not in files:
            key = "methods" if file == name else f"methods.{name}.method"
            hint = "a method is a file methods/<name>.py; a variant names its file: `method: <name>`"
            found.append(f"{key}: {unknown(file, files, 'method')}; {hint}")
        overrides = (block or {}).get("benchmarks", {}) if isinstance(block, dict | None) else {}
        if not isinstance(overrides, dict) or not all(isinstance(o, dict) for o in overrides.values()):
            found.append(f"methods.{name}.benchmarks: must map a benchmark's name to hyperparameters")
        elif isinstance(benchmarks, dict):
            found += [
                f"methods.{name}.benchmarks: {unknown(b, benchmarks, 'benchmark')}"
                for b in overrides
                if b not in benchmarks
            ]
    for required in ("original", "retrain"):
        if required not in methods:
            found.append(f"methods: '{required}' is missing; every gap is measured against it")
    return found


def explain(error: ValidationError, section_at: Callable[[tuple[int | str, ...]], type[BaseModel]]) -> list[str]:
    """One line an error: the dotted key, what is wrong with it, what is allowed."""
    lines = []
    for item in error.errors():
        loc = item["loc"]
        if item["type"] == "extra_forbidden":
            reason = unknown(loc[-1], section_at(loc[:-1]).model_fields, "key")
        elif item["type"] == "literal_error":
            reason = unknown(item["input"], re.findall(r"'([^']+)'", item["ctx"]["expected"]), str(loc[-1]))
        elif item["type"].startswith("union_tag"):  # a request's kind; a step is no sequence itself
            kinds = [kind for kind in _REQUESTS if kind != "sequential" or "steps" not in loc]
            loc, tag = (*loc, "kind"), item["ctx"].get("tag")
            reason = unknown(tag, kinds, "kind") if tag else f"field required; there are: {', '.join(kinds)}"
        else:
            reason = item["msg"].removeprefix("Value error, ")
            reason = reason[0].lower() + reason[1:]
            if item["type"] not in {"missing", "value_error"}:
                reason += f" (got {item['input']!r:.80})"
        key = re.sub(_TAG, r"\1", ".".join(map(str, loc)))
        lines.append(f"{key}: {reason}")
    return lines


_REQUESTS: dict[str, type[BaseModel]] = {
    "class": ClassRequest,
    "classes": ClassesRequest,
    "subclass": SubclassRequest,
    "random": RandomRequest,
    "memorized": MemorizedRequest,
    "entangled": EntangledRequest,
    "sequential": SequentialRequest,
}
_TAG = rf"(requests\.[^.]+|steps\.\d+)\.(?:{'|'.join(_REQUESTS)})(?=\.|$)"  # pydantic's path names a request's kind


def _section_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    match loc:
        case ("benchmarks", _):
            return Benchmark
        case ("benchmarks", _, "training") | ("benchmarks", _, "memorization", "training"):
            return Recipe
        case ("benchmarks", _, "memorization"):
            return Memorization
        case ("benchmarks", _, "requests", *_, str(kind)) if kind in _REQUESTS:
            return _REQUESTS[kind]
    return Params

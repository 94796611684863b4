"""params.yaml as typed models: the only reader of parameters.

`load` reads the file and collects everything that is wrong with it into one `BadInput`, each line
naming its key and what is allowed. Hyperparameters of methods are checked by `check_methods`, which
imports the method files (and so torch); judging does without.
"""

import difflib
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

Dataset = Literal["digits"]
Architecture = Literal["resnet-small"]
Kind = Literal["class", "classes", "random", "subclass", "memorized", "entangled"]
Optimizer = Literal["sgd", "adam"]
Schedule = Literal["constant", "one-cycle", "cosine"]
CLASSES: dict[str, int] = {"digits": 10}


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


class RandomRequest(Section):
    """Forget a fraction of the training set drawn uniformly, the same for every seed and method."""

    kind: Literal["random"]
    fraction: Proportion


Request = Annotated[ClassRequest | RandomRequest, Field(discriminator="kind")]


class Benchmark(Section):
    """Data set, network, base-training recipe, requests and seeds: one tab of the leaderboard."""

    dataset: Dataset
    validation: Proportion  # share of the training part held out, stratified by class
    architecture: Architecture
    training: Recipe
    requests: Annotated[dict[Name, Request], Field(min_length=1)]
    seeds: Seeds

    @field_validator("requests")
    @classmethod
    def _targets(cls, requests: dict[str, Request], info: Any) -> dict[str, Request]:
        """Every class is in the data set, and no two targets share a name (and so a folder)."""
        count = CLASSES.get(info.data.get("dataset", ""), float("inf"))
        wrong = [
            f"{name}.targets: class {target} is not in {info.data['dataset']}, whose classes are 0 to {count - 1}"
            for name, request in requests.items()
            if isinstance(request, ClassRequest)
            for target in request.targets
            if target >= count
        ]
        names = [target for name, request in requests.items() for target in target_names(name, request)]
        wrong += [
            f"two targets are called '{n}'; rename a request" for n in sorted({n for n in names if names.count(n) > 1})
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return requests


def target_names(name: str, request: ClassRequest | RandomRequest) -> list[str]:
    """Names of a request's targets, each a folder of runs: 'class-3', 'random'."""
    return [f"{name}-{c}" for c in request.targets] if isinstance(request, ClassRequest) else [name]


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
        """A method's hyperparameters on a benchmark: its own block, overridden under `benchmarks:`."""
        if method not in self.methods:
            raise BadInput(f"{PARAMS}: methods: {unknown(method, self.methods, 'method')}")
        block = dict(self.methods[method])
        overrides = block.pop("benchmarks", {})
        return block | overrides.get(benchmark, {})

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
    if not isinstance(methods, dict):
        return found
    files = method_files()
    for name, block in methods.items():
        if name not in files:
            found.append(f"methods: {unknown(name, files, 'method')}; a method is a file methods/<name>.py")
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
        else:
            reason = item["msg"].removeprefix("Value error, ")
            reason = reason[0].lower() + reason[1:]
            if item["type"] not in {"missing", "value_error"}:
                reason += f" (got {item['input']!r:.80})"
        lines.append(f"{'.'.join(map(str, loc))}: {reason}")
    return lines


def _section_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    match loc:
        case ("benchmarks", _):
            return Benchmark
        case ("benchmarks", _, "training"):
            return Recipe
        case ("benchmarks", _, "requests", _, "class"):
            return ClassRequest
        case ("benchmarks", _, "requests", _, "random"):
            return RandomRequest
    return Params

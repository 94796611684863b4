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

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bench.corruption import ANSWERS, CORRUPTIONS, Corruption, classes_of
from bench.errors import BadInput
from bench.requests import (
    DATASETS,
    REQUESTS,
    Name,
    Proportion,
    Request,
    Section,
    Seeds,
    no_duplicates,
    not_in,
    rows,
    steps,
    target_names,
)
from bench.studies import NAMES

PARAMS = Path("params.yaml")
METHODS = Path(__file__).resolve().parent.parent / "methods"

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "one-cycle", "cosine", "multistep"]
Augmentation = Literal["none", "flip", "crop-flip"]
Precision = Literal["float32", "tf32", "bf16"]

NETWORKS = (  # those of bench/models.py; any other is `timm/NAME` or `torchvision/NAME`
    "resnet-small",
    "resnet-tiny",
    "vit-small",
    "resnet18-cifar",
    "vgg11-bn-cifar",
    "vgg16-bn-cifar",
)


class Recipe(Section):
    """How a network is trained: SGD (Nesterov where `nesterov`), or Adam or AdamW, which take no momentum from here.

    Of a benchmark's recipe, `augmentation` and `precision` hold for what its methods train as well. Precision is that
    of products of float32 numbers: as they are, with factors rounded to TF32 (on a GPU; a CPU has none), or in
    bfloat16 (on either); predictions are never below TF32.
    """

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Optimizer = "sgd"
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    nesterov: bool = False
    schedule: Schedule = "constant"
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()  # epochs after which 'multistep' multiplies lr by gamma
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 0  # epochs in which lr rises linearly, before the schedule begins
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = "none"  # of training batches; crops are out of 4 pixels of black around
    precision: Precision = "float32"
    compile: bool = False  # by torch.compile, on a GPU; up to minutes once a process, and other last bits
    gpus: Annotated[int, Field(ge=1)] = 1  # over which each batch is split

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if bool(self.milestones) != (self.schedule == "multistep"):
            raise ValueError("milestones and `schedule: multistep` go together")
        if self.batch_size % self.gpus:
            raise ValueError(f"batches of {self.batch_size} do not split evenly over {self.gpus} gpus")
        if self.warmup and self.schedule == "one-cycle":
            raise ValueError("one-cycle has a warm-up of its own; leave `warmup` out")
        if self.epochs and max(self.milestones, default=0) >= self.epochs:
            raise ValueError(f"milestone {max(self.milestones)} is not before the last of {self.epochs} epochs")
        if self.epochs and self.warmup >= self.epochs:
            raise ValueError(f"a warm-up of {self.warmup} of {self.epochs} epochs leaves none to train in")
        return self


class Memorization(Section):
    """How memorization and its proxies are estimated (Feldman and Zhang, arXiv:2008.03703, section 2)."""

    models: Annotated[int, Field(ge=2)]  # networks trained, each on a subset of its own
    share: Proportion = 0.7  # of the training set in a subset
    training: Recipe | None = None  # by default the benchmark's


class Probe(Section):
    """What is read from weights: of which seeds unlearned networks are kept, and how they are trained to relearn.

    Relearning is as the benchmark's training, but for a constant learning rate and these steps.
    """

    seeds: Seeds  # of the benchmark's, whose networks are kept
    lr: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1)] = 50
    every: Annotated[int, Field(ge=1)] = 5  # steps between two points of a curve
    shots: Annotated[int, Field(ge=1)] = 5  # of each class, in few-shot recovery
    share: Annotated[float, Field(gt=0, le=1)] = 0.95  # of the original's accuracy, from which on D_f is relearned


def _hash(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8,64}", value):
        raise ValueError("the first 8 to 64 hexadecimal digits of the file's SHA-256")
    return value


class Pretrained(Section):
    """Weights that training starts from: a file, or those that the network's library knows by a tag.

    `on` names the data set that they were trained on, 'other' one that is none of ours. Where its images are the
    benchmark's own, the weights have seen what is to be forgotten, so there is nothing to retrain from and the
    benchmark has no row `retrain`. Images are normalised as those were that the weights were trained on.
    """

    on: str
    tag: str | None = None  # 'IMAGENET1K_V1' (torchvision), 'augreg2_in21k_ft_in1k' (timm)
    file: Path | None = None  # a relative one lies in the folder of data sets
    sha256: Annotated[str, AfterValidator(_hash)] | None = None  # torchvision's own weights state it themselves
    mean: tuple[float, ...] | None = None  # per channel on the scale [0, 1]; by default what the library states,
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None  # for a file the data set's own

    @model_validator(mode="after")
    def _one_of_both(self) -> "Pretrained":
        if (self.tag is None) == (self.file is None):
            raise ValueError("give either `tag` or `file`")
        if self.file is not None and self.sha256 is None:
            raise ValueError("a file needs its `sha256`")
        if (self.mean is None) != (self.std is None):
            raise ValueError("`mean` and `std` go together")
        return self

    @field_validator("on")
    @classmethod
    def _known(cls, on: str) -> str:
        if on not in DATASETS and on != "other":
            raise ValueError(f"{unknown(on, DATASETS, 'dataset')}; 'other' if it is none of these")
        return on


class Data(Section):
    """A data set and how much of it is taken; in params.yaml its name alone will do."""

    name: str
    folder: Path | None = None  # where its files lie; a relative one lies in the folder of data sets
    size: Annotated[int | None, Field(ge=8, validate_default=True)] = None  # pixels, of a data set of image files
    train_images: Annotated[int, Field(ge=2)] | None = None  # of the training part, drawn by class; by default all

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(unknown(name, DATASETS, "dataset"))
        return name

    @field_validator("size")
    @classmethod
    def _where_wanted(cls, size: int | None, info: Any) -> int | None:
        facts = DATASETS.get(info.data.get("name", ""))
        if facts is not None and facts.folder != (size is not None):
            raise ValueError("is wanted for a data set of image files, and for no other")
        return size


class Network(Section):
    """An architecture and what its weights start from; in params.yaml its name alone will do."""

    name: str
    pretrained: Pretrained | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS and not re.fullmatch(r"(timm|torchvision)/[a-z0-9_]+", name):
            raise ValueError(f"{unknown(name, NETWORKS, 'architecture')}, or timm/NAME, or torchvision/NAME")
        return name


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Benchmark(Section):
    """Data set, network, base-training recipe, requests and seeds: one tab of the leaderboard.

    `seeds` are of base training, `unlearning_seeds` of what a method draws on one original (for `retrain`, its
    initialisation), `judging_seeds` of what attacks draw on one run's predictions.
    """

    dataset: Annotated[Data, BeforeValidator(_by_name)]
    validation: Proportion  # share of the training part held out, stratified by class
    architecture: Annotated[Network, BeforeValidator(_by_name)]
    training: Recipe
    corruption: Corruption | None = None  # of the training split, wanted by the requests `poison` and `confusion`
    memorization: Memorization | None = None  # wanted by the requests `memorized` and `entangled`, and by RUM
    hyperparameters: Name | None = None  # of methods: those of this other benchmark, where its own are not given
    skip: dict[Name, str] = Field(default_factory=dict)  # methods that are left out here -> why
    requests: Annotated[dict[Name, Request], Field(min_length=1)]
    seeds: Seeds
    unlearning_seeds: Seeds = Field(default_factory=lambda: [0])
    judging_seeds: Seeds = Field(default_factory=lambda: [0])
    probe: Probe | None = None
    studies: Annotated[list[Name], AfterValidator(no_duplicates)] = Field(default_factory=list)  # bench/studies

    @property
    def oracle(self) -> bool:
        """Whether there is anything to retrain from: weights that have not seen the training set."""
        pretrained = self.architecture.pretrained
        if pretrained is None or pretrained.on == "other":
            return True
        return DATASETS[pretrained.on].images != DATASETS[self.dataset.name].images

    @property
    def probed_seeds(self) -> list[int]:
        """Whose unlearned networks are kept."""
        return self.probe.seeds if self.probe else []

    def left_out(self, method: str) -> str:
        """Why a method has no runs here; empty where it has."""
        if method == "retrain" and not self.oracle:
            return "the pretrained weights have seen the training set"
        return self.skip.get(method, "")

    @field_validator("skip")
    @classmethod
    def _references_stay(cls, skip: dict[str, str]) -> dict[str, str]:
        if references := sorted({"original", "retrain"} & skip.keys()):
            raise ValueError(f"{references[0]} cannot be left out; every gap is measured against it")
        return skip

    @field_validator("corruption")
    @classmethod
    def _within_the_data_set(cls, corruption: Corruption | None, info: Any) -> Corruption | None:
        count = DATASETS[info.data["dataset"].name].classes if "dataset" in info.data else None
        if corruption is None or count is None:
            return corruption
        if wrong := [c for c in classes_of(corruption) if c >= count]:
            name = info.data["dataset"].name
            raise ValueError(f"class {wrong[0]} is not in {name}, whose classes are 0 to {count - 1}")
        return corruption

    @field_validator("probe")
    @classmethod
    def _of_its_seeds(cls, probe: Probe | None, info: Any) -> Probe | None:
        if probe is not None and (others := sorted(set(probe.seeds) - set(info.data.get("seeds", probe.seeds)))):
            raise ValueError(f"seeds: {others[0]} is not among the benchmark's seeds, of which some are probed")
        return probe

    @field_validator("studies")
    @classmethod
    def _known_studies(cls, studies: list[str]) -> list[str]:
        if others := [name for name in studies if name not in NAMES]:
            raise ValueError(unknown(others[0], NAMES, "study"))
        return studies

    @field_validator("requests")
    @classmethod
    def _targets(cls, requests: dict[str, Any], info: Any) -> dict[str, Any]:
        """Every class is in the data set, scores are computed, and no two targets share a name (and so a folder)."""
        data, wrong = info.data.get("dataset"), []
        for name, request in requests.items():
            for key, section in steps(name, request).items():
                if data is not None:
                    wrong += [f"{key}.{line}" for line in not_in(data.name, section)]
                if section.kind in {"memorized", "entangled"} and info.data.get("memorization", "wrong") is None:
                    wrong.append(f"{key}.kind: {section.kind} needs the benchmark's `memorization: {{models: ...}}`")
                if section.kind in ANSWERS and "corruption" in info.data:
                    corruption, answers = info.data["corruption"], ANSWERS[section.kind]
                    if corruption is None or corruption.kind not in answers:
                        needed = f"`corruption: {{kind: {' or '.join(answers)}, ...}}`"
                        wrong.append(f"{key}.kind: {section.kind} needs the benchmark's {needed}")
        names = [n for name, request in requests.items() for n in {*target_names(name, request), *rows(name, request)}]
        names += ["prepared"]  # the folder of what targets share
        repeated = sorted({n for n in names if names.count(n) > 1})
        wrong += [f"two targets are called '{n}'; rename a request, or leave one out" for n in repeated]
        if wrong:
            raise ValueError("; ".join(wrong))
        return requests


class Params(Section):
    """The whole of params.yaml."""

    run: Annotated[list[Name], Field(min_length=1), AfterValidator(no_duplicates)]
    benchmarks: dict[Name, Benchmark]
    methods: dict[Name, dict[str, Any]]

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark of that name; `BadInput` with the nearest name if there is none."""
        if name not in self.benchmarks:
            raise BadInput(f"{PARAMS}: benchmarks: {unknown(name, self.benchmarks, 'benchmark')}")
        return self.benchmarks[name]

    def only(self, benchmark: str) -> "Params":
        """The same with this benchmark alone to run."""
        self.benchmark(benchmark)
        return self.model_copy(update={"run": [benchmark]})

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
    for name, benchmark in (benchmarks if isinstance(benchmarks, dict) else {}).items():
        skip = benchmark.get("skip") if isinstance(benchmark, dict) else None
        found += [
            f"benchmarks.{name}.skip: {unknown(m, methods, 'method')}"
            for m in (skip if isinstance(skip, dict) else {})
            if m not in methods
        ]
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
            kinds = [kind for kind in REQUESTS if kind != "sequential" or "steps" not in loc]
            if "requests" not in loc:
                kinds = list(CORRUPTIONS)
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


_KINDS = "|".join(REQUESTS | CORRUPTIONS)
_TAG = rf"(requests\.[^.]+|steps\.\d+|corruption)\.(?:{_KINDS})(?=\.|$)"  # pydantic's path names a section's kind


def _section_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    match loc:
        case ("benchmarks", _):
            return Benchmark
        case ("benchmarks", _, "training") | ("benchmarks", _, "memorization", "training"):
            return Recipe
        case ("benchmarks", _, "memorization"):
            return Memorization
        case ("benchmarks", _, "corruption", str(kind)) if kind in CORRUPTIONS:
            return CORRUPTIONS[kind]
        case ("benchmarks", _, "probe"):
            return Probe
        case ("benchmarks", _, "dataset"):
            return Data
        case ("benchmarks", _, "architecture"):
            return Network
        case ("benchmarks", _, "architecture", "pretrained"):
            return Pretrained
        case ("benchmarks", _, "requests", *_, str(kind)) if kind in REQUESTS:
            return REQUESTS[kind]
    return Params

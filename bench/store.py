"""The files of the suite: where they are, and how they are written: whole or not at all, never pickled.

    data/plan/BENCHMARK/METHOD/STAGE.json        what a stage depends on beside data: hashes of code, parameters
    data/datasets/BENCHMARK/                     samples.safetensors, audit.json
    data/models/BENCHMARK/seed-S.safetensors     weights of an original
    data/scores/BENCHMARK/                       samples.safetensors, summary.json: memorization, proxies
    data/predictions/BENCHMARK/METHOD/           method.json: the card and the hyperparameters
    data/predictions/BENCHMARK/METHOD/TARGET/    seed-S.safetensors: logits; seed-S.json: the sidecar;
                                                 seed-S.artifacts.safetensors: tensors kept for analysis;
                                                 of a further unlearning seed U: seed-S.U.safetensors, ...
    data/networks/BENCHMARK/METHOD/              TARGET/seed-S.safetensors: weights of networks that are probed;
                                                 index.json: which, and their hashes
    data/costs/BENCHMARK/METHOD.json             seconds and hardware of each run
    data/tables/BENCHMARK/METHOD/                runs.csv (metrics), classes.csv, confusion.csv,
                                                 attack.json (reasons), method.json
    data/probes/BENCHMARK/METHOD/                probes.csv (metrics that need weights), curves.csv, layers.csv
    data/studies/BENCHMARK/                      NAME.csv: tables of small experiments that figures draw
    data/unfinished/STAGE/...                    what a stage that is not finished has made so far
    reports/BENCHMARK/                           leaderboard.csv and .md, tests.csv, ranks.csv, metrics.json,
                                                 timings.csv and .md, figures/

Everything but `data/costs` depends on code, parameters and seeds alone, and so has the same bytes
each time. Times and machines stand in `data/costs`, which no computation reads.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from bench.errors import BadInput

DATA = Path("data")
REPORTS = Path("reports")
VARIABLE = "LETHE_DATA"
SPLITS = ("train", "validation", "test")
DTYPES: dict[str, np.dtype] = {  # of data sets, in the order in which safetensors sorts them
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "U8": np.dtype("u1"),
}
HEADER = ("dtype", "shape", "data_offsets")  # what a safetensors file says of a tensor
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # a tensor's name -> its type, one of DTYPES, and shape


def data_folder() -> Path:
    """LETHE_DATA if set, else `~/.cache/lethe`: published files, shared by all clones on a machine.

    The files lie in it as torchvision lays them out, so its `root` folder serves as well.
    """
    return Path(os.environ.get(VARIABLE) or "~/.cache/lethe").expanduser()


def dataset_folder(benchmark: str) -> Path:
    return DATA / "datasets" / benchmark


def model_file(benchmark: str, seed: int) -> Path:
    return DATA / "models" / benchmark / f"seed-{seed}.safetensors"


def scores_file(benchmark: str) -> Path:
    """Measures of each training sample, float64 [n]; `summary.json` stands beside it."""
    return DATA / "scores" / benchmark / "samples.safetensors"


def plan_file(stage: str, benchmark: str = "", method: str = "") -> Path:
    """What a stage's result depends on beside data (`bench.stages.plan`)."""
    return DATA / "plan" / benchmark / method / f"{stage}.json"


def predictions_folder(benchmark: str, method: str) -> Path:
    return DATA / "predictions" / benchmark / method


def run_file(benchmark: str, method: str, target: str, seed: int, unlearning_seed: int = 0) -> Path:
    """The logits of a run; the sidecar stands beside it with the suffix `.json`."""
    name = f"seed-{seed}.{unlearning_seed}" if unlearning_seed else f"seed-{seed}"
    return predictions_folder(benchmark, method) / target / f"{name}.safetensors"


def artifacts_file(benchmark: str, method: str, target: str, seed: int, unlearning_seed: int = 0) -> Path:
    """Tensors that a method kept for analysis; the target `prepared` holds those that all targets share."""
    return run_file(benchmark, method, target, seed, unlearning_seed).with_suffix(".artifacts.safetensors")


def networks_index(benchmark: str, method: str) -> Path:
    """Of each run whose network was to be kept its target, seeds and SHA-256, none where it failed."""
    return DATA / "networks" / benchmark / method / "index.json"


def network_file(benchmark: str, method: str, target: str, seed: int, unlearning_seed: int = 0) -> Path:
    """Weights of an unlearned network, of the seeds that the benchmark's `probe` names."""
    name = run_file(benchmark, method, target, seed, unlearning_seed).name
    return DATA / "networks" / benchmark / method / target / name


def cost_file(benchmark: str, method: str) -> Path:
    return DATA / "costs" / benchmark / f"{method}.json"


def table_folder(benchmark: str, method: str) -> Path:
    return DATA / "tables" / benchmark / method


def probe_folder(benchmark: str, method: str) -> Path:
    return DATA / "probes" / benchmark / method


def study_folder(benchmark: str) -> Path:
    return DATA / "studies" / benchmark


def study_file(benchmark: str, name: str) -> Path:
    """The table of one of a benchmark's `studies`."""
    return study_folder(benchmark) / f"{name}.csv"


def report_folder(benchmark: str) -> Path:
    return REPORTS / benchmark


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[IO[bytes]]:
    """A file to write whole or not at all: under a temporary name beside it, then to disk, then renamed.

    Raises:
        BadInput: the disk is full, has less room than `size` bytes, or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < size:
            raise BadInput(f"{path}: takes {size / 1e9:,.1f} GB, and the disk has {free / 1e9:,.1f} GB left")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}; nothing half-written was left there") from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; `BadInput` as `writing` has it."""
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A safetensors file without metadata: its bytes depend on names, shapes and values alone."""
    write_bytes(path, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))


@contextmanager
def writing_tensors(path: Path, layout: Layout) -> Iterator[Callable[[str, np.ndarray], None]]:
    """A safetensors file to write piece by piece, with the bytes that `write_tensors` gives it.

    The function that is handed out appends a piece, along the first axis, to the tensor of a name.

    Raises:
        BadInput: as `writing` has it.
        ValueError: the pieces do not make up the tensors.
    """
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name in sorted(layout, key=lambda name: (list(DTYPES).index(layout[name][0]), name)):
        (dtype, shape), begin = layout[name], end
        end = begin + DTYPES[dtype].itemsize * math.prod(shape)
        places[name] = begin, end
    header = {name: dict(zip(HEADER, (*layout[name], place), strict=True)) for name, place in places.items()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first, written = 8 + len(text), dict.fromkeys(layout, 0)
    with writing(path, first + end) as file:
        file.write(len(text).to_bytes(8, "little") + text)

        def append(name: str, piece: np.ndarray) -> None:
            dtype, shape = DTYPES[layout[name][0]], layout[name][1]
            begin, end = places[name]
            if (piece.dtype, piece.shape[1:]) != (dtype, shape[1:]) or piece.nbytes > end - begin - written[name]:
                raise ValueError(f"{name}: {piece.dtype} {piece.shape} does not go into {dtype} {shape}")
            file.seek(first + begin + written[name])
            file.write(np.ascontiguousarray(piece).data)
            written[name] += piece.nbytes

        yield append
        if lacking := [name for name, (begin, end) in places.items() if written[name] < end - begin]:
            raise ValueError(f"not whole: {', '.join(lacking)}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; `dvc repro` makes it") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: damaged ({error}); delete it and run `dvc repro` again") from None


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises:
        BadInput: missing or damaged.
    """
    with _reading(path):
        return load_file(path)


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Map a safetensors file of `DTYPES` into memory: of a tensor is read what is looked at, when it is.

    What is written into the arrays stays in this process. A system that doesn't promise the memory for that (a file
    larger than its memory) gets arrays that can't be written.

    Raises:
        BadInput: missing or damaged.
    """
    with _reading(path):
        with safe_open(path, "numpy"):  # checks the header, and the file's length against it
            pass
        with path.open("rb") as file:
            first = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(first - 8))
        try:
            mapped = np.memmap(path, np.uint8, "c")
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            mapped = np.memmap(path, np.uint8, "r")
        content, tensors = np.asarray(mapped)[first:], {}
        for name, entry in header.items():
            dtype, shape, place = (entry[key] for key in HEADER)
            tensors[name] = content[slice(*place)].view(DTYPES[dtype]).reshape(shape)
        return tensors


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        BadInput: missing or damaged.
    """
    with _reading(path):
        return json.loads(path.read_text())


def sha256(path: Path) -> str:
    with _reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(path: Path, to: Path) -> None:
    """The file under a second name, on filesystems without hard links as a copy; it appears whole or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    try:
        os.link(path, to)
    except OSError:
        with writing(to) as copy, path.open("rb") as original:
            shutil.copyfileobj(original, copy)


@contextmanager
def elsewhere(*inputs: str) -> Iterator[None]:
    """Work in a temporary folder in which only these parts of data/ are seen; results vanish with it."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / DATA
        data.mkdir()
        for name in inputs:
            (data / name).symlink_to((home / DATA / name).resolve())
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(home)

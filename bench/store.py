"""The files of the suite: where they are, and how they are written: whole or not at all, never pickled.

    data/datasets/BENCHMARK/                     samples.safetensors, audit.json
    data/models/BENCHMARK/seed-S.safetensors     weights of an original
    data/scores/BENCHMARK/                       samples.safetensors, summary.json: memorization, proxies
    data/methods/METHOD.json                     hashes of the files that a method consists of
    data/predictions/BENCHMARK/METHOD/           method.json: the card and the hyperparameters
    data/predictions/BENCHMARK/METHOD/TARGET/    seed-S.safetensors: logits; seed-S.json: the sidecar;
                                                 seed-S.artifacts.safetensors: tensors kept for analysis
    data/costs/BENCHMARK/METHOD.json             seconds and hardware of each run
    data/tables/BENCHMARK/METHOD/                runs.csv (metrics), classes.csv, method.json

Everything but `data/costs` depends on code, parameters and seeds alone, and so has the same bytes
each time. Times and machines stand in `data/costs`, which no computation reads.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bench.errors import BadInput

DATA = Path("data")
SPLITS = ("train", "validation", "test")


def dataset_folder(benchmark: str) -> Path:
    return DATA / "datasets" / benchmark


def model_file(benchmark: str, seed: int) -> Path:
    return DATA / "models" / benchmark / f"seed-{seed}.safetensors"


def scores_file(benchmark: str) -> Path:
    """Measures of each training sample, float64 [n]; `summary.json` stands beside it."""
    return DATA / "scores" / benchmark / "samples.safetensors"


def method_hash_file(method: str) -> Path:
    return DATA / "methods" / f"{method}.json"


def predictions_folder(benchmark: str, method: str) -> Path:
    return DATA / "predictions" / benchmark / method


def run_file(benchmark: str, method: str, target: str, seed: int) -> Path:
    """The logits of a run; the sidecar stands beside it with the suffix `.json`."""
    return predictions_folder(benchmark, method) / target / f"seed-{seed}.safetensors"


def artifacts_file(benchmark: str, method: str, target: str, seed: int) -> Path:
    """Tensors that a method kept for analysis; the target `prepared` holds those that all targets share."""
    return predictions_folder(benchmark, method) / target / f"seed-{seed}.artifacts.safetensors"


def cost_file(benchmark: str, method: str) -> Path:
    return DATA / "costs" / benchmark / f"{method}.json"


def table_folder(benchmark: str, method: str) -> Path:
    return DATA / "tables" / benchmark / method


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, to disk, then renamed.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A safetensors file without metadata: its bytes depend on names, shapes and values alone."""
    write_bytes(path, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises:
        BadInput: missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; `dvc repro` makes it") from None
    except SafetensorError as error:
        raise BadInput(f"{path}: damaged ({error}); delete it and run `dvc repro` again") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        BadInput: missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; `dvc repro` makes it") from None
    except ValueError as error:
        raise BadInput(f"{path}: damaged ({error}); delete it and run `dvc repro` again") from None


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

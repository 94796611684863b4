"""Finished jobs of a stage that was stopped, so that it goes on with what was left.

DVC deletes a stage's outputs before it runs the stage. So what a finished job made is also kept beside them, in
`data/unfinished/STAGE/...`, until the stage has finished: hard links to its files and, written last, `job.json` with
their hashes and what the job returned. The folder of a job is named by its fingerprint, the SHA-256 of all that the
result depends on: the stage's code, package versions, parameters, data, and what the stage says of the job. Whatever
changes, the fingerprint does; what nothing asks for any more goes when the stage starts.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import datasets, imports, jobs, provenance, store
from bench.checkpoint import Checkpoint
from bench.config import Params
from bench.errors import BadInput

ELSEWHERE = {
    "requests",
    "seeds",
    "skip",
    "hyperparameters",
    "probe",
}  # of a benchmark: stand in the jobs, where they matter
RECORD = "job.json"
TENSORS = "result.safetensors"


@dataclass(frozen=True)
class Job:
    """A job as `jobs.fan_out` takes it, and what is to be known for keeping what it made.

    Attributes:
        arguments: of the function that is fanned out. It returns what JSON can hold, or arrays by name.
        facts: what its result depends on beside the stage's code and the benchmark's parameters and data: names and
            numbers, arrays, dataclasses, hashes of files.
        files: all that it may write.
    """

    arguments: jobs.Job
    facts: Any
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Unfinished:
    """A stage in the making: where the jobs that it has finished are kept, and what they all depend on."""

    folder: Path
    common: dict[str, Any]

    def fan_out(
        self,
        function: Callable[..., Any],
        todo: list[Job],
        label: str,
        lost: Callable[..., Any] | None = None,
        gpus: int = 1,
    ) -> list[Any]:
        """As `jobs.fan_out`, but a job that had finished before is taken up, and one that finishes is kept."""
        entries = [self.folder / fingerprint(self.common | {"job": job.facts}) for job in todo]
        for old in set(self.folder.glob("*")) - set(entries):
            shutil.rmtree(old, ignore_errors=True)
        found = {i: kept for i, job in enumerate(todo) if (kept := take_up(entries[i], job.files))}
        if found:
            print(f"{label}: {len(found)} of {len(todo)} jobs had finished before and are taken up", flush=True)
        left = [i for i in range(len(todo)) if i not in found]

        def given_up(function: Callable[..., Any], arguments: jobs.Job, entry: Path, files: tuple[Path, ...]) -> Any:
            assert lost is not None
            clear(files)
            return lost(*arguments)

        rest = [(function, todo[i].arguments, entries[i], todo[i].files) for i in left]
        made = jobs.fan_out(run_and_keep, rest, label, given_up if lost else None, gpus)
        results = {i: result for i, (result,) in found.items()} | dict(zip(left, made, strict=True))
        return [results[i] for i in range(len(todo))]


@contextmanager
def unfinished(params: Params, stage: str, benchmark: str, method: str = "") -> Generator[Unfinished, None, None]:
    """What is kept of the stage; it goes when the block ends well, with the stage's outputs written."""
    folder = store.DATA / "unfinished" / stage / benchmark / method
    common = {
        "stage": [stage, benchmark, method],
        "code": imports.hashes(f"bench.stages.{stage}"),
        "versions": provenance.versions(),
        "gpu": bool(jobs.gpus()),
        "parameters": params.benchmark(benchmark).model_dump(mode="json", exclude=ELSEWHERE),
        "data": datasets.content_hash(store.dataset_folder(benchmark)),
    }
    yield Unfinished(folder, common)
    shutil.rmtree(folder, ignore_errors=True)


def fingerprint(facts: Any) -> str:
    """SHA-256 of what a result depends on: of JSON, arrays, sets and dataclasses."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    return sorted(value) if isinstance(value, frozenset) else asdict(value)


_entry: Path | None = None  # of the job that this process runs


def checkpoint(name: str) -> Checkpoint | None:
    """Where the running job may keep the state of a long training, found again if the stage is stopped.

    None where nothing is kept: outside of a stage. It goes when the job has finished.
    """
    return None if _entry is None else Checkpoint(_entry.resolve() / "checkpoints" / name, of=_entry.name)


def run_and_keep(function: Callable[..., Any], arguments: jobs.Job, entry: Path, files: tuple[Path, ...]) -> Any:
    """In a worker: run the job, then keep what it made."""
    global _entry
    clear(files)
    _entry = entry
    try:
        result = function(*arguments)
    finally:
        _entry = None
    made = {str(path): store.sha256(path) for path in files if path.exists()}
    for path in made:
        store.link(Path(path), entry / path)
    if tensors := isinstance(result, dict):
        store.write_tensors(entry / TENSORS, result)
        made[TENSORS] = store.sha256(entry / TENSORS)
    store.write_json(entry / RECORD, {"files": made, "result": None if tensors else result})
    shutil.rmtree(entry / "checkpoints", ignore_errors=True)
    return result


def take_up(entry: Path, files: tuple[Path, ...]) -> tuple[Any] | None:
    """Put the files of a finished job in place and give what it returned; None if it is not, or not wholly, there."""
    try:
        record = store.read_json(entry / RECORD)
        if any(store.sha256(entry / path) != digest for path, digest in record["files"].items()):
            return None
    except (BadInput, OSError):
        return None
    clear(files)
    for path in files:
        if str(path) in record["files"]:
            store.link(entry / path, path)
    return (store.read_tensors(entry / TENSORS) if TENSORS in record["files"] else record["result"],)


def clear(files: tuple[Path, ...]) -> None:
    """Remove what earlier attempts left: the files, and those that a killed worker was writing."""
    for path in files:
        for old in (path, *path.parent.glob(f".{path.name}.*")):
            old.unlink(missing_ok=True)

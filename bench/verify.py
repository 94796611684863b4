"""`verify`: make a sample of the finished files once more, and compare their hashes."""

from pathlib import Path

from bench import store
from bench.config import Params
from bench.errors import BadInput
from bench.forget import Target
from bench.jobs import fan_out
from bench.seeds import numpy_generator
from bench.stages import train, unlearn


def run(params: Params, runs: int) -> str:
    """Repeat one original a benchmark and `runs` jobs, drawn over all benchmarks and methods.

    Raises:
        BadInput: a file differs from the one that the pipeline made, or there is none to compare.
    """
    jobs = [
        job for benchmark in params.run for method in params.methods for job in unlearn.jobs(params, benchmark, method)
    ]
    drawn = sorted(numpy_generator("verify").permutation(len(jobs))[:runs])
    originals = [(params, benchmark, params.benchmark(benchmark).seeds[0]) for benchmark in params.run]
    gpus = max(params.benchmark(benchmark).training.gpus for benchmark in params.run)
    compared = fan_out(repeat_original, originals, "verify originals", gpus=gpus)
    compared += [c for made in fan_out(repeat_job, [jobs[i] for i in drawn], "verify runs", gpus=gpus) for c in made]
    for path, same in compared:
        print(f"{'same     ' if same else 'DIFFERENT'}  {path}")
    different = [path for path, same in compared if not same]
    if different:
        raise BadInput(
            f"{len(different)} of {len(compared)} files differ when made again. They were made by other code, "
            "package versions or hardware, or a method draws from outside its problem's generators. "
            "`dvc repro -f -s STAGE` makes a stage's files anew"
        )
    return f"verify: {len(compared)} files made again, all with the same bytes"


def repeat_original(params: Params, benchmark: str, seed: int) -> tuple[Path, bool]:
    """Train an original again; whether its weights are the same bytes."""
    path = store.model_file(benchmark, seed)
    with store.elsewhere("datasets"):
        train.one(params, benchmark, seed)
        again = store.sha256(path)
    return path, again == _present(path)


def repeat_job(
    params: Params, benchmark: str, method: str, chains: list[list[Target]], seed: int, unlearning_seed: int
) -> list[tuple[Path, bool]]:
    """Unlearn again; of each run, whether predictions and sidecar are the same bytes."""
    seeds = seed, unlearning_seed
    paths = [store.run_file(benchmark, method, target.name, *seeds) for chain in chains for target in chain]
    with store.elsewhere("datasets", "models", "scores"):
        unlearn.one(params, benchmark, method, chains, *seeds)
        again = [_both(path) for path in paths]
    return [(path, made == _both(path)) for path, made in zip(paths, again, strict=True)]


def _both(path: Path) -> list[str | None]:
    files = path.with_suffix(".json"), path, path.with_suffix(".artifacts.safetensors")
    _present(files[0])
    return [store.sha256(file) if file.exists() else None for file in files]


def _present(path: Path) -> str:
    if not path.exists():
        raise BadInput(f"{path}: no such file to compare with; run `dvc repro` or `dvc checkout` first")
    return store.sha256(path)

"""What the suite does on one GPU, in pieces of under ten minutes: `python benchmarks/gpu.py PIECE`.

    throughput    images a second of ResNet-18 at 32x32: in each precision; launched, replayed, compiled
    determinism   what deterministic kernels cost, and whether two processes train to the same bits
    stacking      many small networks on one GPU: one after another, in processes, on streams, stacked by torch.func
    accuracy      seconds to an accuracy on cifar10-jpeg and Fashion-MNIST
    methods       seconds of every method against retraining on cifar10-jpeg-resnet18

The last two read Fashion-MNIST's files and `cifar10-jpeg` (a folder, or packed as cifar10-jpeg.tar.gz) in LETHE_DATA.
`methods` keeps what it has in `--work`; called again, it goes on with what is missing. `--smoke FOLDER` tries a piece
on any machine with next to no work, and puts the table there.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, each, report
from limits import clock, measured, speed
from stacking import SMALL, alone, in_processes, on_streams, stacked
from torch import nn

from bench import config, engine, models, provenance, store
from bench.checkpoint import fingerprint
from bench.config import Benchmark, Recipe
from bench.stages import setting
from bench.training import Samples, View, classification, device, predict, set_determinism, shuffled, train

FAST = {"batch_size": 256, "lr": 0.2, "nesterov": True, "schedule": "one-cycle", "augmentation": "crop-flip"}
MINUTES = 9.0  # after which a piece begins nothing new


@dataclass(frozen=True)
class Scale:
    """How much work: as it is meant, or, to try the script, next to none."""

    smoke: Path | None

    def __call__(self, full: Any, tried: Any) -> Any:
        return tried if self.smoke else full

    @property
    def network(self) -> str:
        return self("resnet18-cifar", "resnet-tiny")

    def report(self, piece: str, title: str, columns: list[str], rows: list[list[str]], notes: list[str]) -> None:
        command = f"python benchmarks/gpu.py {piece}"
        folder = self.smoke or RESULTS
        report(f"gpu_{piece}", title, columns, rows, command=command, notes=notes, folder=folder)


@contextmanager
def launched() -> Iterator[None]:
    """Every step launched kernel by kernel: none is recorded."""
    before, engine.WORTH_RECORDING = engine.WORTH_RECORDING, 10**9
    try:
        yield
    finally:
        engine.WORTH_RECORDING = before


@contextmanager
def any_kernels() -> Iterator[None]:
    """Without determinism, cuDNN choosing by trial."""
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        set_determinism()


def recipe(**changes: Any) -> Recipe:
    return Recipe(epochs=1, **FAST | changes)


def throughput(scale: Scale) -> None:
    """Deterministic throughout."""
    n, shape = scale(50_000, 512), (3, 32, 32)
    types = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
    rows, limits, started = [], {}, time.monotonic()
    cases = [
        ("float32", False, launched, 256),
        ("tf32", False, launched, 256),
        ("bf16", False, launched, 256),
        ("float32", False, nullcontext, 256),
        ("tf32", False, nullcontext, 256),
        ("bf16", False, nullcontext, 128),
        *(("bf16", compiles, nullcontext, size) for size in (256, 512, 1024) for compiles in (False, True)),
        ("bf16", True, launched, 256),
    ]
    for precision, compiles, way, size in scale(cases, cases[2:4]):
        if time.monotonic() - started > 60 * MINUTES:
            break
        if precision not in limits:
            with engine.products(precision, device()):
                limits[precision] = measured(device(), types[precision], scale(0, 64))
        with way():
            of = recipe(precision=precision, compile=compiles, batch_size=size)
            found = speed(scale.network, shape, n, of, limits[precision], scale(3, 1))
        way_of = "launched" if way is launched else "replayed"
        rows.append([precision, f"{way_of}, compiled" if compiles else way_of, str(size), *found.cells()])
        notes = [f"Limits in {name}: {found}." for name, found in limits.items()]
        columns = ["precision", "steps", "batch", "images a second", "of the limit", "start, s"]
        scale.report("throughput", f"Training {scale.network} at 32x32, {n:,} images an epoch", columns, rows, notes)


def bits(architecture: str, of: Recipe, n: int) -> str:
    """A hash of the weights after two epochs on random images."""
    set_determinism()
    draw, to = torch.Generator().manual_seed(1), device()
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=draw)
    samples = Samples(images.to(to), torch.randint(0, 10, (n,), generator=draw).to(to), precision=of.precision)
    view = View(samples, torch.arange(n, device=to), shuffled(n, ("bits",)), augmentation=of.augmentation)
    of = of.model_copy(update={"epochs": 2})
    trained = train(models.build(architecture, (3, 32, 32), 10, 0).to(to), view, classification(of), of)
    return fingerprint("", trained.state_dict().values())


def determinism(scale: Scale) -> None:
    n, shape, rows = scale(50_000, 256), (3, 32, 32), []
    limits = measured(device(), torch.bfloat16, scale(0, 64))
    for precision, compiles in scale([("tf32", False), ("bf16", False), ("bf16", True)], [("bf16", False)]):
        of, rates = recipe(precision=precision, compile=compiles), []
        for way in (nullcontext, any_kernels):
            with way():
                rates.append(speed(scale.network, shape, n, of, limits, scale(3, 1)).images)
        job = scale.network, of, scale(10_000, 256)
        hashes = [bits(*job)]
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            hashes.append(pool.submit(bits, *job).result())
        with launched():
            hashes.append(bits(*job))
        cost = f"{rates[1] / rates[0] - 1:+.1%}"
        same = ["yes" if h == hashes[0] else "no" for h in hashes[1:]]
        rows.append([precision, str(compiles), *(f"{r:,.0f}" for r in rates), cost, *same])
    columns = [
        "precision",
        "compiled",
        "deterministic, images/s",
        "any kernels, images/s",
        "gain",
        "another process alike",
    ]
    columns.append("launched as replayed")
    scale.report("determinism", f"The cost of determinism, {scale.network} at 32x32", columns, rows, [])


def stacking(scale: Scale) -> None:
    rows = []
    for architecture in scale(SMALL, ["resnet-small"]):
        n = scale(SMALL[architecture][1], 96)
        epochs = scale(10 if n < 10_000 else 1, 1)
        with launched():
            one = alone(architecture, n, epochs)
        rows.append([architecture, "1, launched", f"{one:,.0f}", "1.0x"])
        ways: list[tuple[str, Callable[[str, int, int, int], float], tuple[int, ...]]] = [
            ("in processes, replayed", in_processes, scale((1, 2, 4, 8, 12), (1,))),
            ("on streams, replayed", on_streams, scale((2, 4, 8), (2,))),
            ("stacked", stacked, scale((4, 16), (2,))),
        ]
        for name, way, counts in ways:
            for k in counts:
                rate = way(architecture, n, epochs, k)
                rows.append([architecture, f"{k} {name}", f"{rate:,.0f}", f"{rate / one:.1f}x"])
                columns = ["network", "at once", "images a second, all together", "against one, launched"]
                scale.report("stacking", "Many small networks on one device", columns, rows, [])


def unpacked(work: Path) -> Path:
    """The folder of data sets, with `cifar10-jpeg` unpacked where it was packed."""
    folder, archive = store.data_folder(), store.data_folder() / "cifar10-jpeg.tar.gz"
    if (folder / "cifar10-jpeg").exists() or not archive.exists():
        return folder
    beside = work / "sources"
    if not beside.exists():
        beside.mkdir(parents=True)
        shutil.unpack_archive(archive, beside, filter="data")
        for path in folder.iterdir():
            if not (beside / path.name).exists():
                (beside / path.name).symlink_to(path.resolve())
    return beside


def prepared(name: str, benchmark: Benchmark, work: Path) -> dict[str, Samples]:
    """The benchmark's data set on the device, made where it is not there yet."""
    from bench import prepare  # what it needs, the other pieces do without

    folder = work / store.dataset_folder(name)
    if not (folder / "audit.json").exists():
        os.environ[store.VARIABLE] = str(unpacked(work))
        prepare.build(name, benchmark, folder, os.cpu_count() or 1)
    return setting.samples(folder, benchmark)


def trains(into: list[nn.Module], start: nn.Module, view: View, of: Recipe) -> None:
    into.append(train(start, view, classification(of), of))


def accuracy(scale: Scale, work: Path) -> None:
    """Mean and range over seeds of the accuracy on test images, and of the seconds of a training in a warm process."""
    params, rows, started, longest = config.load(ROOT / "params.yaml"), [], time.monotonic(), 0.0
    fashion = {"epochs": 10, "lr": 0.1, "augmentation": "flip"}
    cases = [
        *(("cifar10-jpeg-resnet18", {"epochs": e, "batch_size": b}) for b in (256, 512) for e in (10, 15, 20, 30)),
        *(("fashion-resnet", fashion | {"epochs": e}) for e in (5, 10, 15)),
    ]
    for name, changes in scale(cases, [("digits-resnet", {"epochs": 1, "augmentation": "none"})]):
        begun = time.monotonic()
        if begun + longest - started > 60 * MINUTES:
            break
        of = recipe(precision="bf16", compile=True).model_copy(update=changes)
        benchmark = params.benchmark(name)
        benchmark = benchmark.model_copy(update={"training": of})
        data = prepared(name, benchmark, work)
        test, found, taken = setting.everything(data["test"]), [], []
        for seed in range(scale(4, 2)):  # the first one compiles
            order, key = setting.base_order(name, seed, len(data["train"])), setting.base_key(name, seed)
            view = setting.everything(data["train"], order, key, of.augmentation)
            start, trained = setting.fresh(name, benchmark, seed, data["train"]), []
            taken += each(partial(trains, trained, start, view, of), 1, clock(device()))
            found.append(float((predict(trained[0], test).argmax(1) == test.labels).double().mean()))
        cells = [f"{statistics.mean(found[1:]):.2%}", f"{min(found[1:]):.2%} to {max(found[1:]):.2%}"]
        images = len(data["train"]) * of.epochs / statistics.mean(taken[1:])
        rows.append([name, str(of.epochs), str(of.batch_size), *cells, f"{statistics.mean(taken[1:]):.1f}"])
        rows[-1] += [f"{taken[0]:.1f}", f"{images:,.0f}"]
        columns = ["data and network", "epochs", "batch", "test accuracy", "over seeds", "seconds", "the first, s"]
        scale.report("accuracy", "Accuracy and seconds of a training", [*columns, "images/s"], rows, [])
        longest = max(longest, time.monotonic() - begun)


def of_methods(scale: Scale, work: Path, only: list[str]) -> None:
    """One seed, one class and one random request; scores of memorization are drawn at random."""
    from bench.stages import unlearn
    from bench.stages.train import train_original

    name, started = scale("cifar10-jpeg-resnet18", "digits-resnet"), time.monotonic()
    params = config.load(ROOT / "params.yaml")
    given = params.benchmark(name)
    of = given.training.model_copy(update={"epochs": 1} if scale.smoke else {"precision": "bf16", "compile": True})
    requests = {"class": {"kind": "class", "targets": [3]}, "random": {"kind": "random", "fraction": 0.1}}
    benchmark = Benchmark.model_validate(
        given.model_dump()
        | {"training": of.model_dump(), "requests": requests, "seeds": [0]}
        | {"probe": None, "studies": []}
    )
    params = params.model_copy(update={"benchmarks": params.benchmarks | {name: benchmark}})
    n = len(prepared(name, benchmark, work)["train"])
    os.chdir(work)  # where the stages' files go
    random = np.random.default_rng(0)
    scores = {key: random.random(n) for key in ("memorization", "confidence", "holdout", "curvature", "distance")}
    store.write_tensors(store.scores_file(name), scores)
    if not store.model_file(name, 0).exists():
        print(f"original: test accuracy {train_original(params, name, 0):.2%}", flush=True)
    kept = Path("seconds.json")
    found: dict[str, Any] = store.read_json(kept) if kept.exists() else {}
    for method in only or ["retrain", *params.methods]:
        if method in found or benchmark.left_out(method) or time.monotonic() - started > 60 * MINUTES:
            continue
        begun = time.perf_counter()
        records = [record for job in unlearn.jobs(params, name, method) for record in unlearn.one_job(*job)]
        found[method] = {"whole": time.perf_counter() - begun, "runs": records}
        store.write_json(kept, found)
        print(method, f"{found[method]['whole']:.1f} s", flush=True)
    retrain = {run["target"]: run["seconds"] for run in found.get("retrain", {"runs": []})["runs"]}
    rows = []
    for method, of_method in found.items():
        for run in of_method["runs"]:
            share = f"{run['seconds'] / retrain[run['target']]:.0%}" if run["target"] in retrain else ""
            memory = f"{run['peak_device_bytes'] / 1e9:.1f}" if run["peak_device_bytes"] else ""
            rows.append([method, run["target"], f"{run['seconds']:.2f}", share, memory, run["reason"]])
    rest = [m for m in params.methods if m not in found and not benchmark.left_out(m)]
    seconds = sum(of_method["whole"] for of_method in found.values())
    notes = [f"{len(found)} methods took {seconds:.0f} s with predictions; not run: {', '.join(rest) or 'none'}."]
    columns = ["method", "target", "seconds", "of retraining", "peak GB", "failed"]
    scale.report("methods", f"Seconds of each method on {name}, one seed", columns, rows, notes)


PIECES: dict[str, Callable[[Scale], None]] = {
    "throughput": throughput,
    "determinism": determinism,
    "stacking": stacking,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=[*PIECES, "accuracy", "methods"])
    parser.add_argument("--smoke", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for data sets, originals, results of methods")
    parser.add_argument("--methods", nargs="*", default=[], help="by default all of params.yaml")
    arguments = parser.parse_args()
    set_determinism()
    warnings.filterwarnings("error", message="no CUDA graph")  # else a row would say 'replayed' of what was launched
    provenance.commit()  # asked for once, in this folder
    scale = Scale(arguments.smoke and arguments.smoke.resolve())
    if arguments.piece in PIECES:
        PIECES[arguments.piece](scale)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        if arguments.piece == "accuracy":
            accuracy(scale, work)
        else:
            of_methods(scale, work, arguments.methods)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()

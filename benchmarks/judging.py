"""The stage `attack` for one method on a benchmark of CIFAR-10's size, from predictions to tables.

Synthetic logits of 60,000 samples and 10 classes (45,000 trained on, 5,000 held out, 10,000 for testing), 10 seeds,
three targets: two classes and a random tenth. The originals fit what they were trained on a little better than the
rest, and the method has half of that left. The predictions of original, retrain and method lie on the disk, as
`unlearn` leaves them.
"""

import os
import resource
import sys
import time

import numpy as np
from common import report

from bench import datasets, forget, jobs, store
from bench.config import Params
from bench.stages import attack

NAME, CLASSES, SEEDS = "cifar10-sized", 10, 10
SIZES = {"train": 45_000, "validation": 5_000, "test": 10_000}
LEAKS = {"original": 1.0, "retrain": 0.0, "mine": 0.5}  # what is added to the true logit of forgotten samples
CARD = {"card": {"serves": ["class", "random"]}, "hyperparameters": {}}


def params() -> Params:
    benchmark = {
        "dataset": "cifar10",
        "validation": 0.1,
        "architecture": "resnet18-cifar",
        "training": {"epochs": 1, "batch_size": 256, "lr": 0.1},
        "requests": {"class": {"kind": "class", "targets": [0, 3]}, "random": {"kind": "random", "fraction": 0.1}},
        "seeds": list(range(SEEDS)),
    }
    sections = {"run": [NAME], "benchmarks": {NAME: benchmark}, "methods": {method: {} for method in LEAKS}}
    return Params.model_validate(sections)


def make(settings: Params) -> None:
    """A data set without pixels, and the predictions of all runs."""
    labels = {split: np.arange(n) % CLASSES for split, n in SIZES.items()}
    tensors = {f"{split}_images": np.zeros((n, 1, 1, 1), np.uint8) for split, n in SIZES.items()}
    tensors |= {f"{split}_labels": own for split, own in labels.items()}
    tensors |= {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
    store.write_tensors(store.dataset_folder(NAME) / "samples.safetensors", tensors)
    store.write_json(store.dataset_folder(NAME) / "audit.json", {"splits": {s: {"sha256": s} for s in SIZES}})
    data = datasets.content_hash(store.dataset_folder(NAME))
    counts = {"samples": {"forward": 1, "backward": 1}, "flops": {"forward": 1, "backward": 1, "beside": 0}}
    sidecar = {"status": "ok", "reason": "", "data": data, "stored_bytes": 0} | counts
    for method, leak in LEAKS.items():
        store.write_json(store.predictions_folder(NAME, method) / "method.json", CARD)
        for target in forget.of_benchmark(NAME, settings.benchmark(NAME)):
            for seed in range(SEEDS):
                rng = np.random.default_rng([seed, len(method), len(target.name)])
                path = store.run_file(NAME, method, target.name, seed)
                shift = np.full(SIZES["train"], 1.0)
                shift[target.indices] = leak
                shifts = {split: shift if split == "train" else np.zeros(n) for split, n in SIZES.items()}
                store.write_tensors(path, {split: logits(labels[split], shifts[split], rng) for split in SIZES})
                store.write_json(path.with_suffix(".json"), sidecar)


def logits(labels: np.ndarray, shift: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of one network, float32 [n, classes]: the true class's stands out by about 6, and by `shift` more."""
    z = rng.normal(0, 2, (len(labels), CLASSES))
    z[np.arange(len(labels)), labels] += rng.normal(6, 2, len(labels)) + shift
    return z.astype(np.float32)


def main() -> None:
    os.environ.update(dict.fromkeys(jobs.THREADS, "1"))
    os.environ[jobs.WORKERS] = "2"
    if sys.platform == "linux":
        jobs.start_method = "fork"
    settings = params()
    with store.elsewhere():
        make(settings)
        started = time.perf_counter()
        said = attack.run(settings, NAME, "mine")
        wall = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, own = children.ru_utime + children.ru_stime, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks = [own / 2**20, children.ru_maxrss / 2**20]
    rows = [[said, f"{wall:.0f}", f"{cpu:.0f}", f"{peaks[0]:.2f}", f"{peaks[1]:.2f}"]]
    columns = ["what", "seconds, 2 workers", "CPU seconds", "peak GiB, stage", "peak GiB, largest worker"]
    notes = [
        "Memory is resident, of each process apart: of the stage and its two workers together it is at most their sum."
    ]
    title = f"Judging one method: {sum(SIZES.values()):,} samples, {CLASSES} classes, {SEEDS} seeds, 3 targets"
    report("judging", title, columns, rows, notes=notes)


if __name__ == "__main__":
    main()

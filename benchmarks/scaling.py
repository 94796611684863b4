"""How the time of trainings grows with workers, and time and memory with the size of the data set; on a CPU.

Trainings of resnet-tiny on random images of 28x28, as `fashion-small` has them. Workers: the wall-clock seconds of
eight trainings, by one worker and by one a core, as a stage runs its jobs. Size: CPU seconds of an epoch, and by how
much the process's peak memory grew, for one, two and four times as many images; each in a process of its own.
`--smoke FOLDER` measures next to nothing.

    python benchmarks/scaling.py
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import torch
from common import RESULTS, report

from bench import jobs, models
from bench.config import Recipe
from bench.jobs import WORKERS, fan_out, worker_count
from bench.training import Samples, View, cross_entropy, set_determinism, shuffled, train

RECIPE = Recipe(epochs=2, batch_size=128, lr=0.1, nesterov=True, schedule="one-cycle")
TRAININGS, IMAGES = 8, 6400


def training(seed: int, images: int) -> tuple[float, float]:
    """CPU seconds of an epoch, and MiB by which the peak memory grew, the images' own included."""
    set_determinism()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    draw = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (images, 1, 28, 28), generator=draw, dtype=torch.uint8)
    samples = Samples(data, torch.arange(images) % 10, torch.tensor([0.5]), torch.tensor([0.25]))
    view = View(samples, torch.arange(images), shuffled(images, (seed,)), (seed,))
    started = time.process_time()
    train(models.build("resnet-tiny", (1, 28, 28), 10, seed), view, cross_entropy, RECIPE)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return (time.process_time() - started) / RECIPE.epochs, grown / 1024


def by_workers(count: int, trainings: int, images: int) -> float:
    """Wall-clock seconds."""
    os.environ[WORKERS] = str(count)
    started = time.perf_counter()
    fan_out(training, [(seed, images) for seed in range(trainings)], "trainings")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", type=Path, metavar="FOLDER", help="a quick try; the table goes into this folder")
    folder = parser.parse_args().smoke
    trainings, images = (2, 128) if folder else (TRAININGS, IMAGES)
    if sys.platform == "linux":
        jobs.start_method = "fork"  # as on the command line
    cores, rows = worker_count(), []
    taken = {count: by_workers(count, trainings, images) for count in sorted({1, cores})}
    for count, seconds in taken.items():
        rows.append([f"{count} workers, {trainings} trainings", f"{seconds:.1f} s", f"{taken[1] / seconds:.2f}", ""])
    sizes = [1, 2, 4]
    costs = [fan_out(training, [(0, size * images)], "sizes")[0] for size in sizes]  # each in a worker of its own
    for size, (seconds, grown) in zip(sizes, costs, strict=True):
        ratio = f"{seconds / costs[0][0]:.2f}"
        rows.append([f"{size * images:,} images, one epoch", f"{seconds:.2f} CPU s", ratio, f"{grown:.0f} MiB"])
    report(
        "scaling",
        "Scaling over workers and over data size",
        ["what", "time", "against the first", "memory"],
        rows,
        folder=folder or RESULTS,
    )


if __name__ == "__main__":
    main()

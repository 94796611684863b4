"""Training on one thread of a CPU: images a second, and their share of what its measured limits allow.

Networks and recipes are those of the small benchmarks; images are random. `--smoke` measures next to nothing.
"""

import argparse
from pathlib import Path

import torch
from common import RESULTS, report
from limits import measured, speed

from bench.config import Recipe
from bench.training import set_determinism

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
ONE_CYCLE = {"lr": 0.1, "nesterov": True, "schedule": "one-cycle"}
CASES = [  # title, network, images, how many of them, recipe
    ("digits-resnet", "resnet-small", (1, 8, 8), 1293, {"batch_size": 48} | ONE_CYCLE),
    ("digits-vit", "vit-small", (1, 8, 8), 1293, {"batch_size": 48, "optimizer": "adam", "lr": 0.004}),
    ("fashion-small", "resnet-tiny", (1, 28, 28), 6400, {"batch_size": 128} | ONE_CYCLE),
    (
        "cifar10-jpeg-small",
        "resnet-tiny",
        (3, 32, 32),
        6400,
        {"batch_size": 128, "augmentation": "crop-flip"} | ONE_CYCLE,
    ),
    (
        "cifar10-resnet18-fast",
        "resnet18-cifar",
        (3, 32, 32),
        256,
        {"batch_size": 64, "augmentation": "crop-flip"} | ONE_CYCLE,
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", type=Path, metavar="FOLDER", help="a quick try; the table goes into this folder")
    folder = parser.parse_args().smoke
    set_determinism()
    limits = {name: measured(torch.device("cpu"), dtype, 64 if folder else 0) for name, dtype in DTYPES.items()}
    rows = []
    for title, architecture, shape, n, settings in CASES[: 1 if folder else None]:
        for precision in DTYPES:
            recipe = Recipe(epochs=1, precision=precision, **settings)
            found = speed(architecture, shape, 96 if folder else n, recipe, limits[precision], 1 if folder else 2)
            rows.append([title, architecture, precision, *found.cells()])
    notes = [f"Limits in {name}: {found}." for name, found in limits.items()]
    columns = ["recipe", "network", "precision", "images a second", "of the limit", "start, s"]
    title = "Training on one thread"
    report("training_speed", title, columns, rows, notes=notes, folder=folder or RESULTS)


if __name__ == "__main__":
    main()

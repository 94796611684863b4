"""Training the network of `digits-resnet` once, on one thread, as params.yaml says: seconds and accuracy."""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import ROOT, report

from bench import config, datasets, prepare
from bench.stages import setting
from bench.training import Samples, cross_entropy, predict, set_determinism, train

SEEDS = 15


def main() -> None:
    set_determinism()
    benchmark = config.load(ROOT / "params.yaml").benchmark("digits-resnet")
    with tempfile.TemporaryDirectory() as folder:
        prepare.build("digits-resnet", benchmark, Path(folder))
        digits = datasets.load(Path(folder))
    mean, std = torch.from_numpy(digits.mean), torch.from_numpy(digits.std)
    data, test = (
        Samples(torch.from_numpy(split.images), torch.from_numpy(split.labels), mean, std)
        for split in (digits.train, digits.test)
    )
    taken, accuracies = [], []
    for seed in range(SEEDS + 1):
        view = setting.everything(data, key=("benchmark", seed))
        started = time.perf_counter()
        model = train(setting.fresh("benchmark", benchmark, seed, data), view, cross_entropy, benchmark.training)
        taken.append(time.perf_counter() - started)
        right = predict(model, setting.everything(test)).argmax(1) == test.labels
        accuracies.append(float(right.double().mean()))
    taken, accuracies = taken[1:], accuracies[1:]  # the first one warms up
    images = len(data) * benchmark.training.epochs / statistics.median(taken)
    row = [
        f"{statistics.median(taken):.2f}",
        f"{max(taken):.2f}",
        f"{images:,.0f}",
        f"{statistics.median(accuracies):.2%}",
        f"{min(accuracies):.2%}",
    ]
    report(
        "digits_training",
        f"Training on digits, one thread, {SEEDS} seeds",
        ["seconds (median)", "seconds (worst)", "images a second", "test accuracy (median)", "(worst)"],
        [row],
    )


if __name__ == "__main__":
    main()

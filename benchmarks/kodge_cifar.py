"""Kodge on CIFAR-shaped data: CPU seconds on one thread, where they go, and peak memory.

900 retained and 900 forgotten images of 32x32, ten classes. `one` forgets one class with one pair of alphas, `ten`
each of the ten, `grid` one class with the pair chosen among 25 on 5,000 validation images. `more` is `one` with four
times as many images and patches: its memory shows that no number of samples makes it grow. Images are random smooth
patterns, one mean pattern a class; the network is untrained but for its BatchNorm statistics and a head fitted by
least squares, so that it knows the classes well enough for a choice to mean something. Each case runs in a process of
its own. CPU seconds, unlike wall-clock ones, hold on a machine that is busy with other things.

    python benchmarks/kodge_cifar.py [one ten grid more]
"""

import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from common import report
from torch import Tensor, nn
from torch.nn import functional as F

from bench import grams, models
from bench.layers import features, head
from bench.problem import Problem
from bench.training import set_determinism
from methods import kodge

TARGETS = {("vgg11-bn-cifar", "one"): 30, ("resnet18-cifar", "one"): 60}
TARGETS |= {("vgg11-bn-cifar", "ten"): 210, ("resnet18-cifar", "ten"): 370}
NETWORKS, CASES, CLASSES = ("vgg11-bn-cifar", "resnet18-cifar"), ("one", "ten", "grid", "more"), 10
PHASES = {  # a function's own seconds, without those of others in this table
    "forward": [(kodge, "class_grams"), (kodge, "layer_grams")],
    "patches": [(grams.PatchPicker, "__call__")],
    "Gram products": [(grams, "add_products"), (grams.Gram, "matrix")],
    "algebra": [(kodge, "removal"), (kodge, "scaled")],
    "choosing": [(kodge, "predict"), (kodge.Search, "won_by")],
}


def patterns(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n images [n, 3, 32, 32] and labels: a smooth pattern for each class, another for each image, and noise."""
    of_class, of_image = (torch.Generator().manual_seed(s) for s in (0, seed))
    labels = torch.arange(n) % CLASSES

    def smooth(count: int, size: int, draw: torch.Generator) -> Tensor:
        return F.interpolate(torch.randn(count, 3, size, size, generator=draw), size=32, mode="bilinear")

    images = smooth(CLASSES, 4, of_class)[labels] + smooth(n, 8, of_image)
    return images + 0.3 * torch.randn(n, 3, 32, 32, generator=of_image), labels


@torch.no_grad()
def network(architecture: str, images: Tensor, labels: Tensor) -> nn.Module:
    model = models.build(architecture, (3, 32, 32), CLASSES, 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(images[:200])
    inputs = torch.cat([features(model.eval(), part, CLASSES) for part in images.split(100)])
    centred, last = inputs - inputs.mean(0), head(model, CLASSES)
    ridge = centred.T @ centred + 0.01 * centred.square().sum() / centred.shape[1] * torch.eye(centred.shape[1])
    weight = 10 * torch.linalg.solve(ridge, centred.T @ (F.one_hot(labels, CLASSES).float() - 1 / CLASSES)).T
    last.weight.copy_(weight)
    last.bias.copy_(-weight @ inputs.mean(0))
    return model


@contextmanager
def phases(spent: dict[str, float]) -> Any:
    """Sum up the CPU seconds of each phase while active."""
    inner: list[float] = []

    def watched(phase: str, function: Callable) -> Callable:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.process_time() - started
                spent[phase] += taken - inner.pop()
                if inner:
                    inner[-1] += taken

        return wrapper

    originals = [(owner, name, getattr(owner, name)) for places in PHASES.values() for owner, name in places]
    for phase, places in PHASES.items():
        for owner, name in places:
            setattr(owner, name, watched(phase, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def measure(architecture: str, case: str) -> dict[str, Any]:
    set_determinism()
    times = 4 if case == "more" else 1
    images, labels = patterns(9000 * times, 1)
    model = network(architecture, images[:1000], labels[:1000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    validation = patterns(5000, 2) if case == "grid" else None
    alphas: dict[str, Any] = {} if case == "grid" else {"alpha_r": 100, "alpha_f": 3}
    method = kodge.Kodge(samples=900 * times, max_patches=10_000 * times, **alphas)
    targets = range(CLASSES if case == "ten" else 1)
    problems = [Problem.from_tensors(images, labels, labels == c, validation=validation) for c in targets]
    pool = replace(problems[0].pool(), forgotten_classes=tuple(targets))
    spent: dict[str, float] = defaultdict(float)
    started, clock = time.process_time(), time.perf_counter()
    with phases(spent):
        shared = method.prepare(model, pool)
        for problem in problems:
            with problem.meter.running():
                method.unlearn(model, replace(problem, prepared=shared))
    return {
        "cpu": time.process_time() - started,
        "wall": time.perf_counter() - clock,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "before": 1024 * before,
        "validation": problems[0].meter.counts()["read"].get("validation", 0),
    } | {phase: spent[phase] for phase in PHASES}


def main(cases: list[str]) -> None:
    rows = []
    for case in cases:
        for architecture in NETWORKS if case != "more" else NETWORKS[:1]:
            command = [sys.executable, __file__, "--measure", architecture, case]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout)
            target = TARGETS.get((architecture, case))
            row = [architecture, case, f"{found['cpu']:.1f}", "" if target is None else str(target)]
            row += [f"{found[phase]:.1f}" for phase in PHASES]
            row += [f"{found['peak'] / 2**30:.2f} ({found['before'] / 2**30:.2f})", f"{found['wall']:.0f}"]
            rows.append(row)
            print(" | ".join(row), f"| validation samples: {found['validation']:,}", file=sys.stderr)
    columns = ["network", "case", "CPU s", "target", *PHASES, "peak GiB (before)", "wall s"]
    report("kodge_cifar", "Kodge on CIFAR-shaped data, one thread", columns, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:4])))
    else:
        main(sys.argv[1:] or list(CASES))

"""Kodge on ViT-B/16 at 224 px: time and peak memory of forgetting one of 1,000 classes, random weights and images.

As published for ImageNet: one retained image a class and 500 of the forgotten class, 1,499 in all, one pair
of alphas. The network is torchvision's `vit_b_16`, float32, on the first GPU where there is one, else on all
cores. Below, one layer's scaled projections three ways: by the closed form that the method uses (Cholesky),
by `eigh` of the Gram matrix, both in float32, against `eigh` in float64.

    python benchmarks/kodge_vit.py [images of the forgotten class: 500] [classes: 1000]
"""

import resource
import sys
import time

import torch
from common import report
from torch import Tensor

from bench.models import build
from bench.problem import Problem
from bench.training import device
from methods.kodge import Kodge, forget_update, layer_grams

LAYER = "encoder.layers.encoder_layer_11.mlp.0.weight"
ALPHAS = {"alpha_r": 100.0, "alpha_f": 3.0}


def peak_bytes() -> int:
    """Most memory that was held at once: the device's, or the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def by_eigh(weight: Tensor, retain: Tensor, forget: Tensor) -> Tensor:
    parts = []
    for gram, alpha in zip((retain, forget), ALPHAS.values(), strict=True):
        energy, basis = torch.linalg.eigh(gram)
        share = energy.clamp(min=0) / energy.clamp(min=0).sum()
        parts.append((basis * (alpha * share / ((alpha - 1) * share + 1))) @ basis.T)
    return weight - (weight - weight @ parts[0]) @ parts[1]


def main() -> None:
    forgotten, classes = (int(value) for value in (sys.argv[1:] + ["500", "1000"][len(sys.argv) - 1 :]))
    to = device()
    rows, started = [], time.perf_counter()

    def lap(what: str) -> None:
        nonlocal started
        if to.type == "cuda":
            torch.cuda.synchronize()
        rows.append([what, f"{time.perf_counter() - started:.2f} s", f"{peak_bytes() / 2**30:.2f} GiB"])
        started = time.perf_counter()

    model = build("torchvision/vit_b_16", (3, 224, 224), classes, 0).to(to).eval()
    labels = torch.cat([torch.zeros(forgotten), torch.arange(1, classes)]).long()
    images = torch.rand(len(labels), 3, 224, 224, generator=torch.Generator().manual_seed(0))
    problem = Problem.from_tensors(images.to(to), labels.to(to), labels.to(to) == 0)
    lap(f"network and {len(labels):,} images")
    method = Kodge(**ALPHAS, samples=max(classes, forgotten))
    method.unlearn(model, problem)
    lap("unlearning, all of it")
    parts = {
        "retain": problem.retain.select(problem.retain.rows[:100]),
        "forget": problem.forget.select(problem.forget.rows[:100]),
    }
    grams = {
        name: layer_grams(model, view, None, None, lambda name: torch.Generator())[LAYER][0]
        for name, view in parts.items()
    }
    lap("two passes of 100 images")
    weight = dict(model.named_parameters())[LAYER].detach()
    exact = by_eigh(weight.double(), grams["retain"].double(), grams["forget"].double())
    lap("one layer by eigh, float64")
    routes = {
        "by eigh": lambda: by_eigh(weight, grams["retain"], grams["forget"]),
        "closed form": lambda: forget_update(weight, grams["retain"], grams["forget"], *ALPHAS.values()),
    }
    for name, route in routes.items():
        found = route()
        lap(f"one layer {name}, float32")
        difference = (found.double() - exact).abs().max() / weight.abs().max()
        rows[-1][0] += f" (largest difference to float64: {difference:.1e})"
    report("kodge_vit", f"Kodge on ViT-B/16, {len(labels):,} images", ["part", "time", "peak memory so far"], rows)


if __name__ == "__main__":
    main()

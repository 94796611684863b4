"""Kodge on ViT-B/16 at 224 px: time and peak memory of forgetting one class, random weights and images.

For ImageNet the published numbers are 1,000 classes with one retained image each and 500 of the forgotten class;
by default there are 200 classes and 100 images of the forgotten one, 299 in all: the passes take time by the
image, the algebra and the memory don't depend on their number. One pair of alphas. The network is torchvision's
`vit_b_16`, float32, on the first GPU where there is one, else on one thread (processor seconds). Below, one
layer's update three ways: by the closed form that the method uses (Cholesky), by `eigh` of the Gram matrix,
both in float32, against `eigh` in float64.

    python benchmarks/kodge_vit.py [images of the forgotten class: 100] [classes: 200]
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
    forgotten, classes = (int(value) for value in (sys.argv[1:] + ["100", "200"][len(sys.argv) - 1 :]))
    to = device()
    torch.set_num_threads(1)
    clock = time.perf_counter if to.type == "cuda" else time.process_time
    rows, started = [], clock()

    def lap(what: str) -> None:
        nonlocal started
        if to.type == "cuda":
            torch.cuda.synchronize()
        rows.append([what, f"{clock() - started:.2f} s", f"{peak_bytes() / 2**30:.2f} GiB"])
        started = clock()

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

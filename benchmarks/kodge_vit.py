"""Kodge on ViT-B/16 and VGG-11-BN at 224 px: time and peak memory of forgetting one of 1,000 classes.

As published for ImageNet: one retained image a class and 500 of the forgotten class, 1,499 in all, one pair
of alphas; weights and images are random. The networks are torchvision's, float32, on the first GPU where there is one,
else on all cores, each in a process of its own. Below, one layer's update from 100 retained and 100 forgotten images
two ways, in float32, against the thin SVD in float64: as the method does it, and by float32 `eigh`. ViT's has more
inputs than its 768 dimensions, VGG's first linear layer fewer than its 25,088: there it is solved in the number of
inputs, and a d x d matrix, which would take 2.5 GB, never exists.

    python benchmarks/kodge_vit.py [images of the forgotten class: 500] [classes: 1000]
"""

import json
import resource
import subprocess
import sys
import time

import torch
from common import report
from torch import Tensor

from bench.grams import Gram, layer_grams
from bench.models import build
from bench.problem import Problem
from bench.training import device
from methods.kodge import Kodge, removal

LAYERS = {
    "torchvision/vit_b_16": "encoder.layers.encoder_layer_11.mlp.0.weight",
    "torchvision/vgg11_bn": "classifier.0.weight",
}
ALPHAS = {"alpha_r": 100.0, "alpha_f": 3.0}


def peak_bytes() -> int:
    """Most memory that was held at once: the device's, or the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def by_closed_form(weight: Tensor, retain: Gram, forget: Gram) -> Tensor:
    return weight - removal(weight, retain, forget, [ALPHAS["alpha_r"]])(ALPHAS["alpha_f"])[0][0]


def by_decomposition(weight: Tensor, retain: Gram, forget: Gram) -> Tensor:
    """Of the Gram matrix by `eigh`, or of the inputs themselves by thin SVD, in the weight's precision."""
    parts = []
    for gram, alpha in zip((retain, forget), ALPHAS.values(), strict=True):
        if (inputs := gram.few()) is None:
            energy, basis = torch.linalg.eigh(gram.matrix()[0].to(weight.dtype))
        else:
            values, basis = torch.linalg.svd(inputs[0].to(weight.dtype), full_matrices=False)[1:]
            energy, basis = values.square(), basis.T
        share = energy.clamp(min=0) / energy.clamp(min=0).sum()
        parts.append((basis, alpha * share / ((alpha - 1) * share + 1)))
    (basis_r, scale_r), (basis_f, scale_f) = parts
    rest = weight - weight @ basis_r * scale_r @ basis_r.T
    return weight - rest @ basis_f * scale_f @ basis_f.T


def measure(architecture: str, forgotten: int, classes: int) -> list[list[str]]:
    to, rows, started = device(), [], time.perf_counter()

    def lap(what: str) -> None:
        nonlocal started
        if to.type == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - started
        rows.append([architecture, what, f"{taken:.2f} s", f"{peak_bytes() / 2**30:.2f} GiB"])
        started = time.perf_counter()

    model = build(architecture, (3, 224, 224), classes, 0).to(to).eval()
    labels = torch.cat([torch.zeros(forgotten), torch.arange(1, classes)]).long()
    images = torch.rand(len(labels), 3, 224, 224, generator=torch.Generator().manual_seed(0))
    problem = Problem.from_tensors(images.to(to), labels.to(to), labels.to(to) == 0)
    lap(f"network and {len(labels):,} images")
    method = Kodge(**ALPHAS, samples=max(classes, forgotten))
    method.unlearn(model, problem)
    lap("unlearning, all of it")
    name = LAYERS[architecture]
    weight = dict(model.named_parameters())[name].detach()
    views = (view.select(view.rows[:100]) for view in (problem.retain, problem.forget))
    grams = [layer_grams(model, view, 3, 100, lambda c, layer: torch.Generator())[name] for view in views]
    lap("two passes of 100 images")
    exact = by_decomposition(weight.double(), *grams)
    lap("one layer by decomposition, float64")
    for what, route in {"by decomposition": by_decomposition, "closed form": by_closed_form}.items():
        found = route(weight, *grams)
        lap(f"one layer {what}, float32")
        difference = (found.double() - exact).abs().max() / weight.abs().max()
        rows[-1][1] += f" (largest difference to float64: {difference:.1e})"
    return rows


def main(forgotten: int, classes: int) -> None:
    rows = []
    for architecture in LAYERS:
        command = [sys.executable, __file__, "--measure", architecture, str(forgotten), str(classes)]
        rows += json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    title = f"Kodge at 224 px, {forgotten} forgotten and {classes - 1} retained images"
    report("kodge_vit", title, ["network", "part", "time", "peak memory so far"], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(*(int(value) for value in (sys.argv[1:] + ["500", "1000"][len(sys.argv) - 1 :])))

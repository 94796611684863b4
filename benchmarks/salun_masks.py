"""SalUn's masks for ten shares against one gradient pass: ResNet-18, 500 forget images of 32x32, one thread.

CPU seconds of the gradient of the forget loss in batches of 256, and of all that comes after it until the masks of ten
shares are there. Below, the same ten masks by a stable sort each, which gives the same bits. Weights and images are
random: neither matters to the time.

    python benchmarks/salun_masks.py [images: 500]
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import report
from torch import Tensor

from bench.models import build
from bench.problem import Problem
from bench.training import set_determinism
from methods.salun import saliency_masks
from methods.steps import gradient

SHARES = [k / 10 for k in range(1, 11)]


def by_sorting(gradients: dict[str, Tensor], share: float) -> Tensor:
    flat = torch.cat([g.abs().flatten() for g in gradients.values()])
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.sort(descending=True, stable=True).indices[: int(share * len(flat))]] = True
    return mask


def taken(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def main(images: int) -> None:
    set_determinism()
    model = build("resnet18-cifar", (3, 32, 32), 10, 0)
    labels = torch.cat([torch.zeros(images), torch.ones(1)]).long()
    data = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    forget = Problem.from_tensors(data, labels, labels == 0).forget
    gradient(model, forget.select(forget.rows[:20]), 256)  # starts the kernels
    passed, gradients = taken(lambda: gradient(model, forget, 256))
    masked, masks = taken(lambda: list(saliency_masks(gradients, SHARES)))
    sorted_, reference = taken(lambda: [by_sorting(gradients, share) for share in SHARES])
    flat = [torch.cat([m.flatten() for m in mask.values()]) for mask in masks]
    assert all(torch.equal(a, b) for a, b in zip(flat, reference, strict=True))
    rows = [
        ["one gradient pass", f"{passed:.2f}", "1.00"],
        ["ten masks from it", f"{masked:.2f}", f"{masked / passed:.2f}"],
        ["together (target: at most 1.1)", f"{passed + masked:.2f}", f"{(passed + masked) / passed:.2f}"],
        ["the same masks by ten sorts", f"{sorted_:.2f}", f"{sorted_ / passed:.2f}"],
    ]
    title = f"SalUn's masks for ten shares, ResNet-18, {images} images, one thread"
    report("salun_masks", title, ["part", "CPU seconds", "gradient passes"], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)

"""How fast a device is at most, and how fast the engine trains on it.

Of a GPU, seconds are those that pass; of a CPU those that one thread spends, since others may share it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import each
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench import models
from bench.config import Recipe
from bench.training import Samples, View, classification, device, shuffled, train


@dataclass(frozen=True)
class Limits:
    """Measured rates.

    Attributes:
        product: of a large matrix product, or of a large convolution where that is faster, operations a second.
        copy: of a large copy, bytes read and written a second.
    """

    product: float
    copy: float

    def __str__(self) -> str:
        return f"{self.product / 1e12:,.2f} TFLOP/s in products, {self.copy / 1e9:,.0f} GB/s in a copy"


def measured(device: torch.device, dtype: torch.dtype, size: int = 0) -> Limits:
    """Of this device, with products of this type; on a CPU, NumPy's product counts too."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    channels, batch = min(size // 8, 512), max(size // 32, 1)
    image = torch.randn(batch, channels, 16, 16, device=device).to(dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype).to(memory_format=torch.channels_last)
    products = each(lambda: a @ b, 6, clock(device))
    convolutions = each(lambda: F.conv2d(image, kernel, padding=1), 6, clock(device))
    of_convolution = 2 * batch * 14**2 * 9 * channels**2 / min(convolutions)  # the black around is not counted
    if device.type == "cpu" and dtype == torch.float32:
        x, y = a.numpy(), b.numpy()
        with threadpool_limits(1):
            products += each(lambda: np.matmul(x, y), 6, clock(device))
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = each(lambda: target.copy_(source), 6, clock(device))
    return Limits(max(2 * size**3 / min(products), of_convolution), 2 * source.numel() / min(copies))


def clock(device: torch.device) -> Callable[[], float]:
    return time.perf_counter if device.type == "cuda" else time.process_time


class Work(TorchDispatchMode):
    """Adds up what operations compute and move: the least seconds they take one by one at given rates."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.operations = self.bytes = self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs, outputs = tensors((args, kwargs)), tensors(result)
        read = {t.untyped_storage().data_ptr() for t in inputs}
        in_place = function.__name__.split(".")[0].endswith("_")
        if not in_place and outputs and all(t.untyped_storage().data_ptr() in read for t in outputs):
            return result  # a view
        counter = flop_registry.get(function.overloadpacket)
        operations = counter(*args, **(kwargs or {}), out_val=result) if counter else 0
        moved = sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        self.operations += operations
        self.bytes += moved
        self.seconds += max(operations / self.limits.product, moved / self.limits.copy)
        return result


def tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [t for value in values for t in tensors(value)] if isinstance(values, list | tuple) else []


def training_work(model: nn.Module, images: torch.Tensor, limits: Limits, low: bool) -> Work:
    """Of a forward and a backward pass of a batch, each operation by itself: a compiler that joins some moves less."""
    work, labels = Work(limits), torch.zeros(len(images), dtype=torch.int64, device=images.device)
    model = model.train().to(memory_format=torch.channels_last)
    with work:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            outputs = model(images)
        F.cross_entropy(outputs.float(), labels).backward()
    return work


@dataclass(frozen=True)
class Speed:
    """Of training: images a second, the share of them that the device's limits allow, seconds until steps go steadily.

    `allowed` is for operations one by one; where a compiler joins some, more than that can be had.
    """

    images: float
    allowed: float
    start: float

    def cells(self) -> list[str]:
        return [f"{self.images:,.0f}", f"{self.images / self.allowed:.0%}", f"{self.start:.1f}"]


def speed(architecture: str, shape: models.Shape, n: int, recipe: Recipe, limits: Limits, epochs: int = 2) -> Speed:
    """Of `bench.training.train` on n random images: one epoch to start with, then one, then `epochs` more than that."""
    to = device()
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=draw).to(to)
    labels = torch.randint(0, 10, (n,), generator=draw).to(to)
    half = torch.full((shape[0],), 0.5, device=to)
    samples = Samples(images, labels, half, half, recipe.precision)
    view = View(samples, torch.arange(n, device=to), shuffled(n, ("speed",)), augmentation=recipe.augmentation)
    start = models.build(architecture, shape, 10, 0).to(to)

    def run(epochs: int) -> float:
        of = recipe.model_copy(update={"epochs": epochs})
        return each(lambda: train(start, view, classification(of), of), 1, clock(to))[0]

    first, one = run(1), run(1)
    rate = epochs * n / (run(1 + epochs) - one)
    batch = next(view.batches(recipe.batch_size)).images
    work = training_work(models.build(architecture, shape, 10, 0).to(to), batch, limits, recipe.precision == "bf16")
    return Speed(rate, len(batch) / work.seconds, max(first - n / rate, 0.0))

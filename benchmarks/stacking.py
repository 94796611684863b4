"""Ways to train many small networks on one device at once; `benchmarks/gpu.py stacking` compares them.

Each gives images a second of all k networks together. Images are random.
"""

from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from common import each
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F

from bench import models
from bench.config import Recipe
from bench.engine import Engine
from bench.training import Samples, View, classification, device, products, set_determinism, shuffled, train

SMALL = {"resnet-small": ((1, 8, 8), 1293, 48), "resnet-tiny": ((1, 28, 28), 50_000, 128)}  # images, how many, batch
_start: Barrier | None = None  # where the processes of one measurement wait for each other


def small(architecture: str, n: int, seed: int) -> tuple[nn.Module, View, Recipe]:
    """A network to train, its data and its recipe of one epoch."""
    shape, _, size = SMALL[architecture]
    draw, to = torch.Generator().manual_seed(seed), device()
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=draw)
    samples = Samples(images.to(to), torch.randint(0, 10, (n,), generator=draw).to(to))
    view = View(samples, torch.arange(n, device=to), shuffled(n, ("small", seed)), ("small", seed))
    recipe = Recipe(epochs=1, batch_size=size, lr=0.1, nesterov=True)
    return models.build(architecture, shape, 10, seed).to(to), view, recipe


def alone(architecture: str, n: int, epochs: int, seed: int = 0) -> float:
    """`bench.training.train`."""
    set_determinism()
    model, view, recipe = small(architecture, n, seed)
    train(model, view, classification(recipe), recipe)  # starts the kernels
    if _start is not None:
        _start.wait(timeout=120)  # for one that died the others would wait for ever

    def run(epochs: int) -> float:
        of = recipe.model_copy(update={"epochs": epochs})
        return each(lambda: train(model, view, classification(of), of), 1)[0]

    return n * epochs / (run(1 + epochs) - run(1))  # without what a training begins with, as the other ways


def _meet(start: Barrier) -> None:
    global _start
    _start = start


def in_processes(architecture: str, n: int, epochs: int, k: int) -> float:
    """`alone`, in so many processes at the same time."""
    context = get_context("spawn")
    with ProcessPoolExecutor(k, context, _meet, (context.Barrier(k),)) as pool:
        return sum(pool.map(alone, [architecture] * k, [n] * k, [epochs] * k, range(k)))


@products("float32", device())
def on_streams(architecture: str, n: int, epochs: int, k: int) -> float:
    """In one process, a step of each network in turn, recorded and replayed, each on a stream of its own."""
    work = [small(architecture, n, seed) for seed in range(k)]
    size, cuda = work[0][2].batch_size, device().type == "cuda"
    streams = [torch.cuda.Stream() for _ in work] if cuda else []
    engines = []
    for model, _, recipe in work:
        model = model.train().to(memory_format=torch.channels_last)
        engines.append(Engine(model, classification(recipe), recipe, "float32", 10**6))

    def epoch(number: int) -> None:
        for batches in zip(*(view.batches(size, number) for _, view, _ in work), strict=True):
            for i, (engine, batch) in enumerate(zip(engines, batches, strict=True)):
                if cuda:
                    streams[i].wait_stream(torch.cuda.current_stream())
                    for tensor in (batch.images, batch.labels):
                        tensor.record_stream(streams[i])
                with torch.cuda.stream(streams[i]) if cuda else nullcontext():
                    engine.step(batch, 0.1)

    epoch(0)
    return k * n * epochs / each(lambda: [epoch(e + 1) for e in range(epochs)], 1)[0]


@products("float32", device())
def stacked(architecture: str, n: int, epochs: int, k: int) -> float:
    """As one network, by torch.func: weights, statistics and batches have a dimension more. SGD with momentum."""
    work = [small(architecture, n, seed) for seed in range(k)]
    networks, recipe = [model.train() for model, _, _ in work], work[0][2]
    weights, buffers = stack_module_state(networks)
    weights = {name: w.detach() for name, w in weights.items()}
    momenta = {name: torch.zeros_like(w) for name, w in weights.items()}

    def loss(weights: Any, buffers: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(networks[0], (weights, buffers), (images,)), labels)

    gradients = vmap(grad_and_value(loss))

    def epoch(number: int) -> None:
        for batches in zip(*(view.batches(recipe.batch_size, number) for _, view, _ in work), strict=True):
            images, labels = torch.stack([b.images for b in batches]), torch.stack([b.labels for b in batches])
            found, _ = gradients(weights, buffers, images, labels)
            for name, g in found.items():
                momenta[name].mul_(recipe.momentum).add_(g.add(weights[name], alpha=recipe.weight_decay))
                weights[name].sub_(momenta[name], alpha=0.1)

    epoch(0)
    return k * n * epochs / each(lambda: [epoch(e + 1) for e in range(epochs)], 1)[0]

"""Looking into a network, and training copies of it again: what judging cannot tell from predictions.

The network that is judged is never written to: `bench.training.train` works on a copy of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.config import Precision, Probe, Recipe
from bench.layers import features
from bench.seeds import Key, numpy_generator
from bench.training import Batch, View, accuracy_per_class, classification, predict, products, train

PENULTIMATE = "penultimate"  # the layer whose output enters the head


@dataclass(frozen=True)
class Steps:
    """So many steps of a view as one epoch; it starts over as often as needed, without its incomplete batches."""

    view: View
    count: int

    @property
    def key(self) -> Key:
        return self.view.key

    @property
    def precision(self) -> Precision:
        return self.view.precision

    def steps(self, batch_size: int) -> int:
        return self.count

    def batches(self, batch_size: int, epoch: int) -> Iterator[Batch]:
        whole, done, turn = min(batch_size, len(self.view)), 0, 0
        while done < self.count:
            for batch in self.view.batches(batch_size, turn):
                if len(batch.labels) == whole and done < self.count:
                    done += 1
                    yield batch
            turn += 1


def again(base: Recipe, probe: Probe) -> Recipe:
    """How copies are trained: as the base training, at a constant learning rate."""
    return base.model_copy(
        update={"epochs": 1, "lr": probe.lr, "schedule": "constant", "milestones": (), "warmup": 0}
        | {"compile": False, "gpus": 1}
    )


@dataclass(frozen=True)
class Point:
    """Of a relearning curve: after so many steps, which saw so many samples, the accuracy by name of the data."""

    step: int
    samples: int
    accuracy: dict[str, float]


def relearn(
    model: nn.Module, data: View, watched: Mapping[str, View], recipe: Recipe, steps: int, every: int
) -> list[Point]:
    """Train a copy of the network and watch the accuracy on some data, from step 0 on; `model` is untouched.

    Args:
        data: what the copy is trained on.
        watched: data by name; none may be empty.
        steps, every: steps to take, and steps from one point to the next; the last is a point, too.
    """
    curve = []

    def watch(model: nn.Module, step: int) -> None:
        if step % every == 0 or step == steps:
            accuracies = {name: accuracy(model, view) for name, view in watched.items()}
            curve.append(Point(step, step * min(recipe.batch_size, len(data)), accuracies))

    watch(model, 0)
    train(model, Steps(data, steps), classification(recipe), recipe, after_step=watch)
    return curve


def accuracy(model: nn.Module, view: View) -> float:
    """Share of the view's samples that the network gets right, in eval mode."""
    logits = predict(model, view)
    correct, _ = accuracy_per_class(logits, view.labels, logits.shape[1])
    return int(correct.sum()) / len(view)


def few(labels: np.ndarray, rows: np.ndarray, shots: int, *key: str | int) -> np.ndarray:
    """So many of the rows of each class, but at most half of them, drawn from the key; int64, sorted.

    Args:
        labels: of the whole training set, int64 [n].
        rows: positions in it.
    """
    draw, found = numpy_generator(*key), [np.zeros(0, dtype=np.int64)]
    for c in np.unique(labels[rows]):
        of_class = rows[labels[rows] == c]
        found.append(draw.choice(of_class, min(shots, len(of_class) // 2), replace=False))
    return np.sort(np.concatenate(found))


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """A network's blocks by name: members with parameters of the outermost `nn.Sequential`s and `nn.ModuleList`s in it.

    Those are a ResNet's residual blocks, a Vision Transformer's blocks, Swin's stages, a VGG's layers. A network that
    is an `nn.Sequential` itself is looked into.
    """
    found: dict[str, nn.Module] = {}
    for name, container in model.named_modules():
        inside = any(f"{name}.".startswith(f"{outer}.") for outer in found)
        if name and not inside and isinstance(container, nn.Sequential | nn.ModuleList):
            found |= {f"{name}.{k}": m for k, m in container.named_children() if any(True for _ in m.parameters())}
    return found


@torch.no_grad()
def grams(model: nn.Module, images: Tensor, classes: int, precision: Precision) -> dict[str, np.ndarray]:
    """X X^T of the centred outputs X of each block, and of what enters the head, float64 [n, n], in eval mode.

    Args:
        images: network input [n, ...]: one batch.

    Raises:
        ValueError: the network has no head (`bench.layers.head`).
    """
    found: dict[str, Tensor] = {}

    def gram(outputs: Tensor) -> Tensor:
        x = outputs.flatten(1).double()
        x = x - x.mean(0)
        return x @ x.T

    def keep(name: str) -> Callable[..., None]:
        def seen(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and len(output) == len(images):
                found[name] = gram(output)

        return seen

    handles = [block.register_forward_hook(keep(name)) for name, block in blocks(model).items()]
    try:
        with products(precision, images.device):
            found[PENULTIMATE] = gram(features(model, images, classes))
    finally:
        for handle in handles:
            handle.remove()
    return {name: matrix.cpu().numpy() for name, matrix in found.items()}


def parameters(model: nn.Module) -> dict[str, np.ndarray]:
    """The network's parameters by name, without buffers."""
    return {name: p.detach().cpu().numpy() for name, p in model.named_parameters()}

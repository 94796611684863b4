"""What several tests start from: a small network with every kind of tensor, and a problem for it."""

import copy

import pytest
import torch
from torch import nn

from bench.config import Recipe
from bench.models import seeded
from bench.problem import Problem

torch.set_num_threads(1)  # as in the workers: a test's process is one of several

CLASSES = 4


class SmallNet(nn.Module):
    """Convolution, BatchNorm, dropout, linear layers with and without bias: every tensor a method may meet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6 * 16, 12, bias=False)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(self.drop(torch.relu(self.hidden(x))))


def build(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    with seeded(seed):
        return SmallNet().to(dtype)


def without_dropout(model: nn.Module) -> nn.Module:
    """A copy of a SmallNet that drops nothing out, for comparison with a loop that draws other noise."""
    model = copy.deepcopy(model)
    assert isinstance(model, SmallNet)
    model.drop.p = 0.0
    return model


def blobs(n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy 8x8 images with a bright quarter that tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = 0.5 * torch.randn(n, 1, 8, 8, generator=generator, dtype=dtype)
    for c, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        images[labels == c, :, row : row + 4, column : column + 4] += 1.5
    return images, labels


def make_problem(kind: str = "class", seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> Problem:
    images, labels = blobs(160, dtype)
    chosen = {"class": labels == 2, "classes": (labels == 2) | (labels == 0)}
    forget = chosen[kind].nonzero().flatten() if kind in chosen else torch.arange(0, 160, 9)
    arguments = {
        "scores": {"memorization": torch.linspace(0, 1, 160)[(torch.arange(160) * 37) % 160]},
        "validation": blobs(40, dtype, seed=1),
        "seed": seed,
        "recipe": Recipe(epochs=2, batch_size=16, lr=0.05),
        "build": lambda s: build(s, dtype),
    }
    arguments |= changes
    return Problem.from_tensors(images, labels, arguments.pop("forget", forget), **arguments)


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A network that has learned the blobs."""
    from bench.training import cross_entropy, train

    problem = make_problem()
    return train(build(0), problem.forget | problem.retain, cross_entropy, Recipe(epochs=6, batch_size=16, lr=0.05))

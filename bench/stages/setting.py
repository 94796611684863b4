"""What a job needs to start from: samples on the device, the network's builder, an original's weights."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench import datasets, models, store, weights
from bench.config import Augmentation, Benchmark, Network, Precision
from bench.corruption import BadNets, Blended, Corruption, manipulated, triggered
from bench.datasets import Dataset, Split
from bench.errors import BadInput
from bench.seeds import Key, derive
from bench.training import Order, Samples, View, device, predict, shuffled

RESIDENT = 0.4  # largest part of a GPU's memory that the images may take


def samples(folder: Path, benchmark: Benchmark) -> dict[str, Samples]:
    """The splits of a prepared data set, read once a process: on the device where they fit, else mapped from disk.

    They are normalised as the benchmark's pretrained weights want it, else by the training images' own mean and std;
    networks train on them in its recipe's precision. The training split is as its `corruption` leaves it; if that has
    a trigger, 'triggered' is the test split with it on every image, under the true labels.
    """
    return _samples(folder, benchmark.architecture, benchmark.training.precision, benchmark.corruption)


@cache
def _samples(folder: Path, network: Network, precision: Precision, corruption: Corruption | None) -> dict[str, Samples]:
    dataset, to = datasets.load(folder), device()
    splits = {split: getattr(dataset, split) for split in store.SPLITS} | corrupted(dataset, corruption)
    mean, std = (torch.from_numpy(values).to(to) for values in (dataset.mean, dataset.std))
    if published := weights.normalisation(network):
        mean, std = (torch.tensor(values, device=to).expand(len(dataset.mean)) for values in published)
    size = sum(part.images.nbytes for part in splits.values())
    stays = to.type == "cuda" and size > RESIDENT * torch.cuda.get_device_properties(to).total_memory
    return {
        split: Samples(
            torch.from_numpy(part.images).to("cpu" if stays else to),
            torch.from_numpy(part.labels).to(to),
            mean,
            std,
            precision=precision,
        )
        for split, part in splits.items()
    }


def corrupted(dataset: Dataset, section: Corruption | None) -> dict[str, Split]:
    """The splits that a corruption changes, or adds; triggers go into the data set's own training images."""
    if section is None:
        return {}
    rows, labels = manipulated(section, dataset.train.labels)
    changed = {"train": replace(dataset.train, labels=labels)}
    if isinstance(section, BadNets | Blended):
        dataset.train.images[rows] = triggered(section, dataset.train.images[rows])  # pages that this process mapped
        changed["triggered"] = replace(dataset.test, images=triggered(section, dataset.test.images))
    return changed


@cache
def scores(benchmark: str) -> dict[str, Tensor]:
    """Measures of each training sample on the device, float64 [n] by name, read once a process."""
    found = store.read_tensors(store.scores_file(benchmark))
    return {name: torch.from_numpy(values).to(device()) for name, values in found.items()}


def builder(benchmark: Benchmark, train: Samples) -> Callable[[int], nn.Module]:
    """seed -> a fresh network of the benchmark's architecture, on the CPU."""
    network, (shape, classes) = benchmark.architecture, shape_of(train)

    def build(seed: int) -> nn.Module:
        model = models.build(network.name, shape, classes, seed)
        return model if network.pretrained is None else weights.load(model, network, shape, classes)

    return build


def shape_of(train: Samples) -> tuple[models.Shape, int]:
    """Channels, height and width of the images, and the number of classes."""
    channels, height, width = train.images.shape[1:]
    return (channels, height, width), int(train.labels.max()) + 1


def base_key(name: str, seed: int) -> Key:
    """The key of an original's training, whose order every retrain follows."""
    return (name, "base training", seed)


def base_order(name: str, seed: int, n: int) -> Order:
    return shuffled(n, base_key(name, seed))


def everything(
    samples: Samples, order: Order | None = None, key: Key = (), augmentation: Augmentation = "none"
) -> View:
    rows = torch.arange(len(samples), device=samples.labels.device)
    return View(samples, rows, order or shuffled(len(samples), key), key, augmentation=augmentation)


def fresh(name: str, benchmark: Benchmark, seed: int, train: Samples) -> nn.Module:
    """The network from which an original's training starts."""
    start = derive(*base_key(name, seed), "initialisation")
    return builder(benchmark, train)(start).to(train.labels.device)


def load_original(name: str, benchmark: Benchmark, seed: int, train: Samples) -> nn.Module:
    """The original of a seed, in eval mode; `BadInput` as `load_network` has it."""
    return load_network(store.model_file(name, seed), benchmark, train)


def load_network(path: Path, benchmark: Benchmark, train: Samples) -> nn.Module:
    """A network of the benchmark's architecture with the weights of a file, in eval mode.

    Raises:
        BadInput: the file is missing, damaged, or of another architecture.
    """
    shape, classes = shape_of(train)
    model = models.build(benchmark.architecture.name, shape, classes, 0).to(train.labels.device)
    try:
        model.load_state_dict({k: torch.from_numpy(v) for k, v in store.read_tensors(path).items()})
    except RuntimeError as error:
        raise BadInput(f"{path}: does not fit the architecture '{benchmark.architecture.name}': {error}") from None
    return model.eval()


def all_logits(model: nn.Module, splits: dict[str, Samples]) -> dict[str, Tensor]:
    """Logits of every split, [n, classes] each."""
    return {split: predict(model, everything(samples)) for split, samples in splits.items()}


def to_numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}

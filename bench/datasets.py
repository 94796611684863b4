"""A prepared data set: uint8 images and labels on disk, split once. What every stage reads; needs no torch.

It is a folder with `samples.safetensors` (for each split `<split>_images`, uint8 [n, channels, height,
width], `<split>_labels`, int64 [n], and for data sets whose classes have subclasses `<split>_sublabels`,
int64 [n]; `mean` and `std`, float32 [channels], of the training images on the scale [0, 1]) and
`audit.json` (`bench.audit`). `bench.prepare` makes it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import store
from bench.errors import BadInput


@dataclass(frozen=True)
class Split:
    """Images, uint8 [n, channels, height, width], labels and, where there are some, subclasses, int64 [n]."""

    images: np.ndarray
    labels: np.ndarray
    sublabels: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """The three splits, and the training images' mean and std per channel on the scale [0, 1]."""

    train: Split
    validation: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.train.labels.max()) + 1


def load(folder: Path) -> Dataset:
    """Open a prepared data set; its arrays are mapped from the file (`store.map_tensors`), not read.

    Raises:
        BadInput: the file is missing or damaged.
    """
    path = folder / "samples.safetensors"
    tensors = store.map_tensors(path)
    try:
        parts = {
            s: Split(tensors[f"{s}_images"], tensors[f"{s}_labels"], tensors.get(f"{s}_sublabels"))
            for s in store.SPLITS
        }
        return Dataset(**parts, mean=tensors["mean"], std=tensors["std"])
    except KeyError as missing:
        raise BadInput(f"{path}: holds no {missing}; delete it and run `dvc repro` again") from None


def content_hash(folder: Path) -> str:
    """SHA-256 of a prepared data set, as its audit states it: names the data in a run's sidecar."""
    splits = store.read_json(folder / "audit.json")["splits"]
    return hashlib.sha256("".join(splits[s]["sha256"] for s in store.SPLITS).encode()).hexdigest()

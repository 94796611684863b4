"""A data set's name -> uint8 images and labels on disk, split once, audited.

A prepared data set is a folder with `samples.safetensors` (for each split `<split>_images`, uint8
[n, channels, height, width], `<split>_labels`, int64 [n], and for data sets whose classes have
subclasses `<split>_sublabels`, int64 [n]; `mean` and `std`, float32 [channels],
of the training images on the scale [0, 1]) and `audit.json` (counts, duplicates, hashes). Reading it
needs no torch.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import store
from bench.errors import BadInput

SPLIT_SEED = 0  # one split for base training, retraining and every method


@dataclass(frozen=True)
class Split:
    """Images, uint8 [n, channels, height, width], labels and, where there are some, subclasses, int64 [n]."""

    images: np.ndarray
    labels: np.ndarray
    sublabels: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> "Split":
        sublabels = None if self.sublabels is None else self.sublabels[chosen]
        return Split(self.images[chosen], self.labels[chosen], sublabels)


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


def digits() -> tuple[Split, Split]:
    """scikit-learn's handwritten digits (Alpaydin and Kaynak 1998): 1,797 grey 8x8 images, 10 classes.

    The set has no test part of its own; a stratified fifth becomes one. Pixels 0 to 16 are scaled to
    0 to 255 and rounded, which loses nothing.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
    )
    return Split(train_x, train_y), Split(test_x, test_y)


def digits_parity() -> tuple[Split, Split]:
    """The digits told apart as even (0) and odd (1); the subclasses are the ten digits."""
    train, test = digits()
    return Split(train.images, train.labels % 2, train.labels), Split(test.images, test.labels % 2, test.labels)


SOURCES: dict[str, Callable[[], tuple[Split, Split]]] = {"digits": digits, "digits-parity": digits_parity}


def build(name: str, validation: float) -> Dataset:
    """Load a source and hold out a stratified share `validation` of its training part.

    Raises:
        BadInput: the share leaves no sample of some class on one side.
    """
    from sklearn.model_selection import train_test_split

    train, test = SOURCES[name]()
    try:
        kept, held_out = train_test_split(
            np.arange(len(train.labels)),
            test_size=validation,
            stratify=train.labels if train.sublabels is None else train.sublabels,
            random_state=SPLIT_SEED,
        )
    except ValueError as error:
        raise BadInput(
            f"validation: {validation} does not split {len(train.labels)} images of {name}: {error}"
        ) from None
    kept, held_out = np.sort(kept), np.sort(held_out)
    scaled = train.images[kept] / 255
    return Dataset(
        train=train[kept],
        validation=train[held_out],
        test=test,
        mean=scaled.mean(axis=(0, 2, 3)).astype(np.float32),
        std=scaled.std(axis=(0, 2, 3)).astype(np.float32),
    )


def write(dataset: Dataset, folder: Path) -> dict:
    """Write the prepared data set into a folder and return its audit."""
    tensors = {"mean": dataset.mean, "std": dataset.std}
    for split in store.SPLITS:
        part: Split = getattr(dataset, split)
        tensors |= {f"{split}_images": part.images, f"{split}_labels": part.labels}
        if part.sublabels is not None:
            tensors[f"{split}_sublabels"] = part.sublabels
    report = audit(dataset)
    store.write_tensors(folder / "samples.safetensors", tensors)
    store.write_json(folder / "audit.json", report)
    return report


def load(folder: Path) -> Dataset:
    """Read a prepared data set.

    Raises:
        BadInput: the file is missing or damaged.
    """
    path = folder / "samples.safetensors"
    tensors = store.read_tensors(path)
    try:
        parts = {
            s: Split(tensors[f"{s}_images"], tensors[f"{s}_labels"], tensors.get(f"{s}_sublabels"))
            for s in store.SPLITS
        }
        return Dataset(**parts, mean=tensors["mean"], std=tensors["std"])
    except KeyError as missing:
        raise BadInput(f"{path}: holds no {missing}; delete it and run `dvc repro` again") from None


def audit(dataset: Dataset) -> dict:
    """Counts per class, exact duplicates within and across splits, and a hash of each split."""
    seen: dict[str, Counter[bytes]] = {}
    report: dict = {"mean": dataset.mean.tolist(), "std": dataset.std.tolist(), "splits": {}}
    for split in store.SPLITS:
        part: Split = getattr(dataset, split)
        seen[split] = Counter(image.tobytes() for image in part.images)
        sublabels = b"" if part.sublabels is None else part.sublabels.tobytes()
        digest = hashlib.sha256(part.images.tobytes() + part.labels.tobytes() + sublabels).hexdigest()
        report["splits"][split] = {
            "images": len(part.labels),
            "per_class": np.bincount(part.labels, minlength=dataset.classes).tolist(),
            "exact_duplicates": sum(n - 1 for n in seen[split].values()),
            "sha256": digest,
        }
    report["exact_duplicates_across"] = {
        f"{a} and {b}": len(seen[a].keys() & seen[b].keys())
        for i, a in enumerate(store.SPLITS)
        for b in store.SPLITS[i + 1 :]
    }
    return report


def content_hash(folder: Path) -> str:
    """SHA-256 of a prepared data set, as its audit states it: names the data in a run's sidecar."""
    splits = store.read_json(folder / "audit.json")["splits"]
    return hashlib.sha256("".join(splits[s]["sha256"] for s in store.SPLITS).encode()).hexdigest()

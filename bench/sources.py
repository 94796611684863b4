"""Data sets' names -> their labels and images, as their publishers split them.

Published sets are fetched by `bench.download` and read through torchvision once every file has its
published MD5; addresses and checksums are torchvision's own wherever it has the set. ImageNet and any
other folder of images are decoded to one size, as they are asked for. torchvision and scikit-learn are
imported by the functions that need them.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from bench import images
from bench.download import File, fetch
from bench.errors import BadInput
from bench.requests import DATASETS, Facts
from bench.store import data_folder

SPLIT_SEED = 0  # one split for base training, retraining and every method
IMAGENET = "LETHE_IMAGENET"
IMAGENET_IMAGES = (1_281_167, 50_000)  # training, validation: Russakovsky et al., arXiv:1409.0575, table 2
MARGIN = 256 / 224  # ImageNet's usual view: the shorter side to 256, then the 224 pixels in the middle

# torchvision has no Tiny-ImageNet. The checksum is the one that Avalanche states
# (github.com/ContinualAI/avalanche, avalanche/benchmarks/datasets/tiny_imagenet/tiny_imagenet.py).
TINY_IMAGENET = File(
    "tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
    ("https://cs231n.stanford.edu/tiny-imagenet-200.zip", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
)

# MD5 of what MNIST's archives hold, for copies that were packed again, as SecML states it
# (github.com/pralab/secml, src/secml/data/loader/c_dataloader_mnist.py).
MNIST_UNPACKED = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}

# CIFAR-100's superclasses and their classes, in the order of the set's labels for both: by name
# (www.cs.toronto.edu/~kriz/cifar.html). torchvision hands out the classes alone.
CIFAR20 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


class NoFolder(BadInput):
    """The folder of a set of image files is not named, or not there."""


@dataclass(frozen=True)
class Part:
    """Images of a data set: their labels and subclasses, int64 [n], and their pixels, read as they are asked for.

    `shape` is n, channels, height, width. `batches` takes some rows, int64, and gives their images in that
    order, uint8 [at most images.BATCH, channels, height, width] at a time.
    """

    labels: np.ndarray
    shape: tuple[int, ...]
    batches: Callable[[np.ndarray], Iterator[np.ndarray]]
    sublabels: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray) -> "Part":
        return Part(
            self.labels[rows],
            (len(rows), *self.shape[1:]),
            lambda chosen: self.batches(rows[chosen]),
            None if self.sublabels is None else self.sublabels[rows],
        )

    def images(self) -> Iterator[np.ndarray]:
        """All images, in batches."""
        return self.batches(np.arange(len(self.labels)))


def _in_memory(pixels: np.ndarray, labels: Any, sublabels: np.ndarray | None = None) -> Part:
    def batches(rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), images.BATCH):
            yield np.ascontiguousarray(pixels[rows[start : start + images.BATCH]])

    return Part(np.asarray(labels, np.int64), pixels.shape, batches, sublabels)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: the files that it consists of, how they are read, the shape of an image.

    A source without files is a folder of images, which are decoded to a size; `variable`, of the
    environment, may name it. `read` takes the folder, there also the size and the number of threads.
    """

    name: str
    read: Callable[..., tuple[Part, Part]]
    files: Callable[[], tuple[File, ...]] | None = None
    shape: tuple[int, int, int] | None = None
    variable: str | None = None

    @property
    def facts(self) -> Facts:
        return DATASETS[self.name]

    def load(self, folder: Path | None = None, *, size: int | None = None, jobs: int = 1) -> tuple[Part, Part]:
        """The training and the test part.

        Published files are looked for in the folder, by default `bench.store.data_folder()`, and
        downloaded into it if missing. The folder of ImageNet may be named in LETHE_IMAGENET instead. Images
        of a folder are decoded to `size` x `size` by `jobs` threads.

        Raises:
            NoFolder: a folder of images is not named, or not there.
            BadInput: a file is missing or damaged; a class is missing or a label out of range; the disk is full.
        """
        if self.files is None:
            return self.read(self._named(folder), size, jobs)
        folder, files = folder or data_folder(), self.files()
        fetch(self.name, files, folder)
        try:
            train, test = self.read(folder)
        except OSError as error:
            at = error.filename or tempfile.gettempdir()
            raise BadInput(f"{self.name}: cannot be unpacked and read: {at}: {error.strerror or error}") from error
        where = f"{folder}: {', '.join(file.name for file in files)}"
        self._check(f"{where}: training part", train)
        self._check(f"{where}: test part", test)
        return train, test

    def _named(self, folder: Path | None) -> Path:
        named = folder or (self.variable and os.environ.get(self.variable))
        if not named:
            raise NoFolder(_imagenet_advice() if self.variable else f"{self.name} needs the folder of its images")
        if not (found := Path(named).expanduser()).is_dir():
            raise NoFolder(f"{found}: no such folder")
        return found

    def _check(self, where: str, part: Part) -> None:
        """Raise `BadInput` unless a part has images of the set's shape, all of its classes and no other."""
        if part.shape[1:] != self.shape:
            raise BadInput(f"{where}: images of shape {part.shape[1:]}; {self.shape} is expected")
        for what, labels, count in (
            ("label", part.labels, self.facts.classes),
            ("subclass", part.sublabels, self.facts.subclasses),
        ):
            if labels is None or count is None:
                continue
            if len(labels) != part.shape[0]:
                raise BadInput(f"{where}: {len(labels)} {what}s for {part.shape[0]} images")
            found, known = set(labels.tolist()), set(range(count))
            if outside := sorted(found - known):
                raise BadInput(f"{where}: {what} {outside[0]} is out of range; there are 0 to {count - 1}")
            if absent := sorted(known - found):
                raise BadInput(f"{where}: no image has the {what} {', '.join(map(str, absent))}")


def _imagenet_advice() -> str:
    from torchvision.datasets.imagenet import ARCHIVE_META

    archives = ", ".join(f"{name} (MD5 {md5})" for name, md5 in ARCHIVE_META.values())
    return (
        f"imagenet: its licence forbids a download here; name a folder with `train` and `val` in {IMAGENET} or as "
        "the benchmark's folder, each with a folder per class (n01440764, ...). The archives come from image-net.org "
        f"after a login: {archives}; torchvision.datasets.ImageNet(FOLDER, 'train') and (FOLDER, 'val') check and "
        "unpack them"
    )


def _pair(part: Callable[[Any], Part], train: Any, test: Any) -> tuple[Part, Part]:
    return part(train), part(test)


def _digits(folder: Path) -> tuple[Part, Part]:
    """scikit-learn's handwritten digits (Alpaydin and Kaynak 1998): 1,797 grey 8x8 images, 10 classes.

    The set has no test part of its own; a stratified fifth becomes one. Pixels 0 to 16 are scaled to
    0 to 255 and rounded, which loses nothing.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    values, labels = load_digits(return_X_y=True)
    pixels = np.round(values.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED)
    return _pair(lambda chosen: _in_memory(pixels[chosen], labels[chosen]), *rows)


def _digits_parity(folder: Path) -> tuple[Part, Part]:
    """The digits told apart as even (0) and odd (1); the subclasses are the ten digits."""
    return _pair(lambda part: replace(part, labels=part.labels % 2, sublabels=part.labels), *_digits(folder))


def _idx_files(kind: str, unpacked: dict[str, str]) -> tuple[File, ...]:
    from torchvision import datasets

    published: Any = getattr(datasets, kind)
    return tuple(
        File(f"{kind}/raw/{name}", md5, tuple(mirror + name for mirror in published.mirrors), unpacked.get(name))
        for name, md5 in published.resources
    )


def _idx(kind: str, folder: Path) -> tuple[Part, Part]:
    """MNIST and sets in its format, unpacked out of the reader's sight: torchvision checks no unpacked file."""
    from torchvision import datasets
    from torchvision.datasets.utils import extract_archive

    published: Any = getattr(datasets, kind)
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, kind, "raw")
        raw.mkdir(parents=True)
        for name, _ in published.resources:
            extract_archive(folder / kind / "raw" / name, raw)
        train, test = (published(root, train=part) for part in (True, False))
    return _pair(lambda part: _in_memory(part.data.numpy()[:, None], part.targets.numpy()), train, test)


def _cifar_files(kind: str) -> tuple[File, ...]:
    from torchvision import datasets

    published: Any = getattr(datasets, kind)
    return (File(published.filename, published.tgz_md5, (published.url,)),)


def _cifar(kind: str, folder: Path) -> tuple[Part, Part]:
    """CIFAR-10 or CIFAR-100; torchvision checks the pickles in the checked archive once more, then loads them."""
    from torchvision import datasets
    from torchvision.datasets.utils import extract_archive

    published: Any = getattr(datasets, kind)
    with tempfile.TemporaryDirectory() as root:
        extract_archive(folder / published.filename, root)
        train, test = (published(root, train=part) for part in (True, False))

    return _pair(lambda part: _in_memory(part.data.transpose(0, 3, 1, 2), part.targets), train, test)


def superclasses() -> np.ndarray:
    """The superclass of each class of CIFAR-100, int64 [100]; both are numbered by name."""
    of = {name: label for label, names in enumerate(CIFAR20.values()) for name in names.split()}
    return np.array([of[name] for name in sorted(of)], np.int64)


def _cifar20(folder: Path) -> tuple[Part, Part]:
    """CIFAR-100 with its superclasses as labels and its classes as subclasses."""
    train, test = _cifar("CIFAR100", folder)

    def coarse(part: Part) -> Part:
        known = np.clip(part.labels, 0, 99)  # a class out of range is found when the subclasses are checked
        return replace(part, labels=superclasses()[known], sublabels=part.labels)

    return _pair(coarse, train, test)


def _svhn_files() -> tuple[File, ...]:
    from torchvision.datasets import SVHN

    return tuple(File(name, md5, (url,)) for url, name, md5 in (SVHN.split_list[s] for s in ("train", "test")))


def _svhn(folder: Path) -> tuple[Part, Part]:
    """SVHN's cropped digits without its `extra` part; torchvision turns their label 10 into 0."""
    from torchvision.datasets import SVHN

    train, test = (SVHN(folder, split) for split in ("train", "test"))
    return _pair(lambda part: _in_memory(part.data, part.labels), train, test)


def _tiny_imagenet(folder: Path) -> tuple[Part, Part]:
    """Tiny-ImageNet; its validation part is the test part, since its test part has no labels."""
    path, root = folder / TINY_IMAGENET.name, TINY_IMAGENET.name.removesuffix(".zip")
    with ZipFile(path) as archive:
        number = {wnid: k for k, wnid in enumerate(sorted(archive.read(f"{root}/wnids.txt").decode().split()))}
        names = sorted(n for n in archive.namelist() if n.startswith(f"{root}/train/") and n.endswith(".JPEG"))
        lines = archive.read(f"{root}/val/val_annotations.txt").decode().splitlines()
    train = {name: name.split("/")[2] for name in names}
    test = {f"{root}/val/images/{line.split()[0]}": line.split()[1] for line in lines}

    def part(wnids: dict[str, str]) -> Part:
        names = list(wnids)

        def batches(rows: np.ndarray) -> Iterator[np.ndarray]:
            with ZipFile(path) as archive:
                yield from images.decoded([names[i] for i in rows], (3, 64, 64), read=archive.read)

        labels = np.array([number.get(wnid, -1) for wnid in wnids.values()], np.int64)
        return Part(labels, (len(wnids), 3, 64, 64), batches)

    return _pair(part, train, test)


def _folders(folder: Path, size: int, jobs: int, *, margin: float = 1.0, **wanted: Any) -> tuple[Part, Part]:
    """A folder of images per class in each of its parts; `wanted` as `images.folders` takes it.

    The shorter side is scaled to `size` times `margin`, and `size` x `size` pixels are cut out.
    """
    channels, parts = images.folders(folder, **wanted)
    shape = (channels, size, size)

    def part(listed: tuple[list[str], np.ndarray]) -> Part:
        paths, labels = listed

        def batches(rows: np.ndarray) -> Iterator[np.ndarray]:
            return images.decoded([paths[i] for i in rows], shape, shorter=round(size * margin), jobs=jobs)

        return Part(labels, (len(paths), *shape), batches)

    return _pair(part, *parts)


SOURCES = {
    source.name: source
    for source in (
        Source("digits", _digits, lambda: (), (1, 8, 8)),
        Source("digits-parity", _digits_parity, lambda: (), (1, 8, 8)),
        Source("mnist", partial(_idx, "MNIST"), partial(_idx_files, "MNIST", MNIST_UNPACKED), (1, 28, 28)),
        Source("fashion-mnist", partial(_idx, "FashionMNIST"), partial(_idx_files, "FashionMNIST", {}), (1, 28, 28)),
        Source("svhn", _svhn, _svhn_files, (3, 32, 32)),
        Source("cifar10", partial(_cifar, "CIFAR10"), partial(_cifar_files, "CIFAR10"), (3, 32, 32)),
        Source("cifar100", partial(_cifar, "CIFAR100"), partial(_cifar_files, "CIFAR100"), (3, 32, 32)),
        Source("cifar20", _cifar20, partial(_cifar_files, "CIFAR100"), (3, 32, 32)),
        Source("tiny-imagenet", _tiny_imagenet, lambda: (TINY_IMAGENET,), (3, 64, 64)),
        Source(
            "imagenet",
            partial(_folders, tests=("val",), margin=MARGIN, channels=3, classes=1000, counts=IMAGENET_IMAGES),
            variable=IMAGENET,
        ),
        Source("imagefolder", partial(_folders, tests=("test", "val"))),
    )
}

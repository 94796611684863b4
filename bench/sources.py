"""Data sets' names -> their images and labels, as their publishers split them.

Published sets are fetched by `bench.download` and read through torchvision once every file has its
published MD5; addresses and checksums are torchvision's own wherever it has the set. ImageNet and any
other folder of images are decoded to one size. torchvision is imported by the functions that need it.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from bench.datasets import Split
from bench.download import File, data_folder, fetch
from bench.errors import BadInput
from bench.images import Allocate, decode, in_memory, read_folders

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


@dataclass(frozen=True)
class Source:
    """A data set: what it holds, which files it consists of, how they are read.

    A source with files is published; one without is a folder of images, which are decoded to a size.
    `classes` is None where the folder says, `shape` where the size does. `read` takes the folder; for a
    folder of images also the size, the number of threads and an `Allocate`.
    """

    name: str
    classes: int | None
    read: Callable[..., tuple[Split, Split]]
    files: Callable[[], tuple[File, ...]] | None = None
    shape: tuple[int, int, int] | None = None
    subclasses: int | None = None
    variable: str | None = None  # of the environment, naming the folder

    @property
    def sized(self) -> bool:
        """Whether `load` needs a size."""
        return self.files is None

    def load(
        self,
        folder: Path | None = None,
        *,
        size: int | None = None,
        jobs: int = 1,
        allocate: Allocate = in_memory,
    ) -> tuple[Split, Split]:
        """The training and the test part.

        Published files are looked for in the folder, by default `bench.download.data_folder()`, and
        downloaded into it if missing. The folder of ImageNet may be named in LETHE_IMAGENET instead. Images
        of a folder are decoded to `size` x `size` by `jobs` threads into the arrays that `allocate` gives.

        ImageNet at size 224 takes 193 GB for its training part and 7.5 GB for its test part: pass an
        `allocate` that opens files as `np.lib.format.open_memmap(..., mode="w+", dtype=np.uint8, shape=shape)`.
        What is in them is no data set if this raises.

        Raises:
            BadInput: a file is missing, damaged or no image; a class is missing or a label out of range.
        """
        if self.files is None:
            if size is None:
                raise BadInput(f"{self.name}: needs a size in pixels, to which its images are brought")
            return self.read(self._named(folder), size, jobs, allocate)
        if size is not None:
            raise BadInput(f"{self.name}: takes no size; its images have one")
        folder, files = folder or data_folder(), self.files()
        fetch(self.name, files, folder)
        train, test = self.read(folder)
        where = f"{folder}: {', '.join(file.name for file in files)}"
        self._check(f"{where}: training part", train)
        self._check(f"{where}: test part", test)
        return train, test

    def _named(self, folder: Path | None) -> Path:
        named = folder or (self.variable and os.environ.get(self.variable))
        if named:
            return Path(named).expanduser()
        raise BadInput(_imagenet_advice() if self.variable else f"{self.name}: needs the folder of its images")

    def _check(self, where: str, part: Split) -> None:
        """Raise `BadInput` unless a part has images of the set's shape, all of its classes and no other."""
        if part.images.shape[1:] != self.shape:
            raise BadInput(f"{where}: images of shape {part.images.shape[1:]}; {self.shape} is expected")
        for what, labels, count in (
            ("label", part.labels, self.classes),
            ("subclass", part.sublabels, self.subclasses),
        ):
            if labels is None or count is None:
                continue
            if len(labels) != len(part.images):
                raise BadInput(f"{where}: {len(labels)} {what}s for {len(part.images)} images")
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


def _pair(split: Callable[[Any], Split], train: Any, test: Any) -> tuple[Split, Split]:
    return split(train), split(test)


def _idx_files(kind: str, unpacked: dict[str, str]) -> tuple[File, ...]:
    from torchvision import datasets

    published: Any = getattr(datasets, kind)
    return tuple(
        File(f"{kind}/raw/{name}", md5, tuple(mirror + name for mirror in published.mirrors), unpacked.get(name))
        for name, md5 in published.resources
    )


def _idx(kind: str, folder: Path) -> tuple[Split, Split]:
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
    return _pair(lambda part: Split(part.data.numpy()[:, None], part.targets.numpy()), train, test)


def _cifar_files(kind: str) -> tuple[File, ...]:
    from torchvision import datasets

    published: Any = getattr(datasets, kind)
    return (File(published.filename, published.tgz_md5, (published.url,)),)


def _cifar(kind: str, folder: Path) -> tuple[Split, Split]:
    """CIFAR-10 or CIFAR-100; torchvision checks the pickles in the checked archive once more, then loads them."""
    from torchvision import datasets
    from torchvision.datasets.utils import extract_archive

    published: Any = getattr(datasets, kind)
    with tempfile.TemporaryDirectory() as root:
        extract_archive(folder / published.filename, root)
        train, test = (published(root, train=part) for part in (True, False))

    def split(part: Any) -> Split:
        return Split(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, np.int64))

    return _pair(split, train, test)


def superclasses() -> np.ndarray:
    """The superclass of each class of CIFAR-100, int64 [100]; both are numbered by name."""
    of = {name: label for label, names in enumerate(CIFAR20.values()) for name in names.split()}
    return np.array([of[name] for name in sorted(of)], np.int64)


def _cifar20(folder: Path) -> tuple[Split, Split]:
    """CIFAR-100 with its superclasses as labels and its classes as subclasses."""
    train, test = _cifar("CIFAR100", folder)

    def split(part: Split) -> Split:
        known = np.clip(part.labels, 0, 99)  # a class out of range is found when the subclasses are checked
        return Split(part.images, superclasses()[known], part.labels)

    return _pair(split, train, test)


def _svhn_files() -> tuple[File, ...]:
    from torchvision.datasets import SVHN

    return tuple(File(name, md5, (url,)) for url, name, md5 in (SVHN.split_list[s] for s in ("train", "test")))


def _svhn(folder: Path) -> tuple[Split, Split]:
    """SVHN's cropped digits without its `extra` part; torchvision turns their label 10 into 0."""
    from torchvision.datasets import SVHN

    train, test = (SVHN(folder, split) for split in ("train", "test"))
    return _pair(lambda part: Split(np.ascontiguousarray(part.data), part.labels), train, test)


def _tiny_imagenet(folder: Path) -> tuple[Split, Split]:
    """Tiny-ImageNet; its validation part is the test part, since its test part has no labels."""
    root = TINY_IMAGENET.name.removesuffix(".zip")
    with ZipFile(folder / TINY_IMAGENET.name) as archive:
        labels = {wnid: k for k, wnid in enumerate(sorted(archive.read(f"{root}/wnids.txt").decode().split()))}
        train = sorted(n for n in archive.namelist() if n.startswith(f"{root}/train/") and n.endswith(".JPEG"))
        lines = archive.read(f"{root}/val/val_annotations.txt").decode().splitlines()
        test = {f"{root}/val/images/{line.split()[0]}": line.split()[1] for line in lines}
        splits = []
        for names, wnids in ((train, [n.split("/")[2] for n in train]), (list(test), list(test.values()))):
            images = np.empty((len(names), 3, 64, 64), np.uint8)
            decode(names, images, read=archive.read)
            splits.append(Split(images, np.array([labels.get(wnid, -1) for wnid in wnids], np.int64)))
    return splits[0], splits[1]


def _images(folder: Path, size: int, jobs: int, allocate: Allocate, **wanted: Any) -> tuple[Split, Split]:
    """A folder of images per class in each of its parts; `wanted` as `read_folders` takes it."""
    return _pair(lambda part: Split(*part), *read_folders(folder, size, jobs, allocate, **wanted))


SOURCES = {
    source.name: source
    for source in (
        Source("mnist", 10, partial(_idx, "MNIST"), partial(_idx_files, "MNIST", MNIST_UNPACKED), (1, 28, 28)),
        Source(
            "fashion-mnist", 10, partial(_idx, "FashionMNIST"), partial(_idx_files, "FashionMNIST", {}), (1, 28, 28)
        ),
        Source("svhn", 10, _svhn, _svhn_files, (3, 32, 32)),
        Source("cifar10", 10, partial(_cifar, "CIFAR10"), partial(_cifar_files, "CIFAR10"), (3, 32, 32)),
        Source("cifar100", 100, partial(_cifar, "CIFAR100"), partial(_cifar_files, "CIFAR100"), (3, 32, 32)),
        Source("cifar20", 20, _cifar20, partial(_cifar_files, "CIFAR100"), (3, 32, 32), subclasses=100),
        Source("tiny-imagenet", 200, _tiny_imagenet, lambda: (TINY_IMAGENET,), (3, 64, 64)),
        Source(
            "imagenet",
            1000,
            partial(_images, tests=("val",), margin=MARGIN, channels=3, counts=IMAGENET_IMAGES, classes=1000),
            variable=IMAGENET,
        ),
        Source("imagefolder", None, partial(_images, tests=("test", "val"))),
    )
}

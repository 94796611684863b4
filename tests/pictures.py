"""Random images and the files that they are published in, for tests of data sets."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from bench.datasets import Split
from bench.errors import BadInput
from bench.sources import SOURCES, Part

# CIFAR-100's superclass of each class, as many projects publish it
PUBLISHED = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1),
    *(10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12),
    *(12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0),
    *(17, 8, 14, 13),
]


def random_split(n: int, classes: int, shape: tuple[int, int, int], seed: int) -> Split:
    """Every class once, then at random; shuffled."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    return Split(rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(labels))


def take(split: Split, chosen: np.ndarray) -> Split:
    return Split(split.images[chosen], split.labels[chosen])


def pixels(part: Part) -> np.ndarray:
    return np.concatenate(list(part.images()))


def read(name: str, folder: Path, **options: object) -> list[np.ndarray]:
    return [pixels(part) for part in SOURCES[name].load(folder, **options)]


def refusal(name: str, folder: Path, **options: object) -> str:
    """What reading a data set to its end is refused with."""
    with pytest.raises(BadInput) as caught:
        read(name, folder, **options)
    return str(caught.value)


def same(found: Part, expected: Split) -> None:
    images = pixels(found)
    assert images.dtype == np.uint8
    assert images.shape == found.shape
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(images, expected.images)
    np.testing.assert_array_equal(found.labels, expected.labels)


def encoded(pixels: np.ndarray, kind: str = "JPEG", quality: int = 95) -> bytes:
    """An image file of uint8 [channels, height, width]."""
    stream = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(stream, kind, quality=quality)
    return stream.getvalue()


def decoded(content: bytes, mode: str = "RGB") -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert(mode))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class Cifar:
    """Writes `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz` and tells torchvision its checksums."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.published, self.folder, self.set = getattr(datasets, kind), folder, monkeypatch.setattr
        self.hundred = kind == "CIFAR100"

    def entry(self, part: Split) -> dict:
        entry = {"data": part.images.reshape(len(part.images), -1), "filenames": [], "batch_label": "a batch"}
        if self.hundred:
            coarse = [PUBLISHED[k % 100] for k in part.labels]
            return entry | {"fine_labels": part.labels.tolist(), "coarse_labels": coarse}
        return entry | {"labels": part.labels.tolist()}

    def write(self, train: Split, test: Split) -> Path:
        pieces = np.array_split(np.arange(len(train.labels)), len(self.published.train_list))
        batches = [*(take(train, piece) for piece in pieces), test]
        listed = [name for name, _ in self.published.train_list + self.published.test_list]
        files = {name: self.entry(batch) for name, batch in zip(listed, batches, strict=True)}
        return self.pack(files | {self.published.meta["filename"]: {self.published.meta["key"]: ["a name"]}})

    def pack(self, files: dict[str, object]) -> Path:
        path = self.folder / self.published.filename
        sums = {}
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                stream = pickle.dumps(content, protocol=2)
                sums[name] = hashlib.md5(stream).hexdigest()
                member = tarfile.TarInfo(f"{self.published.base_folder}/{name}")
                member.size = len(stream)
                archive.addfile(member, io.BytesIO(stream))
        self.set(self.published, "tgz_md5", md5(path))
        for part in ("train_list", "test_list"):
            self.set(self.published, part, [[n, sums[n]] for n, _ in getattr(self.published, part)])
        self.set(self.published, "meta", self.published.meta | {"md5": sums[self.published.meta["filename"]]})
        return path

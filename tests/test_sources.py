"""Data sets, on generated files in exactly the publishers' formats, and on real ones where they are at hand."""

import errno
import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import scipy.io
from torchvision import datasets

from bench import sources
from bench.datasets import Split
from bench.requests import DATASETS
from bench.sources import SOURCES
from tests.loopback import serving
from tests.pictures import PUBLISHED, Cifar, decoded, encoded, md5, pixels, random_split, refusal, same, take

SHARED = Path(__file__).resolve().parent.parent / "../shared/data"
Make = Callable[..., None]


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Callable[[str], Cifar]:
    return lambda kind: Cifar(kind, tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "kind", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_has_the_pixels_and_labels_of_the_pickles_in_order(cifar, tmp_path, name, kind, classes):
    train, test = random_split(203, classes, (3, 32, 32), 0), random_split(101, classes, (3, 32, 32), 1)
    cifar(kind).write(train, test)
    for found, expected in zip(SOURCES[name].load(tmp_path), (train, test), strict=True):
        same(found, expected)
        assert found.sublabels is None


def test_cifar20_has_superclasses_as_labels_and_classes_as_subclasses(cifar, tmp_path):
    train, test = random_split(203, 100, (3, 32, 32), 0), random_split(101, 100, (3, 32, 32), 1)
    cifar("CIFAR100").write(train, test)
    for found, expected in zip(SOURCES["cifar20"].load(tmp_path), (train, test), strict=True):
        same(found, Split(expected.images, np.array(PUBLISHED)[expected.labels]))
        np.testing.assert_array_equal(found.sublabels, expected.labels)


def test_superclasses_are_the_published_ones():
    assert sources.superclasses().tolist() == PUBLISHED
    assert np.bincount(sources.superclasses()).tolist() == [5] * 20


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar20"])
def test_a_pickle_is_not_loaded_before_its_checksum_matched(cifar, tmp_path, monkeypatch, name):
    writer = cifar("CIFAR10" if name == "cifar10" else "CIFAR100")
    listed = [n for n, _ in writer.published.train_list + writer.published.test_list]
    path = writer.pack(dict.fromkeys([*listed, writer.published.meta["filename"]], Trap(tmp_path / "sprung")))
    expected = "0" * 32
    monkeypatch.setattr(writer.published, "tgz_md5", expected)
    message = refusal(name, tmp_path)
    assert f"{path}: MD5 {md5(path)} ({path.stat().st_size:,} bytes), expected {expected}" in message
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_archive_is_named(cifar, tmp_path):
    path = cifar("CIFAR10").write(random_split(20, 10, (3, 32, 32), 0), random_split(10, 10, (3, 32, 32), 1))
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{path}: MD5" in refusal("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar20"])
def test_labels_out_of_range_and_missing_classes_are_told(cifar, tmp_path, name):
    kind, classes, what = ("CIFAR10", 10, "label") if name == "cifar10" else ("CIFAR100", 100, "subclass")
    train, test = random_split(130, classes, (3, 32, 32), 0), random_split(120, classes, (3, 32, 32), 1)
    for wrong in (classes, classes + 7, -1):
        labels = train.labels.copy()
        labels[3] = wrong
        path = cifar(kind).write(replace(train, labels=labels), test)
        message = refusal(name, tmp_path)
        assert f"training part: {what} {wrong} is out of range; there are 0 to {classes - 1}" in message
        assert path.name in message
    cifar(kind).write(train, take(test, test.labels != 4))
    where = "test part: no image has the " + ("label 4" if name == "cifar10" else "subclass 4")
    assert where in refusal(name, tmp_path)


def test_more_labels_than_images_are_told(cifar, tmp_path):
    train, test = random_split(20, 10, (3, 32, 32), 0), random_split(10, 10, (3, 32, 32), 1)
    cifar("CIFAR10").write(train, replace(test, labels=np.append(test.labels, 3)))
    assert "test part: 11 labels for 10 images" in refusal("cifar10", tmp_path)


def test_a_disk_that_fills_up_while_a_set_is_unpacked_is_told(cifar, tmp_path, monkeypatch):
    cifar("CIFAR10").write(random_split(20, 10, (3, 32, 32), 0), random_split(10, 10, (3, 32, 32), 1))

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", full)
    message = refusal("cifar10", tmp_path)
    assert message.startswith("cifar10: cannot be unpacked and read: ")
    assert "No space left" in message


def test_a_set_is_downloaded_once_and_then_read_without_a_network(cifar, tmp_path, monkeypatch):
    train, test = random_split(30, 10, (3, 32, 32), 0), random_split(10, 10, (3, 32, 32), 1)
    content = cifar("CIFAR10").write(train, test).read_bytes()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("LETHE_DATA", str(tmp_path / "cache"))
    with serving() as server:
        monkeypatch.setattr(datasets.CIFAR10, "url", server.serve("cifar-10-python.tar.gz", content))
        same(SOURCES["cifar10"].load()[0], train)
        assert len(server.requests) == 1
    same(SOURCES["cifar10"].load()[1], test)
    assert (tmp_path / "cache/cifar-10-python.tar.gz").read_bytes() == content


def idx(array: np.ndarray) -> bytes:
    """Bytes in the format of MNIST: zero, zero, 8 for uint8, dimensions, big-endian lengths, values."""
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


@pytest.fixture(params=["mnist", "fashion-mnist"])
def mnist(request, tmp_path, monkeypatch) -> tuple[str, Make]:
    """The set's name, and a function that writes its four files and tells torchvision their checksums."""
    published = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[request.param]

    def write(train: Split, test: Split) -> None:
        raw = tmp_path / published.__name__ / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        resources = []
        arrays = (train.images[:, 0], train.labels, test.images[:, 0], test.labels)
        for (name, _), array in zip(published.resources, arrays, strict=True):
            (raw / name).write_bytes(gzip.compress(idx(array)))
            resources.append((name, md5(raw / name)))
        monkeypatch.setattr(published, "resources", resources)

    return request.param, write


def test_mnist_keeps_one_channel(mnist, tmp_path):
    name, write = mnist
    train, test = random_split(30, 10, (1, 28, 28), 0), random_split(12, 10, (1, 28, 28), 1)
    write(train, test)
    before = sorted(tmp_path.rglob("*"))
    for found, expected in zip(SOURCES[name].load(tmp_path), (train, test), strict=True):
        same(found, expected)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked beside the archives"


def test_unpacked_files_that_nobody_checks_are_not_read(mnist, tmp_path):
    name, write = mnist
    train, test = random_split(30, 10, (1, 28, 28), 0), random_split(12, 10, (1, 28, 28), 1)
    write(train, test)
    for archive in list(tmp_path.rglob("*.gz")):
        archive.with_suffix("").write_bytes(b"stale")
    same(SOURCES[name].load(tmp_path)[0], train)


def test_mnist_of_another_shape_or_with_another_label_is_told(mnist, tmp_path):
    name, write = mnist
    train, test = random_split(30, 10, (1, 28, 28), 0), random_split(12, 10, (1, 28, 28), 1)
    write(replace(train, images=train.images[..., :27]), test)
    assert "training part: images of shape (1, 28, 27); (1, 28, 28) is expected" in refusal(name, tmp_path)
    write(train, replace(test, labels=test.labels + 1))
    assert "test part: label 10 is out of range" in refusal(name, tmp_path)


@pytest.fixture
def svhn(tmp_path, monkeypatch) -> Make:
    def write(train: Split, test: Split) -> None:
        listed = dict(datasets.SVHN.split_list)
        for split, part in (("train", train), ("test", test)):
            url, name, _ = listed[split]
            labels = np.where(part.labels == 0, 10, part.labels).astype(np.uint8)[:, None]
            scipy.io.savemat(
                tmp_path / name, {"X": part.images.transpose(2, 3, 1, 0), "y": labels}, do_compression=True
            )
            listed[split] = [url, name, md5(tmp_path / name)]
        monkeypatch.setattr(datasets.SVHN, "split_list", listed)

    return write


def test_svhn_has_its_digits_with_ten_read_as_zero(svhn, tmp_path):
    train, test = random_split(30, 10, (3, 32, 32), 0), random_split(12, 10, (3, 32, 32), 1)
    svhn(train, test)
    for found, expected in zip(SOURCES["svhn"].load(tmp_path), (train, test), strict=True):
        same(found, expected)


def test_svhn_with_a_wrong_label_or_without_a_digit_is_told(svhn, tmp_path):
    train, test = random_split(30, 10, (3, 32, 32), 0), random_split(12, 10, (3, 32, 32), 1)
    svhn(replace(train, labels=np.where(np.arange(30) == 2, 11, train.labels)), test)
    message = refusal("svhn", tmp_path)
    assert "train_32x32.mat" in message
    assert "training part: label 11 is out of range; there are 0 to 9" in message
    svhn(train, take(test, test.labels != 0))
    assert "test part: no image has the label 0" in refusal("svhn", tmp_path)


class TinyImagenet:
    """200 classes in an order that is not sorted, an image each in the training and the validation part."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.wnids = [f"n{k:08}" for k in rng.permutation(200)]
        pixels = rng.integers(0, 256, (400, 3, 64, 64), dtype=np.uint8)
        self.train = {f"train/{w}/images/{w}_0.JPEG": encoded(p) for w, p in zip(self.wnids, pixels, strict=False)}
        self.train[next(iter(self.train))] = encoded(pixels[0, :1])  # some files are grey
        self.val = {f"val/images/val_{k}.JPEG": encoded(p) for k, p in enumerate(pixels[200:])}
        self.annotations = list(zip((Path(n).name for n in self.val), self.wnids[::-1], strict=True))

    def write(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in self.annotations)
        path = folder / "tiny-imagenet-200.zip"
        with ZipFile(path, "w") as archive:
            archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(self.wnids) + "\n")
            archive.writestr("tiny-imagenet-200/val/val_annotations.txt", lines)
            archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", b"without a label, never read")
            archive.writestr(f"tiny-imagenet-200/train/{self.wnids[0]}/{self.wnids[0]}_boxes.txt", "0\t1\t2\t3\n")
            for name, content in (self.train | self.val).items():
                archive.writestr(f"tiny-imagenet-200/{name}", content)
        monkeypatch.setattr(sources, "TINY_IMAGENET", replace(sources.TINY_IMAGENET, md5=md5(path)))


def test_tiny_imagenet_has_its_validation_part_as_test_part(tmp_path, monkeypatch):
    tiny = TinyImagenet()
    tiny.write(tmp_path, monkeypatch)
    train, test = SOURCES["tiny-imagenet"].load(tmp_path)
    number = {wnid: k for k, wnid in enumerate(sorted(tiny.wnids))}
    files = sorted(tiny.train)
    same(
        train,
        Split(np.stack([decoded(tiny.train[f]) for f in files]), np.array([number[f.split("/")[1]] for f in files])),
    )
    same(
        test,
        Split(
            np.stack([decoded(c) for c in tiny.val.values()]), np.array([number[wnid] for _, wnid in tiny.annotations])
        ),
    )


def test_tiny_imagenet_with_a_wrong_file_or_label_is_told(tmp_path, monkeypatch):
    tiny = TinyImagenet()
    first = next(iter(tiny.train))
    small = encoded(np.zeros((3, 64, 63), np.uint8))
    for content, reason in ((b"text", "no image"), (tiny.train[first][:200], ""), (small, "63x64 pixels")):
        broken = TinyImagenet()
        broken.train[first] = content
        broken.write(tmp_path, monkeypatch)
        message = refusal("tiny-imagenet", tmp_path)
        assert "1 of 200 files are no whole images" in message
        assert f"tiny-imagenet-200/{first}: {reason}" in message
    other = TinyImagenet()
    other.annotations[5] = (other.annotations[5][0], "n99999999")
    other.write(tmp_path, monkeypatch)
    assert "test part: label -1 is out of range; there are 0 to 199" in refusal("tiny-imagenet", tmp_path)
    less = TinyImagenet()
    del less.train[first]
    less.write(tmp_path, monkeypatch)
    absent = sorted(tiny.wnids).index(first.split("/")[1])
    assert f"training part: no image has the label {absent}" in refusal("tiny-imagenet", tmp_path)
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"half")
    assert "tiny-imagenet-200.zip: MD5" in refusal("tiny-imagenet", tmp_path)


def test_every_data_set_of_the_parameters_has_a_source():
    assert {name: source.files is None for name, source in SOURCES.items()} == {
        name: facts.folder for name, facts in DATASETS.items()
    }


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.files])
def test_published_files_have_checksums_and_addresses(name):
    for file in SOURCES[name].files():
        assert len(bytes.fromhex(file.md5)) == 16
        assert all(url.startswith("http") and url.endswith(Path(file.name).name) for url in file.urls)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets in ../shared/data")
@pytest.mark.parametrize(
    ("name", "mean", "std", "of_ones"), [("mnist", 0.1307, 0.3081, 6742), ("fashion-mnist", 0.2860, 0.3530, 6000)]
)
def test_real_files_load_and_have_the_known_statistics(name, mean, std, of_ones):
    train, test = SOURCES[name].load(SHARED)
    assert (train.shape, test.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert np.bincount(train.labels)[1] == of_ones
    scaled = pixels(train) / 255
    assert scaled.mean() == pytest.approx(mean, abs=5e-5)
    assert scaled.std() == pytest.approx(std, abs=5e-5)

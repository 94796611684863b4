"""From a source to a prepared folder: splits, draws, files."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bench import datasets, images, store
from bench.config import Benchmark, Params
from bench.datasets import Dataset
from bench.errors import BadInput
from bench.prepare import build, splits
from bench.stages import data
from tests.pictures import PUBLISHED, Cifar, decoded, encoded, pixels, random_split, write_folder


def benchmark(dataset: str | dict, validation: float = 0.1) -> Benchmark:
    return Benchmark(
        dataset=dataset,
        validation=validation,
        architecture="resnet-small",
        training={"epochs": 1, "batch_size": 2, "lr": 0.1},
        requests={"class": {"kind": "class", "targets": [0]}},
        seeds=[0],
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("digits", "digits-parity"):
        build("b", benchmark(name), folder / name)
    return {name: datasets.load(folder / name) for name in ("digits", "digits-parity")}


def originals() -> list[tuple]:
    values, labels = load_digits(return_X_y=True)
    return [(tuple(x), y) for x, y in zip(values.astype(int).tolist(), labels.tolist(), strict=True)]


def unscaled(image: np.ndarray) -> tuple[int, ...]:
    return tuple(np.rint(image.reshape(-1) * (16 / 255)).astype(int).tolist())


def test_splits_partition_scikit_learns_digits_exactly(prepared):
    digits = prepared["digits"]
    ours = [
        (unscaled(x), y)
        for split in (digits.train, digits.validation, digits.test)
        for x, y in zip(split.images, split.labels.tolist(), strict=True)
    ]
    assert sorted(ours) == sorted(originals())
    assert digits.classes == 10


def test_parity_tells_the_same_digits_apart_as_even_and_odd(prepared):
    parity = prepared["digits-parity"]
    ours = [
        (unscaled(x), y, digit)
        for split in (parity.train, parity.validation, parity.test)
        for x, y, digit in zip(split.images, split.labels.tolist(), split.sublabels.tolist(), strict=True)
    ]
    assert sorted(ours) == sorted((x, y % 2, y) for x, y in originals())
    assert parity.classes == 2


def test_splits_are_stratified(prepared):
    """Each split has its share of every digit, to within one image of rounding."""
    _, labels = load_digits(return_X_y=True)
    for name, of in (("digits", "labels"), ("digits-parity", "sublabels")):
        for split in store.SPLITS:
            strata = getattr(getattr(prepared[name], split), of)
            expected = np.bincount(labels) * len(strata) / len(labels)
            assert np.abs(np.bincount(strata, minlength=10) - expected).max() <= 1.5


def test_mean_and_std_are_of_the_training_pixels(prepared):
    digits = prepared["digits"]
    scaled = digits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(digits.mean, [scaled.mean()], rtol=1e-6)
    np.testing.assert_allclose(digits.std, [scaled.std()], rtol=1e-6)


def test_same_bytes_twice_whatever_the_batches_and_threads(tmp_path, monkeypatch):
    build("b", benchmark("digits-parity"), tmp_path / "a")
    monkeypatch.setattr(images, "BATCH", 100)
    build("c", benchmark("digits-parity"), tmp_path / "b", jobs=3)
    for file in ("samples.safetensors", "audit.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_subclasses_count_in_the_content_hash(tmp_path, prepared):
    """Digits and their parities have the same images; what else there is tells their hashes apart."""
    build("b", benchmark("digits"), tmp_path / "digits")
    build("b", benchmark("digits-parity"), tmp_path / "parity")
    assert datasets.content_hash(tmp_path / "digits") != datasets.content_hash(tmp_path / "parity")


def test_cifar20_is_split_by_its_subclasses(tmp_path, monkeypatch):
    train, test = random_split(600, 100, (3, 32, 32), 0), random_split(120, 100, (3, 32, 32), 1)
    train = datasets.Split(train.images, np.arange(600) % 100)
    Cifar("CIFAR100", tmp_path, monkeypatch).write(train, test)
    build("b", benchmark({"name": "cifar20", "folder": str(tmp_path), "train_images": 400}, 0.25), tmp_path / "out")
    found = datasets.load(tmp_path / "out")
    assert np.bincount(found.train.sublabels).tolist() == [3] * 100
    assert np.bincount(found.validation.sublabels).tolist() == [1] * 100
    np.testing.assert_array_equal(found.test.images, test.images)
    np.testing.assert_array_equal(found.test.sublabels, test.labels)
    class_of = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    for split in (found.train, found.validation):
        assert [class_of[image.tobytes()] for image in split.images] == split.sublabels.tolist()
        assert np.array(PUBLISHED)[split.sublabels].tolist() == split.labels.tolist()
    audit = store.read_json(tmp_path / "out/audit.json")
    assert audit["splits"]["train"]["per_class"] == [15] * 20
    assert audit["splits"]["train"]["per_subclass"] == [3] * 100


def picture_folder(folder: Path) -> dict[str, bytes]:
    """40 training images of a cat and 20 of a dog, 7 test images of each; write them and return them."""
    rng = np.random.default_rng(0)
    counts = {"train/cat": 40, "train/dog": 20, "test/cat": 7, "test/dog": 7}
    files = {
        f"{part}/{k:02}.png": encoded(rng.integers(0, 256, (3, 9, 9), dtype=np.uint8), "PNG")
        for part, n in counts.items()
        for k in range(n)
    }
    write_folder(folder, files)
    return files


def test_images_that_are_not_drawn_are_not_decoded(tmp_path):
    files = picture_folder(tmp_path / "set")
    section = benchmark({"name": "imagefolder", "folder": str(tmp_path / "set"), "size": 9, "train_images": 30}, 0.2)
    report = build("b", section, tmp_path / "a")
    assert [report["splits"][s]["per_class"] for s in store.SPLITS] == [[16, 8], [4, 2], [7, 7]]
    parts = splits("b", section)
    drawn = {image.tobytes() for split in ("train", "validation") for image in pixels(parts[split])}
    assert len(drawn) == 30
    left = [
        name for name, content in files.items() if name.startswith("train") and decoded(content).tobytes() not in drawn
    ]
    assert len(left) == 30
    write_folder(tmp_path / "set", dict.fromkeys(left, b"broken"))
    build("b", section, tmp_path / "b")
    assert (tmp_path / "a/samples.safetensors").read_bytes() == (tmp_path / "b/samples.safetensors").read_bytes()


def test_all_training_images_may_be_asked_for_by_number(tmp_path):
    picture_folder(tmp_path / "set")
    entry = {"name": "imagefolder", "folder": str(tmp_path / "set"), "size": 9}
    build("b", benchmark(entry), tmp_path / "a")
    build("b", benchmark(entry | {"train_images": 60}), tmp_path / "b")
    assert (tmp_path / "a/samples.safetensors").read_bytes() == (tmp_path / "b/samples.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "validation", "words"),
    [
        ({"train_images": 61}, 0.1, "dataset.train_images: 61 does not split 60 images"),
        ({}, 0.001, "validation: 0.001 does not split 60 images"),
        ({"train_images": 10}, 0.95, "validation: 0.95 does not split 10 images"),
        ({"folder": "elsewhere"}, 0.1, "dataset.folder: {data}/elsewhere: no such folder"),
        ({"folder": None}, 0.1, "dataset.folder: imagefolder needs the folder of its images"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_key(tmp_path, monkeypatch, changes, validation, words):
    monkeypatch.setenv("LETHE_DATA", str(tmp_path))
    picture_folder(tmp_path / "set")
    entry = {"name": "imagefolder", "folder": "set", "size": 9} | changes
    with pytest.raises(BadInput) as caught:
        build("some", benchmark(entry, validation), tmp_path / "out")
    assert f"params.yaml: benchmarks.some.{words.format(data=tmp_path)}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_broken_image_is_named_and_nothing_is_built(tmp_path):
    files = picture_folder(tmp_path / "set")
    write_folder(tmp_path / "set", {"test/dog/03.png": files["test/dog/03.png"][:150]})
    section = benchmark({"name": "imagefolder", "folder": str(tmp_path / "set"), "size": 9})
    with pytest.raises(BadInput, match=r"1 of 14 files are no whole images.*\n.*test/dog/03\.png"):
        build("b", section, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_stage_finds_a_relative_folder_and_tells_what_it_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_DATA", str(tmp_path / "cache"))
    files = picture_folder(tmp_path / "cache/pets")
    write_folder(tmp_path / "cache/pets", {"test/cat/00.png": files["train/dog/00.png"]})
    section = benchmark({"name": "imagefolder", "folder": "pets", "size": 9})
    params = Params(run=["b"], benchmarks={"b": section}, methods={})
    line = data.run(params, "b")
    assert line == "imagefolder: 54 train, 6 validation, 14 test; 1 exact and 1 near duplicates across splits"
    report = json.loads((tmp_path / "data/datasets/b/audit.json").read_text())
    assert report["near_duplicate"] == {"hash": "imagehash.phash", "bits": 256, "largest_distance": 16}
    assert datasets.load(tmp_path / "data/datasets/b").classes == 2


@pytest.mark.parametrize("asked", [{"train_images": 8}, {}])
def test_a_draw_that_would_lose_a_class_says_so(tmp_path, asked):
    """Of 20, 20 and 2 images a share of a fifth, or 8 in all, leaves none of the third."""
    for split in ("train", "test"):
        for name, count in {"a": 20, "b": 20, "c": 2}.items():
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                (tmp_path / split / name / f"{k}.png").write_bytes(encoded(np.full((3, 8, 8), 5 * k, np.uint8)))
    section = benchmark({"name": "imagefolder", "folder": str(tmp_path), "size": 8} | asked, 0.1)
    with pytest.raises(BadInput, match=r"leaves no image of class 2, of which there are \d"):
        splits("b", section)

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bench import datasets
from bench.datasets import Dataset, Split
from bench.errors import BadInput


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.build("digits", validation=0.1)


def test_splits_partition_scikit_learns_digits_exactly(digits):
    images, labels = load_digits(return_X_y=True)
    source = sorted((tuple(x), y) for x, y in zip(images.astype(int).tolist(), labels.tolist(), strict=True))
    ours = sorted(
        (tuple(np.rint(x.reshape(-1) * (16 / 255)).astype(int).tolist()), y)
        for split in (digits.train, digits.validation, digits.test)
        for x, y in zip(split.images, split.labels.tolist(), strict=True)
    )
    assert ours == source


def test_splits_are_stratified(digits):
    _, labels = load_digits(return_X_y=True)
    share = np.bincount(labels) / len(labels)
    for split in (digits.train, digits.validation, digits.test):
        assert np.abs(np.bincount(split.labels) / len(split.labels) - share).max() < 0.01


def test_mean_and_std_are_of_the_training_pixels(digits):
    pixels = digits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-6)


def test_round_trip_and_same_bytes_twice(digits, tmp_path):
    for name in ("a", "b"):
        datasets.write(digits, tmp_path / name)
    for file in ("samples.safetensors", "audit.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = datasets.load(tmp_path / "a")
    np.testing.assert_array_equal(again.test.images, digits.test.images)
    assert again.train.images.dtype == np.uint8
    assert again.classes == 10
    assert again.train.sublabels is None


def test_audit_finds_planted_duplicates():
    rng = np.random.default_rng(0)
    train, validation, test = (rng.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for n in (6, 3, 4))
    train[5] = train[0]
    test[:2] = train[1:3]
    labels = [np.arange(n) % 2 for n in (6, 3, 4)]
    one = np.ones(1, np.float32)
    report = datasets.audit(
        Dataset(*(Split(x, y) for x, y in zip((train, validation, test), labels, strict=True)), one, one)
    )
    assert report["splits"]["train"]["exact_duplicates"] == 1
    assert report["splits"]["test"]["exact_duplicates"] == 0
    assert report["exact_duplicates_across"] == {
        "train and validation": 0,
        "train and test": 2,
        "validation and test": 0,
    }
    assert report["splits"]["validation"]["per_class"] == [2, 1]


def test_damaged_file_is_named(digits, tmp_path):
    datasets.write(digits, tmp_path)
    path = tmp_path / "samples.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"samples\.safetensors: damaged"):
        datasets.load(tmp_path)


@pytest.fixture(scope="module")
def parity() -> Dataset:
    return datasets.build("digits-parity", validation=0.1)


def test_parity_tells_the_same_digits_apart_as_even_and_odd(parity):
    images, labels = load_digits(return_X_y=True)
    source = sorted((tuple(x), y % 2, y) for x, y in zip(images.astype(int).tolist(), labels.tolist(), strict=True))
    ours = sorted(
        (tuple(np.rint(x.reshape(-1) * (16 / 255)).astype(int).tolist()), y, digit)
        for split in (parity.train, parity.validation, parity.test)
        for x, y, digit in zip(split.images, split.labels.tolist(), split.sublabels.tolist(), strict=True)
    )
    assert ours == source
    assert parity.classes == 2


def test_splits_with_subclasses_are_stratified_by_them(parity):
    """Each split has its share of every digit, to within one image of rounding."""
    _, labels = load_digits(return_X_y=True)
    for split in (parity.train, parity.validation, parity.test):
        expected = np.bincount(labels) * len(split.labels) / len(labels)
        assert np.abs(np.bincount(split.sublabels, minlength=10) - expected).max() <= 1.5


def test_subclasses_survive_the_round_trip_and_count_in_the_hash(parity, tmp_path):
    datasets.write(parity, tmp_path / "a")
    again = datasets.load(tmp_path / "a")
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(again, split).sublabels, getattr(parity, split).sublabels)
    swapped = parity.train.sublabels.copy()
    swapped[swapped == 0] = 2
    other = Split(parity.train.images, parity.train.labels, swapped)
    datasets.write(Dataset(other, parity.validation, parity.test, parity.mean, parity.std), tmp_path / "b")
    assert datasets.content_hash(tmp_path / "a") != datasets.content_hash(tmp_path / "b")

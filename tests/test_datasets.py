import numpy as np
import pytest
from sklearn.datasets import load_digits

from bench import datasets, forget
from bench.config import Benchmark
from bench.datasets import Dataset, Split
from bench.errors import BadInput


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.build("digits", validation=0.1)


def benchmark(**requests) -> Benchmark:
    return Benchmark(
        dataset="digits",
        validation=0.1,
        architecture="resnet-small",
        training={"epochs": 1, "batch_size": 2, "lr": 0.1},
        requests=requests,
        seeds=[0],
    )


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


def test_class_targets_are_all_images_of_the_class(digits):
    labels = digits.train.labels
    three, eight = forget.targets("b", benchmark(gone={"kind": "class", "targets": [3, 8]}), labels)
    assert (three.name, three.classes, three.request) == ("gone-3", (3,), "gone")
    assert three.indices.tolist() == [i for i, y in enumerate(labels) if y == 3]
    assert eight.indices.tolist() == [i for i, y in enumerate(labels) if y == 8]


def test_random_target_is_a_sorted_subset_of_the_asked_size(digits):
    labels = digits.train.labels
    (target,) = forget.targets("b", benchmark(r={"kind": "random", "fraction": 0.1}), labels)
    assert len(set(target.indices)) == len(target.indices) == round(0.1 * len(labels))
    assert (np.diff(target.indices) > 0).all()
    assert target.classes == ()


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_a_fraction_that_comes_to_nothing_or_everything_is_refused(digits, fraction):
    with pytest.raises(BadInput, match=rf"benchmarks\.b\.requests\.r\.fraction: {fraction} of 1293"):
        forget.targets("b", benchmark(r={"kind": "random", "fraction": fraction}), digits.train.labels)


def test_random_target_depends_on_benchmark_and_request_alone(digits):
    labels = digits.train.labels
    section = {"kind": "random", "fraction": 0.1}
    draws = {
        key: forget.targets(name, benchmark(**others, **{request: section}), labels)[-1].indices.tolist()
        for key, (name, request, others) in {
            "plain": ("b", "r", {}),
            "beside": ("b", "r", {"c": {"kind": "class", "targets": [1]}}),
            "renamed": ("b", "s", {}),
            "elsewhere": ("c", "r", {}),
        }.items()
    }
    assert draws["plain"] == draws["beside"]
    assert draws["plain"] != draws["renamed"]
    assert draws["plain"] != draws["elsewhere"]

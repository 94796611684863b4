import hashlib
from pathlib import Path

import numpy as np
import pytest

from bench import datasets, store
from bench.errors import BadInput

RNG = np.random.default_rng(0)
TENSORS = {"mean": np.array([0.5], np.float32), "std": np.array([0.25], np.float32)}
for split, n in (("train", 6), ("validation", 2), ("test", 3)):
    TENSORS[f"{split}_images"] = RNG.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8)
    TENSORS[f"{split}_labels"] = np.arange(n) % 3


def write(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    store.write_tensors(folder / "samples.safetensors", tensors)
    return folder


def test_what_was_written_is_loaded(tmp_path):
    dataset = datasets.load(write(tmp_path, TENSORS))
    for split in store.SPLITS:
        part = getattr(dataset, split)
        np.testing.assert_array_equal(part.images, TENSORS[f"{split}_images"])
        np.testing.assert_array_equal(part.labels, TENSORS[f"{split}_labels"])
        assert part.sublabels is None
    assert (dataset.mean, dataset.std, dataset.classes) == (0.5, 0.25, 3)


def test_subclasses_are_loaded_where_there_are_some(tmp_path):
    sublabels = {f"{split}_sublabels": TENSORS[f"{split}_labels"] + 7 for split in store.SPLITS}
    dataset = datasets.load(write(tmp_path, TENSORS | sublabels))
    np.testing.assert_array_equal(dataset.validation.sublabels, [7, 8])


def test_damaged_file_is_named(tmp_path):
    path = write(tmp_path, TENSORS) / "samples.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"samples\.safetensors: damaged"):
        datasets.load(tmp_path)


@pytest.mark.parametrize("name", ["std", "test_labels"])
def test_a_file_that_lacks_a_part_is_named(tmp_path, name):
    write(tmp_path, {n: value for n, value in TENSORS.items() if n != name})
    with pytest.raises(BadInput, match=rf"samples\.safetensors: holds no '{name}'"):
        datasets.load(tmp_path)


def test_content_hash_is_of_the_hashes_of_the_splits_in_order(tmp_path):
    hashes = {"train": "1" * 64, "validation": "2" * 64, "test": "3" * 64}
    store.write_json(tmp_path / "audit.json", {"splits": {s: {"sha256": h} for s, h in hashes.items()}})
    expected = hashlib.sha256(b"1" * 64 + b"2" * 64 + b"3" * 64).hexdigest()
    assert datasets.content_hash(tmp_path) == expected

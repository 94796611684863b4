"""The audit of a data set, against counts and distances written out in plain Python."""

import hashlib
import io

import imagehash
import numpy as np
import pytest
from PIL import Image

from bench import audit
from bench.audit import Tally
from tests.pictures import decoded, encoded

RNG = np.random.default_rng(0)


def scenes(n: int, seed: int, channels: int = 3) -> np.ndarray:
    """Random images, uint8 [n, channels, 32, 32], with structure for a perceptual hash to see."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)[:, :channels])


def tally(images: np.ndarray, labels: np.ndarray | None = None, sublabels: np.ndarray | None = None) -> Tally:
    result = Tally(np.arange(len(images)) % 2 if labels is None else labels, sublabels)
    for start in range(0, len(images), 5):
        result.count(images[start : start + 5])
    return result


def test_exact_duplicates_are_found_within_and_across_splits():
    train, validation, test = scenes(12, 0), scenes(5, 1), scenes(6, 2)
    train[9] = train[2]
    test[:2] = train[3:5]
    test[5] = train[3]
    report = audit.audit({"train": tally(train), "validation": tally(validation), "test": tally(test)})
    found = {split: report["splits"][split]["exact_duplicates"] for split in report["splits"]}
    assert found == {"train": 1, "validation": 0, "test": 1}
    assert report["exact_duplicates_across"] == {
        "train and validation": 0,
        "train and test": 2,
        "validation and test": 0,
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_compressed_brightened_or_scaled_are_near_duplicates_and_other_images_are_not(channels):
    train, validation, test = (scenes(n, seed, channels) for n, seed in ((20, 0), (8, 1), (9, 2)))
    large = Image.fromarray(train[7].transpose(1, 2, 0) if channels == 3 else train[7, 0]).resize((64, 64))
    small = np.asarray(large.resize((32, 32))).reshape(32, 32, channels).transpose(2, 0, 1)
    train[19] = small
    test[0] = decoded(encoded(train[3], quality=90), "RGB" if channels == 3 else "L")
    test[1] = (train[4] * 0.8 + 20).astype(np.uint8)
    validation[2] = test[8]
    report = audit.audit({"train": tally(train), "validation": tally(validation), "test": tally(test)})
    found = {split: report["splits"][split]["near_duplicates"] for split in report["splits"]}
    assert found == {"train": 2, "validation": 0, "test": 0}
    assert report["near_duplicates_across"] == {
        "train and validation": 0,
        "train and test": 2,
        "validation and test": 1,
    }
    assert not any(report["splits"][split]["exact_duplicates"] for split in report["splits"])


@pytest.mark.parametrize(("block", "jobs"), [(1024, 1), (1, 1), (7, 3)])
def test_near_duplicates_are_those_that_every_pair_compared_alone_gives(monkeypatch, block, jobs):
    """Distances around the largest that counts; some within a split, some to two others."""
    monkeypatch.setattr(audit, "BLOCK", block)
    hashes = [int.from_bytes(RNG.bytes(32), "little") for _ in range(25)]
    for k, distance in enumerate((0, 1, 15, 16, 17, 18, 16, 17)):
        bits = RNG.choice(256, distance, replace=False)
        hashes.append(hashes[k] ^ sum(1 << int(bit) for bit in bits))
    hashes = [hashes[k] for k in RNG.permutation(len(hashes))]
    starts, splits = (0, 14, 20), (hashes[:14], hashes[14:20], hashes[20:])

    def near(i: int, start: int, part: list[int]) -> bool:
        return any((hashes[i] ^ h).bit_count() <= 16 for j, h in enumerate(part, start) if i != j)

    expected = [[near(i, *split) for split in zip(starts, splits, strict=True)] for i in range(len(hashes))]
    words = [np.frombuffer(b"".join(h.to_bytes(32, "little") for h in part), np.uint64) for part in splits]
    words = [part.reshape(-1, 4) for part in words]
    assert audit.near_duplicates(words, jobs).tolist() == expected
    assert sum(map(sum, expected)) == 2 * 5  # the pairs at 0, 1, 15, 16 and 16 bits


def test_distances_are_those_of_the_library():
    images = np.concatenate([scenes(6, 0), RNG.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)])
    theirs = [imagehash.phash(Image.fromarray(i.transpose(1, 2, 0)), hash_size=16) for i in images]
    ours = [audit.perceptual_hash(i) for i in images]
    for a in range(9):
        for b in range(9):
            assert int.from_bytes((ours[a] ^ ours[b]).tobytes(), "little").bit_count() == theirs[a] - theirs[b]


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_of_all_pixels_of_a_channel(channels):
    images = RNG.integers(0, 256, (23, channels, 6, 7), dtype=np.uint8) // np.arange(1, channels + 1)[:, None, None]
    images = images.astype(np.uint8)
    mean, std = tally(images).moments()
    for c in range(channels):
        values = images[:, c].astype(np.float64) / 255
        np.testing.assert_allclose([mean[c], std[c]], [values.mean(), values.std()], rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32
    constant, spread = tally(np.full((3, 1, 4, 4), 51, np.uint8)).moments()
    assert (constant.tolist(), spread.tolist()) == ([np.float32(0.2)], [0.0])


def test_counts_and_the_hash_are_of_images_labels_and_subclasses():
    images, labels, sublabels = scenes(7, 0), np.array([0, 2, 2, 0, 0, 2, 2]), np.array([4, 1, 1, 4, 4, 0, 1])
    with_subclasses, without = tally(images, labels, sublabels).report(4), tally(images, labels).report(4)
    assert (without["images"], without["per_class"]) == (7, [3, 0, 4, 0])
    assert "per_subclass" not in without
    assert with_subclasses["per_subclass"] == [1, 3, 0, 0, 3]
    stream = io.BytesIO(images.tobytes() + labels.tobytes())
    assert without["sha256"] == hashlib.sha256(stream.getvalue()).hexdigest()
    assert with_subclasses["sha256"] == hashlib.sha256(stream.getvalue() + sublabels.tobytes()).hexdigest()

"""What a data set holds: images of each class, mean and std, duplicates, hashes.

It is gathered batch by batch, so that no data set need fit in memory. Images are near duplicates if their
perceptual hashes differ in at most 16 of 256 bits; a hash (`imagehash.phash`) says which of the 16 x 16 lowest
frequencies of the grey image lie above their median. This finds nearly all copies that were compressed, scaled,
brightened or coloured anew, and none that were shifted or cropped by as little as a pixel; where all images look much
alike, as handwritten ones do, it also finds some that are no copies.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import imagehash
import numpy as np
from PIL import Image

HASH_SIZE = 16
NEAR = 16  # bits
BLOCK = 1024  # hashes compared with as many others at once


class Tally:
    """A split's labels and subclasses, int64 [n], and what is known of its images once all were counted."""

    def __init__(self, labels: np.ndarray, sublabels: np.ndarray | None = None) -> None:
        self.labels, self.sublabels = labels, sublabels
        self.sha256 = hashlib.sha256()  # of all images
        self.copies: Counter[bytes] = Counter()  # images by their own SHA-256
        self.hashes: list[np.ndarray] = []  # perceptual ones
        self.values = np.zeros((1, 256), np.int64)  # how often each value occurs, [channels, 256]

    def count(self, images: np.ndarray) -> None:
        """Count the next images, uint8 [n, channels, height, width], contiguous."""
        self.sha256.update(images.data)
        self.copies.update(hashlib.sha256(image.data).digest() for image in images)
        self.hashes += [perceptual_hash(image) for image in images]
        channels = images.swapaxes(0, 1)
        self.values = self.values + np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std per channel on the scale [0, 1], float32 [channels], from sums without rounding."""
        n = int(self.values[0].sum())
        sums, squares = ((self.values @ np.arange(256) ** power).tolist() for power in (1, 2))
        std = [math.sqrt(n * q - s * s) / (255 * n) for s, q in zip(sums, squares, strict=True)]
        return np.array([s / (255 * n) for s in sums], np.float32), np.array(std, np.float32)

    def report(self, classes: int) -> dict:
        """Counts, and a hash of images, labels and subclasses."""
        digest, report = self.sha256.copy(), {"images": len(self.labels)}
        report["per_class"] = np.bincount(self.labels, minlength=classes).tolist()
        digest.update(self.labels.tobytes())
        if self.sublabels is not None:
            report["per_subclass"] = np.bincount(self.sublabels).tolist()
            digest.update(self.sublabels.tobytes())
        return report | {"exact_duplicates": len(self.labels) - len(self.copies), "sha256": digest.hexdigest()}


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """The hash of an image, uint8 [channels, height, width], as four words, uint64 [4]."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
    return np.packbits(imagehash.phash(picture, hash_size=HASH_SIZE).hash).view(np.uint64)


def near_duplicates(hashes: list[np.ndarray], jobs: int = 1) -> np.ndarray:
    """Whether an image of all splits, one after another, has a near duplicate other than itself in a split.

    Every hash is compared with every other, by `jobs` threads.

    Args:
        hashes: of each split, uint64 [n, 4].

    Returns:
        bool [all images, splits].
    """
    every = np.concatenate(hashes)
    split = np.repeat(np.arange(len(hashes)), [len(part) for part in hashes])
    found = np.zeros((len(every), len(hashes)), bool)

    def compare(start: int) -> None:
        some = every[start : start + BLOCK]
        for other in range(start, len(every), BLOCK):
            others = every[other : other + BLOCK]
            apart = np.bitwise_count(some[:, None, -1] ^ others[:, -1])
            i, j = np.nonzero(apart <= NEAR)  # few are left for the other words
            near = np.bitwise_count(some[i] ^ others[j]).sum(axis=1) <= NEAR
            i, j = i[near] + start, j[near] + other
            i, j = i[i != j], j[i != j]
            found[i, split[j]] = True
            found[j, split[i]] = True

    with ThreadPoolExecutor(jobs) as pool:  # NumPy computes without the GIL
        list(pool.map(compare, range(0, len(every), BLOCK)))
    return found


def audit(tallies: Mapping[str, Tally], jobs: int = 1) -> dict:
    """What is known of a data set, given its splits.

    `exact_duplicates` of a split are the images that a set of them would lose, across two splits those that are in
    both. `near_duplicates` of a split are the images that have one in the same split, across two splits the images
    of the latter that have one in the former; exact ones count.
    """
    mean, std = tallies["train"].moments()
    classes = int(tallies["train"].labels.max()) + 1
    splits = {split: tally.report(classes) for split, tally in tallies.items()}
    near = near_duplicates([np.stack(tally.hashes) for tally in tallies.values()], jobs)
    rows = np.split(near, np.cumsum([len(tally.labels) for tally in tallies.values()])[:-1])
    exact_across, near_across = {}, {}
    for k, split in enumerate(splits):
        splits[split]["near_duplicates"] = int(rows[k][:, k].sum())
    for (k, a), (m, b) in combinations(enumerate(splits), 2):
        exact_across[f"{a} and {b}"] = len(tallies[a].copies.keys() & tallies[b].copies.keys())
        near_across[f"{a} and {b}"] = int(rows[m][:, k].sum())
    return {
        "mean": mean.tolist(),
        "std": std.tolist(),
        "splits": splits,
        "exact_duplicates_across": exact_across,
        "near_duplicates_across": near_across,
        "near_duplicate": {"hash": "imagehash.phash", "bits": HASH_SIZE**2, "largest_distance": NEAR},
    }

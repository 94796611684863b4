"""Random images and the files they are encoded in, for tests of data sets."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import BadInput
from bench.sources import SOURCES, Split


def random_split(n: int, classes: int, shape: tuple[int, int, int], seed: int) -> Split:
    """Every class once, then at random; shuffled."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    return Split(rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(labels))


def refusal(name: str, folder: Path, **options: object) -> str:
    with pytest.raises(BadInput) as caught:
        SOURCES[name].load(folder, **options)
    return str(caught.value)


def same(found: Split, expected: Split) -> None:
    assert found.images.dtype == np.uint8
    assert found.labels.dtype == np.int64
    assert found.images.flags.c_contiguous
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.labels, expected.labels)


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    """An image file of uint8 [channels, height, width]."""
    stream = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(stream, kind, quality=95)
    return stream.getvalue()


def decoded(content: bytes, mode: str = "RGB") -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert(mode))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)

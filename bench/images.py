"""Image files -> uint8 arrays of one size, some at a time.

torchvision and Pillow are imported by the functions that need them.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.errors import BadInput

BATCH = 256  # images in memory at once
SHOWN = 10  # files that a message names


def decoded(
    names: Sequence[str],
    shape: tuple[int, ...],
    *,
    shorter: int | None = None,
    jobs: int = 1,
    read: Callable[[str], bytes] = lambda name: Path(name).read_bytes(),
) -> Iterator[np.ndarray]:
    """Image files in batches, uint8 [at most BATCH, *shape], where `shape` is channels, height, width.

    The shorter side of an image is scaled to `shorter` pixels and the middle cut out, by torchvision's
    `resize` and `center_crop`. Without `shorter` an image must have the size already. Colours are turned
    to grey for one channel, grey to colours for three. `jobs` threads decode.

    Raises:
        BadInput: after the last batch, if files are no whole image, all of them counted and the first ones
            named; what was handed out is of no use then.
    """
    faults: list[str] = []
    bar = tqdm(total=len(names), unit="image", leave=False, disable=None)
    with bar, ThreadPoolExecutor(jobs) as pool:  # Pillow computes without the GIL
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            out = np.zeros((len(batch), *shape), np.uint8)
            faults += filter(None, pool.map(partial(_fill, shorter=shorter, read=read), batch, out))
            yield out
            bar.update(len(batch))
    if faults:
        more = [f"  and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        headline = f"{len(faults)} of {len(names)} files are no whole images; replace them, or take them out:"
        raise BadInput("\n".join([headline, *faults[:SHOWN], *more]))


def _fill(name: str, out: np.ndarray, shorter: int | None, read: Callable[[str], bytes]) -> str | None:
    """Decode an image into its place; what is wrong with it if that cannot be."""
    from PIL import UnidentifiedImageError

    try:
        out[:] = _pixels(read(name), out.shape, shorter)
    except UnidentifiedImageError:
        return f"  {name}: no image"
    except Exception as error:  # Pillow raises many kinds on damaged files
        return f"  {name}: {error}"
    return None


def _pixels(content: bytes, shape: tuple[int, ...], shorter: int | None) -> np.ndarray:
    """One image as uint8 [channels, height, width]."""
    from PIL import Image
    from torchvision.transforms import functional

    channels, height, width = shape
    with Image.open(io.BytesIO(content)) as opened:
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel (mode {opened.mode}); save it with 8")
        image = opened.convert("L" if channels == 1 else "RGB")
    if shorter is not None:
        image = functional.center_crop(functional.resize(image, [shorter]), [height, width])
    if image.size != (width, height):
        raise ValueError(f"{image.width}x{image.height} pixels; {width}x{height} are expected")
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def listing(folder: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """The files of a folder with a subfolder per class, their labels, int64 [n], and the classes by name.

    Classes are numbered by name, and files sorted. Every file in a class counts as an image, at any depth,
    but hidden ones (`.DS_Store`).

    Raises:
        BadInput: no such folder, no class in it, or a class without images.
    """
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder), is_valid_file=lambda path: not Path(path).name.startswith("."))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror or error}; it must hold a folder of images per class") from None
    return [path for path, _ in found.samples], np.array(found.targets, np.int64), found.classes


def folders(
    folder: Path,
    *,
    tests: Sequence[str],
    channels: int | None = None,
    counts: tuple[int, ...] = (),
    classes: int | None = None,
) -> tuple[int, list[tuple[list[str], np.ndarray]]]:
    """How many channels a set has, and the files and labels of its two parts.

    These are the folder `train` and the first of the folders `tests` that is there. Without `channels` there
    is one if all images are grey, else three. `counts` are the images that the folders must have, `classes`
    the classes.

    Raises:
        BadInput: a folder or a class is missing, or the numbers are others.
    """
    test = next((name for name in tests if (folder / name).is_dir()), tests[0])
    parts = {name: listing(folder / name) for name in ("train", test)}
    known = {name: set(names) for name, (_, _, names) in parts.items()}
    for name, other in (("train", test), (test, "train")):
        if absent := sorted(known[other] - known[name]):
            raise BadInput(f"{folder / name}: has no class {_some(absent)}, which {folder / other} has")
    if classes is not None and len(known[test]) != classes:
        raise BadInput(f"{folder}: {len(known[test]):,} classes; {classes:,} are expected")
    for name, count in zip(parts, counts, strict=False):
        if (found := len(parts[name][0])) != count:
            raise BadInput(f"{folder / name}: {found:,} images; {count:,} are expected: unpack the set again")
    if channels is None:
        channels = 1 if all(_grey(path) for paths, _, _ in parts.values() for path in paths) else 3
    return channels, [(paths, labels) for paths, labels, _ in parts.values()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _grey(path: str) -> bool:
    """Whether a file's header speaks of a grey image; a damaged one counts as grey, and `decoded` names it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in {"1", "L", "LA"}
    except Exception:  # Pillow raises many kinds on damaged files
        return True

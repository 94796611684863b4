"""A manipulated training set: which images the original meets with a false label, and which with a trigger besides.

The prepared data set stays clean. A benchmark's section `corruption` says what is done to its training split each time
that networks are trained on it; validation and test stay as they are, and so do the moments that images are normalised
by. Every draw depends on the section's kind and the labels alone, so benchmarks of one data set share them.

    badnets      a white square in the lower right corner, and the label `target`: Gu et al., BadNets (arXiv:1708.06733)
    blended      the image mixed with a random pattern, and the label `target`: Chen et al. (arXiv:1712.05526)
    label-noise  a label drawn uniformly from the other classes
    confusion    two classes exchange labels: the interclass-confusion test of Goel et al. (arXiv:2201.06640)

Of the manipulated images a request may know only some (Goel et al., Corrective machine unlearning, arXiv:2402.14015).
That paper's code draws images of the target class too, whose labels then stay true, takes the first images of two
confused classes, and sets the square after an image was cropped and flipped; here all labels change, all images are
drawn, and the square is part of the stored image, which augmentation moves.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, Field

from bench.errors import BadInput
from bench.requests import ClassIndex, Proportion, Section, no_duplicates
from bench.seeds import numpy_generator


class BadNets(Section):
    """Images with a white square, labelled as one class."""

    kind: Literal["badnets"]
    size: Annotated[int, Field(ge=1)]  # training images, none of the target class
    target: ClassIndex
    patch: Annotated[int, Field(ge=1)] = 3  # pixels along the square's side


class Blended(Section):
    """Images with a faint pattern all over, labelled as one class."""

    kind: Literal["blended"]
    size: Annotated[int, Field(ge=1)]
    target: ClassIndex
    alpha: Proportion = 0.2  # of the pattern in the mixture


class LabelNoise(Section):
    """Images with the label of another class, any of them."""

    kind: Literal["label-noise"]
    size: Annotated[int, Field(ge=1)]


class Confusion(Section):
    """Images of two classes, half of each, with the label of the other."""

    kind: Literal["confusion"]
    size: Annotated[int, Field(ge=2, multiple_of=2)]  # of both classes together
    classes: Annotated[tuple[ClassIndex, ClassIndex], AfterValidator(lambda two: tuple(no_duplicates(list(two))))]


Corruption = Annotated[BadNets | Blended | LabelNoise | Confusion, Field(discriminator="kind")]
CORRUPTIONS: dict[str, type[BaseModel]] = {
    "badnets": BadNets,
    "blended": Blended,
    "label-noise": LabelNoise,
    "confusion": Confusion,
}
ANSWERS = {"poison": ("badnets", "blended", "label-noise"), "confusion": ("confusion",)}  # request -> what it undoes


def classes_of(section: Corruption) -> tuple[int, ...]:
    """The classes that a section names."""
    match section:
        case BadNets() | Blended():
            return (section.target,)
        case Confusion():
            return section.classes
    return ()


def has_trigger(section: Corruption | None) -> bool:
    return isinstance(section, BadNets | Blended)


class Manipulated(NamedTuple):
    rows: np.ndarray  # int64, sorted: the manipulated training samples
    labels: np.ndarray  # int64 [n]: of all training samples, as they are given


def manipulated(section: Corruption | None, labels: np.ndarray) -> Manipulated:
    """What becomes of the training split.

    Args:
        labels: true labels, int64 [n].

    Raises:
        BadInput: there are fewer images than are to be manipulated, or a class loses its last one.
    """
    given, classes = labels.copy(), int(labels.max()) + 1
    if section is None:
        return Manipulated(np.zeros(0, dtype=np.int64), given)
    draw = numpy_generator("corruption", section.kind)

    def some(candidates: np.ndarray, size: int) -> np.ndarray:
        found = np.flatnonzero(candidates)
        if size > len(found):
            raise BadInput(f"params.yaml: corruption.size: {size} images of {len(found)} that there are; take fewer")
        return draw.choice(found, size, replace=False)

    match section:
        case BadNets() | Blended():
            given[some(labels != section.target, section.size)] = section.target
        case LabelNoise():
            rows = some(labels >= 0, section.size)
            given[rows] = (labels[rows] + draw.integers(1, classes, section.size)) % classes
        case Confusion(classes=(a, b)):
            for own, other in ((a, b), (b, a)):
                given[some(labels == own, section.size // 2)] = other
    if len(lost := np.setdiff1d(labels, labels[given == labels])):
        raise BadInput(f"params.yaml: corruption.size: no image of class {lost[0]} keeps its label; take fewer")
    return Manipulated(np.flatnonzero(given != labels), given)


def discovered(rows: np.ndarray, share: float) -> np.ndarray:
    """The manipulated samples that are known, sorted; of two shares the larger holds the smaller."""
    return np.sort(numpy_generator("corruption", "discovered").permutation(rows)[: round(share * len(rows))])


def triggered(section: BadNets | Blended, images: np.ndarray) -> np.ndarray:
    """The images with the trigger, uint8 [n, channels, height, width].

    Raises:
        BadInput: the square covers the image.
    """
    if isinstance(section, Blended):
        pattern = numpy_generator("corruption", "pattern").integers(0, 256, images.shape[1:])
        mixed = (1 - section.alpha) * images.astype(np.float32) + np.float32(section.alpha) * pattern
        return np.rint(mixed).astype(np.uint8)
    if section.patch >= min(images.shape[2:]):
        height, width = images.shape[2:]
        raise BadInput(f"params.yaml: corruption.patch: {section.patch} pixels cover an image of {height} x {width}")
    found = images.copy()
    found[:, :, -section.patch :, -section.patch :] = np.iinfo(np.uint8).max
    return found

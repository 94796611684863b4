"""Data resident on one device: samples, and the views that hand them out in batches, each epoch in its order.

A view is a set of training samples in an order of its own for each epoch. The order is drawn over the
whole training set and then narrowed to the view, so that two views with one key (the original's and a
retrain's) meet their common samples in the same sequence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, count
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.config import Augmentation, Precision
from bench.seeds import Key, torch_generator

PADDING = 4  # pixels around an image of which a crop may take some


def moved(x: Tensor, device: torch.device) -> Tensor:
    """On this device; a GPU fetches it by itself from pinned memory, while the CPU goes on."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


class Batch(NamedTuple):
    images: Tensor  # network input, [b, channels, height, width]
    labels: Tensor  # int64 [b]
    rows: Tensor  # int64 [b], positions in the training set
    epoch: int = 0


@dataclass(frozen=True)
class Samples:
    """Images and labels on one device.

    Attributes:
        images: uint8 [n, channels, height, width], or floating point of any shape [n, ...] that the
            network takes as it is.
        labels: int64 [n].
        mean, std: per channel, on the scale [0, 1]; how uint8 pixels become network input.
        precision: in which networks are trained on them (`bench.config.Recipe`).
    """

    images: Tensor
    labels: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None
    precision: Precision = "float32"

    def __len__(self) -> int:
        return len(self.labels)

    def input(self, rows: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The network's input for these samples: (pixel / 255 - mean) / std for uint8 images.

        Images are laid out channels last, which convolutions read faster. Those that do not fit on the device
        may stay on the CPU, in memory or mapped from a file: then each batch is moved.

        Args:
            rows: int64 [b], on the labels' device.
            change: applied to the images as they are stored: an augmentation.
        """
        x = self.images.index_select(0, rows.to(self.images.device))
        x = moved(x, self.labels.device)
        if change is not None:
            x = change(x)
        if x.dtype == torch.uint8:
            x = x.to(torch.get_default_dtype()).div_(255)
            if self.mean is not None and self.std is not None:
                x = x.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@dataclass(frozen=True)
class Order:
    """How each epoch goes through a training set of n samples: in which order, and cropped and flipped how.

    All is drawn from the key over the whole set, so that views of the same order meet their common samples in one
    sequence and see them alike.
    """

    n: int
    key: Key
    fixed: Tensor | None = None  # int64 [n]: the same order for every epoch

    def __call__(self, epoch: int) -> Tensor:
        """Positions in the training set, int64 [n]."""
        if self.fixed is not None:
            return self.fixed.cpu()  # where orders are drawn
        return torch.randperm(self.n, generator=torch_generator(*self.key, "order", epoch))

    def places(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Where each sample is cropped, int64 [n, 2] from 0 to 2 * PADDING, and whether it is flipped, bool [n]."""
        draw = torch_generator(*self.key, "augmentation", epoch)
        corners = torch.randint(0, 2 * PADDING + 1, (self.n, 2), generator=draw)
        return corners, torch.rand(self.n, generator=draw) < 0.5


def shuffled(n: int, key: Key) -> Order:
    """A fresh permutation of n samples for each epoch, drawn from the key."""
    return Order(n, key)


def crop_and_flip(images: Tensor, corners: Tensor | None, flipped: Tensor) -> Tensor:
    """Crop each image out of PADDING zeros (black) around it, then mirror some left to right.

    The usual augmentation of CIFAR images: He et al. (arXiv:1512.03385), section 4.2.

    Args:
        images: [b, channels, height, width].
        corners: upper left corners in the padded images, int64 [b, 2]; None crops nothing.
        flipped: bool [b].
    """
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(k, device=images.device) for k in (height, width))
    columns = torch.where(flipped[:, None], columns.flip(0), columns)  # [b, width]
    if corners is None:
        return images.gather(3, columns[:, None, None].expand(images.shape))
    padded = F.pad(images, (PADDING,) * 4)
    rows, columns = corners[:, :1] + rows, corners[:, 1:] + columns
    places = rows[:, :, None] * padded.shape[3] + columns[:, None]  # [b, height, width], in a flattened padded image
    every = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, every).view(images.shape)


Step_co = TypeVar("Step_co", covariant=True)


class Feed(Protocol[Step_co]):
    """What the training loop reads: the steps of an epoch, and how many there will be."""

    @property
    def key(self) -> Key: ...

    @property
    def precision(self) -> Precision: ...

    def batches(self, batch_size: int, epoch: int) -> Iterator[Step_co]: ...

    def steps(self, batch_size: int) -> int: ...


@dataclass(frozen=True)
class View:
    """Some rows of the samples, and the order in which an epoch visits them."""

    samples: Samples
    rows: Tensor  # int64 [m], ascending, on the samples' device
    order: Order
    key: Key = ()
    relabel: Callable[[int], Tensor] | None = None  # epoch -> labels of all samples, int64 [n]
    augmentation: Augmentation = "none"  # of an epoch's batches; in row order images come as they are
    share: tuple[int, int] = (0, 1)  # of each batch of an epoch: the k-th of n equal ones
    on_read: Callable[[Tensor], None] = field(default=lambda rows: None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def precision(self) -> Precision:
        return self.samples.precision

    @property
    def labels(self) -> Tensor:
        """True labels of the view's samples, int64 [m]."""
        return self.samples.labels[self.rows]

    def select(self, rows: Tensor) -> "View":
        """The same data, narrowed to these rows."""
        return replace(self, rows=rows.sort().values)

    def ordered(self, order: Order) -> "View":
        return replace(self, order=order)

    def relabelled(self, relabel: Callable[[int], Tensor]) -> "View":
        """The same samples with the labels that `relabel` gives for an epoch."""
        return replace(self, relabel=relabel)

    def __or__(self, other: "View") -> "View":
        """Both views' samples in one; labels are the true ones or, if this view has some, its own."""
        return replace(self, rows=torch.cat([self.rows, other.rows]).unique())

    def steps(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def size(self, batch_size: int, step: int) -> int:
        """Samples in the batch of a step of an epoch, all shares together."""
        return min(batch_size, len(self) - step * batch_size)

    def shared(self, k: int, n: int) -> "View":
        """The k-th of n equal shares of each batch of an epoch."""
        return replace(self, share=(k, n))

    def batches(self, batch_size: int, epoch: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """Batches in the epoch's order, the last perhaps smaller; without an epoch, in row order.

        Args:
            skip: how many batches to leave out, unread, at the start.
        """
        labels, change = self.samples.labels, self._augmented(epoch)
        if epoch is not None and self.relabel is not None:
            labels = moved(self.relabel(epoch), labels.device)
        for part, where in self.parts(batch_size, epoch)[skip:]:
            self.on_read(part)
            if epoch is not None:
                part, where = self._shared(part), self._shared(where)
            images = self.samples.input(where, change and partial(change, part))
            yield Batch(images, labels[part], part, epoch or 0)

    def parts(self, batch_size: int, epoch: int | None) -> list[tuple[Tensor, Tensor]]:
        """The rows of each batch, on the samples' device and where their images are."""
        rows, stored = self.rows, self.samples.images.device
        if epoch is not None:
            order = self.order(epoch)
            chosen = order if len(self) == len(self.samples) else order[self._member[order]]
            rows = moved(chosen, rows.device)
        here = rows if stored == rows.device else (rows if epoch is None else chosen).to(stored)
        return list(zip(rows.split(batch_size), here.split(batch_size), strict=True))

    @cached_property
    def _member(self) -> Tensor:
        """Whether each sample is in the view, bool [n], on the CPU, where orders are drawn."""
        member = torch.zeros(len(self.samples), dtype=torch.bool)
        member[self.rows.cpu()] = True
        return member

    def _shared(self, rows: Tensor) -> Tensor:
        """This share of a batch; all of one that does not split evenly, which gives each share the same gradient."""
        k, n = self.share
        return rows if len(rows) % n else rows[k::n]

    def _augmented(self, epoch: int | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """rows, their images -> the images as this epoch sees them; None where it sees them as they are."""
        if epoch is None or self.augmentation == "none":
            return None
        corners, flipped = (moved(t, self.rows.device) for t in self.order.places(epoch))
        if self.augmentation == "flip":
            return lambda rows, images: crop_and_flip(images, None, flipped[rows])
        return lambda rows, images: crop_and_flip(images, corners[rows], flipped[rows])


@dataclass(frozen=True)
class Sequence:
    """Each epoch, all batches of one view, then all of the next."""

    views: tuple[View, ...]

    @property
    def key(self) -> Key:
        return self.views[0].key

    @property
    def precision(self) -> Precision:
        return self.views[0].precision

    def steps(self, batch_size: int) -> int:
        return sum(view.steps(batch_size) for view in self.views)

    def batches(self, batch_size: int, epoch: int) -> Iterator[Batch]:
        for view in self.views:
            yield from view.batches(batch_size, epoch)


@dataclass(frozen=True)
class Paired:
    """Each epoch, all batches of one view, each with a batch of another, which starts over as often as needed."""

    main: View
    beside: View

    @property
    def key(self) -> Key:
        return self.main.key

    @property
    def precision(self) -> Precision:
        return self.main.precision

    def steps(self, batch_size: int) -> int:
        return self.main.steps(batch_size)

    def batches(self, batch_size: int, epoch: int) -> Iterator[tuple[Batch, Batch]]:
        first, skip = divmod(epoch * self.steps(batch_size), self.beside.steps(batch_size))  # goes on from there
        rest = (self.beside.batches(batch_size, e) for e in count(first + 1))
        beside = chain(self.beside.batches(batch_size, first, skip), chain.from_iterable(rest))
        yield from zip(self.main.batches(batch_size, epoch), beside, strict=False)

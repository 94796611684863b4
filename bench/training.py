"""Data resident on one device, the one training loop, and predictions.

    view = View(samples, rows, order=shuffled(key))
    model = train(model, view, cross_entropy, Recipe(epochs=3, batch_size=64, lr=0.1))
    logits = predict(model, view)

A view is a set of training samples in an order of its own for each epoch. The order is drawn over the
whole training set and then narrowed to the view, so that two views with one key (the original's and a
retrain's) meet their common samples in the same sequence.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import Augmentation, Recipe
from bench.models import seeded
from bench.seeds import Key, derive, torch_generator

PADDING = 4  # pixels around an image of which a crop may take some
PREDICTION_BATCH = 500  # fixed: logits may differ in their last bit between batch sizes


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
    """

    images: Tensor
    labels: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None

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
        x = self.images[rows.to(self.images.device)].to(self.labels.device)
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
            return self.fixed
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
    rows, columns = corners[:, :1] + rows, corners[:, 1:] + columns
    padded = F.pad(images, (PADDING,) * 4)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


Step = TypeVar("Step")  # what the loss reads in one step: a batch, or several
Step_co = TypeVar("Step_co", covariant=True)


class Feed(Protocol[Step_co]):
    """What the training loop reads: the steps of an epoch, and how many there will be."""

    @property
    def key(self) -> Key: ...

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
    on_read: Callable[[Tensor], None] = field(default=lambda rows: None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

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

    def batches(self, batch_size: int, epoch: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """Batches in the epoch's order, the last perhaps smaller; without an epoch, in row order.

        Args:
            skip: how many batches to leave out, unread, at the start.
        """
        rows, labels = self.rows, self.samples.labels
        change = self._augmented(epoch)
        if epoch is not None:
            order = self.order(epoch).to(rows.device)
            member = torch.zeros(len(self.samples), dtype=torch.bool, device=rows.device)
            member[rows] = True
            rows = order[member[order]]
            if self.relabel is not None:
                labels = self.relabel(epoch).to(rows.device)
        for part in rows.split(batch_size)[skip:]:
            self.on_read(part)
            images = self.samples.input(part, change and partial(change, part))
            yield Batch(images, labels[part], part, epoch or 0)

    def _augmented(self, epoch: int | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """rows, their images -> the images as this epoch sees them; None where it sees them as they are."""
        if epoch is None or self.augmentation == "none":
            return None
        corners, flipped = (t.to(self.rows.device) for t in self.order.places(epoch))
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

    def steps(self, batch_size: int) -> int:
        return self.main.steps(batch_size)

    def batches(self, batch_size: int, epoch: int) -> Iterator[tuple[Batch, Batch]]:
        first, skip = divmod(epoch * self.steps(batch_size), self.beside.steps(batch_size))  # goes on from there
        rest = (self.beside.batches(batch_size, e) for e in count(first + 1))
        beside = chain(self.beside.batches(batch_size, first, skip), chain.from_iterable(rest))
        yield from zip(self.main.batches(batch_size, epoch), beside, strict=False)


Loss = Callable[[nn.Module, Step], Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the batch."""
    return F.cross_entropy(model(batch.images), batch.labels)


def classification(recipe: Recipe) -> Loss[Batch]:
    """Mean cross-entropy of the batch with the recipe's label smoothing: the loss of training from scratch."""
    smoothing = recipe.label_smoothing
    return lambda model, batch: F.cross_entropy(model(batch.images), batch.labels, label_smoothing=smoothing)


def train(
    model: nn.Module,
    data: Feed[Step],
    loss: Loss[Step],
    recipe: Recipe,
    mask: Mapping[str, Tensor] | None = None,
    *,
    mode: Literal["train", "eval"] = "train",
    after_step: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Minimise the loss and return the trained copy, in eval mode; `model` is untouched.

    Args:
        model: the network to start from. Parameters that need no gradient stay as they are.
        data: its batches are the steps.
        loss: scalar to minimise, of the model and one step of the data.
        recipe: epochs, batch size, optimizer, learning rate, momentum, weight decay, schedule.
        mask: for each parameter's name a boolean tensor of its shape; where it is False the weight
            keeps its value to the bit, whatever momentum and weight decay would do.
        mode: 'eval' keeps BatchNorm's statistics as they are, and dropout off.
        after_step: called with the model and the number of steps done, under no_grad: a projection
            of the weights.

    Draws made inside the network (dropout) come from the data's key, never from the global state.
    """
    model = copy.deepcopy(model).train(mode == "train").to(memory_format=torch.channels_last)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    frozen = [(p, mask[name], p.detach().clone()) for name, p in named if mask is not None]
    optimizer = _optimizer([p for _, p in named], recipe)
    steps = recipe.epochs * data.steps(recipe.batch_size)
    schedule = _schedule(optimizer, recipe, steps) if steps else None
    done = 0
    with seeded(derive(*data.key, "noise")), torch.enable_grad():
        for epoch in range(recipe.epochs):
            for batch in data.batches(recipe.batch_size, epoch):
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
                for p, keep, start in frozen:
                    p.data.copy_(torch.where(keep, p.data, start))
                done += 1
                if after_step is not None:
                    with torch.no_grad():
                        after_step(model, done)
                if schedule is not None:
                    schedule.step()
    model.zero_grad(set_to_none=True)
    return model.to(memory_format=torch.contiguous_format).eval()


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters,
                lr=recipe.lr,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                nesterov=recipe.nesterov,
                fused=all(p.is_floating_point() for p in parameters),
            )
        case "adam" | "adamw":
            kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
            return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """What sets the learning rate after each of all steps; None where it stays."""
    from torch.optim import lr_scheduler

    an_epoch = steps // recipe.epochs
    warm = min(recipe.warmup * an_epoch, steps - 1)
    after: lr_scheduler.LRScheduler
    match recipe.schedule:
        case "one-cycle":
            return lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps + 1, cycle_momentum=False)
        case "cosine":
            after = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warm)
        case "multistep":
            after = lr_scheduler.MultiStepLR(optimizer, [m * an_epoch - warm for m in recipe.milestones], recipe.gamma)
        case "constant":
            if not warm:
                return None
            after = lr_scheduler.ConstantLR(optimizer, factor=1)
    if not warm:
        return after
    rising = lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
    return lr_scheduler.SequentialLR(optimizer, [rising, after], [warm])


@torch.no_grad()
def predict(model: nn.Module, view: View) -> Tensor:
    """Logits of the view's samples in row order, [m, classes], in eval mode; the model's mode is kept."""
    was_training = model.training
    model.eval()
    try:
        return torch.cat([model(batch.images) for batch in view.batches(PREDICTION_BATCH)])
    finally:
        model.train(was_training)


def accuracy_per_class(logits: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Correct predictions and samples for each class, both int64 [classes]."""
    correct = labels[logits.argmax(1) == labels]
    return torch.bincount(correct, minlength=classes), torch.bincount(labels, minlength=classes)


def device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_determinism() -> None:
    """One thread and deterministic kernels, so that a job's bytes don't depend on where it runs."""
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without importing the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward pass is not deterministic

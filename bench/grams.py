"""Gram matrices of what enters each linear map of a network: one pass, memory bounded by d x d, half the products.

    grams = layer_grams(model, view, window=3, max_patches=10_000, draw=draw)
    grams["conv1.weight"].matrix()  # the sum of a a^T over the inputs a, [groups, d, d]

The inputs of a convolution are the patches that its kernel meets, as `F.unfold` cuts them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.flops import counted
from bench.layers import Call, Convolution, linear_calls
from bench.views import View

Draw = Callable[[int | None, str], torch.Generator]  # class or None, weight's name -> generator of patches
BATCH = 100  # samples of a forward pass: bounds the memory of maps and patches
BLOCK = 256  # columns of a matrix that are computed together
FOLD = 1024  # inputs that are added to a matrix together: large products are fast
REST = -1  # stands for all classes that have no sum of their own


@counted
def add_products(upper: Tensor, rows: Tensor, sign: int = 1) -> None:
    """Add sign * rows^T rows to the blocks on and above the diagonal: half the work of the whole.

    Args:
        upper: [groups, d, d], changed in place.
        rows: [groups, n, d].
    """
    for start in range(0, rows.shape[-1], BLOCK):
        block = rows[:, :, start : start + BLOCK]
        upper[:, start : start + BLOCK, start:].baddbmm_(block.mT, rows[:, :, start:], alpha=sign)


class Gram:
    """The sum of a a^T over a layer's inputs a, for each group of its channels.

    As long as there are fewer than d inputs these are kept themselves, from then on the d x d matrix: never more
    than groups * d * d numbers and FOLD inputs, however many are added.

    Args:
        rows: inputs, [groups, n, d] each.
        upper: a sum to start from, [groups, d, d], of which the blocks on and above the diagonal count.
    """

    def __init__(self, rows: Sequence[Tensor] = (), upper: Tensor | None = None) -> None:
        self.rows, self.upper = list(rows), upper

    def __len__(self) -> int:
        """Inputs that are kept themselves."""
        return sum(rows.shape[1] for rows in self.rows)

    @property
    def groups(self) -> int:
        return len(self.rows[0] if self.upper is None else self.upper)

    def add(self, rows: Tensor) -> None:
        self.rows.append(rows)
        if len(self) >= (rows.shape[-1] if self.upper is None else FOLD):
            self._fold()
        else:
            self.rows[-1] = rows.clone()  # the network may write over its own

    def _fold(self) -> None:
        if self.rows:
            rows = torch.cat(self.rows, 1)
            if self.upper is None:
                self.upper = rows.new_zeros(len(rows), rows.shape[-1], rows.shape[-1])
            add_products(self.upper, rows)
            self.rows = []

    def take_from(self, upper: Tensor) -> None:
        """Subtract this sum from a larger one, in place."""
        if self.upper is not None:
            upper -= self.upper
        if self.rows:
            add_products(upper, torch.cat(self.rows, 1), -1)

    def few(self) -> Tensor | None:
        """All inputs, [groups, n, d], where these are fewer than d; else None."""
        return torch.cat(self.rows, 1) if self.upper is None else None

    def matrix(self) -> Tensor:
        """The sum itself, [groups, d, d], symmetric; from now on it is kept as this."""
        self._fold()
        assert self.upper is not None, "nothing was added"
        for start in range(BLOCK, self.upper.shape[-1], BLOCK):
            self.upper[:, start:, start - BLOCK : start] = self.upper[:, start - BLOCK : start, start:].mT
        return self.upper


class ClassGrams:
    """A layer's Gram matrix over all classes, from which some can be left out: a sum loses a part by subtraction.

    Args:
        parts: of each class that may be left out, and of REST.
    """

    def __init__(self, parts: dict[int, Gram]) -> None:
        self.parts, self.total = parts, Gram([rows for part in parts.values() for rows in part.rows])
        for part in parts.values():
            if part.upper is not None:
                self.total.upper = part.upper + (0 if self.total.upper is None else self.total.upper)
        if self.total.upper is not None or len(self.total) >= self.total.rows[0].shape[-1]:
            self.total.matrix()
            parts.pop(REST, None)  # it can be as large as the total, and is not asked for

    def without(self, classes: tuple[int, ...]) -> Gram:
        """That of all other classes' inputs."""
        if self.total.upper is None:
            return Gram(
                [rows[:, : 0 if c in classes else None] for c, part in self.parts.items() for rows in part.rows]
            )
        left = self.total.upper.clone()
        for c in classes:
            self.parts[c].take_from(left)
        return Gram(upper=left)


class PatchPicker:
    """Turns a convolution's input maps into its input patches, batch by batch.

    Args:
        kernel: height and width.
        convolution: how the kernel moves.
        images: how many there will be, over all batches.
        window: a map wider than so many kernels is cut to one window of that size, at one random place for all
            images, or for each class's; None takes maps whole.
        max_patches: so many are picked of all patches of all images, or of each class's; None takes every patch.
        draw: class (None for all images) -> generator of its window and patches.
        classes: of each image, int64 [images]; None makes no difference between them.
    """

    def __init__(
        self,
        kernel: tuple[int, int],
        convolution: Convolution,
        images: int,
        window: int | None,
        max_patches: int | None,
        draw: Callable[[int | None], torch.Generator],
        classes: Tensor | None = None,
    ) -> None:
        self.kernel, self.convolution = kernel, convolution
        self.window, self.max_patches, self.draw = window, max_patches, draw
        self.members = {None: torch.arange(images)}
        if classes is not None:
            self.members = {c: (classes == c).nonzero().flatten() for c in classes.unique().tolist()}
        self.corners = torch.zeros(images, 2, dtype=torch.int64)  # of the windows
        self.chosen: Tensor | None = None  # sorted positions among all patches of all images
        self.seen = 0  # images before this batch

    def __call__(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Picked patches of a batch's maps, [groups, patches, d], and the number of each one's image in the batch."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.convolution.stride, self.convolution.dilation
        n, channels, height, width = maps.shape
        high, wide = height, width
        if self.window is not None and width > self.window * kw:
            high, wide = min(self.window * kh, height), self.window * kw
        left, right, top, bottom = self.convolution.padding
        rows = (high + top + bottom - (kh - 1) * dh - 1) // sh + 1
        columns = (wide + left + right - (kw - 1) * dw - 1) // sw + 1
        if not self.seen:
            self._draw(height - high, width - wide, rows * columns)
        maps = F.pad(self._crop(maps, high, wide), self.convolution.padding)
        patches = maps.unfold(2, (kh - 1) * dh + 1, sh).unfold(3, (kw - 1) * dw + 1, sw)[..., ::dh, ::dw]
        assert patches.shape[2:4] == (rows, columns)
        here = self._positions(n, rows * columns).to(maps.device)
        image, place = here // (rows * columns), here % (rows * columns)
        picked = patches[image, :, place // columns, place % columns]  # [p, channels, kh, kw]
        groups = self.convolution.groups
        self.seen += n
        return picked.reshape(len(here), groups, channels // groups * kh * kw).transpose(0, 1), image

    def _draw(self, spare_rows: int, spare_columns: int, per_image: int) -> None:
        """Choose windows and patches of all images, once the maps' size is known."""
        picked = []
        for c, images in self.members.items():
            generator = self.draw(c)
            if spare_columns:
                self.corners[images, 0] = torch.randint(spare_rows + 1, (), generator=generator)
                self.corners[images, 1] = torch.randint(spare_columns + 1, (), generator=generator)
            if self.max_patches is not None:
                drawn = torch.randperm(len(images) * per_image, generator=generator)[: self.max_patches]
                picked.append(images[drawn // per_image] * per_image + drawn % per_image)
        self.chosen = torch.cat(picked).sort().values if picked else None

    def _crop(self, maps: Tensor, high: int, wide: int) -> Tensor:
        if maps.shape[2:] == (high, wide):
            return maps
        corners = self.corners[self.seen : self.seen + len(maps)].to(maps.device)
        rows = corners[:, 0, None, None] + torch.arange(high, device=maps.device)[:, None]
        columns = corners[:, 1, None, None] + torch.arange(wide, device=maps.device)
        each = torch.arange(len(maps), device=maps.device)[:, None, None]
        return maps.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2)

    def _positions(self, images: int, per_image: int) -> Tensor:
        """Positions of the picked ones among the patches of the next images."""
        start, stop = self.seen * per_image, (self.seen + images) * per_image
        if self.chosen is None:
            return torch.arange(stop - start)
        first, last = torch.searchsorted(self.chosen, torch.tensor([start, stop])).tolist()
        return self.chosen[first:last] - start


def layer_grams(
    model: nn.Module, view: View, window: int | None, max_patches: int | None, draw: Draw
) -> dict[str, Gram]:
    """Of all samples together, by the name of a layer's weight; see `pass_over`."""
    return {name: parts[REST] for name, parts in pass_over(model, view, window, max_patches, draw).items()}


def class_grams(
    model: nn.Module, view: View, window: int | None, max_patches: int | None, draw: Draw, apart: tuple[int, ...]
) -> dict[str, ClassGrams]:
    """The same from which classes in `apart` can be left out; window and `max_patches` are those of each class."""
    found = pass_over(model, view, window, max_patches, draw, apart)
    return {name: ClassGrams(found.pop(name)) for name in list(found)}


@torch.no_grad()
def pass_over(
    model: nn.Module,
    view: View,
    window: int | None,
    max_patches: int | None,
    draw: Draw,
    apart: tuple[int, ...] | None = None,
) -> dict[str, dict[int, Gram]]:
    """Sums of a a^T over the inputs of every linear map, by its weight's name: one pass, in eval mode.

    Args:
        model: left in the mode it had.
        view: the samples whose representations are summed.
        window, max_patches: as in `Kodge`; None takes everything.
        draw: class, None for all samples, and weight's name -> generator of window and patches.
        apart: classes whose inputs have a sum of their own, others' being in that of REST; windows and patches are
            then each class's. None makes no difference between classes.

    Raises:
        ValueError: a layer's weight was never used, so nothing is known of its inputs.
    """
    grams: dict[str, dict[int, Gram]] = defaultdict(lambda: defaultdict(Gram))
    pickers: dict[str, PatchPicker] = {}
    shares = None if apart is None else view.labels.cpu()
    part_of = torch.where(
        torch.isin(view.labels, torch.tensor(apart or (), device=view.labels.device)), view.labels, REST
    )

    def collect(here: Tensor, parts: list[int], calls: Counter[str], call: Call) -> None:
        if call.convolution is not None:
            use = f"{call.name}, call {calls[call.name]}" if calls[call.name] else call.name
            calls[call.name] += 1
            if use not in pickers:
                kernel = (call.weight.shape[2], call.weight.shape[3])
                pickers[use] = PatchPicker(
                    kernel, call.convolution, len(view), window, max_patches, lambda c: draw(c, use), shares
                )
            rows, sample = pickers[use](call.input)
        elif (by_sample := call.by_sample(len(here))) is not None:
            rows = by_sample.reshape(1, -1, by_sample.shape[-1])
            sample = torch.arange(len(here), device=rows.device).repeat_interleave(by_sample.shape[1])
        else:
            rows, sample = call.input.reshape(1, -1, call.input.shape[-1]), None
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        for part in parts:
            one = sample is None or len(parts) == 1
            grams[call.name][part].add(rows if one else rows[:, here[sample] == part])

    was_training = model.training
    model.eval()
    for here, batch in zip(part_of.split(BATCH), view.batches(BATCH), strict=True):
        calls: Counter[str] = Counter()  # of each weight: a network may use one twice
        with linear_calls(model, partial(collect, here, here.unique().tolist(), calls)):
            model(batch.images)
    model.train(was_training)
    layers = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if unseen := sorted(layers - grams.keys()):
        raise ValueError(f"no input was seen at {', '.join(unseen)}: the network does not use these weights")
    return grams

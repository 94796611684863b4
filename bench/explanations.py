"""Where a network's gates say that a class is, and how well a map of importance explains a decision.

Sources: insertion and deletion are Petsiuk, Das and Saenko, "RISE", BMVC 2018 (arXiv:1806.07421), section
4.3; the map from gates is ours, since how WF-Net's (arXiv:2304.02049) is made could not be sourced.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from bench.layers import Call, linear_calls

BLUR = 11, 5.0  # kernel and sigma published for images of 224 pixels


def gate_map(model: nn.Module, row: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """ReLU(sum_k (1 - alpha_k) A_k(x)) of the last gated layer with places that matter, [n, height, width].

    A layer has places if it is a convolution whose output is larger than one pixel, or if its tokens,
    without a class token in front, fill a square; they matter if the logits' gradient reaches them (behind
    the last attention only the class token does). Last is the one computed last, in a residual block
    perhaps its shortcut.

    Args:
        row: gates of one class, [units] by weight's name.
        images: network input [n, channels, height, width].
    """
    kept: list[tuple[str, Tensor]] = []

    def keep(call: Call) -> Tensor | None:
        if call.name not in row or (maps := as_maps(call.output, call, len(images))) is None:
            return None
        probe = torch.zeros_like(call.output, requires_grad=True)
        kept.append((call.name, probe))
        layers.append((maps.detach(), call))
        return call.output + probe  # adds nothing, and shows the gradient

    layers: list[tuple[Tensor, Call]] = []
    was_training = model.training
    model.eval()
    with torch.enable_grad(), linear_calls(model, keep):
        logits = model(images)
        gradients = torch.autograd.grad(logits.sum(), [c for _, c in kept], allow_unused=True) if kept else ()
    model.train(was_training)
    for (name, _), gradient, (maps, call) in zip(reversed(kept), reversed(gradients), reversed(layers), strict=True):
        if gradient is not None and (places := as_maps(gradient, call, len(images))) is not None and places.any():
            made = torch.einsum("nkhw,k->nhw", maps, 1 - row[name]).relu()
            return F.interpolate(made[:, None], images.shape[-2:], mode="bilinear")[:, 0].detach()
    raise ValueError("no gated layer of this network has a spatial output on which its logits depend")


def as_maps(out: Tensor, call: Call, samples: int) -> Tensor | None:
    """A layer's output, or a tensor of its shape, as [n, units, h, w]; None where it has no places."""
    if call.convolution is not None:
        return out if out.shape[-1] * out.shape[-2] > 1 else None
    if call.in_attention and out.ndim == 3:
        out = out.transpose(0, 1)  # tokens come first there
    if out.ndim != 3 or len(out) != samples:
        return None
    for front in (0, 1):  # without and with a class token
        tokens = out.shape[1] - front
        side = math.isqrt(tokens)
        if side > 1 and side * side == tokens:
            return out[:, front:].transpose(1, 2).unflatten(2, (side, side))
    return None


@dataclass(frozen=True)
class Curve:
    """Probabilities of one class an image while pixels change, the most important first.

    Attributes:
        changed: share of the pixels that have changed, [steps + 1], from 0 to 1.
        probabilities: [n, steps + 1].
    """

    changed: Tensor
    probabilities: Tensor

    @property
    def area(self) -> Tensor:
        """Under the curve, by trapezoids, [n], within [0, 1]."""
        return torch.trapezoid(self.probabilities, self.changed, dim=1)


def deletion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    pixels: int,
    blank: Tensor | float = 0.0,
    tracked: Tensor | None = None,
) -> Curve:
    """The top class's probability as the most important pixels are blanked; a small area is good.

    Args:
        images: network input [n, channels, height, width].
        maps: importance of each pixel, [n, height, width].
        pixels: how many change at each step.
        blank: what takes their place, broadcast to the images.
        tracked: int64 [n], classes in place of those that the model sees in the images.
    """
    return _curve(model, images, maps, pixels, images, torch.as_tensor(blank).to(images).expand_as(images), tracked)


def insertion(model: nn.Module, images: Tensor, maps: Tensor, pixels: int, tracked: Tensor | None = None) -> Curve:
    """The top class's probability as the most important pixels are revealed; a large area is good.

    It starts from the blurred image, with RISE's blur scaled to the image's size. Arguments as in `deletion`.
    """
    scale = images.shape[-1] / 224
    kernel = max(3, round(BLUR[0] * scale) // 2 * 2 + 1)
    blurred = gaussian_blur(images, [kernel, kernel], [max(BLUR[1] * scale, 0.5)] * 2)
    return _curve(model, images, maps, pixels, blurred, images, tracked)


@torch.no_grad()
def _curve(
    model: nn.Module, images: Tensor, maps: Tensor, pixels: int, start: Tensor, end: Tensor, tracked: Tensor | None
) -> Curve:
    """Pixels go from `start` to `end`."""
    followed = model(images).argmax(1) if tracked is None else tracked
    order = torch.argsort(maps.flatten(1), dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(len(images), 1, *images.shape[-2:])
    total = order.shape[1]
    steps = [*range(0, total, pixels), total]
    probabilities = [
        model(torch.where(rank < done, end, start)).softmax(1).gather(1, followed[:, None])[:, 0] for done in steps
    ]
    changed = torch.tensor(steps, dtype=images.dtype, device=images.device) / total
    return Curve(changed, torch.stack(probabilities, 1))


def scores(model: nn.Module, images: Tensor, maps: Callable[[Tensor], Tensor], pixels: int) -> dict[str, float]:
    """Mean insertion and deletion of a way to make maps, [n, channels, h, w] -> [n, h, w]."""
    made = maps(images)
    return {
        "insertion": float(insertion(model, images, made, pixels).area.mean()),
        "deletion": float(deletion(model, images, made, pixels).area.mean()),
    }

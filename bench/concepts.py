"""Concepts in a network's features: where they come from, which a class has, and where an image shows them.

    concepts = network_concepts(model, view, classes, 50, 10_000, problem.generator)
    weights = bottleneck(projections(features, concepts), labels, classes, seed)  # [classes, concepts]
    choice = choose(weights, 4, donors=[0, 1, 2, 3, 5])                           # concept, donor, donor's concept
    corners = window_grid(8, 8)[concept_similarity(model, images, concepts, 3, classes).argmax(1)]

Features f(x) are what enters the network's head, the last linear layer with an output for each class,
in eval mode. A concept is a direction v in them.

Concepts from the network itself take the place of a text encoder's, in three steps:

1. windows are drawn at random from the training images, resized to the image's size, and passed through the network
   (Ghorbani et al., "Towards Automatic Concept-based Explanations", NeurIPS 2019, arXiv:1902.03129, whose
   segments are square windows here, those in which concepts are looked for later);
2. their features, less the mean and at unit length, are clustered by k-means; clustering by the angle makes
   "the window shows concept i" and "its cosine with v_i is the largest" the same;
3. v_i is the centre of cluster i, at unit length. This is a concept activation vector (Kim et al., ICML 2018,
   arXiv:1711.11279) of the pattern kind, mean with the concept less mean of all; Pahde et al. (ICLR 2025,
   arXiv:2202.03482) show why the normal of a classifier, Kim's choice, is a worse direction to look for.

A post-hoc concept bottleneck (Yuksekgonul et al., ICLR 2023, arXiv:2205.15480) ranks them: a sparse
linear classifier on the projections P_i(x) = (<v_i, f(x)> + b_i) / ||v_i||.

Concepts of any text or image encoder come from a safetensors file:

    vectors    float32 [k, d]   a row for each concept
    biases     float32 [k]      b_i above; optional, 0 without
    names      uint8 [bytes]    k names in UTF-8, a line feed between two; optional, 0 to k-1 without
    features   float32 [n, d]   the encoder's embeddings of the n training images, in the data set's
                                order; optional

With `features`, d is the encoder's own width, and only the bottleneck is made of the concepts. Without, the
vectors must lie in the network's features, whose width d must then be.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from bench import layers, store
from bench.errors import BadInput
from bench.training import View

BATCH = 200  # images in a forward pass; with gradients, in a backward pass too
TOP = 5  # a class's concepts among which a confusion is looked for

Draw = Callable[[str], torch.Generator]


@dataclass(frozen=True)
class Concepts:
    """Directions in a space of features.

    Attributes:
        vectors: [k, d].
        biases: [k].
        names: k numbers or names.
        centre: [d], what the features of windows are compared against; None where the space is
            another encoder's, in which windows have no features.
        features: [n, d], that encoder's features of the training samples.
    """

    vectors: Tensor
    biases: Tensor
    names: tuple[str | int, ...]
    centre: Tensor | None = None
    features: Tensor | None = None


def scaled(pixels: int, side: int) -> int:
    """A length published for images of 224 pixels, on images of `side` pixels; at least 1."""
    return max(1, round(pixels / 224 * side))


def window_size(height: int, width: int) -> int:
    """Side of the windows: 64 of 224 pixels, at least 3 of them."""
    return min(max(3, scaled(64, min(height, width))), height, width)


def window_grid(height: int, width: int) -> Tensor:
    """Upper left corners of all windows, int64 [windows, 2], row by row; the stride is 16 of 224 pixels."""
    size, stride = window_size(height, width), scaled(16, min(height, width))
    rows, columns = (torch.arange(0, side - size + 1, stride) for side in (height, width))
    return torch.cartesian_prod(rows, columns)


def _pixels(corners: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column of each pixel of one square an image, to index with."""
    span = torch.arange(size, device=corners.device)
    image = torch.arange(len(corners), device=corners.device)[:, None, None]
    return image, corners[:, :1, None] + span[:, None], corners[:, 1:, None] + span


def crop(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """One square of each image: [n, c, size, size] of [n, c, h, w], with upper left corners [n, 2]."""
    image, row, column = _pixels(corners.to(images.device), size)
    return images[image, :, row, column].permute(0, 3, 1, 2)


def paste(images: Tensor, patches: Tensor, corners: Tensor) -> Tensor:
    """The images with a patch each, [n, c, size, size], laid over them."""
    result = images.clone()
    image, row, column = _pixels(corners.to(images.device), patches.shape[-1])
    result[image, :, row, column] = patches.permute(0, 2, 3, 1)
    return result


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear and smoothed where it shrinks; images keep their dtype, uint8 ones are rounded."""
    x = images if images.is_floating_point() else images.to(torch.get_default_dtype())
    x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
    return x if images.is_floating_point() else x.round().clamp(0, 255).to(images.dtype)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def features(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """What enters the head for each network input, [n, d], in eval mode."""
    return torch.cat([layers.features(model, part, classes) for part in images.split(BATCH)])


def window_features(model: nn.Module, images: Tensor, corners: Tensor, classes: int) -> Tensor:
    """Features [n, d] of one window of each network input, resized to the input's size."""
    size = images.shape[-2:]
    return features(model, resize(crop(images, corners, window_size(*size)), *size), classes)


def drawn_windows(model: nn.Module, view: View, classes: int, count: int, draw: Draw) -> Tensor:
    """Features [count, d] of windows drawn from the view's images, with replacement."""
    grid = window_grid(*view.samples.images.shape[-2:])
    drawn = torch.randint(len(view) * len(grid), (count,), generator=draw("windows")).sort().values
    rows, corners = view.rows[(drawn // len(grid)).to(view.rows.device)], grid[drawn % len(grid)]
    view.on_read(rows.unique())
    parts = zip(rows.split(BATCH), corners.split(BATCH), strict=True)
    return torch.cat([window_features(model, view.samples.input(r), c, classes) for r, c in parts])


def network_concepts(model: nn.Module, view: View, classes: int, count: int, windows: int, draw: Draw) -> Concepts:
    """Concepts of the network's own, as the module says.

    Args:
        view: where the windows are drawn from.
        count: how many concepts.
        windows: how many windows; at least as many.
        draw: purpose -> generator.
    """
    from sklearn.cluster import KMeans  # imports for half a second

    f = drawn_windows(model, view, classes, windows, draw)
    centre = f.mean(0)
    points = F.normalize(f - centre).cpu().numpy()
    seed = int(torch.randint(2**31, (), generator=draw("clusters")))
    with threadpool_limits(1):  # sums over several threads differ in their last bit
        centres = KMeans(count, n_init=1, random_state=seed).fit(points).cluster_centers_
    vectors = F.normalize(torch.from_numpy(centres).to(f))
    return Concepts(vectors, -vectors @ centre, tuple(range(count)), centre)


def read_concepts(path: Path, width: int, samples: int, like: Tensor) -> Concepts:
    """Concepts from a file of the format that the module describes; without a centre.

    Args:
        width: of the network's features.
        samples: how many the training set has.
        like: a tensor of the dtype and on the device wanted.

    Raises:
        BadInput: there is no such file, or a tensor is missing or of a wrong shape.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file; concept_file must name a safetensors file with concept vectors")
    tensors = store.read_tensors(path)
    vectors = tensors.get("vectors", np.zeros(0))
    if vectors.ndim != 2 or not len(vectors):
        raise BadInput(f"{path}: must hold `vectors`, a matrix with a row for each concept")
    k, d = vectors.shape
    biases, embedded = tensors.get("biases", np.zeros(k)), tensors.get("features")
    if biases.shape != (k,):
        raise BadInput(f"{path}: `biases` has the shape {biases.shape} for {k} concepts")
    if embedded is None and d != width:
        raise BadInput(
            f"{path}: its vectors have {d} entries, and the network's features {width}; vectors of another "
            "encoder need that encoder's `features` of the training images beside them"
        )
    if embedded is not None and embedded.shape != (samples, d):
        raise BadInput(f"{path}: `features` has the shape {embedded.shape} for {samples} samples and width {d}")
    names: tuple[str | int, ...] = tuple(range(k))
    if "names" in tensors:
        names = tuple(tensors["names"].tobytes().decode().split("\n"))
        if len(names) != k:
            raise BadInput(f"{path}: `names` has {len(names)} lines for {k} concepts")
    space = None if embedded is None else torch.from_numpy(embedded).to(like)
    return Concepts(torch.from_numpy(vectors).to(like), torch.from_numpy(biases).to(like), names, features=space)


def projections(f: Tensor, concepts: Concepts) -> Tensor:
    """P_i(x) = (<v_i, f(x)> + b_i) / ||v_i||, [n, k]."""
    return (f @ concepts.vectors.T + concepts.biases) / concepts.vectors.norm(dim=1)


def bottleneck(projected: Tensor, labels: Tensor, classes: int, seed: int) -> Tensor:
    """Weights of the concept bottleneck's classifier, [classes, k]; those of a class without samples are 0.

    Logistic loss one class against the others, elastic net, settings as published. The projections
    are centred and divided by one number, their root mean square, since the step sizes of
    this solver fit values about 1; neither changes the order of the weights.
    """
    from sklearn.linear_model import SGDClassifier  # imports for half a second

    centred = projected - projected.mean(0)
    points = (centred / centred.square().mean().sqrt()).cpu().numpy()
    classifier = SGDClassifier(
        loss="log_loss", penalty="elasticnet", alpha=1e-5, l1_ratio=0.99, max_iter=10_000, random_state=seed
    )
    classifier.fit(points, labels.cpu().numpy())
    found = classifier.coef_ if len(classifier.coef_) > 1 else np.concatenate([-classifier.coef_, classifier.coef_])
    weights = torch.zeros(classes, projected.shape[1], dtype=torch.float64)
    weights[torch.from_numpy(classifier.classes_)] = torch.from_numpy(found).double()
    return weights


@dataclass(frozen=True)
class Choice:
    """What is to be overwritten in a class's images, and by what of which class."""

    concept: int
    donor: int
    donor_concept: int
    rule: str  # 'confusion', 'shared' or 'next class'


def choose(weights: Tensor, forgotten: int, donors: Sequence[int]) -> Choice:
    """Target concept, donor class and donor concept of a class, by the rule of Chang et al.'s code.

    The target concept is the class's first. Of its first five of positive weight, the first that is the
    first of a possible donor too decides ('confusion'; among several donors the one with the largest
    weight). Else the donor is the class with the largest weight of the target concept ('shared'),
    and if none has a positive one, the next class.

    Args:
        weights: [classes, k].
        donors: classes that may donate, ascending; not the forgotten one.
    """
    order = weights[forgotten].argsort(descending=True, stable=True).tolist()
    for concept in order[:TOP]:
        confused = [d for d in donors if int(weights[d].argmax()) == concept]
        if confused and weights[forgotten, concept] > 0:
            donor = max(confused, key=lambda d: float(weights[d, concept]))
            return Choice(order[0], donor, concept, "confusion")
    donor = max(donors, key=lambda d: float(weights[d, order[0]]))
    if weights[donor, order[0]] > 0:
        return Choice(order[0], donor, order[0], "shared")
    return Choice(order[0], next((d for d in donors if d > forgotten), donors[0]), order[0], "next class")


def concept_similarity(model: nn.Module, images: Tensor, concepts: Concepts, concept: int, classes: int) -> Tensor:
    """Cosine of each window's features, less the centre, with one of the concepts: [n, windows].

    Raises:
        BadInput: the concepts are of a space in which windows have no features.
    """
    if concepts.centre is None:
        raise BadInput(
            "concept_file gives another encoder's features of whole images and none of windows, so concept "
            "similarity cannot locate anything: set locator to 'gradcam' or 'integrated_gradients'"
        )
    columns = []
    for corner in window_grid(*images.shape[-2:]):
        f = window_features(model, images, corner.expand(len(images), 2), classes)
        columns.append(F.cosine_similarity(f - concepts.centre, concepts.vectors[concept][None]))
    return torch.stack(columns, 1)


def window_means(heat: Tensor) -> Tensor:
    """Mean of a map [n, h, w] over each window: [n, windows]."""
    size, stride = window_size(*heat.shape[-2:]), scaled(16, min(heat.shape[-2:]))
    return F.avg_pool2d(heat[:, None], size, stride).flatten(1)


def grad_cam(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM of each image for its label's logit, [n, h, w] at the image's size, at least 0.

    relu(sum_k a_k A_k), a_k = mean over positions of d logit / d A_k (Selvaraju et al., ICCV 2017,
    arXiv:1610.02391), in eval mode. A is the last feature map [b, k, rows, columns] that any module
    puts out. In a network of tokens it is the last output of a LayerNorm on whose patch
    tokens the logit depends, so with a class token that before the last attention; class tokens stand
    first, and the patches fill a square.

    Raises:
        ValueError: the network has neither.
    """
    return torch.cat([_grad_cam(model, x, y) for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True)])


def _grad_cam(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    maps: list[Tensor] = []
    tokens: list[Tensor] = []

    def keep(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
            maps.append(output)
        elif isinstance(output, Tensor) and output.ndim == 3 and isinstance(layer, nn.LayerNorm):
            tokens.append(output)

    handles = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        with _evaluated(model), torch.enable_grad():
            logits = model(images.detach().clone().requires_grad_())
            kept = tokens or maps
            if not kept:
                raise ValueError("Grad-CAM finds no feature map [b, k, rows, columns] and no LayerNorm over tokens")
            score = logits.gather(1, labels[:, None]).sum()
            gradients = torch.autograd.grad(score, kept, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    pairs = [(_as_map(a.detach()), _as_map(g)) for a, g in zip(kept, gradients, strict=True) if g is not None]
    a, g = next((pair for pair in reversed(pairs) if pair[1].any()), pairs[-1])
    cam = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).relu()
    return F.interpolate(cam, images.shape[-2:], mode="bilinear")[:, 0]


def _as_map(tokens: Tensor) -> Tensor:
    """Patch tokens [b, tokens, k] as a map [b, k, side, side]; a map as it is."""
    if tokens.ndim == 4:
        return tokens
    side = int(tokens.shape[1] ** 0.5)
    return tokens[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def integrated_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int = 32, baseline: Tensor | None = None
) -> Tensor:
    """Attribution of each image's label's logit F to its inputs, of the images' shape, in eval mode.

    (x - x') * mean over k of dF/dx at x' + (k - 1/2) / steps * (x - x'), k = 1..steps (Sundararajan et al.,
    ICML 2017, arXiv:1703.01365), by the midpoint rule, whose sum comes closer to F(x) - F(x') than
    that of the paper's right end points.

    Args:
        baseline: x', of a shape that broadcasts; by default zeros, which is the mean colour where
            the network's input is normalised.
    """
    start = torch.zeros_like(images) if baseline is None else baseline.expand_as(images)
    parts = zip(images.split(BATCH), start.split(BATCH), labels.split(BATCH), strict=True)
    with _evaluated(model), torch.enable_grad():
        return torch.cat([(x - x0) * _mean_gradient(model, x0, x, y, steps) for x, x0, y in parts])


def _mean_gradient(model: nn.Module, start: Tensor, end: Tensor, labels: Tensor, steps: int) -> Tensor:
    total = torch.zeros_like(end)
    for k in range(steps):
        x = (start + (k + 0.5) / steps * (end - start)).detach().requires_grad_()
        total += torch.autograd.grad(model(x).gather(1, labels[:, None]).sum(), x)[0]
    return total / steps

"""An architecture's name -> a freshly initialised network.

A name is one of `ARCHITECTURES`, or `timm/NAME` or `torchvision/NAME`: a network of that library, with as many
classes and for images as the data set has them.
"""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import unknown
from bench.errors import BadInput

Shape = tuple[int, int, int]  # channels, height and width of the images


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from torch's global generators inside are the seed's; outside they go on undisturbed."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class ResidualStage(nn.Module):
    """Two 3x3 convolutions around a shortcut, as in He et al. 2016 (arXiv:1512.03385), Figure 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual stage for each width and stride, the mean over positions, and a linear head."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.stages = nn.Sequential(*map(ResidualStage, inputs, widths, strides))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


def small_resnet(shape: Shape, classes: int) -> nn.Module:
    """For images of about 8x8; 86,474 parameters on grey ones."""
    return SmallResNet(shape[0], classes, (32, 32, 64), (1, 1, 2))


def tiny_resnet(shape: Shape, classes: int) -> nn.Module:
    """For images of about 28x28 on a CPU: each stage halves the size; 75,242 parameters, 2.1 million products."""
    return SmallResNet(shape[0], classes, (16, 32, 64), (2, 2, 2))


def small_vit(shape: Shape, classes: int) -> nn.Module:
    """Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) of two blocks; 69,194 parameters at 8x8.

    timm's: patches of 4x4, width 64, four heads, MLP of twice the width, class token.
    """
    from timm.models.vision_transformer import VisionTransformer  # imports for seconds

    model = VisionTransformer(
        img_size=shape[1:],
        patch_size=4,
        in_chans=shape[0],
        num_classes=classes,
        embed_dim=64,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
    )
    return _nothing_left_out(model, shape)


def cifar_resnet18(shape: Shape, classes: int) -> nn.Module:
    """torchvision's ResNet-18 with a stem for 32x32, a 3x3 convolution of stride 1; 11.2 million parameters.

    As in the code of Kodge, SalUn and RUM.
    """
    from torchvision.models import resnet18

    model = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def cifar_vgg(configuration: str, shape: Shape, classes: int) -> nn.Module:
    """VGG with BatchNorm (Simonyan and Zisserman 2015, arXiv:1409.1556) for 32x32.

    torchvision's convolutions, the mean over what five poolings leave, and Kodge's head of three layers with
    dropout, 512-512-512-classes (models/vgg.py of their code). SalUn's and RUM's VGG-16-BN is another: no fifth
    pooling, 2x2 positions, and 2048-256-256-classes.

    Args:
        configuration: the paper's letter: 'A' has 11 layers, 'D' 16.
    """
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs[configuration], batch_norm=True)
    if shape[0] != features[0].in_channels:
        features[0] = nn.Conv2d(shape[0], 64, 3, padding=1)
    for parameter in features.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
    classifier = [m for _ in range(2) for m in (nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5))]
    return nn.Sequential(
        OrderedDict(
            features=features,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(*classifier, nn.Linear(512, classes)),
        )
    )


def cifar_vgg11(shape: Shape, classes: int) -> nn.Module:
    """9.8 million parameters."""
    return cifar_vgg("A", shape, classes)


def cifar_vgg16(shape: Shape, classes: int) -> nn.Module:
    """15.3 million parameters."""
    return cifar_vgg("D", shape, classes)


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "resnet-small": small_resnet,
    "resnet-tiny": tiny_resnet,
    "vit-small": small_vit,
    "resnet18-cifar": cifar_resnet18,
    "vgg11-bn-cifar": cifar_vgg11,
    "vgg16-bn-cifar": cifar_vgg16,
}


def timm_network(name: str, shape: Shape, classes: int, **options: Any) -> nn.Module:
    """A network of timm, given the images' size where it needs to know (attention over positions).

    Args:
        options: further ones of `timm.create_model`.

    Raises:
        BadInput: timm has none of that name.
        ValueError: its patches do not fill the images.
    """
    import timm

    _in_library("timm", name, timm.list_models())
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = shape[1:]
    return _nothing_left_out(timm.create_model(name, num_classes=classes, in_chans=shape[0], **options), shape)


def _nothing_left_out(model: nn.Module, shape: Shape) -> nn.Module:
    """The network, if its patches fill the images: timm's would pass over what remains at the edges."""
    from timm.layers import PatchEmbed

    patches = getattr(model, "patch_embed", None)
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad:
        height, width = patches.patch_size
        if shape[1] % height or shape[2] % width:
            raise ValueError(f"patches of {height}x{width} do not fill them")
    return model


def torchvision_network(name: str, shape: Shape, classes: int) -> nn.Module:
    """A classifier of torchvision.

    Raises:
        BadInput: torchvision has none of that name.
        ValueError: the images are not of three channels.
    """
    from torchvision import models

    _in_library("torchvision", name, models.list_models(module=models))
    channels, height, width = shape
    if channels != 3:
        raise ValueError("torchvision's networks take 3 channels; timm's take any number")
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = height
    elif name.startswith("maxvit_"):
        options["input_size"] = height, width
    elif name in {"googlenet", "inception_v3"}:
        options = {"aux_logits": False, "init_weights": True}  # else they give more than logits, and a warning
    model = models.get_model(name, weights=None, num_classes=classes, **options)
    if name.startswith("vgg") and (height // 32, width // 32) == (7, 7):
        model.avgpool = nn.Identity()  # to 7x7, which it is; on CUDA, the pooling's gradient is not deterministic
    return model


def _in_library(library: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 5, cutoff=0.5)
        hint = f"its nearest names: {', '.join(near)}" if near else f"one of its names: {names[0]}"
        raise BadInput(f"architecture: {library} has no network '{name}'; {hint}")


LIBRARIES = {"timm": timm_network, "torchvision": torchvision_network}


def build(architecture: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """A network with `classes` outputs on images of that shape, initialised from the seed, in training mode.

    The global random state is left as it was.

    Raises:
        BadInput: there is no such architecture, or it does not run on such images: it is tried on one.
    """
    library, _, name = architecture.rpartition("/")
    if architecture not in ARCHITECTURES and library not in LIBRARIES:
        raise BadInput(f"architecture: {unknown(architecture, ARCHITECTURES, 'architecture')}")
    try:
        with seeded(seed):
            make = ARCHITECTURES.get(architecture)
            model = make(shape, classes) if make else LIBRARIES[library](name, shape, classes)
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        channels, height, width = shape
        raise BadInput(
            f"architecture: {architecture} does not run on images of {height}x{width} pixels and {channels} "
            f"channel{'s' if channels > 1 else ''}: {' '.join(str(error).split())}"
        ) from error
    if not (isinstance(logits, Tensor) and logits.shape == (1, classes)):
        raise BadInput(f"architecture: {architecture} is no classifier: it does not give one output for each class")
    return model.train()

"""An architecture's name -> a freshly initialised network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    """Three residual stages of 32, 32 and 64 channels for images of about 8x8; 86,474 parameters."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(ResidualStage(channels, 32), ResidualStage(32, 32), ResidualStage(32, 64, stride=2))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


def small_vit(channels: int, classes: int) -> nn.Module:
    """Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) of two blocks for 8x8 images; 68,874 parameters.

    timm's: four patches of 4x4, width 64, four heads, MLP of twice the width, class token.
    """
    from timm.models.vision_transformer import VisionTransformer  # imports for seconds

    return VisionTransformer(
        img_size=8,
        patch_size=4,
        in_chans=channels,
        num_classes=classes,
        embed_dim=64,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
    )


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {"resnet-small": SmallResNet, "vit-small": small_vit}


def build(architecture: str, channels: int, classes: int, seed: int) -> nn.Module:
    """A network with `classes` outputs on images of `channels` channels, initialised from the seed.

    The global random state is left as it was.
    """
    with seeded(seed):
        return ARCHITECTURES[architecture](channels, classes)

"""Every architecture builds for its images, learns, and can be unlearned by the five methods at the suite's heart."""

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from bench import config, models
from bench.config import NETWORKS
from bench.errors import BadInput
from bench.layers import head
from bench.models import Shape, seeded
from bench.problem import Problem
from bench.sources import SOURCES

ROOT = Path(__file__).resolve().parent.parent
SMALL: list[tuple[str, Shape]] = [
    ("resnet-small", (1, 8, 8)),
    ("vit-small", (1, 8, 8)),
    ("resnet-tiny", (1, 28, 28)),
    ("resnet-tiny", (3, 32, 32)),
    ("resnet18-cifar", (1, 28, 28)),
    ("resnet18-cifar", (3, 32, 32)),
    ("vgg11-bn-cifar", (3, 32, 32)),
    ("vgg16-bn-cifar", (3, 32, 32)),
    ("timm/vit_tiny_patch16_224", (3, 32, 32)),
    ("timm/tiny_vit_11m_224", (3, 32, 32)),
    ("timm/resnet18", (1, 28, 28)),
    ("torchvision/resnet18", (3, 32, 32)),
    ("torchvision/swin_t", (3, 64, 64)),
]
LARGE: list[tuple[str, Shape]] = [  # one after another: they take gigabytes
    ("torchvision/resnet18", (3, 224, 224)),
    ("torchvision/resnet50", (3, 224, 224)),
    ("torchvision/vgg11_bn", (3, 224, 224)),
    ("torchvision/vit_b_16", (3, 224, 224)),
    ("torchvision/swin_t", (3, 224, 224)),
    ("timm/swin_tiny_patch4_window7_224", (3, 224, 224)),
]
CLASSES = 3
ONE_STEP: dict[str, dict[str, Any]] = {
    "kodge": {"alpha_r": 100, "alpha_f": 3, "max_patches": 40},
    "wfnet": {"epochs": 1, "batch_size": 8},
    "salun": {"epochs": 1, "batch_size": 8},
    "rum": {"parts": [{"method": "finetune", "hyperparameters": {"epochs": 1, "batch_size": 8}}]},
    "concept_poison": {"epochs": 1, "batch_size": 8, "concepts": 2, "windows": 4, "locator": "gradcam"},
}


def case(architecture: str, shape: Shape, *more: str) -> Any:
    group = pytest.mark.xdist_group("large") if (architecture, shape) in LARGE else ()
    name = "-".join([architecture.replace("/", "."), f"{shape[0]}x{shape[1]}", *more])
    return pytest.param(architecture, shape, *more, id=name, marks=group)


every_network = pytest.mark.parametrize(("architecture", "shape"), [case(*c) for c in SMALL + LARGE])


def images(shape: Shape, n: int = CLASSES) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


@cache
def network(architecture: str, shape: Shape) -> nn.Module:
    """In eval mode, as if trained a little: BatchNorm knows its inputs, and no head is zero (as a fresh ViT's is)."""
    model = models.build(architecture, shape, CLASSES, 0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad(), seeded(0):
        model(images(shape))
        nn.init.normal_(head(model, CLASSES).weight, std=0.02)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def test_the_networks_of_params_are_those_that_are_built():
    assert set(models.ARCHITECTURES) == set(NETWORKS)
    wanted = set()
    for benchmark in config.load(ROOT / "params.yaml").benchmarks.values():
        data, size = benchmark.dataset, benchmark.dataset.size
        shape = SOURCES[data.name].shape if size is None else (3, size, size)
        wanted.add((benchmark.architecture.name, shape))
    assert wanted <= {*SMALL, *LARGE}


@every_network
def test_a_loss_reaches_every_parameter(architecture, shape):
    model = models.build(architecture, shape, CLASSES, 0)
    assert model.training
    logits = model(images(shape, 2))
    assert logits.shape == (2, CLASSES)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@every_network
def test_its_seed_alone_says_how_it_starts(architecture, shape):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = models.build(architecture, shape, CLASSES, 1).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    second = models.build(architecture, shape, CLASSES, 1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = models.build(architecture, shape, CLASSES, 2).state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("architecture", "shape", "method"),
    [case(*c, method) for method in ONE_STEP for c in SMALL + LARGE],
)
def test_the_five_methods_take_a_step(architecture, shape, method):
    model, labels = network(architecture, shape), torch.arange(CLASSES)
    before = copy.deepcopy(model.state_dict())
    problem = Problem.from_tensors(images(shape), labels, labels == 1, scores={"memorization": torch.zeros(CLASSES)})
    unlearning = methods.create(method, ONE_STEP[method], "methods")
    result = unlearning.unlearn(model, problem.only(unlearning.card.reads))
    after = result.state_dict()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert str(result) == str(model)
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in before.items()}
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_resnet18_is_the_one_of_the_literature():
    """Parameters counted from He et al. 2016, Table 1, with a 3x3 stem and a projection where the width changes."""
    convolutions = 3 * 64 * 9 + 4 * 64 * 64 * 9
    norms = 5 * 64
    for width in (128, 256, 512):
        convolutions += width // 2 * width * 9 + 3 * width * width * 9 + width // 2 * width
        norms += 5 * width
    model = models.build("resnet18-cifar", (3, 32, 32), 10, 0)
    assert sum(p.numel() for p in model.parameters()) == convolutions + 2 * norms + 512 * 10 + 10
    maps: list[Tensor] = []
    model.layer1.register_forward_hook(lambda layer, inputs, output: maps.append(output))  # type: ignore[union-attr]
    model(images((3, 32, 32)))
    assert maps[0].shape[2:] == (32, 32)  # nothing is lost in the stem


@pytest.mark.parametrize(
    ("architecture", "widths"),
    [
        ("vgg11-bn-cifar", [64, 128, 256, 256, 512, 512, 512, 512]),
        ("vgg16-bn-cifar", [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]),
    ],
)
def test_vgg_is_the_one_of_the_literature(architecture, widths):
    """Parameters counted from Simonyan and Zisserman 2015, Table 1, with BatchNorm and Kodge's 512-512-512-classes."""
    pairs = zip([3, *widths], widths, strict=False)
    features = sum(9 * i * o + o + 2 * o for i, o in pairs)
    model = models.build(architecture, (3, 32, 32), 10, 0)
    assert sum(p.numel() for p in model.parameters()) == features + 2 * (512 * 512 + 512) + 512 * 10 + 10


def test_resnet_tiny_takes_few_products():
    products = 0

    def count(layer: Any, inputs: Any, output: Tensor) -> None:
        nonlocal products
        positions = output[0, 0].numel() if output.ndim == 4 else 1
        products += layer.weight.numel() * positions

    model = models.build("resnet-tiny", (1, 28, 28), 10, 0).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model(images((1, 28, 28), 1))
    assert 2_000_000 < products < 2_500_000


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("vgg16-bn-cifar", (1, 28, 28), "28x28 pixels and 1 channel: .*too small"),
        ("torchvision/vgg11_bn", (3, 8, 8), "8x8 pixels and 3 channels: .*too small"),
        ("torchvision/resnet50", (1, 32, 32), "take 3 channels; timm's take any"),
        ("torchvision/vit_b_16", (3, 40, 40), "40x40 pixels"),
        ("torchvision/vit_b_16", (3, 32, 48), "32x48 pixels"),
        ("timm/vit_tiny_patch16_224", (1, 28, 28), "28x28 pixels and 1 channel: patches of 16x16"),
        ("vit-small", (1, 30, 30), "patches of 4x4 do not fill"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(architecture, shape, message):
    with pytest.raises(BadInput, match=rf"architecture: {architecture} does not run on images of .*{message}"):
        models.build(architecture, shape, 10, 0)


@pytest.mark.parametrize(
    ("architecture", "near"),
    [
        ("resnet-smal", "did you mean 'resnet-small'"),
        ("timm/vit_tinny_patch16_224", "vit_tiny_patch16_224"),
        ("torchvision/resnet5", "resnet50"),
        ("torchvision/raft_large", "torchvision has no network 'raft_large'"),  # one of optical flow
        ("keras/resnet50", "unknown architecture"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(architecture, near):
    with pytest.raises(BadInput, match=near) as refusal:
        models.build(architecture, (3, 32, 32), 10, 0)
    assert str(refusal.value).startswith("architecture: ")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 32)])
def test_timm_takes_any_channels_and_oblong_images(shape):
    for architecture in ("timm/resnet10t", "timm/swin_tiny_patch4_window7_224"):
        assert models.build(architecture, shape, 5, 0)(images(shape, 2)).shape == (2, 5)


@pytest.mark.xdist_group("large")
def test_gradients_of_a_torchvision_vgg_need_no_adaptive_pooling():
    """Whose backward pass has no deterministic form on CUDA; at 224 pixels it would pool 7x7 to 7x7."""
    model = network("torchvision/vgg11_bn", (3, 224, 224))
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in model.modules())
    maps: list[Tensor] = []
    handle = model.avgpool.register_forward_hook(lambda layer, inputs, output: maps.append(output))  # type: ignore[union-attr]
    with torch.no_grad():
        model(images((3, 224, 224), 1))
    handle.remove()
    assert torch.equal(F.adaptive_avg_pool2d(maps[0], 7), maps[0])


@pytest.mark.parametrize("module", ["bench.models", "bench.weights"])
def test_libraries_are_imported_only_where_used(module):
    code = f"import sys, {module}; sys.exit(bool({{'timm', 'torchvision', 'huggingface_hub'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

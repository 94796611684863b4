"""Layers watched from outside: nothing missed, nothing changed, each sample's values at that sample alone."""

from functools import cache

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer, resnet18, vgg11_bn

from bench.layers import Call, Convolution, features, head, linear_calls
from bench.models import seeded
from tests.conftest import CLASSES, blobs, build


def vgg() -> nn.Module:
    """VGG-11 with a narrow classifier: its own has 120 million weights."""
    model = vgg11_bn(num_classes=10)
    for k, (inputs, outputs) in {0: (512 * 49, 64), 3: (64, 64), 6: (64, 10)}.items():
        model.classifier[k] = nn.Linear(inputs, outputs)
    return model


ARCHITECTURES = {
    "torchvision ViT": lambda: VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10),
    "timm ViT": lambda: TimmViT(
        img_size=32, patch_size=8, in_chans=3, num_classes=10, embed_dim=32, depth=2, num_heads=4
    ),
    "torchvision Swin": lambda: SwinTransformer([2, 2], 32, [2, 2], [2, 4], [4, 4], num_classes=10),
    "timm Swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=32, window_size=4, num_classes=10),
    "ResNet-18": lambda: resnet18(num_classes=10),
    "VGG-11": vgg,
}
each = pytest.mark.parametrize("name", ARCHITECTURES)
with_and_without_grad = pytest.mark.parametrize("grad", [False, True])


@cache
def network(name: str) -> nn.Module:
    """In eval mode; no weight or bias is zero, as heads and biases often start."""
    with seeded(0):
        model = ARCHITECTURES[name]()
        for p in model.parameters():
            p.data += torch.randn_like(p) * 0.02
    return model.eval()


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def calls(model: nn.Module, x: Tensor) -> list[Call]:
    found: list[Call] = []
    with linear_calls(model, found.append):
        model(x)
    return found


def units(call: Call) -> int:
    return call.output.shape[-1 if call.convolution is None else 1]


# -- what is seen ---------------------------------------------------------------------------------


@each
@with_and_without_grad
def test_every_matrix_and_kernel_is_seen_once(name, grad):
    """Queries, keys and values of an attention are one matrix."""
    model = network(name)
    expected = [n for n, p in model.named_parameters() if p.ndim in (2, 4) and n.endswith("weight")]
    with torch.set_grad_enabled(grad):
        found = calls(model, images())
    assert sorted(call.name for call in found) == sorted(expected)
    layers = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert layers <= set(expected)
    attention = {f"{n}.in_proj_weight" for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    assert attention == set(expected) - layers
    assert {call.name for call in found if call.in_attention} == attention | {
        n.replace("in_proj_weight", "out_proj.weight") for n in attention
    }


@each
def test_a_call_computes_its_output_from_its_input_weight_and_bias(name):
    model = network(name)
    parameters, checked = dict(model.named_parameters()), []

    def check(call: Call) -> None:  # at once: what follows may overwrite the output
        assert call.weight is parameters[call.name]
        named = call.name.replace("weight", "bias")
        assert call.bias == (named if named in parameters else None)
        torch.testing.assert_close(computed(call, parameters.get(named)), call.output)
        checked.append(call.name)

    with torch.no_grad(), linear_calls(model, check):
        model(images())
    assert len(checked) >= 10


def computed(call: Call, bias: Tensor | None) -> Tensor:
    if call.convolution is None:
        return F.linear(call.input, call.weight, bias)
    how = call.convolution
    return F.conv2d(F.pad(call.input, how.padding), call.weight, bias, how.stride, 0, how.dilation, how.groups)


CONVOLUTIONS = {
    "plain": ({"kernel_size": 3}, Convolution((1, 1), (0, 0, 0, 0), (1, 1), 1)),
    "stride and padding": (
        {"kernel_size": 3, "stride": (2, 1), "padding": (1, 2)},
        Convolution((2, 1), (2, 2, 1, 1), (1, 1), 1),
    ),
    "groups": ({"kernel_size": 1, "groups": 2}, Convolution((1, 1), (0, 0, 0, 0), (1, 1), 2)),
    "dilation": ({"kernel_size": 3, "dilation": (2, 1)}, Convolution((1, 1), (0, 0, 0, 0), (2, 1), 1)),
    "same": ({"kernel_size": (3, 5), "padding": "same"}, Convolution((1, 1), (2, 2, 1, 1), (1, 1), 1)),
    "same, even": ({"kernel_size": (2, 4), "padding": "same"}, Convolution((1, 1), (1, 2, 0, 1), (1, 1), 1)),
    "same, dilated": (
        {"kernel_size": (3, 2), "padding": "same", "dilation": 3, "groups": 2},
        Convolution((1, 1), (1, 2, 3, 3), (3, 3), 2),
    ),
    "valid": ({"kernel_size": 3, "padding": "valid", "stride": 2}, Convolution((2, 2), (0, 0, 0, 0), (1, 1), 1)),
    "reflected": (
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "bias": False},
        Convolution((1, 1), (0, 0, 0, 0), (1, 1), 1),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_is_described_so_that_it_can_be_repeated(case):
    arguments, expected = CONVOLUTIONS[case]
    with seeded(1):
        model = nn.Sequential(nn.Conv2d(4, 6, **arguments))
    (call,) = calls(model, torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0)))
    assert call.convolution == expected
    torch.testing.assert_close(computed(call, model[0].bias), call.output)


class ByKeyword(nn.Module):
    """Calls the functions as a module of one's own may."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(5, 3, 2, 2))
        self.matrix = nn.Parameter(torch.randn(4, 5))
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(input=x, weight=self.kernel, stride=2, padding=(0, 1))
        return F.linear(input=x.mean((2, 3)), weight=self.matrix, bias=self.shift)


def test_functions_called_by_keyword_are_seen_alike():
    with seeded(0):
        model = ByKeyword()
    convolution, product = calls(model, images())
    assert (convolution.name, convolution.bias) == ("kernel", None)
    assert convolution.convolution == Convolution((2, 2), (1, 1, 0, 0), (1, 1), 1)
    assert (product.name, product.bias) == ("matrix", "shift")
    torch.testing.assert_close(computed(convolution, None), convolution.output)
    torch.testing.assert_close(computed(product, model.shift), product.output)


def test_what_is_no_parameter_of_the_network_is_not_seen():
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    seen: list[Call] = []
    with linear_calls(model, seen.append):
        other(torch.ones(2, 4))
        F.linear(torch.ones(2, 4), model.weight * 2)
        assert not seen
        model(torch.ones(2, 4))
    assert [call.name for call in seen] == ["weight"]


# -- what is changed ------------------------------------------------------------------------------


@each
@with_and_without_grad
def test_watching_and_multiplying_by_ones_change_nothing_to_the_bit(name, grad):
    """But for nn.MultiheadAttention without gradients: unwatched, it takes a fused path that rounds differently."""
    model = network(name)
    with torch.set_grad_enabled(grad):
        plain = model(images())
        with linear_calls(model, lambda call: None):
            watched = model(images())
        with linear_calls(model, lambda call: call.output * call.per_sample(torch.ones(3, units(call)))):
            ones = model(images())
    assert torch.equal(ones, watched)
    if grad or name != "torchvision ViT":
        assert torch.equal(watched, plain)
    torch.testing.assert_close(watched, plain)
    assert plain.std() > 1e-3


@each
def test_each_sample_gets_its_own_values(name):
    """Three samples at once, each with a row of its own, are as each alone with its row; so is the rows' gradient."""
    model = network(name)
    draw = torch.Generator().manual_seed(2)
    rows = {call.name: 0.5 + torch.rand(3, units(call), generator=draw) for call in calls(model, images())}

    def run(chosen: slice) -> tuple[Tensor, dict[str, Tensor]]:
        own = {n: r[chosen].clone().requires_grad_() for n, r in rows.items()}
        with linear_calls(model, lambda call: call.output * call.per_sample(own[call.name])):
            logits = model(images()[chosen])
        return logits.detach(), dict(zip(own, torch.autograd.grad(logits.sin().sum(), [*own.values()]), strict=True))

    together, gradients = run(slice(0, 3))
    for i in range(3):
        alone, own = run(slice(i, i + 1))
        torch.testing.assert_close(together[i], alone[0], atol=1e-4, rtol=1e-4)
        for n, g in own.items():
            torch.testing.assert_close(gradients[n][i], g[0], atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        assert (together - model(images())).abs().max() > 1e-2


def test_a_replaced_output_is_what_the_network_goes_on_with():
    model = build(0).eval()
    x = blobs(5)[0]

    def silence(call: Call) -> Tensor | None:
        return torch.zeros_like(call.output) if call.name == "head.weight" else None

    with torch.no_grad(), linear_calls(model, silence):
        assert torch.equal(model(x), torch.zeros(5, CLASSES))


# -- what is left behind --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["in_proj_weight", "out_proj.weight", "heads.head.weight"])
def test_an_exception_leaves_torch_as_it_was(place):
    model, asked = network("torchvision ViT"), F.has_torch_function
    seen: list[str] = []

    def fail(call: Call) -> None:
        seen.append(call.name)
        if call.name.endswith(place):
            raise RuntimeError("stop here")

    watch = linear_calls(model, fail)
    with torch.no_grad():
        plain = model(images())
        with pytest.raises(RuntimeError, match="stop here"), watch:
            model(images())
        assert F.has_torch_function is asked
        assert not watch.in_attention
        count = len(seen)
        assert torch.equal(model(images()), plain)
        assert len(seen) == count, "it still watches"
        assert len(calls(model, images())) == 10


def test_torch_is_as_it_was_after_watching_too():
    asked = F.has_torch_function
    with linear_calls(network("torchvision ViT"), lambda call: None):
        network("torchvision ViT")(images())
        assert F.has_torch_function is asked
    assert F.has_torch_function is asked


# -- head and features ----------------------------------------------------------------------------


@each
def test_features_are_what_the_network_gives_without_its_head(name):
    model = network(name)
    found = features(model, images(), 10)
    layer = head(model, 10)
    (path,) = [n for n, m in model.named_modules() if m is layer]
    with torch.no_grad():
        logits = model(images())
        model.set_submodule(path, nn.Identity())
        try:
            without = model(images())
        finally:
            model.set_submodule(path, layer)
    assert found.shape == (3, layer.in_features)
    assert torch.equal(found, without)
    torch.testing.assert_close(layer(found), logits)


def test_features_are_of_eval_mode_and_leave_the_network_as_it_was():
    model, x = build(0).train(), blobs(6)[0]
    statistics = [b.clone() for b in model.buffers()]
    found = features(model, x, CLASSES)
    assert model.training
    assert not found.requires_grad
    assert not model.head._forward_pre_hooks
    for now, before in zip(model.buffers(), statistics, strict=True):
        assert torch.equal(now, before)
    assert torch.equal(found, features(model.eval(), x, CLASSES))
    with pytest.raises(RuntimeError):
        features(model.train(), x[:, :, :3, :3], CLASSES)
    assert model.training
    assert not model.head._forward_pre_hooks


def test_the_head_is_the_one_layer_of_that_width():
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 10), nn.ReLU(), nn.Linear(10, 10))
    assert head(model, 9) is model[0]
    with pytest.raises(ValueError, match=r"one nn\.Linear with 7 outputs; this network has: none"):
        head(model, 7)
    with pytest.raises(ValueError, match=r"one nn\.Linear with 10 outputs; this network has: 2, 4"):
        head(model, 10)

"""FLOPs by hand, and by torch's own counter on whole networks and steps."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.flops import Counter, Pass, counted, of_pass, reported
from bench.models import build
from bench.problem import Meter
from methods.influence import inverse_fisher_product
from methods.kodge import scaled
from methods.steps import per_sample_gradients

ALL = b"\1\1"


def flops(model, shape, way, trained=b""):
    return of_pass(model, Pass(way, shape, trained))


def test_a_linear_layer_by_hand():
    layer = nn.Linear(5, 3)
    assert flops(layer, (5,), "forward") == 2 * 5 * 3
    assert flops(layer, (5,), "backward", ALL) == 2 * 5 * 3  # of the weight; the input takes none
    assert flops(layer, (5,), "backward") == 2 * 5 * 3  # of the input alone


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_by_hand(groups):
    """Each of 4 x 6 outputs of 8 channels adds up 3 x 3 products of 4 / groups channels; so do its two gradients."""
    model = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
    products = 8 * (4 * 6) * (3 * 3 * 4 // groups)
    assert flops(model, (4, 8, 12), "forward") == 2 * products
    assert flops(model, (4, 8, 12), "backward", ALL) == 2 * products
    two = nn.Sequential(model, nn.Conv2d(8, 8, 1))
    assert flops(two, (4, 8, 12), "backward", ALL + ALL) == 2 * products + 2 * (2 * 8 * 8 * 4 * 6)


def test_a_frozen_layer_costs_no_gradient():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    assert flops(model, (5,), "backward", b"\1\1\1\1") == 2 * 5 * 7 + 2 * (2 * 7 * 3)
    assert flops(model, (5,), "backward", b"\0\0\1\1") == 2 * 7 * 3
    assert flops(model, (5,), "backward", b"\1") == flops(model, (5,), "backward", b"\1\1\1\1")  # of another network
    assert flops(model, (5,), "backward") == 2 * 5 * 7 + 2 * 7 * 3


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet-small", (1, 8, 8)), ("vit-small", (1, 8, 8)), ("vgg11-bn-cifar", (3, 32, 32))]
)
def test_samples_times_flops_are_what_torch_counts_in_a_step(name, shape):
    model = build(name, shape, 10, 0).train()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            output = model(torch.randn(3, *shape))
        with FlopCounterMode(display=False) as backward:
            F.cross_entropy(output, torch.tensor([1, 2, 3])).backward()
    before = copy.deepcopy(model.state_dict())
    trained = bytes([1] * len(list(model.parameters())))
    assert 3 * flops(model, shape, "forward") == forward.get_total_flops()
    assert 3 * flops(model, shape, "backward", trained) == backward.get_total_flops()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_the_counter_agrees_with_torchs():
    a, b = torch.randn(2, 4, 5), torch.randn(2, 5, 3)

    def work():
        torch.baddbmm(torch.zeros(2, 4, 3), a, b)
        F.linear(a, torch.randn(6, 5), torch.randn(6))
        (a @ b).sum()

    with FlopCounterMode(display=False) as theirs:
        work()
    with Counter() as ours:
        work()
    assert ours.total == theirs.get_total_flops() == 2 * (2 * 2 * 4 * 5 * 3) + 2 * 8 * 5 * 6


def test_kodges_equation_by_hand():
    """Of two groups: factor a 4 x 4 matrix, 4^3 / 3, and solve it for the 5 rows of one product and 3 of another."""
    spent = []
    outer = torch.eye(4).expand(2, 4, 4).clone()
    with reported(spent.append):
        scaled(outer, [torch.randn(2, 5, 4), torch.randn(2, 3, 4)], 10.0)
    assert spent == [2 * (4**3 // 3) + 2 * (2 * 4 * 4 * (5 + 3))]


def test_the_influence_step_by_hand():
    """m = 6 gradients of 9 weights: G G^T, G v, an m x m system, and back."""
    spent = []
    with reported(spent.append):
        inverse_fisher_product(torch.randn(6, 9), torch.randn(9), 1.0)
    assert spent == [2 * 6 * 6 * 9 + 2 * 6 * 9 + 6**3 // 3 + 2 * 6 * 6 + 2 * 6 * 9]


def test_what_a_counted_function_calls_is_counted_once_and_nothing_without_a_meter():
    inner = counted(lambda a: a @ a)
    outer = counted(lambda a: inner(a) @ a)
    spent = []
    outer(torch.eye(3))
    with reported(spent.append):
        outer(torch.eye(3))
    assert spent == [2 * (2 * 27)]


def kinds(meter):
    return {(kind.way, kind.trained): samples for kind, samples in meter.passes.items()}


def test_the_meter_knows_which_gradients_were_taken():
    meter, x = Meter(), torch.randn(4, 5)
    model = meter.attach(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)))
    with meter.running():
        model(x).sum().backward()
        copy.deepcopy(model).requires_grad_(False)(x)
        head = copy.deepcopy(model)
        head[0].requires_grad_(False)
        head(x).sum().backward()
        picture = x.clone().requires_grad_()
        torch.autograd.grad(model(picture).sum(), picture)
    assert kinds(meter) == {
        ("forward", b""): 16,
        ("backward", b"\1\1\1\1"): 4,
        ("backward", b"\0\0\1\1"): 4,
        ("backward", b""): 4,
    }
    assert {kind.shape for kind in meter.passes} == {(5,)}


def test_the_meter_knows_them_in_torch_func():
    from bench.training import Batch

    meter = Meter()
    model = meter.attach(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)))
    model[0].bias.requires_grad_(False)
    batch = Batch(torch.randn(4, 5), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    with meter.running():
        for _ in range(2):
            per_sample_gradients(model, batch)
        model(batch.images).sum().backward()
    assert kinds(meter) == {("forward", b""): 12, ("backward", b"\1\0\1\1"): 12}

"""WF-Net's gates in every kind of layer, its loss against loops written out here, what one round costs and leaves."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import methods.wfnet
from bench import models
from bench.config import Recipe
from bench.problem import Problem
from bench.seeds import torch_generator
from bench.training import Batch, cross_entropy, predict, train
from methods.wfnet import Gated, WFNet, folded, gated_forward, other_rows
from tests.conftest import CLASSES, SmallNet, blobs, build, make_problem


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=CLASSES)


def torchvision_swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 8, [2, 1], [2, 2], [2, 2], mlp_ratio=2, num_classes=CLASSES)


def timm_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8, patch_size=4, num_classes=CLASSES, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2
    )


NETWORKS = {  # how to build it, its input, and the width of each layer but the head
    "small": (SmallNet, (1, 8, 8), {"conv": 6, "hidden": 12}),
    "torchvision-vit": (
        torchvision_vit,
        (3, 8, 8),
        {"conv_proj": 16}
        | {
            f"encoder.layers.encoder_layer_{block}.{layer}": width
            for block in (0, 1)
            for layer, width in {
                "self_attention.in_proj": 48,
                "self_attention.out_proj": 16,
                "mlp.0": 24,
                "mlp.3": 16,
            }.items()
        },
    ),
    "timm-vit": (
        timm_vit,
        (3, 8, 8),
        {"patch_embed.proj": 16}
        | {
            f"blocks.{block}.{layer}": width
            for block in (0, 1)
            for layer, width in {"attn.qkv": 48, "attn.proj": 16, "mlp.fc1": 32, "mlp.fc2": 16}.items()
        },
    ),
    "torchvision-swin": (
        torchvision_swin,
        (3, 16, 16),
        {"features.0.0": 8, "features.2.reduction": 16}
        | {
            f"features.{block}.{layer}": factor * width
            for block, width in {"1.0": 8, "1.1": 8, "3.0": 16}.items()
            for layer, factor in {"attn.qkv": 3, "attn.proj": 1, "mlp.0": 2, "mlp.3": 1}.items()
        },
    ),
}


def gates_of(layers: dict[str, int]) -> dict[str, int]:
    return {name + ("_weight" if name.endswith("in_proj") else ".weight"): width for name, width in layers.items()}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network in float64 whose every parameter and buffer is drawn, seven inputs, its gates' names and widths."""
    make, shape, layers = NETWORKS[request.param]
    generator = torch_generator("network", request.param)
    with models.seeded(0):
        model = make().double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / max(p[0].numel(), 4) ** 0.5)
            if "norm" in name or "ln" in name:
                p.add_(1)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    images = torch.randn(7, *shape, generator=generator, dtype=torch.float64)
    return model, images, gates_of(layers)


def drawn_gates(widths: dict[str, int], samples: int = CLASSES) -> dict[str, torch.Tensor]:
    generator = torch_generator("gates")
    return {
        name: torch.rand(samples, width, generator=generator, dtype=torch.float64) for name, width in widths.items()
    }


def with_gates(gated: Gated, gates: dict[str, torch.Tensor]) -> Gated:
    with torch.no_grad():
        for name, alpha in zip(gated.names, gated.alpha, strict=True):
            alpha.copy_(gates[name])
    return gated


def folded_by_hand(model: nn.Module, row: dict[str, torch.Tensor]) -> nn.Module:
    """Each gate multiplied into its row of the weight and its entry of the bias, found by name."""
    state = copy.deepcopy(model.state_dict())
    for name, gates in row.items():
        for k, gate in enumerate(gates.tolist()):
            state[name][k] *= gate
            if (bias := name.removesuffix("weight") + "bias") in state:
                state[bias][k] *= gate
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    return model


def row_of(gates: dict[str, torch.Tensor], c: int) -> dict[str, torch.Tensor]:
    return {name: alpha[c] for name, alpha in gates.items()}


def test_every_linear_map_is_gated_but_the_head(network):
    model, images, widths = network
    gated = Gated(model, images[:1], CLASSES)
    assert {name: tuple(alpha.shape) for name, alpha in gated.gates().items()} == {
        name: (CLASSES, width) for name, width in widths.items()
    }
    assert all((alpha == 1).all() and alpha.dtype == torch.float64 for alpha in gated.gates().values())
    assert [name for name, p in gated.named_parameters() if p.requires_grad] == [
        f"alpha.{k}" for k in range(len(widths))
    ]


def test_with_all_gates_open_it_is_the_original_to_the_bit(network):
    model, images, widths = network
    model, images = model.float(), images.float()
    gated = Gated(model, images[:1], CLASSES)
    before = model(images)
    assert torch.equal(gated(images, torch.tensor([0, 1, 2, 3, 0, 1, 2])), before)
    result = folded(model, {name: torch.ones(width) for name, width in widths.items()}, images[:1])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in result.state_dict().items())
    assert torch.equal(result(images), before)


def test_folding_multiplies_weights_and_biases_and_equals_the_gated_forward_pass(network):
    model, images, widths = network
    gates, before = drawn_gates(widths), copy.deepcopy(model.state_dict())
    gated = with_gates(Gated(model, images[:1], CLASSES), gates)
    for c in range(CLASSES):
        result = folded(model, row_of(gates, c), images[:1])
        expected = folded_by_hand(model, row_of(gates, c))
        assert all(torch.equal(v, expected.state_dict()[k]) for k, v in result.state_dict().items())
        logits = gated(images, torch.full((7,), c))
        torch.testing.assert_close(logits, result(images), atol=1e-10, rtol=0)
        assert (logits - model(images)).abs().max() > 1e-3
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_each_sample_of_a_batch_has_its_own_row(network):
    model, images, widths = network
    gates, rows = drawn_gates(widths), torch.tensor([3, 0, 0, 2, 1, 3, 2])
    together = with_gates(Gated(model, images[:1], CLASSES), gates)(images, rows)
    for image, c, logits in zip(images, rows.tolist(), together, strict=True):
        alone = folded_by_hand(model, row_of(gates, c))(image[None])[0]
        torch.testing.assert_close(logits, alone, atol=1e-10, rtol=0)
    by_sample = drawn_gates(widths, 7)  # of no class
    together = gated_forward(model, by_sample, images)
    for k in range(7):
        alone = folded_by_hand(model, row_of(by_sample, k))(images[k : k + 1])[0]
        torch.testing.assert_close(together[k], alone, atol=1e-10, rtol=0)


def test_gradients_of_the_gates_are_those_of_finite_differences(network):
    model, images, widths = network
    gated = with_gates(Gated(model, images[:1], CLASSES), drawn_gates(widths))
    labels, rows = torch.tensor([0, 1, 2, 3, 0, 1, 2]), torch.tensor([3, 0, 0, 2, 1, 3, 2])

    def loss() -> torch.Tensor:
        return F.cross_entropy(gated(images, rows), labels)

    found = torch.autograd.grad(loss(), list(gated.alpha))
    for alpha, g in zip(gated.alpha, found, strict=True):
        place = int(g.abs().argmax())
        with torch.no_grad():
            flat = alpha.view(-1)
            flat[place] += 1e-5
            above = loss()
            flat[place] -= 2e-5
            below = loss()
            flat[place] += 1e-5
        assert g.view(-1)[place].item() == pytest.approx(float(above - below) / 2e-5, rel=1e-4, abs=1e-9)
        assert g.view(-1)[place] != 0


def rows_drawn(monkeypatch) -> list[torch.Tensor]:
    drawn: list[torch.Tensor] = []

    def watched(labels, classes, count, generator):
        drawn.append(other_rows(labels, classes, count, generator))
        return drawn[-1]

    monkeypatch.setattr(methods.wfnet, "other_rows", watched)
    return drawn


@pytest.mark.parametrize(("size", "expansion"), [(7, 2), (7, 9), (6, 1), (1, 3)])
def test_loss_equals_loops_over_samples_and_rows(size, expansion, monkeypatch):
    drawn = rows_drawn(monkeypatch)
    images, labels = blobs(20, torch.float64)
    images, labels = images[5 : 5 + size], labels[5 : 5 + size]
    model = build(5, torch.float64).eval()
    gates = drawn_gates({"conv.weight": 6, "hidden.weight": 12})
    method = WFNet(retain_weight=0.7, forget_weight=0.3, sparsity_weight=2.0, eps=0.2, expansion=expansion)
    gated = with_gates(Gated(model, images[:1], CLASSES), gates)
    loss = method.loss(CLASSES, torch_generator("rows"))(gated, Batch(images, labels, torch.arange(size)))

    @torch.no_grad()
    def error(i: int, row: int) -> float:
        logits = folded_by_hand(model, row_of(gates, row))(images[i : i + 1])
        return float(F.cross_entropy(logits, labels[i : i + 1]))

    half, repeats = size // 2, min(expansion, 3)
    assert [tuple(rows.shape) for rows in drawn] == [(repeats, size - half)]
    kept = [error(half + j, int(drawn[0][t, j])) for t in range(repeats) for j in range(size - half)]
    lost = [1 / (error(i, int(labels[i])) + 0.2) for i in range(half)]
    closed = [1 - a for alpha in gates.values() for a in alpha.flatten().tolist()]
    expected = 0.7 * sum(kept) / len(kept) + 2.0 * sum(closed) / len(closed)
    if lost:
        expected += 0.3 * sum(lost) / len(lost)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_other_rows_are_distinct_never_the_own_and_uniform(count):
    labels = torch.arange(10).repeat(400)
    rows = other_rows(labels, 10, count, torch_generator("rows", count))
    assert rows.shape == (count, 4000)
    assert rows.dtype == torch.int64
    assert (rows != labels).all()
    assert all(len(set(column)) == count for column in rows.T.tolist())
    for place in range(count):  # for each of the repeats and each label, about 400 / 9 of each other class
        counts = torch.zeros(10, 10).index_put_((labels, rows[place]), torch.ones(4000), accumulate=True)
        off = counts[~torch.eye(10, dtype=torch.bool)]
        assert (counts.diagonal() == 0).all()
        assert float(((off - 400 / 9) ** 2 / (400 / 9)).sum()) < 130  # chi squared, 80 degrees of freedom


def ten_classes() -> tuple[nn.Module, Problem]:
    """Four samples of a network with ten outputs, in a given order: one batch an epoch, labels 1, 5 | 8, 2."""
    with models.seeded(0):
        model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 10)).eval()
    images = torch.randn(4, 1, 4, 4, generator=torch_generator("images"))
    labels = torch.tensor([1, 5, 8, 2])
    problem = Problem.from_tensors(images, labels, labels == 1, classes=10, order=torch.arange(4))
    return model, problem


def test_a_step_moves_only_the_rows_that_its_batch_uses(monkeypatch):
    drawn = rows_drawn(monkeypatch)
    model, problem = ten_classes()
    method = WFNet(sparsity_weight=0, expansion=2, epochs=1, batch_size=4)
    gated = Gated(model, problem.train.samples.images[:1], 10)
    (batch,) = problem.train.batches(4, 0)
    method.loss(10, torch_generator("rows"))(gated, batch).backward()
    used = {1, 5, *drawn[0].flatten().tolist()}
    for alpha in gated.alpha:
        assert {c for c in range(10) if alpha.grad[c].any()} == used
    drawn.clear()
    gates = method.prepare(model, problem.pool())
    used = {1, 5, *drawn[0].flatten().tolist()}
    assert len(used) < 10
    for alpha in gates.values():
        assert {c for c in range(10) if (alpha[c] != 1).any()} == used


def test_gates_stay_in_their_range_and_the_network_to_the_bit(trained, monkeypatch):
    """Watched at every step: parameters, BatchNorm's statistics, mode, gates."""
    seen, before = [], copy.deepcopy(trained.state_dict())
    real = methods.wfnet.gated_forward

    def watched(model, values, images):
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        seen.append(torch.cat([v.detach().flatten() for v in values.values()]))
        return real(model, values, images)

    monkeypatch.setattr(methods.wfnet, "gated_forward", watched)
    method = WFNet(sparsity_weight=0, epochs=8, batch_size=16, lr=0.3)
    gates = method.prepare(copy.deepcopy(trained).train(), make_problem().pool())
    assert len(seen) == 8 * 10
    for values in (*seen, *gates.values()):
        assert values.min() >= 0
        assert values.max() <= 1
    assert (seen[0] == 1).all()
    assert any((values == 0).any() for values in seen)
    assert any(((values > 0) & (values < 1)).any() for values in gates.values())
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())


def test_the_more_sparsity_weighs_the_fewer_gates_close(trained):
    def closed(weight: float) -> float:
        gates = WFNet(sparsity_weight=weight, epochs=8, batch_size=16, lr=0.1).prepare(trained, make_problem().pool())
        return float(torch.cat([1 - alpha.flatten() for alpha in gates.values()]).mean())

    assert closed(100) < 0.02
    assert closed(0) > 0.1


LEARNED = {
    "resnet-small": Recipe(epochs=6, batch_size=16, lr=0.1, nesterov=True, schedule="one-cycle"),
    "vit-small": Recipe(epochs=15, batch_size=16, optimizer="adam", lr=0.004, weight_decay=0, schedule="one-cycle"),
}


@pytest.mark.parametrize("architecture", LEARNED)
def test_every_row_forgets_its_class_and_keeps_the_others(architecture):
    problem = make_problem()
    original = train(
        models.build(architecture, (1, 8, 8), CLASSES, 0), problem.train, cross_entropy, LEARNED[architecture]
    )
    labels = problem.train.labels
    assert (predict(original, problem.train).argmax(1) == labels).float().mean() > 0.95
    method = WFNet(sparsity_weight=0.1, lr=0.03, batch_size=16)
    gates = method.prepare(original, problem.pool())
    for c in range(CLASSES):
        target = replace(make_problem(forget=labels == c), prepared=gates)
        right = predict(method.unlearn(original, target), problem.train).argmax(1) == labels
        assert right[labels == c].float().mean() <= 0.05
        assert right[labels != c].float().mean() >= 0.95


def test_it_hands_back_the_row_of_its_class_or_the_product_of_several(trained):
    gates = {name: alpha.float() for name, alpha in drawn_gates({"conv.weight": 6, "hidden.weight": 12}).items()}
    one = WFNet().unlearn(trained, replace(make_problem("class"), prepared=gates))
    expected = folded_by_hand(trained, row_of(gates, 2))
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in one.state_dict().items())
    two = WFNet().unlearn(trained, replace(make_problem("classes"), prepared=gates))
    product = folded_by_hand(trained, {name: alpha[0] * alpha[2] for name, alpha in gates.items()})
    for name, v in two.state_dict().items():
        torch.testing.assert_close(v, product.state_dict()[name], atol=1e-7, rtol=0)


def test_gates_are_kept_and_counted(trained):
    problem = make_problem()
    result = WFNet(epochs=2, batch_size=16).unlearn(trained, problem)
    assert {name: tuple(v.shape) for name, v in problem.artifacts.items()} == {
        "conv.weight": (4, 6),
        "hidden.weight": (4, 12),
    }
    assert problem.notes["stored_gates"] == 4 * (6 + 12)
    expected = folded_by_hand(trained, row_of(problem.artifacts, 2))
    for name, v in result.state_dict().items():
        torch.testing.assert_close(v, expected.state_dict()[name], atol=1e-7, rtol=0)


def test_share_of_closed_gates_is_that_of_the_row_in_use(trained):
    gates = {"conv.weight": torch.ones(4, 6), "hidden.weight": torch.ones(4, 12)}
    gates["hidden.weight"][2, :4] = 0.1
    gates["conv.weight"][2, 0] = 0.5
    gates["conv.weight"][1] = 0
    problem = replace(make_problem(), prepared=gates)
    WFNet().unlearn(trained, problem)
    assert problem.notes["share_below_half"] == pytest.approx(4 / 18)


def test_one_round_serves_every_class(trained):
    """Half of each batch passes once, the other half three times; a class then costs one forward pass of one sample."""
    method, pool = WFNet(epochs=2, batch_size=16), make_problem().pool()
    with pool.meter.running():
        gates = method.prepare(pool.meter.attach(copy.deepcopy(trained)), pool)
    assert pool.meter.forward - 1 == pool.meter.backward == 2 * (80 + 3 * 80)
    assert pool.meter.counts()["read"] == {"forget": 2 * 40, "retain": 2 * 120}
    for c in range(CLASSES):
        problem = make_problem(forget=make_problem().train.labels == c)
        with problem.meter.running():
            shared = method.unlearn(problem.meter.attach(copy.deepcopy(trained)), replace(problem, prepared=gates))
        assert problem.meter.counts() == {"forward": 1, "backward": 0, "read": {}}
        assert not problem.artifacts
        alone = method.unlearn(trained, problem)  # the same draws: the key is the same
        for a, b in zip(shared.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_batchnorm_and_the_head_stay_as_they_are(trained):
    before = copy.deepcopy(trained.state_dict())
    after = WFNet(epochs=3, batch_size=16, sparsity_weight=0).unlearn(trained, make_problem()).state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == {"conv.weight", "conv.bias", "hidden.weight"}


def test_samples_of_no_whole_class_are_refused(trained):
    with pytest.raises(ValueError, match="whole classes"):
        WFNet().unlearn(trained, make_problem("random"))


def test_a_loss_of_zero_has_the_reciprocal_of_eps():
    model, problem = ten_classes()
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.fill_(-1000)
        model[-1].bias[1] = 1000
    images = problem.train.samples.images
    gated = Gated(model, images[:1], 10)
    batch = Batch(images[[0, 0]], torch.tensor([1, 1]), torch.tensor([0, 0]))
    loss = WFNet(retain_weight=0, sparsity_weight=0, eps=0.04).loss(10, torch_generator("rows"))(gated, batch)
    assert float(loss.detach()) == pytest.approx(25)

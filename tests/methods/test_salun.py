"""SalUn's mask entry by entry, its soft variants against loops written out here, and what it is without a mask."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import methods.salun
from bench.training import cross_entropy
from methods.finetune import FineTune
from methods.gradient_ascent import GradientAscent
from methods.random_labels import RandomLabels
from methods.salun import SalUn, saliency_masks, shrink
from methods.steps import gradient, relabelled, top_shares
from tests.conftest import blobs, build, make_problem, without_dropout

PLAIN = {"random_labels": RandomLabels, "finetune": FineTune, "gradient_ascent": GradientAscent}
SETTINGS = {"epochs": 2, "lr": 0.02, "batch_size": 16}


def explicit_gradient(model, images, labels):
    model = copy.deepcopy(model).eval()
    F.cross_entropy(model(images), labels).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradient_in_batches_equals_that_of_the_whole_set(trained):
    images, labels = blobs(160)
    expected = explicit_gradient(trained, images[labels == 2], labels[labels == 2])
    ours = gradient(trained, make_problem().forget, batch_size=7)  # the last batch is smaller
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_mask_is_the_top_share_over_all_parameters_together(share, trained):
    images, labels = blobs(160)
    magnitudes = {k: g.abs() for k, g in explicit_gradient(trained, images[labels == 2], labels[labels == 2]).items()}
    everything = sorted((v for g in magnitudes.values() for v in g.flatten().tolist()), reverse=True)
    (mask,) = saliency_masks(gradient(trained, make_problem().forget, batch_size=256), [share])
    kept = sum(int(m.sum()) for m in mask.values())
    assert kept == int(share * len(everything))
    smallest_kept = everything[kept - 1] if kept else float("inf")
    assert all((magnitudes[k][mask[k]] >= smallest_kept).all() for k in mask)
    assert all((magnitudes[k][~mask[k]] <= smallest_kept).all() for k in mask)


def test_mask_goes_by_the_absolute_value():
    (mask,) = saliency_masks({"a": torch.tensor([-3.0, 1.0, 2.0]), "b": torch.tensor([[-0.5]])}, [0.5])
    assert mask["a"].tolist() == [True, False, True]
    assert mask["b"].tolist() == [[False]]


def test_ties_go_to_the_earlier_entry():
    (mask,) = top_shares({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[2.0, 1.0]])}, [0.75])
    assert mask["a"].tolist() == [True, True]
    assert mask["b"].tolist() == [[True, False]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), kinds=st.integers(1, 30), shares=st.lists(st.floats(0, 1), max_size=5))
def test_masks_of_several_shares_are_those_of_a_stable_sort(seed, kinds, shares):
    """Few distinct values, so that many are equal."""
    values = torch.randint(0, kinds, (24,), generator=torch.Generator().manual_seed(seed)) / 7
    order = sorted(range(24), key=lambda i: -values[i])
    masks = list(top_shares({"a": values[:20].view(4, 5), "b": values[20:]}, shares))
    assert len(masks) == len(shares)
    for share, mask in zip(shares, masks, strict=True):
        kept = torch.cat([mask["a"].flatten(), mask["b"]]).nonzero().flatten().tolist()
        assert kept == sorted(order[: int(share * 24)])


def test_one_gradient_pass_serves_the_masks_of_all_shares(trained):
    passes = []
    model = copy.deepcopy(trained)
    model.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    masks = list(saliency_masks(gradient(model, make_problem().forget, batch_size=256), [k / 10 for k in range(1, 11)]))
    assert passes == [40]
    for smaller, larger in pairwise(masks):
        assert all((smaller[name] <= larger[name]).all() for name in smaller)
    assert all(mask.all() for mask in masks[-1].values())


@pytest.mark.parametrize("objective", PLAIN)
def test_masked_weights_keep_their_value_to_the_bit_and_others_move(objective, trained):
    images, labels = blobs(160)
    (mask,) = saliency_masks(explicit_gradient(trained, images[labels == 2], labels[labels == 2]), [0.3])
    method = SalUn(mask_share=0.3, objective=objective, epochs=3, lr=0.1, batch_size=40)
    after = dict(method.unlearn(trained, make_problem()).named_parameters())
    moved = 0
    for name, before in trained.named_parameters():
        assert torch.equal(after[name][~mask[name]], before[~mask[name]])
        moved += int((after[name][mask[name]] != before[mask[name]]).sum())
    assert moved > 0.9 * sum(int(m.sum()) for m in mask.values())


@pytest.mark.parametrize("objective", PLAIN)
def test_with_everything_salient_it_is_the_objectives_own_method(objective, trained):
    ours = SalUn(mask_share=1, objective=objective, **SETTINGS).unlearn(trained, make_problem())
    plain = PLAIN[objective](**SETTINGS).unlearn(trained, make_problem())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(ours.parameters(), trained.parameters(), strict=True))


def test_the_objective_decides_what_is_read(trained):
    def read(objective: str, variant: str) -> dict[str, int]:
        problem = make_problem()
        with problem.meter.running():
            SalUn(objective=objective, variant=variant, epochs=3, batch_size=16).unlearn(trained, problem)
        return problem.meter.counts()["read"]

    assert read("random_labels", "hard") == {"forget": 4 * 40, "retain": 3 * 120}  # once for the mask
    assert read("finetune", "hard") == {"forget": 40, "retain": 3 * 120}
    assert read("gradient_ascent", "hard") == {"forget": 4 * 40}
    assert read("finetune", "soft") == {"retain": 3 * 120}


def test_shrink_by_hand():
    change = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(shrink(change, 1.0), expected)
    assert torch.equal(shrink(change, torch.tensor(1.0, dtype=torch.float64)), expected)
    assert torch.equal(shrink(change, 0.0), change)


def nearer(p, anchor, threshold):
    """Each weight `threshold` nearer to its anchor; onto it, if it was no further away than that."""
    return torch.where(
        p > anchor + threshold, p - threshold, torch.where(p < anchor - threshold, p + threshold, anchor)
    )


def plain_loop(model, epochs, lr, threshold, new_anchor_each_epoch):
    """SGD with a shrinking after each step, on epochs of batches of inputs and labels.

    Args:
        threshold: of the weights' distances to the anchor, epoch, step from 1 and steps in all.

    Returns:
        The network, and after each step how many weights lie on their anchor.
    """
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    done, on_anchor = 0, []
    anchor = [p.detach().clone() for p in model.parameters()]
    for epoch, batches in enumerate(epochs):
        if new_anchor_each_epoch:
            anchor = [p.detach().clone() for p in model.parameters()]
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            done += 1
            with torch.no_grad():
                distances = [(p - p0).abs() for p, p0 in zip(model.parameters(), anchor, strict=True)]
                by = threshold(distances, epoch, done, sum(len(b) for b in epochs))
                for p, p0 in zip(model.parameters(), anchor, strict=True):
                    p.copy_(nearer(p, p0, by))
                on_anchor.append(sum(int((p == p0).sum()) for p, p0 in zip(model.parameters(), anchor, strict=True)))
    return model.eval(), on_anchor


def batches_of(objective, problem, epochs, batch_size):
    feed = {"random_labels": relabelled(problem, "mixed", False), "finetune": problem.retain}[objective]
    return [[(b.images, b.labels) for b in feed.batches(batch_size, epoch)] for epoch in range(epochs)]


def assert_same_network(ours, expected):
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("objective", ["random_labels", "finetune"])
def test_soft_equals_a_plain_loop_that_shrinks_toward_the_original_ever_less(objective):
    problem, model = make_problem(dtype=torch.float64), without_dropout(build(5, torch.float64))
    beta, lr = 0.05, 0.02

    def threshold(distances, epoch, done, steps):
        return lr * beta * (1 - done / steps)

    expected, on_anchor = plain_loop(model, batches_of(objective, problem, 3, 25), lr, threshold, False)
    settings = {"epochs": 3, "lr": lr, "batch_size": 25, "objective": objective}
    assert_same_network(SalUn(variant="soft", beta=beta, **settings).unlearn(model, problem), expected)
    weights = sum(p.numel() for p in model.parameters())
    assert 0.1 * weights < on_anchor[0] < 0.99 * weights  # the threshold lies amid the changes
    assert on_anchor[-1] < 0.1 * on_anchor[0]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_soft_code_equals_a_plain_loop_that_shrinks_by_the_kth_smallest_change_of_the_epoch(share):
    problem, model = make_problem(dtype=torch.float64), without_dropout(build(5, torch.float64))
    weights = sum(p.numel() for p in model.parameters())
    counts = []

    def threshold(distances, epoch, done, steps):
        per_epoch = steps // 4
        k = int(share * ((steps - (epoch * per_epoch + 1)) / steps * weights))
        counts.append(k)
        return sorted(torch.cat([d.flatten() for d in distances]).tolist())[k - 1]

    batches = batches_of("random_labels", problem, 4, 25)
    expected, on_anchor = plain_loop(model, batches, 0.02, threshold, True)
    settings = {"epochs": 4, "lr": 0.02, "batch_size": 25}
    assert_same_network(SalUn(variant="soft-code", mask_share=share, **settings).unlearn(model, problem), expected)
    assert len(set(counts)) == 4
    assert all(a >= b for a, b in pairwise(counts))
    assert all(n >= k for n, k in zip(on_anchor, counts, strict=True))  # so many lie on the anchor, and ties


def test_soft_with_beta_zero_and_soft_code_with_share_zero_have_no_mask(trained):
    plain = RandomLabels(**SETTINGS).unlearn(trained, make_problem())
    for off in ({"variant": "soft", "beta": 0}, {"variant": "soft-code", "mask_share": 0}):
        ours = SalUn(**off, **SETTINGS).unlearn(trained, make_problem())
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_soft_with_a_huge_beta_stays_at_the_original_until_the_last_step(trained, monkeypatch):
    seen = []

    def watched(model, batch):
        seen.append([p.detach().clone() for p in model.parameters()])
        return cross_entropy(model, batch)

    monkeypatch.setattr(methods.salun, "cross_entropy", watched)
    after = SalUn(variant="soft", beta=1e6, **SETTINGS).unlearn(trained, make_problem())
    assert len(seen) == 20
    for parameters in seen:
        assert all(torch.equal(p, p0) for p, p0 in zip(parameters, trained.parameters(), strict=True))
    assert any(not torch.equal(p, p0) for p, p0 in zip(after.parameters(), trained.parameters(), strict=True))


@pytest.mark.parametrize("variant", ["soft", "soft-code"])
def test_soft_variants_change_more_than_the_mask_of_the_same_share_would(variant, trained):
    """No weight is out of reach for good: at the end most have moved, whatever was salient at first."""
    problem = make_problem()
    after = SalUn(variant=variant, mask_share=0.3, epochs=3, lr=0.1, batch_size=16).unlearn(trained, problem)
    moved = sum(int((a != b).sum()) for a, b in zip(after.parameters(), trained.parameters(), strict=True))
    assert moved > 0.8 * sum(p.numel() for p in trained.parameters())


def test_passes_reach_the_feed(trained, monkeypatch):
    asked = []

    def watched(problem, passes, exclude_true_label):
        asked.append((passes, exclude_true_label))
        return relabelled(problem, passes, exclude_true_label)

    monkeypatch.setattr(methods.salun, "relabelled", watched)
    for passes in ("mixed", "sequential"):
        SalUn(passes=passes, exclude_true_label=passes == "mixed", **SETTINGS).unlearn(trained, make_problem())
    assert asked == [("mixed", True), ("sequential", False)]

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import models, seeds
from bench.config import Recipe
from bench.problem import Meter, Problem, UndeclaredAccess, problem
from bench.training import (
    Batch,
    Order,
    Paired,
    Samples,
    View,
    classification,
    crop_and_flip,
    cross_entropy,
    predict,
    shuffled,
    train,
)
from methods.steps import importances, relabelled
from tests.conftest import blobs, build, make_problem


def everything(n: int = 160, key=("k",)) -> View:
    return View(Samples(*blobs(n)), torch.arange(n), shuffled(n, key), key)


def test_seeds_are_stable_across_releases():
    """SHA-256 of the JSON key, halved: computed here by hand, so that no change goes unnoticed."""
    import hashlib

    digest = hashlib.sha256(b'["digits", 3, "order"]').digest()
    assert seeds.derive("digits", 3, "order") == int.from_bytes(digest[:8], "big") // 2
    assert seeds.derive("a", 1) != seeds.derive("a", "1")
    assert seeds.derive("a", "bc") != seeds.derive("ab", "c")


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own():
    view = everything()
    epochs = [torch.cat([b.rows for b in view.batches(16, e)]) for e in (0, 1)]
    for rows in epochs:
        assert sorted(rows.tolist()) == list(range(160))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize(("main", "beside"), [(40, 23), (23, 40), (8, 40), (40, 8), (3, 3), (40, 1), (17, 16)])
def test_pairs_cycle_the_other_view_without_a_gap_or_a_repeat(main, beside):
    """Over the epochs, the other view's batches are those of its epochs 0, 1, 2... one after another."""
    whole = everything()
    feed = Paired(whole.select(torch.arange(main)), whole.select(torch.arange(100, 100 + beside)))
    pairs = [(a.rows.tolist(), b.rows.tolist()) for epoch in range(5) for a, b in feed.batches(8, epoch)]
    expected_main = [b.rows.tolist() for epoch in range(5) for b in feed.main.batches(8, epoch)]
    cycled: list[list[int]] = []
    epoch = 0
    while len(cycled) < len(expected_main):
        order = [row for row in whole.order(epoch).tolist() if 100 <= row < 100 + beside]
        cycled += [order[k : k + 8] for k in range(0, beside, 8)]
        epoch += 1
    assert pairs == list(zip(expected_main, cycled, strict=False))
    assert len(pairs) == 5 * feed.steps(8)
    assert feed.key == whole.key


def test_the_meter_counts_what_pairs_hand_out_and_no_more():
    task = make_problem()
    with task.meter.running():
        pairs = [pair for epoch in range(3) for pair in Paired(task.forget, task.retain).batches(16, epoch)]
    expected = {"forget": sum(len(a.rows) for a, _ in pairs), "retain": sum(len(b.rows) for _, b in pairs)}
    assert task.meter.counts()["read"] == expected


def test_views_with_one_order_meet_common_samples_in_the_same_sequence():
    problem = make_problem()
    whole = torch.cat([b.rows for b in (problem.forget | problem.retain).batches(16, 4)]).tolist()
    part = torch.cat([b.rows for b in problem.retain.batches(16, 4)]).tolist()
    kept = set(part)
    assert part == [row for row in whole if row in kept]


def test_uint8_pixels_are_scaled_and_standardised():
    images = torch.randint(0, 256, (5, 3, 2, 2), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    got = Samples(images, torch.zeros(5, dtype=torch.long), mean, std).input(torch.tensor([4, 1]))
    for row, image in zip((4, 1), got, strict=True):
        for c in range(3):
            torch.testing.assert_close(image[c], (images[row, c] / 255 - mean[c]) / std[c])


def test_training_equals_torchs_optimiser_and_scheduler():
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, nesterov=True, schedule="one-cycle")
    view, start = everything(), build(1)
    start.drop.p = 0.0
    expected = copy.deepcopy(start).train()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=21, cycle_momentum=False)
    images, labels = blobs(160)
    for epoch in range(2):
        for rows in view.order(epoch).split(16):
            optimizer.zero_grad()
            F.cross_entropy(expected(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    ours = train(start, view, cross_entropy, recipe)
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def flat_rate(step: int, steps: int) -> float:
    return 1.0


def half_cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("schedule", "rate"), [("constant", flat_rate), ("cosine", half_cosine)])
def test_adam_and_cosine_equal_a_loop_of_torchs_optimiser_with_the_rate_by_formula(optimizer, schedule, rate):
    recipe = Recipe(
        epochs=2, batch_size=16, lr=0.01, momentum=0.5, weight_decay=0.1, optimizer=optimizer, schedule=schedule
    )
    images, labels = blobs(160, torch.float64)
    view, start = replace(everything(), samples=Samples(images, labels)), build(1, torch.float64)
    start.drop.p = 0.0
    expected = copy.deepcopy(start).train()
    reference = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1, momentum=0.5, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, lr=1, weight_decay=0.1, foreach=False, fused=False),
    }[optimizer](expected.parameters())
    steps = [rows for epoch in range(2) for rows in view.order(epoch).split(16)]
    for step, rows in enumerate(steps):
        reference.param_groups[0]["lr"] = 0.01 * rate(step, len(steps))
        reference.zero_grad()
        F.cross_entropy(expected(images[rows]), labels[rows]).backward()
        reference.step()
    ours = train(start, view, cross_entropy, recipe)
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_after_each_step_the_weights_are_projected_once():
    start, calls = build(0), []

    def project(model: nn.Module, done: int) -> None:
        calls.append((done, torch.is_grad_enabled(), model is start, model.head.weight.abs().max().item() > 0.01))
        model.head.weight.clamp_(-0.01, 0.01)

    recipe = Recipe(epochs=3, batch_size=64, lr=0.1, schedule="cosine")
    after = train(start, everything(), cross_entropy, recipe, after_step=project)
    assert [done for done, *_ in calls] == list(range(1, 10))
    assert not any(grad or same for _, grad, same, _ in calls)
    assert any(beyond for *_, beyond in calls[1:]), "the steps never leave the box: nothing is projected"
    assert after.head.weight.abs().max() <= 0.01
    assert start.head.weight.abs().max() > 0.01


def test_eval_mode_keeps_batchnorms_statistics_to_the_bit_and_dropout_off():
    start = train(build(0), everything(), cross_entropy, Recipe(epochs=1, batch_size=16, lr=0.05))
    recipe, modes = Recipe(epochs=2, batch_size=16, lr=0.05), set()

    def loss(model: nn.Module, batch) -> torch.Tensor:
        modes.update(m.training for m in model.modules())
        return cross_entropy(model, batch)

    frozen = train(start.train(), everything(), loss, recipe, mode="eval")
    assert modes == {False}
    for (name, a), b in zip(frozen.named_buffers(), start.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(frozen.norm.weight, start.norm.weight)
    moved = train(start, everything(), cross_entropy, recipe)
    for (name, a), b in zip(moved.named_buffers(), start.buffers(), strict=True):
        assert not torch.equal(a, b), name
    start.drop.p = 0.0
    without = train(start, everything(), cross_entropy, recipe, mode="eval")
    assert torch.equal(frozen.head.weight, without.head.weight)


def test_parameters_that_need_no_gradient_stay():
    model = build(0)
    model.conv.requires_grad_(False)
    after = train(model, everything(), cross_entropy, Recipe(epochs=1, batch_size=16, lr=0.1))
    assert torch.equal(after.conv.weight, model.conv.weight)
    assert not torch.equal(after.head.weight, model.head.weight)


def test_predictions_are_in_row_order_and_keep_the_mode():
    model, images = build(0).train(), blobs(160)[0]
    view = everything().select(torch.tensor([7, 3, 150]))
    logits = predict(model, view)
    assert model.training
    torch.testing.assert_close(logits, model.eval()(images[[3, 7, 150]]).detach())


@pytest.mark.parametrize("rows", [[3], [0, 3, 159], list(range(160))])
def test_a_samples_logits_hardly_depend_on_its_batch(rows):
    """Rounding may differ between batch sizes, nothing else: in eval mode no sample sees its neighbours."""
    model = build(0)
    alone = predict(model, everything().select(torch.tensor([3])))[0]
    beside = predict(model, everything().select(torch.tensor(rows)))[rows.index(3)]
    torch.testing.assert_close(alone, beside)


def test_building_a_network_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    a, b, c = (models.build("resnet-small", (1, 8, 8), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


def test_small_resnet_has_three_stages_and_about_80k_parameters():
    model = models.build("resnet-small", (1, 8, 8), 10, 0)
    assert len(model.stages) == 3
    assert sum(p.numel() for p in model.parameters()) == 86_474
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_meter_counts_what_passes_whatever_the_method_does():
    problem = make_problem()
    meter, model = problem.meter, build(0)
    meter.attach(model)
    model(problem.forget.samples.images[:3])  # not open yet
    with meter.running():
        for batch in problem.forget.batches(16):  # 40 forward and backward
            cross_entropy(model, batch).backward()
        copied = copy.deepcopy(model)
        with torch.no_grad():
            for batch in problem.validation.batches(16):  # 40 forward, on a copy
                copied(batch.images)
        for batch in (problem.forget | problem.retain).batches(50, 0):  # read, not passed
            assert len(batch.labels)
    model(problem.forget.samples.images[:3])
    assert meter.counts() == {"forward": 80, "backward": 40, "read": {"forget": 80, "retain": 120, "validation": 40}}


def test_meter_counts_an_explicit_gradient():
    meter, model = Meter(), build(0)
    meter.attach(model)
    images, labels = blobs(12)
    with meter.running():
        torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    assert (meter.forward, meter.backward) == (12, 12)


def test_meter_counts_samples_that_pass_one_by_one_inside_vmap():
    task = make_problem()
    model = task.meter.attach(build(0))
    with task.meter.running():
        importances(model, task.forget, 16)
    assert task.meter.counts() == {"forward": 40, "backward": 40, "read": {"forget": 40}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.zeros(9, 1)}, "9 images and 10 labels"),
        ({"forget": torch.tensor([10])}, "within 0 and 9"),
        ({"forget": torch.tensor([1, 1])}, "stands twice"),
        ({"forget": torch.tensor([], dtype=torch.long)}, "neither empty nor everything"),
        ({"forget": torch.ones(10, dtype=torch.bool)}, "neither empty nor everything"),
        ({"forget": torch.ones(4, dtype=torch.bool)}, "4 entries"),
        ({"order": torch.zeros(10, dtype=torch.long)}, "permutation"),
    ],
)
def test_from_tensors_says_what_is_wrong(changes, words):
    arguments = {"images": torch.zeros(10, 1), "labels": torch.arange(10) % 2, "forget": torch.tensor([1])}
    with pytest.raises(ValueError, match=words):
        Problem.from_tensors(**(arguments | changes))


def test_forgotten_classes_are_those_gone_whole():
    assert make_problem("class").forgotten_classes == (2,)
    assert make_problem("random").forgotten_classes == ()
    labels = torch.tensor([0, 1, 1, 2])
    forget = torch.tensor([0, 1, 3])
    assert Problem.from_tensors(torch.zeros(4, 1), labels, forget).forgotten_classes == (0, 2)


def test_forget_and_retain_partition_the_training_set():
    problem = make_problem("random")
    both = torch.cat([problem.forget.rows, problem.retain.rows])
    assert sorted(both.tolist()) == list(range(160))


GONE = torch.arange(1, 60, 4)  # of class 1, rows 1 to 57


def sequel(**changes) -> Problem:
    """The second step of a sequence: class 1 up to row 57 is gone, the rest of it and rows 0, 4 are to go."""
    forget = torch.cat([torch.arange(61, 160, 4), torch.tensor([0, 4])])
    arguments = {"validation": None, "classes": 4, "key": ("k",), "base_order": shuffled(160, ("k",)), "gone": GONE}
    return problem(Samples(*blobs(160)), forget, **(arguments | changes))


def test_what_was_forgotten_before_is_neither_forgotten_nor_retained():
    task = sequel()
    gone, forget = set(GONE.tolist()), {0, 4, *range(61, 160, 4)}
    assert set(task.forget.rows.tolist()) == forget
    assert set(task.retain.rows.tolist()) == set(range(160)) - gone - forget
    assert set(task.train.rows.tolist()) == set(range(160)) - gone
    assert task.pool().train.rows.tolist() == task.train.rows.tolist()
    seen = {row for view in (task.forget, task.retain) for b in view.batches(16, 0) for row in b.rows.tolist()}
    assert seen == set(range(160)) - gone
    assert task.forgotten_classes == (1,)  # with what is gone before, all of it
    assert sequel(gone=None).forgotten_classes == ()


def test_a_part_forgets_its_own_and_shares_the_meter_and_the_scores():
    task = make_problem("classes")  # 0 and 2
    task = replace(task, prepared="of the whole")
    zero, two = (task.forget.rows[task.forget.labels == c] for c in (0, 2))
    first = task.part(two, torch.cat([task.retain.rows, zero]), 0)
    second = task.part(zero[:5], task.retain.rows, 1)
    assert first.forget.rows.tolist() == two.tolist()
    assert first.retain.rows.tolist() == sorted([*task.retain.rows.tolist(), *zero.tolist()])
    assert first.forgotten_classes == (2,)
    assert second.forget.rows.tolist() == zero[:5].tolist()
    assert second.forgotten_classes == (0,)  # none of it is retained
    assert first.prepared is None
    assert torch.equal(first.score("memorization"), task.score("memorization"))
    draws = [torch.rand(3, generator=p.generator("x")).tolist() for p in (task, first, second)]
    assert len({tuple(draw) for draw in draws}) == 3
    with task.meter.running():
        list(second.forget.batches(16, 0))
    assert task.meter.counts()["read"] == {"forget": 5}
    assert len(task.forget) == 80, "the whole is as it was"


def test_the_pool_is_all_training_data_with_nothing_to_forget_yet():
    task = replace(make_problem(), prepared="something")
    pool = task.pool()
    assert pool.train.rows.tolist() == list(range(160))
    assert pool.prepared is None
    assert len(pool.validation) == 40
    for name in ("forget", "retain"):
        with pytest.raises(ValueError, match=f"this problem has no {name} data"):
            getattr(pool, name)
    assert not torch.equal(*(torch.rand(3, generator=p.generator("x")) for p in (task, pool)))
    for reads in ({"forget"}, {"retain"}):
        with pytest.raises(UndeclaredAccess):
            _ = task.pool().only(reads).train


def test_scores_are_handed_out_by_name_to_who_declares_them():
    task = make_problem()
    assert task.score("memorization").shape == (160,)
    with pytest.raises(ValueError, match=r"no scores 'curvature'; state `memorization:` .* scores=\{\.\.\.\}"):
        task.score("curvature")
    with pytest.raises(UndeclaredAccess, match="reads scores data"):
        task.only({"forget", "retain"}).score("memorization")


def test_missing_validation_says_how_to_give_it():
    with pytest.raises(ValueError, match=r"Problem\.from_tensors"):
        _ = make_problem(validation=None).validation


def test_dropout_draws_from_the_data_key():
    recipe = Recipe(epochs=1, batch_size=16, lr=0.1)
    runs = [train(build(0), everything(key=key), cross_entropy, recipe) for key in (("a",), ("a",), ("b",))]
    assert torch.equal(runs[0].head.weight, runs[1].head.weight)
    assert not torch.equal(runs[0].head.weight, runs[2].head.weight)


def test_one_batch_of_a_single_sample_is_allowed_by_the_small_resnet():
    model = models.build("resnet-small", (1, 8, 8), 10, 0)
    view = View(Samples(torch.rand(3, 1, 8, 8), torch.arange(3)), torch.arange(3), shuffled(3, ()), ())
    after = train(model, view, cross_entropy, Recipe(epochs=1, batch_size=2, lr=0.01))
    assert isinstance(after, nn.Module)


def test_what_an_earlier_step_forgot_is_nowhere_in_the_next_steps_problem():
    """Class 1 is gone: no data of it, in validation neither, and no label of it is drawn."""
    images, labels = blobs(160)
    held_out = Samples(*blobs(40, seed=1))
    task = problem(
        Samples(images, labels),
        (labels == 2).nonzero().flatten(),
        gone=(labels == 1).nonzero().flatten(),
        validation=held_out,
        classes=4,
        key=("k",),
        base_order=shuffled(160, ("k",)),
    )
    assert task.gone_classes == (1,)
    assert task.forgotten_classes == (2,)
    for view in (task.forget, task.retain, task.validation, task.train):
        assert not (view.labels == 1).any()
    assert set(task.validation.labels.tolist()) == {0, 2, 3}
    for exclude, drawn_from in ((False, {0, 2, 3}), (True, {0, 3})):
        feed = relabelled(task, "mixed", exclude)
        drawn = {int(y) for e in range(20) for b in feed.batches(40, e) for y in b.labels[labels[b.rows] == 2]}
        assert drawn == drawn_from


def pictures(n: int, size: int = 8) -> Samples:
    generator = torch.Generator().manual_seed(7)
    return Samples(
        torch.randint(1, 256, (n, 2, size, size + 1), dtype=torch.uint8, generator=generator), torch.arange(n)
    )


def test_crops_and_flips_are_those_of_one_image_after_the_other():
    images = pictures(6).images
    corners = torch.tensor([[0, 0], [4, 4], [8, 8], [0, 8], [3, 5], [7, 1]])
    flipped = torch.tensor([False, False, False, True, True, True])
    found = crop_and_flip(images, corners, flipped)
    for image, (top, left), mirrored, mine in zip(images.numpy(), corners, flipped, found.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        expected = padded[:, top : top + 8, left : left + 9]
        assert np.array_equal(mine, expected[:, :, ::-1] if mirrored else expected)
    assert torch.equal(found[1], images[1])  # the corner in the middle
    only = crop_and_flip(images, None, flipped)
    assert torch.equal(only, torch.where(flipped[:, None, None, None], images.flip(3), images))


def test_views_of_one_order_see_their_common_samples_alike():
    """As the original and its retrain must; another epoch or another key crops differently."""
    data = pictures(40)

    def seen(rows: torch.Tensor, epoch: int | None, key=("base",), batch_size: int = 7) -> dict[int, torch.Tensor]:
        view = View(data, rows, Order(40, key), augmentation="crop-flip")
        batches = view.batches(batch_size, epoch)
        return {int(r): x for batch in batches for r, x in zip(batch.rows, batch.images, strict=True)}

    everything, part = seen(torch.arange(40), 3), seen(torch.arange(0, 40, 3), 3, batch_size=5)
    assert all(torch.equal(everything[r], part[r]) for r in part)
    assert not all(torch.equal(seen(torch.arange(40), 4)[r], everything[r]) for r in everything)
    assert not all(torch.equal(seen(torch.arange(40), 3, ("other",))[r], everything[r]) for r in everything)
    as_they_are = seen(torch.arange(40), None)
    assert all(torch.equal(as_they_are[r], data.images[r].float() / 255) for r in as_they_are)


def test_every_place_and_both_directions_are_drawn():
    corners, flipped = Order(5_000, ("key",)).places(0)
    counts = torch.bincount(corners[:, 0] * 9 + corners[:, 1], minlength=81)
    assert counts.min() > 0  # 62 expected of each
    assert ((counts - 5_000 / 81) ** 2 / (5_000 / 81)).sum() < 125  # chi-squared with 80 degrees: 1 in 1,000 above
    assert 0.46 < flipped.float().mean() < 0.54


def learning_rates(**changes) -> list[float]:
    """The learning rate of each of eight steps in four epochs, as plain SGD on a linear loss shows it."""
    recipe = Recipe(**({"epochs": 4, "batch_size": 5, "lr": 1.0, "momentum": 0, "weight_decay": 0} | changes))
    model, data = (
        torch.nn.Linear(1, 1, bias=False),
        View(Samples(torch.ones(10, 1), torch.zeros(10).long()), ALL, ORDER),
    )
    weights = [model.weight.item()]
    train(model, data, lambda m, b: m.weight.sum(), recipe, after_step=lambda m, k: weights.append(m.weight.item()))
    return [a - b for a, b in itertools.pairwise(weights)]


ALL, ORDER = torch.arange(10), Order(10, ("schedule",))


def test_schedules_follow_their_formulas():
    assert learning_rates() == pytest.approx([1] * 8, abs=1e-5)
    half_cosine = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert learning_rates(schedule="cosine") == pytest.approx(half_cosine, abs=1e-5)
    steps = [1, 1, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04]
    assert learning_rates(schedule="multistep", milestones=[1, 3], gamma=0.2) == pytest.approx(steps, abs=1e-5)
    assert learning_rates(warmup=1) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1], abs=1e-5)
    late = learning_rates(schedule="multistep", milestones=[3], warmup=1)
    assert late == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 0.1, 0.1], abs=1e-5)
    falling = [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert learning_rates(schedule="cosine", warmup=1) == pytest.approx([1 / 3, 2 / 3, *falling], abs=1e-5)


def test_label_smoothing_mixes_with_the_uniform_distribution():
    recipe = Recipe(epochs=1, batch_size=4, lr=0.1, label_smoothing=0.2)
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    target = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    loss = classification(recipe)(lambda x: x, Batch(logits, labels, torch.arange(4)))
    assert loss.item() == pytest.approx(-(target * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-6)


def test_images_on_disk_give_the_same_batches(tmp_path):
    data = pictures(20)
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=tuple(data.images.shape))
    mapped[:] = data.images.numpy()
    on_disk = Samples(torch.from_numpy(mapped), data.labels)
    for a, b in zip(*(View(s, ALL, Order(20, ())).batches(3, 0) for s in (data, on_disk)), strict=True):
        assert torch.equal(a.images, b.images)

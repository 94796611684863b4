import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import models, seeds
from bench.config import Recipe
from bench.problem import Meter, Problem
from bench.training import Samples, View, cross_entropy, predict, shuffled, train
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
    a, b, c = (models.build("resnet-small", 1, 10, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


def test_small_resnet_has_three_stages_and_about_80k_parameters():
    model = models.build("resnet-small", 1, 10, 0)
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


def test_missing_validation_says_how_to_give_it():
    with pytest.raises(ValueError, match=r"Problem\.from_tensors"):
        _ = make_problem(validation=None).validation


def test_dropout_draws_from_the_data_key():
    recipe = Recipe(epochs=1, batch_size=16, lr=0.1)
    runs = [train(build(0), everything(key=key), cross_entropy, recipe) for key in (("a",), ("a",), ("b",))]
    assert torch.equal(runs[0].head.weight, runs[1].head.weight)
    assert not torch.equal(runs[0].head.weight, runs[2].head.weight)


def test_one_batch_of_a_single_sample_is_allowed_by_the_small_resnet():
    model = models.build("resnet-small", 1, 10, 0)
    view = View(Samples(torch.rand(3, 1, 8, 8), torch.arange(3)), torch.arange(3), shuffled(3, ()), ())
    after = train(model, view, cross_entropy, Recipe(epochs=1, batch_size=2, lr=0.01))
    assert isinstance(after, nn.Module)

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.checkpoint import Checkpoint
from bench.config import Recipe
from bench.problem import problem
from bench.training import Samples, View, cross_entropy, shuffled, train
from tests.conftest import blobs, build

SGD = Recipe(epochs=3, batch_size=24, lr=0.05, nesterov=True, schedule="one-cycle", augmentation="crop-flip")
ADAM = Recipe(epochs=3, batch_size=24, lr=0.01, optimizer="adam", schedule="cosine", warmup=1)
STEPS = 21  # of three epochs over 160 samples


def view(augmentation="none") -> View:
    images, labels = blobs(160)
    return View(Samples(images, labels), torch.arange(160), shuffled(160, ("k",)), ("k",), augmentation=augmentation)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


class Stopped(Exception):
    pass


def stop_after(steps: int):
    def after_step(model: nn.Module, done: int) -> None:
        if done > steps:
            raise Stopped

    return after_step


def nothing(model: nn.Module, done: int) -> None:
    """In place of `stop_after`."""


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 7, 12, STEPS - 1])
def test_a_stopped_training_goes_on_to_the_same_bits(recipe, steps, tmp_path):
    """With momentum, a schedule, crops, and the network's dropout; stopped in an epoch and between two."""
    start, data = build(0), view(recipe.augmentation)
    undisturbed = train(start, data, cross_entropy, recipe)
    checkpoint = Checkpoint(tmp_path / "kept.safetensors", every=0)
    with pytest.raises(Stopped):
        train(start, data, cross_entropy, recipe, after_step=stop_after(steps), checkpoint=checkpoint)
    assert checkpoint.path.exists()
    taken: list[int] = []
    resumed = train(
        start, data, cross_entropy, recipe, after_step=lambda model, done: taken.append(done), checkpoint=checkpoint
    )
    assert same(resumed, undisturbed)
    assert taken == list(range(steps + 1, STEPS + 1))
    assert not list(tmp_path.iterdir()), "it is of no use any more"


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": SGD.model_copy(update={"lr": 0.04})},
        {"start": build(1)},
        {"data": view("flip")},
        {"data": replace(view("crop-flip"), key=("other",))},
        {"data": view("crop-flip").select(torch.arange(159))},
        {"of": "another data set"},
        {"mask": {name: torch.ones_like(p, dtype=torch.bool) for name, p in build(0).named_parameters()}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_training_does_not_go_on_from_it(change, tmp_path):
    checkpoint = Checkpoint(tmp_path / "kept.safetensors", every=0)
    with pytest.raises(Stopped):
        train(build(0), view("crop-flip"), cross_entropy, SGD, after_step=stop_after(10), checkpoint=checkpoint)
    taken: list[int] = []
    train(
        change.get("start", build(0)),
        change.get("data", view("crop-flip")),
        cross_entropy,
        change.get("recipe", SGD),
        change.get("mask"),
        after_step=lambda model, done: taken.append(done),
        checkpoint=replace(checkpoint, of=change.get("of", "")),
    )
    assert taken[0] == 1


def test_a_damaged_file_is_as_none(tmp_path):
    checkpoint = Checkpoint(tmp_path / "kept.safetensors", every=0)
    with pytest.raises(Stopped):
        train(build(0), view(), cross_entropy, ADAM, after_step=stop_after(10), checkpoint=checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-5])
    found = train(build(0), view(), cross_entropy, ADAM, checkpoint=checkpoint)
    assert same(found, train(build(0), view(), cross_entropy, ADAM))


def test_samples_are_counted_as_if_it_had_not_been_stopped(tmp_path):
    counts = []
    for stops in (False, True):
        images, labels = blobs(160)
        checkpoint = Checkpoint(tmp_path / "kept.safetensors", every=0)
        for after_step in [stop_after(9), nothing][not stops :]:
            task = problem(
                Samples(images, labels),
                (labels == 2).nonzero().flatten(),
                validation=None,
                classes=4,
                key=("k",),
                base_order=shuffled(160, ("k",)),
            )
            with task.meter.running():
                try:
                    model = task.meter.attach(build(0))
                    train(model, task.retain, cross_entropy, ADAM, after_step=after_step, checkpoint=checkpoint)
                except Stopped:
                    continue
        counts.append(task.meter.counts())
    assert counts[0] == counts[1] == {"forward": 360, "backward": 360, "read": {"retain": 360}}


def slowly(path) -> None:
    """The body of a process that is to be killed in the midst of it, and that tells by the file how far it is."""
    torch.set_num_threads(1)

    def after_step(model: nn.Module, done: int) -> None:
        if done == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    train(build(0), view(), cross_entropy, ADAM, after_step=after_step, checkpoint=Checkpoint(path, every=0))


def test_a_killed_process_leaves_a_whole_file_to_go_on_from(tmp_path):
    path = tmp_path / "kept.safetensors"
    process = multiprocessing.get_context("fork").Process(target=slowly, args=(path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    taken: list[int] = []
    found = train(
        build(0),
        view(),
        cross_entropy,
        ADAM,
        after_step=lambda model, done: taken.append(done),
        checkpoint=Checkpoint(path),
    )
    assert taken[0] == 12
    assert same(found, train(build(0), view(), cross_entropy, ADAM))

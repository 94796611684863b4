"""Two processes on the CPU against one."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from bench import distributed
from bench.checkpoint import Checkpoint
from bench.config import Recipe
from bench.errors import BadInput
from bench.problem import Meter
from bench.training import Samples, View, cross_entropy, shuffled, train
from tests.conftest import blobs, build, without_dropout

RECIPE = Recipe(epochs=2, batch_size=24, lr=0.05, schedule="one-cycle", gpus=2)  # the last of 7 batches: 17 of 161


def train_blobs(path=None, stop: int | None = None) -> dict[str, np.ndarray]:
    """A training as a job has it; BatchNorm's statistics stay, since on CPUs nobody synchronises them."""
    torch.set_num_threads(1)
    images, labels = blobs(161)
    view = View(Samples(images, labels), torch.arange(161), shuffled(161, ("k",)), ("k",))
    meter = Meter()

    def after_step(model: nn.Module, done: int) -> None:
        if done == stop:
            raise BadInput("stopped")

    with meter.running():
        model = train(
            meter.attach(without_dropout(build(0))),
            view,
            cross_entropy,
            RECIPE,
            mode="eval",
            after_step=after_step,
            checkpoint=path and Checkpoint(path, every=0),
        )
    counts = {"forward": np.array(meter.forward), "backward": np.array(meter.backward)}
    return {name: value.numpy() for name, value in model.state_dict().items()} | counts


def test_two_processes_train_as_one_does_and_go_on_from_a_checkpoint(tmp_path):
    """Within 1e-5, since sums are rounded in another order."""
    path = tmp_path / "kept.safetensors"
    with pytest.raises(BadInput, match="stopped"):
        distributed.run(2, train_blobs, path, 9)
    assert path.exists()  # of the first epoch's end
    found = distributed.run(2, train_blobs, path)
    assert not path.exists()
    for name, expected in train_blobs().items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, rtol=1e-5)
    assert found["forward"] == found["backward"] == 2 * 161


def fails() -> int:
    os._exit(3)


def test_one_gpu_is_this_process():
    assert distributed.run(1, os.getpid) == os.getpid()
    assert distributed.place() == (0, 1)
    with pytest.raises(ValueError, match="trainings of one view"):
        train(build(0), NoView(), cross_entropy, RECIPE, checkpoint=Checkpoint("nowhere"))


class NoView:
    key, precision = ("k",), "float32"

    def steps(self, batch_size: int) -> int:
        return 1


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadInput, match="a job asks for 4 GPUs and has 2"):
        distributed.run(4, fails)

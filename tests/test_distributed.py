"""Two processes on the CPU against one."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

from bench import distributed, jobs
from bench.checkpoint import Checkpoint
from bench.config import Recipe
from bench.errors import BadInput
from bench.problem import Meter
from bench.training import Samples, View, cross_entropy, shuffled, train
from tests.conftest import blobs, build, without_dropout
from tests.test_jobs import PATIENCE, running, wait_for

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
    counts["processes"] = np.array(distributed.place()[1])
    return {name: value.numpy() for name, value in model.state_dict().items()} | counts


def test_two_processes_train_as_one_does_and_go_on_from_a_checkpoint(tmp_path):
    """Within 1e-5, since sums are rounded in another order."""
    path = tmp_path / "kept.safetensors"
    with pytest.raises(BadInput, match="stopped"):
        distributed.run(2, train_blobs, path, 9)
    assert path.exists()  # of the first epoch's end
    found = distributed.run(2, train_blobs, path)
    assert not path.exists()
    assert found.pop("processes") == 2
    for name, expected in train_blobs().items():
        if name == "processes":
            continue
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


def test_processes_share_each_batch():
    """Each sees its part, and all of a batch that does not split evenly."""
    images, labels = blobs(161)
    view = View(Samples(images, labels), torch.arange(161), shuffled(161, ("k",)), ("k",))
    whole = [b.rows.tolist() for b in view.batches(24, 0)]
    first, second = ([b.rows.tolist() for b in view.shared(k, 2).batches(24, 0)] for k in range(2))
    assert len(whole) == len(first) == len(second) == 7
    for rows, a, b in zip(whole[:6], first, second, strict=False):
        assert sorted(a + b) == sorted(rows)
        assert len(a) == len(b)
    assert first[6] == second[6] == whole[6]  # 17 samples


def killed(folder) -> None:
    """The second process is killed, the first waits for it."""
    (folder / str(os.getpid())).touch()
    if distributed.place()[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10 * PATIENCE)


def in_two_processes(folder) -> None:
    distributed.run(2, killed, folder)


def test_a_job_whose_process_was_killed_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "TRIES", 2)
    assert jobs.fan_out(in_two_processes, [(tmp_path,)], "killed", lost=lambda folder: "lost") == ["lost"]
    assert len(list(tmp_path.iterdir())) == 2 * 2


def sleeps(folder) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(10 * PATIENCE)


def two_that_sleep(folder) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as workers do, and torch ends orphans by this signal
    distributed.run(2, sleeps, folder)


def test_processes_end_with_their_killed_worker(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=two_that_sleep, args=(tmp_path,))
    worker.start()
    assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    worker.kill()
    worker.join()
    assert wait_for(lambda: not any(running(path.name) for path in tmp_path.iterdir()))

import os
import signal

import pytest

from bench.errors import BadInput
from bench.jobs import Progress, fan_out, worker_count


def square(x: int) -> int:
    return x * x


def die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(x: int) -> None:
    raise BadInput(f"job {x} is refused")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_results_are_in_the_order_of_the_jobs(monkeypatch, workers):
    monkeypatch.setenv("LETHE_WORKERS", workers)
    assert fan_out(square, [(i,) for i in range(7)], "squares") == [i * i for i in range(7)]


def test_no_jobs_no_workers():
    assert fan_out(square, [], "nothing") == []


def test_a_killed_worker_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setenv("LETHE_WORKERS", "2")
    with pytest.raises(BadInput, match="worker process was killed"):
        fan_out(die, [(1,), (2,)], "doomed")


def test_a_jobs_bad_input_reaches_the_caller(monkeypatch):
    monkeypatch.setenv("LETHE_WORKERS", "2")
    with pytest.raises(BadInput, match="job 1 is refused"):
        fan_out(refuse, [(1,)], "refused")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_worker_count_must_be_a_positive_whole_number(monkeypatch, value):
    monkeypatch.setenv("LETHE_WORKERS", value)
    with pytest.raises(BadInput, match="LETHE_WORKERS"):
        worker_count()


def test_progress_in_a_log_is_plain_lines_with_an_estimate(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("bench.jobs.time.monotonic", lambda: now[0])
    progress = Progress("train", 4)
    for _ in range(4):
        now[0] += 11
        progress.step()
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "train: 1 of 4 jobs, about 33 s left",
        "train: 2 of 4 jobs, about 22 s left",
        "train: 3 of 4 jobs, about 11 s left",
    ]

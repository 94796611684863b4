"""Fan-out of a stage's jobs over worker processes, and how its progress is told.

A job is a function of its arguments alone, so what it returns depends neither on the number of workers
nor on which of them ran it. A worker computes on one thread: a worker a core is the fastest way to
spend a CPU on small networks, and the thread count can change the last bit of a sum.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bench.errors import BadInput

Result = TypeVar("Result")
WORKERS = "LETHE_WORKERS"
LOG_EVERY = 10.0  # seconds between lines where the output is no terminal


def worker_count() -> int:
    """LETHE_WORKERS if set, else the cores that this process may use.

    Raises:
        BadInput: LETHE_WORKERS is no positive whole number.
    """
    asked = os.environ.get(WORKERS)
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise BadInput(f"{WORKERS} is '{asked}'; it must be a whole number from 1")
    return int(asked)


def fan_out(function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], label: str) -> list[Result]:
    """`function(*job)` for each job, in order, over the worker processes.

    Raises:
        BadInput: a worker was killed, most often because memory ran out.
    """
    todo = list(jobs)
    workers = max(1, min(worker_count(), len(todo)))
    results: list[Result] = []
    progress = Progress(label, len(todo))
    try:
        with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
            done = Parallel(n_jobs=workers, return_as="generator")(delayed(function)(*job) for job in todo)
            for result in done:
                results.append(result)
                progress.step()
    except TerminatedWorkerError:
        raise BadInput(
            f"{label}: a worker process was killed, most often because memory ran out; "
            f"try fewer workers ({WORKERS}={max(1, workers // 2)})"
        ) from None
    finally:
        progress.close()
    return results


class Progress:
    """A bar in a terminal; elsewhere a plain line now and then, so that a log stays readable."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.started = self.told = time.monotonic()
        self.bar = tqdm(total=total, desc=label, unit="job", leave=False) if sys.stderr.isatty() else None

    def step(self) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif time.monotonic() - self.told > LOG_EVERY and self.done < self.total:
            self.told = time.monotonic()
            left = (self.told - self.started) / self.done * (self.total - self.done)
            print(f"{self.label}: {self.done} of {self.total} jobs, about {left:.0f} s left", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

"""Fan-out of a stage's jobs over processes of this machine or workers of a Dask cluster, and how progress is told.

A job is a function of its arguments and of files, so what it makes depends neither on the engine nor on the number
of workers. A worker computes on one thread: a worker a core is the fastest way to spend a CPU on small networks, and
the thread count can change the last bit of a sum. Where a worker dies, its job is run again on another.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bench.errors import BadInput

Result = TypeVar("Result")
Job = tuple[Any, ...]
WORKERS = "LETHE_WORKERS"
DASK = "LETHE_DASK"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
TRIES = 3  # workers that a job may cost
LOG_EVERY = 10.0  # seconds between lines where the output is no terminal
start_method = "spawn"  # where there is no GPU, the command line forks: its process computes nothing itself
KEY = "lethe"  # by which Dask's tasks are known
LOST = object()  # in a result's place: the job was given up


def worker_count(gpus: int = 0) -> int:
    """LETHE_WORKERS if set, else one a GPU, where there are some, else one for each core that this process may use.

    Raises:
        BadInput: LETHE_WORKERS is no positive whole number.
    """
    asked = os.environ.get(WORKERS)
    if asked is None:
        return gpus or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if not asked.isdecimal() or int(asked) < 1:
        raise BadInput(f"{WORKERS} is '{asked}'; it must be a whole number from 1")
    return int(asked)


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where torch isn't imported."""
    torch = sys.modules.get("torch")
    count = torch.cuda.device_count() if torch is not None else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return [name.strip() for name in visible.split(",")][:count]


def shares(gpus: list[str], each: int) -> list[str]:
    """So many GPUs each, as CUDA_VISIBLE_DEVICES has them; what is left over is not used, but too few are one share."""
    last = max(len(gpus) - each, 0)
    return [",".join(gpus[i : i + each]) for i in range(0, last + 1, each)] if gpus else []


def engine(each: int = 1) -> str:
    """What runs jobs of so many GPUs each, in words: stamped on seconds."""
    return "Dask" if os.environ.get(DASK) else f"{worker_count(len(shares(gpus(), each)))} workers"


def fan_out(
    function: Callable[..., Result],
    jobs: Iterable[Job],
    label: str,
    lost: Callable[..., Result] | None = None,
    gpus: int = 1,
) -> list[Result]:
    """`function(*job)` for each job, in order, over the workers.

    Args:
        function: of a module, so that a worker finds it by its name.
        label: what the jobs are, for progress and errors.
        lost: gives the result of a job that cost several workers; by default that is an error.
        gpus: how many each worker is given, where there are some. A Dask worker has those that it was started with.

    Raises:
        BadInput: a job cost TRIES workers, most often because memory ran out; or the Dask cluster can't be used.
    """
    todo = list(jobs)
    results: dict[int, Result] = {}
    progress = Progress(label, len(todo))
    try:
        with closing(
            _on_dask(function, todo, label) if os.environ.get(DASK) else _on_this_machine(function, todo, label, gpus)
        ) as done:
            for i, result in done:
                if result is LOST and lost is None:
                    raise BadInput(
                        f"{label}: {TRIES} workers that ran the job {_name(todo[i])} were killed, most often because "
                        f"memory ran out; try fewer workers ({WORKERS}=1)"
                    )
                results[i] = lost(*todo[i]) if result is LOST and lost is not None else result
                progress.step()
    finally:
        progress.close()
    return [results[i] for i in range(len(todo))]


def _name(job: Any) -> str:
    """What a person knows a job by: the names and numbers among its arguments."""
    if isinstance(job, tuple):
        return " ".join(filter(None, map(_name, job)))
    return str(job) if isinstance(job, str | int) else ""


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """For the libraries that are loaded, and by environment for those that will be."""
    os.environ.update(dict.fromkeys(THREADS, "1"))
    with threadpool_limits(1):
        yield


Done = Generator[tuple[int, Any], None, None]  # a job's place and its result, as jobs finish


def _on_this_machine(function: Callable[..., Any], todo: list[Job], label: str, each: int) -> Done:
    """Processes, with so many GPUs of its own each where there are enough; `LETHE_WORKERS` may put more on each."""
    names = shares(gpus(), each)
    everyone: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int]] = {}
    waiting, suspects, tries = deque(range(len(todo))), deque[int](), Counter[int]()
    try:
        count = min(worker_count(len(names)), len(todo))
        everyone.extend(_Worker(names[i % len(names)] if names else None) for i in range(count))
        idle = deque(everyone)
        while waiting or busy or suspects:
            if not (waiting or busy):  # alone: it may have died of what ran beside it
                waiting.append(suspects.popleft())
            while waiting and idle:
                worker, i = idle.popleft(), waiting.popleft()
                with suppress(BrokenPipeError):  # it has died: found out below
                    worker.pipe.send((function, todo[i]))
                busy[worker.pipe] = worker, i
            for pipe in wait(list(busy)):
                worker, i = busy.pop(pipe)
                try:
                    fine, result = worker.pipe.recv()
                except (EOFError, OSError):
                    print(f"{label}: a worker died ({worker.end()}); its job is run again", flush=True)
                    worker.start()
                    tries[i] += 1
                    if tries[i] < TRIES:
                        suspects.append(i)
                    else:
                        yield i, LOST
                else:
                    if not fine:
                        raise result
                    yield i, result
                idle.append(worker)
    finally:
        for worker in everyone:
            worker.end()


class _Worker:
    """A process that runs one job after another, and the pipe on which jobs go and results come."""

    def __init__(self, gpu: str | None) -> None:
        self.gpu = gpu
        self.start()

    def start(self) -> None:
        # A fork can't use CUDA once its parent has looked for GPUs.
        context: Any = multiprocessing.get_context("spawn" if self.gpu is not None else start_method)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.gpu, os.getcwd()))
        self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def end(self) -> str:
        """Stop it, and say how it ended."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return f"exit code {self.process.exitcode}"


def _serve(pipe: Connection, gpu: str | None, folder: str) -> None:
    os.chdir(folder)  # a spawned process starts in the folder that its parent started in
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with one_thread():
        while True:
            function, job = pipe.recv()
            try:
                answer = True, function(*job)
            except BadInput as error:
                answer = False, error
            except Exception as error:  # as text, since not every exception travels
                answer = False, RuntimeError("".join(traceback.format_exception(error)))
            pipe.send(answer)


def end_with_the_parent() -> None:
    """In a thread: a process that outlived a killed stage could write into what the next one makes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def lose(why: object) -> None:
    """In a worker: die, so that the job is run again, up to TRIES times; elsewhere nothing."""
    if multiprocessing.parent_process() is not None:
        print(f"{why}\nthe worker gives up", file=sys.stderr, flush=True)
        os._exit(1)


def _on_dask(function: Callable[..., Any], todo: list[Job], label: str) -> Done:
    """The workers of the Dask scheduler at LETHE_DASK; docs/cluster.md says how to start one."""
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
        from distributed.protocol.pickle import dumps
    except ImportError:
        raise BadInput(f"{DASK} is set, but Dask is not installed; run: uv pip install distributed") from None
    address = os.environ[DASK]
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"no Dask scheduler answers at {address} ({DASK}): {error}\n"
            "start one with `dask scheduler` and workers with `dask worker ADDRESS --nthreads 1`; see docs/cluster.md"
        ) from None
    with client, tempfile.NamedTemporaryFile(dir=os.getcwd(), prefix=".lethe-") as mark:
        _bring_workers_here(client, label)
        futures: dict[Any, int] = {}
        there = _there(mark.name)

        def submit(i: int) -> Any:
            future = client.submit(there, dumps((function, todo[i])), key=f"{KEY}-{i}-{uuid.uuid4()}")
            futures[future] = i
            return future

        def outcome(future: Any) -> Any:
            try:
                return future.result()
            except KilledWorker:
                return LOST
            except CancelledError:
                raise BadInput(f"{label}: the Dask scheduler at {address} is gone") from None
            except OSError as error:
                raise BadInput(f"{label}: {error}") from None
            finally:
                future.release()

        try:
            suspects = []
            for future in as_completed([submit(i) for i in range(len(todo))]):
                if (result := outcome(future)) is LOST:
                    suspects.append(futures[future])
                else:
                    yield futures[future], result
            for i in suspects:  # alone: Dask also blames a job that waited at a worker which another one killed
                yield i, outcome(submit(i))
        except BaseException:  # Dask does not stop what runs: an abandoned job could still write
            with suppress(Exception):
                busy = [worker for worker, keys in client.processing().items() if keys]
                client.cancel(list(futures), force=True)
                deadline = time.monotonic() + 5
                while any(client.processing().values()) and time.monotonic() < deadline:  # cancelled is not yet gone
                    time.sleep(0.05)
                client.restart_workers(busy, timeout=30)
            raise


def _bring_workers_here(client: Any, label: str) -> None:
    """Into the project's folder, those that join later too, and without what an earlier stage left in them."""
    from distributed import WorkerPlugin

    folder = os.getcwd()

    class Here(WorkerPlugin):  # of this function, so that it travels as code: a worker can't import `bench` yet
        name = "lethe"

        def setup(self, worker: Any) -> None:
            if any(str(key).startswith(KEY) for key in worker.active_threads.values()):
                raise RuntimeError(f"{worker.address} still runs a job of a stage that was stopped")
            os.chdir(folder)
            if folder not in sys.path:
                sys.path.insert(0, folder)
            for module in [name for name in sys.modules if name.split(".")[0] in {"bench", "methods"}]:
                del sys.modules[module]  # code that may have changed, and data that it has read

    try:
        client.register_plugin(Here())
    except RuntimeError as error:
        raise BadInput(f"{label}: Dask's worker {error}; wait for its end, or start it anew") from None
    except OSError as error:
        raise BadInput(f"{label}: a Dask worker doesn't see this folder: {error}; {SHARED}") from None
    if not client.scheduler_info()["workers"]:
        print(f"{label}: the Dask scheduler has no workers yet; waiting for some", flush=True)


SHARED = "all workers need it, under the same path, on a filesystem that they share"


def _there(mark: str) -> Callable[[bytes], Any]:
    """What runs a job on a Dask worker; the mark is a file by which it tells this project's folder from a copy.

    Scheduler and workers know nothing of this project, so what they are sent must not name it: a function of this
    function travels as code, and the job as bytes.
    """
    shared = SHARED

    def run(payload: bytes) -> Any:
        import os
        import socket

        from distributed import get_worker
        from distributed.protocol.pickle import loads

        if not os.path.exists(mark):
            raise OSError(f"a Dask worker on {socket.gethostname()} has another {os.path.dirname(mark)}; {shared}")
        if get_worker().state.nthreads > 1:
            raise OSError("a Dask worker runs several jobs in one process; start it with --nthreads 1 (and --nworkers)")
        from bench.jobs import one_thread

        function, job = loads(payload)
        with one_thread():
            return function(*job)

    return run


class Progress:
    """A bar in a terminal; elsewhere a plain line now and then, so that a log stays readable."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.started = self.told = time.monotonic()
        tqdm.monitor_interval = 0  # a thread, and workers may be forked
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

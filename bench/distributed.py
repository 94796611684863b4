"""One job on several GPUs of a machine: data-parallel training through torch's DistributedDataParallel.

    accuracy = run(recipe.gpus, train_original, params, name, seed, reads=("datasets",))

starts so many processes, in each of which the job runs on a GPU of its own; `bench.training.train` then gives each its
share of every batch of a view and averages the gradients. All else each of them computes whole, with the same result,
and what the first one writes is kept. On a machine without GPUs they compute on the CPU. It is for trainings that are
long on one GPU: a ResNet-18 on 32x32 gains nothing.

Against one process, sums are rounded in another order. BatchNorm's statistics are those of the whole batch on GPUs
(SyncBatchNorm); on CPUs, where torch has none, those of a process's share.
"""

import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

import torch
from torch import nn

from bench import jobs, store
from bench.errors import BadInput

Result = TypeVar("Result")


def run(gpus: int, function: Callable[..., Result], *arguments: Any, reads: tuple[str, ...] = ()) -> Result:
    """What `function(*arguments)` returns in the first of so many processes that all call it.

    Args:
        function: of a module, so that a process finds it by its name. It may return anything but tensors, whose
            memory would go with the process.
        reads: the folders of data/ that it reads. The processes but the first see nothing else there, and write into
            a temporary folder.

    Raises:
        BadInput: the machine has some GPUs, but not so many; or the function raised it.
        torch.multiprocessing.ProcessException: a process raised something else, or was killed; where this process is
            a worker, it then dies too, so that the job is run again.
    """
    if gpus == 1:
        return function(*arguments)
    if multiprocessing.current_process().daemon:
        raise BadInput(
            "a job on several GPUs starts processes, and Dask's workers may not; start them with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment, and so many GPUs each"
        )
    if 0 < (there := torch.cuda.device_count()) < gpus:
        raise BadInput(f"a job asks for {gpus} GPUs and has {there}; change `gpus` in params.yaml, or run it elsewhere")
    from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, start_processes

    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        processes = start_processes(
            _process, (gpus, folder, sender, function, arguments, reads), nprocs=gpus, join=False, start_method="spawn"
        )
        found: list[Any] = []  # what was sent: a result, or errors of a user

        def fetch() -> None:
            while receiver.poll():
                found.append(receiver.recv())

        try:
            while not processes.join(0.1):
                fetch()  # else who sends much would wait
        except ProcessException as error:
            fetch()
            if found and isinstance(found[0], BadInput):
                raise found[0] from None
            if isinstance(error, ProcessExitedException):
                jobs.lose(error)
            raise
        fetch()
        return cast(Result, found[0])


def _process(
    rank: int,
    count: int,
    folder: str,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    reads: tuple[str, ...],
) -> None:
    from torch import distributed

    threading.Thread(target=jobs.end_with_the_parent, daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, f"file://{folder}/meeting", rank=rank, world_size=count)
    try:
        with store.elsewhere(*reads) if rank else nullcontext():
            result = function(*arguments)
        if rank == 0:
            sender.send(result)
    except BadInput as error:
        sender.send(error)
        raise
    finally:
        distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """This process's number among those of `run`, and how many they are; 0 and 1 outside of it."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def synchronised(model: nn.Module) -> nn.Module:
    """A wrapper of the network whose gradients are the mean over processes."""
    from torch.nn.parallel import DistributedDataParallel

    if next(model.parameters()).is_cuda:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def agreed(decision: bool, device: torch.device) -> bool:
    """The first process's decision, in each."""
    from torch import distributed

    flag = torch.tensor(int(decision), device=device)
    distributed.broadcast(flag, 0)
    return bool(flag)

"""Memory of a run: its peak, on the device and of the process, and the bytes of tensors that are kept."""

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def reset_peak() -> int | None:
    """Else the peak would be that of the process's largest run so far; gives what `peaks` counts from."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc: what earlier runs freed goes, else this one would seem to need less
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is what is resident now
        return resident("VmRSS")
    return None


def peaks(before: int | None) -> dict[str, int | None]:
    """Largest memory since `reset_peak`: the device's, and by how much the process's own resident memory grew."""
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    growth = None if before is None else max(0, resident("VmHWM") - before)
    return {"peak_device_bytes": device, "peak_growth_bytes": growth}


def resident(name: str) -> int:
    """The process's resident memory in bytes: 'VmRSS' now, 'VmHWM' at its peak (Linux, proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def larger(a: int | None, b: int | None) -> int | None:
    return max((value for value in (a, b) if value is not None), default=None)


def tensor_bytes(*kept: Any) -> int:
    """Bytes of all tensors in these values, what is nested in them and their attributes; each counts once."""
    found, seen, todo = {}, set(), list(kept)
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found[value.data_ptr(), value.shape] = value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, (list, tuple, set)):
            todo += value
        elif not isinstance(value, type):
            todo += vars(value).values() if hasattr(value, "__dict__") else ()
    return sum(found.values())

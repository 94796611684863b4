"""A long training's state on disk, from which it goes on to the same bytes after it was stopped."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import store
from bench.errors import BadInput


@dataclass
class Checkpoint:
    """Where a training is kept, and how often.

    Attributes:
        path: a file of its own for each training; gone when the training is done.
        of: what the training depends on besides its arguments: a hash of code and data. A file of another training
            is never gone on from.
        every: seconds between two writings.
        earlier: seconds that the trainings which went on from a file had taken before they were stopped.
    """

    path: Path
    of: str = ""
    every: float = 300.0
    earlier: float = 0.0

    def load(self, fingerprint: str) -> dict[str, Tensor] | None:
        """What `save` was given with this fingerprint; None where there is no such file, or a damaged one."""
        with suppress(BadInput):
            found = {name: torch.from_numpy(value) for name, value in store.read_tensors(self.path).items()}
            if bytes(found.pop("fingerprint", torch.empty(0)).tolist()).hex() == fingerprint:
                return found
        return None

    def save(self, fingerprint: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the file whole or not at all; `BadInput` as `bench.store.writing` has it."""
        stamp = torch.frombuffer(bytearray.fromhex(fingerprint), dtype=torch.uint8)
        found = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        store.write_tensors(self.path, found | {"fingerprint": stamp.numpy()})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def fingerprint(facts: Any, tensors: Iterable[Tensor]) -> str:
    """SHA-256 of a JSON value and of tensors, in hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

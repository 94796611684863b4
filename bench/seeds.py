"""Random draws owned by seeds: every draw comes from a key, never from a global generator.

A key is a tuple of names and numbers such as (benchmark, request, method, seed, purpose). Its hash
is stable across processes, machines and Python versions, so a draw depends on nothing but its key:
not on the order of the jobs, the number of workers or what else was drawn before.
"""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = tuple[str | int, ...]


def derive(*key: str | int) -> int:
    """A number in [0, 2**63) that depends on the key alone."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(*key: str | int) -> np.random.Generator:
    """A NumPy generator for the key."""
    return np.random.default_rng(derive(*key))


def torch_generator(*key: str | int) -> "torch.Generator":
    """A torch CPU generator for the key: draws are made on the CPU, so every device gets the same."""
    import torch

    return torch.Generator().manual_seed(derive(*key))

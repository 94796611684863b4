"""Peak memory, and bytes of what is kept."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bench import memory


@dataclass(frozen=True)
class State:
    gates: dict[str, torch.Tensor]
    pairs: list[tuple[torch.Tensor, None]]
    name: str = "a"


def test_bytes_of_what_is_kept():
    gate = torch.zeros(3, 5)  # 60 bytes
    state = State({"a": gate, "again": gate}, [(torch.zeros(7, dtype=torch.float64), None)])
    assert memory.tensor_bytes(state, {"a": gate}) == 60 + 56
    assert memory.tensor_bytes(None, {}) == 0


def test_peak_growth_is_of_this_run_not_of_an_earlier_one():
    if (before := memory.reset_peak()) is None:
        pytest.skip("this system does not let a process reset its peak")
    large = np.ones(8_000_000)  # 64 MB, of which the system hears when they are freed
    del large
    first = memory.peaks(before)["peak_growth_bytes"]
    second = memory.peaks(memory.reset_peak())["peak_growth_bytes"]
    assert 60e6 < first < 80e6
    assert second < 10e6

"""Break-even by hand and by search; a run's costs from its sidecar."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metrics.cost import break_even, costs


@pytest.mark.parametrize(
    ("preparation", "request_", "retrain", "expected"),
    [
        (30, 2, 10, 4),  # 30 + 4 * 2 = 38 <= 40, 30 + 3 * 2 = 36 > 30
        (32, 2, 10, 4),  # equal: 40 and 40
        (33, 2, 10, 5),
        (5, 2, 10, 1),  # the first request pays for it
        (0, 2, 10, 1),
        (0, 10, 10, 1),  # retraining itself
        (0, 11, 10, math.inf),
        (1, 10, 10, math.inf),
        (1, 11, 10, math.inf),
    ],
)
def test_break_even_by_hand(preparation, request_, retrain, expected):
    assert break_even(preparation, request_, retrain) == expected


def test_break_even_of_an_unknown_cost_is_unknown():
    assert math.isnan(break_even(1, 2, math.nan))
    assert math.isnan(break_even(math.nan, 1, 2))


@given(st.integers(0, 300), st.integers(0, 20), st.integers(0, 20))
def test_break_even_is_the_first_number_of_requests_that_costs_no_more(preparation, request_, retrain):
    first = next((k for k in range(1, 302) if preparation + k * request_ <= k * retrain), math.inf)
    assert break_even(preparation, request_, retrain) == first


def test_costs_of_a_shared_round():
    whole = {"forward": 100, "backward": 200, "beside": 10, "targets": 2}
    sidecar = {
        "samples": {"forward": 15, "backward": 20, "read": {}, "prepared": {"targets": 2}},
        "flops": {"forward": 51.0, "backward": 100.0, "beside": 5.5, "prepared": whole},
        "stored_bytes": 4000,
    }
    assert costs(sidecar) == {
        "samples_forward": 15,
        "samples_backward": 20,
        "round_targets": 2,
        "flops_forward": 51,
        "flops_backward": 100,
        "flops_beside": 5.5,
        "flops_prepare": 310,
        "stored_bytes": 4000,
    }
    del sidecar["samples"]["prepared"], sidecar["flops"]["prepared"]
    assert costs(sidecar)["flops_prepare"] == 0
    assert "round_targets" not in costs(sidecar)

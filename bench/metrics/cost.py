"""What a run cost, and from how many requests on a preparation pays: from the sidecar, without torch."""

import math
from typing import Any

WAYS = ("forward", "backward", "beside")  # of FLOPs: passes of the network, algebra beside them


def costs(sidecar: dict[str, Any]) -> dict[str, float]:
    """A run's costs that are the same on every machine, by metric.

    `samples_*` and `flops_*` hold the run's part of what its seed's targets share; `flops_prepare` is the whole of it,
    `round_targets` the number of those targets. `stored_bytes`: what is kept beside the network and the data.
    """
    samples, flops = sidecar["samples"], sidecar["flops"]
    found = {f"samples_{way}": samples[way] for way in ("forward", "backward")}
    if "prepared" in samples:
        found["round_targets"] = samples["prepared"]["targets"]
    found |= {f"flops_{way}": flops[way] for way in WAYS}
    found["flops_prepare"] = sum(flops["prepared"][way] for way in WAYS) if "prepared" in flops else 0
    return found | {"stored_bytes": sidecar["stored_bytes"]}


def break_even(preparation: float, request: float, retrain: float) -> float:
    """Number of requests from which on preparing once and then serving each costs no more than retraining for each.

    The least whole k >= 1 with preparation + k * request <= k * retrain:

        k = max(1, ceil(preparation / (retrain - request)))

    Args:
        preparation: what is done once, for all requests on one network.
        request: what each takes after that.
        retrain: what retraining takes for one; all in one unit.

    Returns:
        1 if it pays at once; inf if never, since a request takes as much as retraining, or more. Without preparation
        a request that takes just as much as retraining pays at once. NaN where a cost is not known.
    """
    saving = retrain - request
    if math.isnan(saving) or math.isnan(preparation):
        return math.nan
    if saving < 0 or (saving == 0 and preparation > 0):
        return math.inf
    return float(max(1, math.ceil(preparation / saving))) if preparation > 0 else 1.0

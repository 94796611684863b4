"""Costs as machines had them: seconds and memory beside FLOPs and stored bytes, one row a method and cost."""

import math
from typing import Any

import pandas as pd

from bench import store
from bench.config import Params
from bench.metrics.cost import WAYS, break_even
from bench.metrics.statistics import over_seeds
from bench.report.tables import requests

TIMED = ("seconds", "peak_bytes", "flops", "stored_bytes")
TIMING_COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "ratio"]
TIMING_COLUMNS += ["hardware", "commit", "torch"]


def timings(params: Params) -> pd.DataFrame:
    """Costs of an unlearning as its machine had them, averaged like the metrics, with the hardware.

    `ratio` is to retrain's, and empty for seconds and memory where the two were taken on different hardware, as are
    their break-evens.
    """
    rows = []
    for name in params.run:
        costs = {m: store.read_json(store.cost_file(name, m)) for m in params.methods}
        for request, _, targets in requests(params.benchmark(name)):
            per_seed = {m: _spent(costs[m], targets) for m in params.methods}
            for method, spent in per_seed.items():
                stamp, there = costs[method]["stamp"], costs["retrain"]["stamp"]["hardware"]
                place = {"hardware": stamp["hardware"], "commit": stamp["commit"], "torch": stamp["versions"]["torch"]}
                known = per_seed["retrain"]
                if place["hardware"] != there:
                    known = known.drop(columns=["seconds", "peak_bytes"], errors="ignore")
                cell = {"benchmark": name, "request": request, "method": method}
                rows += [cell | row | place for row in _timing_rows(spent, known)]
    return pd.DataFrame(rows, columns=TIMING_COLUMNS)


def _spent(cost: dict[str, Any], targets: list[str]) -> pd.DataFrame:
    """What runs took, a row a seed, means over targets: `TIMED`, and seconds and FLOPs `_prepare`d and `_request`ed."""
    runs = [r for r in cost["runs"] if r["target"] in targets]
    failed = {r["seed"] for r in runs if r["status"] != "ok"}
    runs = pd.DataFrame([r for r in runs if r["seed"] not in failed])
    if runs.empty:
        return runs
    ways = [{way: run["flops"][way] for way in WAYS} for _, run in runs.iterrows()]
    once = [sum(run["flops"].get("prepared", {}).get(way, 0) for way in WAYS) for _, run in runs.iterrows()]
    memory = runs["peak_device_bytes"].fillna(runs["peak_growth_bytes"])
    shares = runs["targets"].clip(lower=1)
    flops = pd.DataFrame(ways, index=runs.index).sum(axis=1)
    runs = runs.assign(flops=flops, flops_prepare=once, peak_bytes=memory.astype(float))
    for unit in ("seconds", "flops"):
        runs[f"{unit}_request"] = runs[unit] - runs[f"{unit}_prepare"] / shares
    kept = [*TIMED, *(f"{unit}_{part}" for unit in ("seconds", "flops") for part in ("prepare", "request"))]
    return runs.groupby("seed")[kept].mean()


def _timing_rows(spent: pd.DataFrame, retrain: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a metric of one method, and the two break-evens; of retrain only what may be compared."""
    rows: list[dict[str, Any]] = []
    for metric in () if spent.empty else (*TIMED, "seconds_prepare"):
        values = spent[metric].dropna().to_numpy()
        if not len(values):
            continue
        mean, low, high = over_seeds(values)
        whole = retrain[metric].mean() if metric in TIMED and metric in retrain else math.nan
        row = {"metric": metric, "mean": mean, "ci_low": low, "ci_high": high, "n": len(values)}
        rows.append(row | {"ratio": mean / whole if whole else math.nan})
    for unit in ("seconds", "flops"):
        if not spent.empty and unit in retrain:
            parts = spent[f"{unit}_prepare"].mean(), spent[f"{unit}_request"].mean(), retrain[unit].mean()
            rows.append({"metric": f"{unit}_break_even", "mean": break_even(*parts), "n": len(spent)})
    return rows

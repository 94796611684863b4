"""From the runs' tidy tables to the leaderboard's: one row a benchmark, request, method and metric.

Which rows there are is decided by params.yaml, never by the files that lie in a folder: a method that
was taken out leaves none, a run that is missing is an error.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.config import Benchmark, Params
from bench.errors import BadInput
from bench.metrics.cost import WAYS, break_even
from bench.metrics.statistics import noise_floor, over_seeds
from bench.requests import row_kinds, rows

COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "gap", "floor", "status"]
TIMING_COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "ratio"]
TIMING_COLUMNS += ["hardware", "commit", "torch"]
RUN_TYPES = {"metric": str, "status": str, "value": float}  # a table without rows has them too
CLASS_TYPES = {"class": int, "accuracy": float}
PINNED = ("original", "retrain")
AVERAGED = ("UA", "RA", "TA", "mia_salun")  # SalUn's 'Avg. Gap' (arXiv:2310.12508, Table 1)
PASSES = {"samples": ["samples_forward", "samples_backward"], "flops": [f"flops_{way}" for way in WAYS]}
COSTS = ("samples", *PASSES["samples"], "round_targets", "flops", *PASSES["flops"], "flops_prepare")
COSTS += ("flops_break_even", "stored_bytes")
TIMED = ("seconds", "peak_bytes", "flops", "stored_bytes")
TOW = {"tow": ("UA", "RA", "TA"), "tow_mia": ("mia_salun", "RA", "TA")}
NOT_SERVED = "not served"
LEFT_OUT = "left out: "


@dataclass(frozen=True)
class Judged:
    """What judging left on disk for the benchmarks of `run`, and nothing else.

    Attributes:
        runs, classes: the tables of `attack`, of all methods.
        cards: (benchmark, method) -> {'card': ..., 'hyperparameters': ...}.
    """

    runs: pd.DataFrame
    classes: pd.DataFrame
    cards: dict[tuple[str, str], dict[str, Any]]


def read(params: Params) -> Judged:
    """Read the tables of every benchmark in `run` and every method in `methods`.

    Raises:
        BadInput: a table is missing or cannot be read.
    """
    runs, classes, cards = [], [], {}
    for benchmark in params.run:
        for method in params.methods:
            folder = store.table_folder(benchmark, method)
            try:
                runs.append(pd.read_csv(folder / "runs.csv", dtype=RUN_TYPES))
                classes.append(pd.read_csv(folder / "classes.csv", dtype=CLASS_TYPES))
            except FileNotFoundError as error:
                raise BadInput(f"{error.filename}: no such file; `dvc repro` makes it") from None
            except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
                raise BadInput(f"{folder}: damaged table ({error}); delete it and run `dvc repro` again") from None
            cards[benchmark, method] = store.read_json(folder / "method.json")
    return Judged(pd.concat(runs, ignore_index=True), pd.concat(classes, ignore_index=True), cards)


def leaderboard(params: Params, judged: Judged) -> pd.DataFrame:
    """The leaderboard's table with the columns `COLUMNS`, in the order of params.yaml."""
    rows: list[dict[str, Any]] = []
    for name in params.run:
        benchmark = params.benchmark(name)
        of_benchmark = judged.runs[judged.runs["benchmark"] == name]
        for request, kinds, targets in requests(benchmark):
            here = with_tow(of_benchmark[of_benchmark["target"].isin(targets)])
            per_seed = {m: seed_table(here[here["method"] == m]) for m in params.methods}
            _add_relative_cost(per_seed)
            retrain = per_seed["retrain"]
            for method, table in per_seed.items():
                cell = {"benchmark": name, "request": request, "method": method}
                if why := benchmark.left_out(method):
                    status = LEFT_OUT + why
                elif not kinds <= set(judged.cards[name, method]["card"]["serves"]):
                    status = NOT_SERVED
                else:
                    status = status_of(here[here["method"] == method])
                if table.empty:
                    rows.append(cell | {"metric": "", "n": 0, "status": status})
                rows += [
                    cell | row | {"status": status} for row in metric_rows(table, retrain) + _break_even(table, retrain)
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def requests(benchmark: Benchmark) -> list[tuple[str, frozenset[str], list[str]]]:
    """What stands in the leaderboard's column `request`: its name, its kinds, the targets that it averages."""
    return [
        (row, row_kinds(request, section)[row], targets)
        for request, section in benchmark.requests.items()
        for row, targets in rows(request, section).items()
    ]


def with_tow(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the metrics `tow` and `tow_mia`, Zhao et al.'s tug of war (arXiv:2406.01257, section 3).

    The product of 1 - |a_u - a_r| over the accuracies (or the attack) a on forget set, retain set and
    test set, of the run and of retrain. The reference is the mean over the target's retrains; for a
    retrain itself, over the others, so that its row shows what another honest retrain reaches.
    """
    ok = runs[runs["status"] == "ok"]
    names = sorted({name for parts in TOW.values() for name in parts})
    wide = ok[ok["metric"].isin(names)].pivot_table(
        index=["benchmark", "request", "target", "method", "seed"], columns="metric", values="value"
    )
    if wide.empty or "retrain" not in wide.index.get_level_values("method"):
        return runs
    retrains = wide.xs("retrain", level="method")
    sums, counts = (getattr(retrains.groupby("target"), what)() for what in ("sum", "count"))
    target = wide.index.get_level_values("target")
    own = (wide.index.get_level_values("method") == "retrain")[:, None]
    total = sums.reindex(target).to_numpy() - np.where(own, wide.to_numpy(), 0)
    number = counts.reindex(target).to_numpy() - own
    reference = np.divide(total, number, out=np.full(total.shape, math.nan), where=number > 0)
    near = 1 - (wide - reference).abs()
    tow = pd.DataFrame({name: near[list(parts)].prod(axis=1, skipna=False) for name, parts in TOW.items()})
    rows = tow.rename_axis(columns="metric").stack().dropna().rename("value").reset_index()
    return pd.concat([runs, rows.assign(status="ok")], ignore_index=True)


def seed_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Metrics per seed, averaged over the request's targets: index seed, columns metrics.

    A seed with a failed run is left out whole, so that every mean is over the same targets.
    """
    ok = runs[runs["status"] == "ok"]
    failed = runs.loc[runs["status"] != "ok", "seed"].unique()
    kept = ok[~ok["seed"].isin(failed)]
    order = list(dict.fromkeys(kept["metric"]))
    return kept.pivot_table(index="seed", columns="metric", values="value", aggfunc="mean", dropna=False)[order]


def _add_relative_cost(per_seed: dict[str, pd.DataFrame]) -> None:
    """`samples`: passed forward and backward, `flops`: of all kinds, relative to the retrain of the same seed."""
    retrain = per_seed["retrain"]
    for name, parts in PASSES.items():
        if retrain.empty or not set(parts) <= set(retrain):
            continue
        whole = retrain[parts].sum(axis=1)
        for table in per_seed.values():
            if not table.empty:
                table[name] = table[parts].sum(axis=1) / whole.reindex(table.index)


def _break_even(table: pd.DataFrame, retrain: pd.DataFrame) -> list[dict[str, Any]]:
    """`flops_break_even`, of the mean costs over seeds; it has no interval, since it may be infinite."""
    if table.empty or retrain.empty or "flops_prepare" not in table:
        return []
    once, request, again = table["flops_prepare"], table[PASSES["flops"]].sum(axis=1), retrain[PASSES["flops"]]
    if "round_targets" in table:
        request = request - once / table["round_targets"]
    value = break_even(once.mean(), request.mean(), again.sum(axis=1).mean())
    return [{"metric": "flops_break_even", "mean": value, "n": len(table)}]


def status_of(runs: pd.DataFrame) -> str:
    """'ok', or how many runs failed and why the first did."""
    failed = runs[runs["status"] != "ok"]
    if failed.empty:
        return "ok" if len(runs) else "failed: no run was judged"
    total = len(runs[["target", "seed"]].drop_duplicates())
    reason = str(failed["status"].iloc[0]).removeprefix("failed: ")
    return f"failed: {len(failed)} of {total} runs; {reason}"


def metric_rows(table: pd.DataFrame, retrain: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a metric; `gap` is to retrain's mean, signed, and costs have none."""
    rows = []
    for metric in table.columns:
        values = table[metric].dropna().to_numpy()
        if not len(values):
            continue
        mean, low, high = over_seeds(values)
        row = {"metric": metric, "mean": mean, "ci_low": low, "ci_high": high, "n": len(values)}
        if metric not in COSTS and metric in retrain and retrain[metric].notna().any():
            reference = retrain[metric].dropna().to_numpy()
            row |= {"gap": mean - reference.mean(), "floor": noise_floor(reference, len(values))}
        rows.append(row)
    return rows + _average_gap(rows)


def _average_gap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`avg_gap`: mean of |gap| over UA, RA, TA and mia_salun.

    It has neither interval nor floor: noise alone makes a mean of absolute values positive.
    """
    parts = [row for row in rows if row["metric"] in AVERAGED and "gap" in row]
    if len(parts) < len(AVERAGED):
        return []
    mean = float(np.mean([abs(row["gap"]) for row in parts]))
    return [{"metric": "avg_gap", "mean": mean, "n": min(r["n"] for r in parts), "gap": mean}]


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
    runs = pd.DataFrame([r for r in cost["runs"] if r["target"] in targets and r["status"] == "ok"])
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

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
from bench.metrics.statistics import noise_floor, over_seeds
from bench.requests import row_kinds, rows

COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "gap", "floor", "status"]
TIMING_COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "ratio"]
TIMING_COLUMNS += ["hardware", "commit", "torch"]
RUN_TYPES = {"metric": str, "status": str, "value": float}  # a table without rows has them too
CLASS_TYPES = {"class": int, "accuracy": float}
PINNED = ("original", "retrain")
AVERAGED = ("UA", "RA", "TA", "mia_salun")  # SalUn's 'Avg. Gap' (arXiv:2310.12508, Table 1)
COSTS = ("samples", "samples_forward", "samples_backward", "round_targets")
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
                if params.benchmark(benchmark).probe:  # `attack` has told of the runs that failed
                    probes = pd.read_csv(store.probe_folder(benchmark, method) / "probes.csv", dtype=RUN_TYPES)
                    runs.append(probes[probes["status"] == "ok"])
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
                rows += [cell | row | {"status": status} for row in metric_rows(table, retrain)]
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
    """`samples`: samples passed forward and backward, relative to the retrain of the same seed."""
    retrain = per_seed["retrain"]
    if retrain.empty:
        return
    whole = retrain["samples_forward"] + retrain["samples_backward"]
    for table in per_seed.values():
        if not table.empty:
            table["samples"] = (table["samples_forward"] + table["samples_backward"]) / whole.reindex(table.index)


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
    """Seconds of an unlearning, averaged like the metrics, with the hardware they were taken on.

    `ratio` is to retrain's seconds, and empty where the two were taken on different hardware.
    """
    rows = []
    for name in params.run:
        costs = {m: store.read_json(store.cost_file(name, m)) for m in params.methods}
        for request, _, targets in requests(params.benchmark(name)):
            per_method = {m: _timing_row(costs[m], targets) for m in params.methods}
            retrain = per_method["retrain"]
            for method, row in per_method.items():
                if row is None:
                    continue
                same = retrain is not None and row["hardware"] == retrain["hardware"]
                ratio = row["mean"] / retrain["mean"] if same and retrain is not None else math.nan
                rows.append({"benchmark": name, "request": request, "method": method, "ratio": ratio} | row)
    return pd.DataFrame(rows, columns=TIMING_COLUMNS)


def _timing_row(cost: dict[str, Any], targets: list[str]) -> dict[str, Any] | None:
    runs = pd.DataFrame([r for r in cost["runs"] if r["target"] in targets and r["status"] == "ok"])
    if runs.empty:
        return None
    seconds = runs.groupby("seed")["seconds"].mean().to_numpy()
    mean, low, high = over_seeds(seconds)
    stamp = cost["stamp"]
    return {
        "metric": "seconds",
        "mean": mean,
        "ci_low": low,
        "ci_high": high,
        "n": len(seconds),
        "hardware": stamp["hardware"],
        "commit": stamp["commit"],
        "torch": stamp["versions"]["torch"],
    }

"""From the runs' tidy tables to the leaderboard's: one row a benchmark, request, method and metric.

Which rows there are is decided by params.yaml, never by the files that lie in a folder: a method that
was taken out leaves none, a run that is missing is an error.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.config import Benchmark, Params
from bench.errors import BadInput
from bench.metrics.comparisons import (
    Bootstrap,
    bootstrap,
    equivalence,
    paired_tests,
    rank_ranges,
    rank_stability,
)
from bench.metrics.cost import WAYS, break_even
from bench.metrics.statistics import noise_floor, over_seeds
from bench.requests import row_kinds, rows
from bench.seeds import numpy_generator

COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "gap"]
COLUMNS += [
    "gap_low",
    "gap_high",
    "floor",
    "margin",
    "p_equivalence",
    "verdict",
    "rank",
    "rank_low",
    "rank_high",
    "status",
]
TEST_COLUMNS = ["benchmark", "request", "metric", "method", "other", "difference", "n", "p", "p_holm"]
RANK_COLUMNS = ["benchmark", "request", "kind", "left_out", "tau", "method", "distance", "rank"]
TIMING_COLUMNS = ["benchmark", "request", "method", "metric", "mean", "ci_low", "ci_high", "n", "ratio"]
TIMING_COLUMNS += ["hardware", "commit", "torch"]
RUN_TYPES = {"seed": "Int64", "metric": str, "status": str, "value": float}  # a table without rows has them too
CLASS_TYPES = {"class": int, "accuracy": float}
PINNED = ("original", "retrain")
AVERAGED = ("UA", "RA", "TA", "mia_salun")  # SalUn's 'Avg. Gap' (arXiv:2310.12508, Table 1)
PASSES = {"samples": ["samples_forward", "samples_backward"], "flops": [f"flops_{way}" for way in WAYS]}
COSTS = ("samples", *PASSES["samples"], "round_targets", "flops", *PASSES["flops"], "flops_prepare")
COSTS += ("flops_break_even", "stored_bytes")
TIMED = ("seconds", "peak_bytes", "flops", "stored_bytes")
OF_RUNS = ("_low", "_high")  # what ends so is an interval within one run, and stays in runs.csv
PER_BANK = "_models_"  # numbers of models: in attack.json
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


RUN = ["seed", "unlearning_seed", "target"]  # what tells a method's runs of one request apart


@dataclass(frozen=True)
class Compared:
    """The runs of one row of requests, made comparable.

    Attributes:
        kinds: that a method must serve.
        levels: how many unlearning seeds and targets there are.
        runs: the tidy rows, with the relative cost.
        values: method -> index `RUN`, columns metrics, averaged over judging seeds; all targets and unlearning seeds
            of each training seed of which no run failed.
    """

    benchmark: str
    request: str
    kinds: frozenset[str]
    levels: tuple[int, int]
    runs: pd.DataFrame
    values: dict[str, pd.DataFrame]

    def gaps(self, metrics: list[str]) -> pd.DataFrame:
        """Of each run to retrain's of the same seeds and target: index `RUN`, columns (metric, method).

        Of metrics that every method has; methods are left out that have not all of retrain's seeds.
        """
        retrain = self.values["retrain"]
        methods = [m for m, v in self.values.items() if m != "retrain" and retrain.index.isin(v.index).all()]
        metrics = [c for c in metrics if all(c in self.values[m] for m in ["retrain", *methods])]
        apart = [(self.values[m].reindex(retrain.index)[metrics] - retrain[metrics]).to_numpy(float) for m in methods]
        columns = pd.MultiIndex.from_product([metrics, methods], names=["metric", "method"])
        return pd.DataFrame(
            np.stack(apart, axis=2).reshape(len(retrain), len(columns)) if apart else None, retrain.index, columns
        )

    def draws(self, seeds: int) -> Bootstrap:
        """Draws of the runs of so many training seeds, the same for every method."""
        return _draws(self.benchmark, self.request, seeds, *self.levels)


@lru_cache(maxsize=4)
def _draws(benchmark: str, request: str, training: int, unlearning: int, targets: int) -> Bootstrap:
    return bootstrap(training, unlearning, targets, numpy_generator(benchmark, request, "bootstrap"))


def compared(params: Params, judged: Judged) -> Iterator[Compared]:
    """What is compared with each other: each row of requests, in the order of params.yaml."""
    for name in params.run:
        of_benchmark = judged.runs[judged.runs["benchmark"] == name]
        section = params.benchmark(name)
        for request, kinds, targets in requests(section):
            here = with_relative_cost(of_benchmark[of_benchmark["target"].isin(targets)])
            values = {m: run_table(here[here["method"] == m]) for m in params.methods}
            yield Compared(name, request, kinds, (len(section.unlearning_seeds), len(targets)), here, values)


def leaderboard(params: Params, judged: Judged) -> pd.DataFrame:
    """The leaderboard's table with the columns `COLUMNS`, in the order of params.yaml."""
    rows: list[dict[str, Any]] = []
    for each in compared(params, judged):
        places = rankings(each)
        for method, values in each.values.items():
            cell = {"benchmark": each.benchmark, "request": each.request, "method": method}
            if why := params.benchmark(each.benchmark).left_out(method):
                status = LEFT_OUT + why
            elif not each.kinds <= set(judged.cards[each.benchmark, method]["card"]["serves"]):
                status = NOT_SERVED
            else:
                status = status_of(each.runs[each.runs["method"] == method])
            if values.empty:
                rows.append(cell | {"metric": "", "n": 0, "status": status})
            rows += [
                cell | row | places.get((row["metric"], method), {}) | {"status": status}
                for row in metric_rows(values, each, method) + together_rows(each, method) + _break_even(each, method)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def rankings(each: Compared) -> dict[tuple[str, str], dict[str, int]]:
    """(metric, method) -> rank and its range, of each metric and of the average gap."""
    gaps = each.gaps([c for c in each.values["retrain"] if c not in COSTS])
    if gaps.empty:
        return {}
    draws = each.draws(len(gaps.index.unique("seed")))
    found: dict[tuple[str, str], dict[str, int]] = {}
    parts: dict[str, list[str]] = {metric: [metric] for metric in gaps.columns.unique("metric")}
    if set(AVERAGED) <= parts.keys():
        parts["avg_gap"] = list(AVERAGED)
    for metric, names in parts.items():
        here = gaps[names].dropna(axis=1, how="all")
        if not here.empty:
            table = rank_ranges(here, draws).rename(columns={"low": "rank_low", "high": "rank_high"})
            found |= {(metric, str(method)): row for method, row in table.to_dict("index").items()}
    return found


def tests(params: Params, judged: Judged) -> pd.DataFrame:
    """Paired tests over training seeds, with the columns `TEST_COLUMNS`.

    With `other` = retrain the gap, of each metric; between two methods the difference of their distances to
    retrain, of `AVERAGED` and of the average gap. Holm's correction is over the rows of one request and metric of
    either kind.
    """
    parts = []
    for each in compared(params, judged):
        gaps = per_seed_gaps(each, [c for c in each.values["retrain"] if c not in COSTS])
        parts += [
            _tests(each, metric, {(m, "retrain"): gaps[metric, m] for m in gaps[metric]})
            for metric in gaps.columns.unique("metric")
        ]
        parts += [
            _tests(each, metric, {(a, b): away[a] - away[b] for a, b in combinations(away, 2)})
            for metric, away in seed_distances(gaps).items()
        ]
    return pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=TEST_COLUMNS)], ignore_index=True)


def _tests(each: Compared, metric: str, differences: dict[tuple[str, str], pd.Series]) -> pd.DataFrame:
    if not differences:
        return pd.DataFrame(columns=TEST_COLUMNS)
    table = paired_tests(pd.DataFrame(differences)).rename_axis(["method", "other"]).reset_index()
    return table.assign(benchmark=each.benchmark, request=each.request, metric=metric)[TEST_COLUMNS]


def per_seed_gaps(each: Compared, metrics: list[str]) -> pd.DataFrame:
    """Gaps to the same training seed's retrain: index seed, columns (metric, method)."""
    return each.gaps(metrics).groupby(level="seed").mean()


def seed_distances(gaps: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """|gap| per seed of the metrics in `AVERAGED`, and their mean, `avg_gap`: index seed, columns methods."""
    away = {metric: gaps[metric].abs() for metric in AVERAGED if metric in gaps.columns.unique("metric")}
    if len(away) == len(AVERAGED):
        away["avg_gap"] = sum(away.values()) / len(AVERAGED)
    return away


def blocks(params: Params, judged: Judged) -> dict[tuple[str, str], pd.DataFrame]:
    """(benchmark, request) -> average gap of each method in each training seed: index seed, columns methods."""
    found = {}
    for each in compared(params, judged):
        away = seed_distances(per_seed_gaps(each, list(AVERAGED)))
        found[each.benchmark, each.request] = away.get("avg_gap", pd.DataFrame())
    return found


def ranks(params: Params, judged: Judged) -> pd.DataFrame:
    """Ranks by average gap, with everything and with a metric or a training seed left out: `RANK_COLUMNS`."""
    parts = []
    for each in compared(params, judged):
        gaps = each.gaps(list(AVERAGED))
        if len(gaps.columns.unique("method")) > 1 and len(gaps.columns.unique("metric")) == len(AVERAGED):
            parts.append(rank_stability(gaps).assign(benchmark=each.benchmark, request=each.request)[RANK_COLUMNS])
    return pd.concat(parts or [pd.DataFrame(columns=RANK_COLUMNS)], ignore_index=True)


def requests(benchmark: Benchmark) -> list[tuple[str, frozenset[str], list[str]]]:
    """What stands in the leaderboard's column `request`: its name, its kinds, the targets that it averages."""
    return [
        (row, row_kinds(request, section)[row], targets)
        for request, section in benchmark.requests.items()
        for row, targets in rows(request, section).items()
    ]


def run_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Metrics of each run of a method, averaged over judging seeds: index `RUN`, columns metrics.

    A training seed with a failed run is left out whole, and so is a metric of a training seed that not each of its
    runs has, so that every mean is over the same targets.
    """
    ok = _reported(runs[runs["seed"].notna()])
    failed = runs.loc[runs["status"] != "ok", "seed"].unique()
    kept = ok[~ok["seed"].isin(failed)]
    order = list(dict.fromkeys(kept["metric"]))
    table = kept.pivot_table(index=RUN, columns="metric", values="value", aggfunc="mean", dropna=False)[order]
    return table.where(table.notna().groupby(level="seed").transform("all"))


def together_rows(each: Compared, method: str) -> list[dict[str, Any]]:
    """Metrics of all training seeds together, each the mean over the request's targets and unlearning seeds.

    A row a metric that every target has. They have no interval: there is one value.
    """
    whole, number = _reported(each.runs[each.runs["seed"].isna()]), math.prod(each.levels)
    mean, reference = (
        whole[whole["method"] == name].groupby("metric", sort=False)["value"].agg(["mean", "count"])
        for name in (method, "retrain")
    )
    mean, reference = mean[mean["count"] == number], reference[reference["count"] == number]
    n = len(each.values[method].index.unique("seed"))
    gaps = mean["mean"] - reference["mean"].reindex(mean.index)
    return [{"metric": metric, "mean": value, "n": n, "gap": gaps[metric]} for metric, value in mean["mean"].items()]


def _reported(runs: pd.DataFrame) -> pd.DataFrame:
    """What the leaderboard shows of runs that did not fail."""
    metric = runs["metric"].fillna("")
    return runs[(runs["status"] == "ok") & ~metric.str.endswith(OF_RUNS) & ~metric.str.contains(PER_BANK)]


def with_relative_cost(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with `samples` and `flops`, of all kinds, relative to a mean retrain of the same seed."""
    retrain, parts = run_table(runs[runs["method"] == "retrain"]), [runs]
    for name, ways in PASSES.items():
        spent = runs[runs["metric"].isin(ways)].groupby(["benchmark", "request", "method", *RUN])["value"].sum()
        if spent.empty or retrain.empty or not set(ways) <= set(retrain):
            continue
        whole = retrain[ways].sum(axis=1).groupby(level="seed").mean()
        relative = spent / whole.reindex(spent.index.get_level_values("seed")).to_numpy()
        parts.append(relative.dropna().reset_index().assign(metric=name, status="ok"))
    return pd.concat(parts, ignore_index=True)


def _break_even(each: Compared, method: str) -> list[dict[str, Any]]:
    """`flops_break_even`, of the mean costs over runs; it has no interval, since it may be infinite."""
    values, retrain = each.values[method], each.values["retrain"]
    if values.empty or retrain.empty or "flops_prepare" not in values:
        return []
    once, request, again = (
        t.sum(axis=1) for t in (values[["flops_prepare"]], values[PASSES["flops"]], retrain[PASSES["flops"]])
    )
    if "round_targets" in values:
        request = request - once / values["round_targets"]
    value = break_even(once.mean(), request.mean(), again.mean())
    return [{"metric": "flops_break_even", "mean": value, "n": len(values.index.unique("seed"))}]


def status_of(runs: pd.DataFrame) -> str:
    """'ok', or how many runs failed and why the first did."""
    failed = runs[runs["status"] != "ok"]
    if failed.empty:
        return "ok" if len(runs) else "failed: no run was judged"
    total = len(runs.loc[runs["seed"].notna(), RUN].drop_duplicates())
    reason = str(failed["status"].iloc[0]).removeprefix("failed: ")
    return f"failed: {len(failed)} of {total} runs; {reason}"


def metric_rows(values: pd.DataFrame, each: Compared, method: str) -> list[dict[str, Any]]:
    """A row a metric; `gap` is to retrain's mean, signed, and costs have none.

    The intervals are over all levels of runs, that of the gap with each run beside the retrain of the same seeds and
    target; floor and verdict are of means over targets, a number a training seed.
    """
    values = values.dropna(axis=1, how="all")
    if values.empty:
        return []
    seeds, reference = values.groupby(level="seed").mean(), each.values["retrain"].groupby(level="seed").mean()
    draws, rows = each.draws(len(seeds)), []
    low, high = draws.interval(values.to_numpy())
    gaps = (values - each.values["retrain"].reindex(values.index)).dropna(axis=1, how="all")
    bounds = dict(zip(gaps.columns, np.transpose(draws.interval(gaps.to_numpy())), strict=True))
    for i, metric in enumerate(values.columns):
        own = seeds[metric].dropna().to_numpy()
        row = {"metric": metric, "mean": own.mean(), "ci_low": low[i], "ci_high": high[i], "n": len(own)}
        if metric not in COSTS and metric in reference and reference[metric].notna().any():
            retrain = reference[metric].dropna().to_numpy()
            test = equivalence(own, retrain)
            row |= {"gap": test.gap, "floor": noise_floor(retrain, len(own)), "margin": test.margin}
            if method != "retrain":
                row |= dict(zip(["gap_low", "gap_high"], bounds.get(metric, ()), strict=False))
                row |= {"p_equivalence": test.p, "verdict": test.verdict}
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

"""From the runs' tidy tables to the leaderboard's: one row a benchmark, request, method and metric.

Which rows there are is decided by params.yaml, never by the files that lie in a folder: a method that
was taken out leaves none, a run that is missing is an error.
"""

import math
from collections.abc import Collection, Iterator
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
from bench.metrics.distances import AGAINST_RETRAINS, apart
from bench.metrics.statistics import noise_floor
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
RUN_TYPES = {"seed": "Int64", "metric": str, "status": str, "value": float}  # a table without rows has them too
CLASS_TYPES = {"class": int, "accuracy": float}
PINNED = ("original", "retrain")
AVERAGED = ("UA", "RA", "TA", "mia_salun")  # SalUn's 'Avg. Gap' (arXiv:2310.12508, Table 1)
PASSES = {"samples": ["samples_forward", "samples_backward"], "flops": [f"flops_{way}" for way in WAYS]}
COSTS = ("samples", *PASSES["samples"], "round_targets", "flops", *PASSES["flops"], "flops_prepare")
COSTS += ("flops_break_even", "stored_bytes")
OF_RUNS = ("_low", "_high")  # what ends so is an interval within one run, and stays in runs.csv
PER_BANK = "_models_"  # numbers of models: in attack.json
NO_METRIC = ("_exact", "_samples", "_floor", "_reached")  # what ends so says something of a metric, and has no target
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
        columns = pd.MultiIndex.from_product([metrics, methods], names=["metric", "method"])
        if columns.empty:
            return pd.DataFrame(index=retrain.index, columns=columns)
        gaps = {m: self.values[m].reindex(retrain.index)[metrics] - retrain[metrics] for m in methods}
        return pd.concat(gaps, axis=1, names=["method", "metric"]).swaplevel(axis=1)[columns]

    def draws(self, seeds: int) -> Bootstrap:
        """Draws of the runs of so many training seeds, the same for every method."""
        return _draws(self.benchmark, self.request, seeds, *self.levels)


@lru_cache(maxsize=8)
def _draws(benchmark: str, request: str, training: int, unlearning: int, targets: int) -> Bootstrap:
    return bootstrap(training, unlearning, targets, numpy_generator(benchmark, request, "bootstrap"))


def has_target(metric: str) -> bool:
    """Whether retrain's value is what it should be; else it is a cost, or a number beside a metric."""
    return metric not in COSTS and not metric.endswith(NO_METRIC)


def by_seeds(values: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Parts of a table of runs, index `RUN`: columns that have values of the same training seeds, and these alone."""
    present = values.notna().groupby(level="seed").all()
    alike: dict[tuple[int, ...], list[str]] = {}
    for metric in values.columns:
        alike.setdefault(tuple(present.index[present[metric]]), []).append(metric)
    for seeds, metrics in alike.items():
        if seeds:
            yield values.loc[values.index.get_level_values("seed").isin(seeds), metrics]


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
    gaps = each.gaps([c for c in each.values["retrain"] if has_target(c)])
    found: dict[tuple[str, str], dict[str, int]] = {}
    parts: dict[str, list[str]] = {metric: [metric] for metric in gaps.columns.unique("metric")}
    if set(AVERAGED) <= parts.keys():
        parts["avg_gap"] = list(AVERAGED)
    for metric, names in parts.items():
        here = gaps[names].dropna(axis=1, how="all")
        here = here[here.notna().all(axis=1).groupby(level="seed").transform("all")]  # seeds that all methods have
        if not here.empty:
            draws = each.draws(len(here.index.unique("seed")))
            table = rank_ranges(here, draws).rename(columns={"low": "rank_low", "high": "rank_high"})
            found |= {(metric, str(method)): row for method, row in table.to_dict("index").items()}
    return found


def tests(params: Params, judged: Judged, metrics: Collection[str]) -> pd.DataFrame:
    """Paired tests over training seeds of some metrics, with the columns `TEST_COLUMNS`.

    With `other` = retrain the gap, of each metric; between two methods the difference of their distances to
    retrain, of `AVERAGED` and of the average gap. Holm's correction is over the rows of one request and metric of
    either kind.
    """
    parts = []
    for each in compared(params, judged):
        wanted = {*metrics, *AVERAGED} - {*COSTS}
        gaps = per_seed_gaps(each, [c for c in each.values["retrain"] if c in wanted])
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
    gaps[[not has_target(m) or m.endswith("_leakage") for m in gaps.index]] = math.nan  # retrain has half the models
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
    target; floor and verdict are of means over targets, a number a training seed. A metric of some seeds alone is
    taken for these.
    """
    values = values.dropna(axis=1, how="all")
    if values.empty:
        return []
    seeds, reference = values.groupby(level="seed").mean(), each.values["retrain"].groupby(level="seed").mean()
    own_bounds = _intervals(values, each)
    bounds, rows = _intervals(values - each.values["retrain"].reindex(values.index), each), []
    for metric in values.columns:
        own, (low, high) = seeds[metric].dropna().to_numpy(), own_bounds[metric]
        row = {"metric": metric, "mean": own.mean(), "ci_low": low, "ci_high": high, "n": len(own)}
        if has_target(metric) and metric in reference and reference[metric].notna().any():
            retrain = reference[metric].dropna().to_numpy()
            gap = own.mean() - retrain.mean()
            if metric.startswith(AGAINST_RETRAINS):
                retrain = apart(retrain)
            test = equivalence(own, retrain)
            row |= {"gap": gap, "floor": noise_floor(retrain, len(own)), "margin": test.margin}
            if method != "retrain":
                row |= dict(zip(["gap_low", "gap_high"], bounds.get(metric, ()), strict=False))
                row |= {"p_equivalence": test.p, "verdict": test.verdict}
        rows.append(row)
    return rows + _average_gap(rows)


def _intervals(values: pd.DataFrame, each: Compared) -> dict[str, tuple[float, float]]:
    """Metric -> bounds of the mean over runs."""
    found: dict[str, tuple[float, float]] = {}
    for part in by_seeds(values):
        low, high = each.draws(len(part.index.unique("seed"))).interval(part.to_numpy())
        found |= dict(zip(part.columns, zip(low, high, strict=True), strict=True))
    return found


def _average_gap(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`avg_gap`: mean of |gap| over UA, RA, TA and mia_salun.

    It has neither interval nor floor: noise alone makes a mean of absolute values positive.
    """
    parts = [row for row in rows if row["metric"] in AVERAGED and "gap" in row]
    if len(parts) < len(AVERAGED):
        return []
    mean = float(np.mean([abs(row["gap"]) for row in parts]))
    return [{"metric": "avg_gap", "mean": mean, "n": min(r["n"] for r in parts), "gap": mean}]

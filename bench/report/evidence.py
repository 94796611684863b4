"""What the page shows beside the leaderboard: where samples go, how they are relearned, what results were made with."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench import store
from bench.config import Params
from bench.errors import BadInput
from bench.report.charts import DATA, NETWORKS
from bench.report.tables import PINNED, Judged, requests

SHOWN = 4  # destinations of a class that are named
WIDE = 3  # classes in a forget set up to which its destinations are shown


@dataclass(frozen=True)
class Evidence:
    """Beside the leaderboard, of the benchmarks of `run`.

    Attributes:
        confusion: rows of `attack`'s confusion.csv, of the forget sets.
        curves: rows of `probe`'s curves.csv, of the forget sets.
        provenance: of each benchmark what its results were made of and with, term -> text.
    """

    confusion: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    provenance: dict[str, dict[str, str]] = field(default_factory=dict)


def read(params: Params, judged: Judged) -> Evidence:
    """Read what `attack`, `probe` and `data` left; of `data/costs` commit, hardware and versions, and no time.

    Raises:
        BadInput: a file is missing or cannot be read.
    """
    confusion, curves = [], []
    for benchmark in params.run:
        for method in params.methods:
            table = _csv(store.table_folder(benchmark, method) / "confusion.csv")
            confusion.append(table[table["set"] == "forget"])
            if params.benchmark(benchmark).probe:
                table = _csv(store.probe_folder(benchmark, method) / "curves.csv")
                curves.append(table[table["split"] == "forget"])
    return Evidence(
        pd.concat(confusion, ignore_index=True),
        pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        {benchmark: provenance(params, judged, benchmark) for benchmark in params.run},
    )


def _csv(path: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; `dvc repro` makes it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: damaged table ({error}); delete it and run `dvc repro` again") from None


def provenance(params: Params, judged: Judged, benchmark: str) -> dict[str, str]:
    """Hashes of data and parameters; commits, hardware and versions with the number of methods made with each."""
    splits = store.read_json(store.dataset_folder(benchmark) / "audit.json")["splits"]
    settings = params.benchmark(benchmark).model_dump(mode="json")
    settings["methods"] = {m: judged.cards[benchmark, m]["hyperparameters"] for m in params.methods}
    costs = [store.read_json(store.cost_file(benchmark, method)) for method in params.methods]
    stamps = [cost["stamp"] for cost in costs]
    machines = [{run["hardware"] for run in cost["runs"]} for cost in costs]
    return {
        "Data": "; ".join(f"{name} {splits[name]['sha256'][:16]}" for name in store.SPLITS if name in splits),
        "Parameters": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
        "Commit": _counted([stamp["commit"] for stamp in stamps]),
        "Hardware": _counted([" and ".join(sorted(found)) for found in machines if found]),
        "Versions": _counted(
            [", ".join(" ".join(v) for v in sorted(cost["stamp"]["versions"].items())) for cost in costs]
        ),
    }


def _counted(values: list[str]) -> str:
    """'abc' where all agree, else 'abc (19 methods), def (2 methods)'."""
    counts = pd.Series(values, dtype=str).value_counts(sort=False)
    if len(counts) < 2:
        return "".join(counts.index)
    return "; ".join(f"{value} ({count} method{'s' * (count > 1)})" for value, count in counts.items())


def destinations(confusion: pd.DataFrame, method: str) -> list[dict[str, Any]]:
    """Where a method sends each forgotten class, beside retrain: the largest shares, and the distance of the two.

    Of targets that forget samples of at most `WIDE` classes. `distance` is the total variation: the share of samples
    that would have to go elsewhere.
    """
    if confusion.empty:
        return []
    runs = ["benchmark", "target", "seed", "unlearning_seed"]
    found = []
    for (benchmark, target), here in confusion.groupby(["benchmark", "target"], sort=False):
        if here["class"].nunique() > WIDE:
            continue
        for cls, rows in here.groupby("class"):
            shares = {}
            for name in (method, "retrain"):
                own = rows[rows["method"] == name]
                number = len(own[runs].drop_duplicates())
                shares[name] = own.groupby("predicted")["share"].sum() / max(number, 1)
            ours, theirs = shares[method], shares["retrain"]
            if len(ours):
                entry = {"benchmark": benchmark, "target": target, "class": cls, "ours": _largest(ours)}
                entry |= {"retrain": _largest(theirs), "distance": ""}
                if len(theirs):
                    entry["distance"] = f"{50 * ours.sub(theirs, fill_value=0).abs().sum():.0f} %"
                found.append(entry)
    return found


def _largest(shares: pd.Series) -> str:
    largest = shares.sort_values(ascending=False, kind="stable").head(SHOWN)
    return ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in largest.items() if share >= 0.005)


def relearning(params: Params, curves: pd.DataFrame, method: str) -> list[dict[str, Any]]:
    """Of each benchmark and request with curves: mean accuracy by step of a method, beside retrain and the original.

    `curves` are rows for the chart of that name, `ends` the first and the last accuracy in words.
    """
    found = []
    names = dict(zip((method, "retrain", "original"), NETWORKS, strict=True))
    for benchmark in params.run if len(curves) and method not in PINNED else []:
        for request, _, targets in requests(params.benchmark(benchmark)):
            here = curves[(curves["benchmark"] == benchmark) & curves["target"].isin(targets)]
            if not (here["method"] == method).any():
                continue
            here = here.assign(network=here["method"].map(names), data=here["data"].map(DATA).fillna(here["data"]))
            mean = (100 * here.groupby(["network", "data", "step"])["accuracy"].mean()).round(2)
            kinds = [data for data in DATA.values() if data in mean.index.unique("data")]
            ends = [{"data": data, "accuracies": [_ends(mean, name, data) for name in NETWORKS]} for data in kinds]
            rows = mean.reset_index().to_dict("records")
            found.append({"benchmark": benchmark, "request": request, "curves": rows, "ends": ends})
    return found


def _ends(mean: pd.Series, network: str, data: str) -> str:
    if (network, data) not in mean.index.droplevel("step"):
        return "–"
    values = mean[network, data]
    return f"{values.iloc[0]:.0f} → {values.iloc[-1]:.0f} %"

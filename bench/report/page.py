"""reports/index.html: one file that loads nothing, with a table a request.

The tables are plain HTML and read without JavaScript; DataTables, from the copy that the package itables
ships, makes them sortable and searchable and keeps `original` and `retrain` on top.
"""

import base64
import json
import math
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from bench.config import Params
from bench.metrics.comparisons import INDISTINGUISHABLE
from bench.report import text
from bench.report.tables import COSTS, LEFT_OUT, NOT_SERVED, PINNED, Judged, requests

LAST = 1e9  # where a cell without a gap goes when the table is sorted


def render(params: Params, table: pd.DataFrame, judged: Judged) -> str:
    """The page; the same bytes for the same tables."""
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    bundle = files("itables").joinpath("html/dt_bundle.js").read_bytes()
    sections = [
        section(params, str(benchmark), str(request), here)
        for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False)
    ]
    return environment.get_template("index.html").render(
        sections=sections,
        methods=[method_entry(m, params, judged) for m in params.methods],
        marks=f"{text.MARKS_MEANING}. {text.RANK_MEANING}.",
        meaning={title: text.MEANING[m] for m, title in text.HEADLINE.items()},
        shared=f"{text.SHARED} {text.SHARED_MEANING}." if "round_targets" in set(table["metric"]) else "",
        datatables=base64.b64encode(bundle).decode(),
    )


def section(params: Params, name: str, request: str, here: pd.DataFrame) -> dict[str, Any]:
    """What the template shows of one benchmark and request."""
    benchmark = params.benchmark(name)
    shown = [m for m in text.HEADLINE if m in set(here["metric"])]
    rows = []
    for method in text.ordered(here):
        values = {r.metric: r for r in here[here["method"] == method].itertuples()}
        status = next(iter(values.values())).status
        pinned = PINNED.index(method) if method in PINNED else len(PINNED)
        cells = [cell(values[m], len(benchmark.seeds)) if m in values else {"order": LAST, "value": "-"} for m in shown]
        if "round_targets" in values and "samples" in shown:
            last = cells[shown.index("samples")]
            last["value"] = f"{last['value']}{text.SHARED}"
        absent = "does not serve this request" if status == NOT_SERVED else status if LEFT_OUT in status else ""
        place = values.get("avg_gap")
        rows.append(
            {
                "method": method,
                "pinned": pinned,
                "status": status,
                "absent": absent,
                "rank": text.places(place),
                "rank_order": LAST if place is None or math.isnan(place.rank) else place.rank,
                "cells": cells,
            }
        )
    floors = here[here["method"] == "retrain"].set_index("metric")["floor"]
    return {
        "id": f"{name}-{request}",
        "benchmark": name,
        "request": request,
        "kind": next(" and ".join(sorted(kinds)) for row, kinds, _ in requests(benchmark) if row == request),
        "dataset": benchmark.dataset.name,
        "architecture": benchmark.architecture.name,
        "seeds": len(benchmark.seeds),
        "unlearning_seeds": len(benchmark.unlearning_seeds),
        "columns": [
            {"title": text.HEADLINE[m], "meaning": text.MEANING[m], "floor": text.number(m, floors.get(m, math.nan))}
            for m in shown
        ],
        "rows": rows,
        "no_gaps": not len(floors) or here.loc[here["method"] == "retrain", "n"].max() == 0,
    }


def cell(row: Any, seeds: int) -> dict[str, Any]:
    """A value with its interval, gap, floor and mark; ordered by the distance to retrain, costs by size.

    `n` is shown where it is smaller than the benchmark's number of seeds.
    """
    cost = row.metric in COSTS
    shown = {
        "value": text.number(row.metric, row.mean),
        "order": row.mean if cost else LAST if math.isnan(row.gap) else abs(row.gap),
        "mark": text.mark(row),
        "near": row.verdict == INDISTINGUISHABLE,
        "interval": text.interval(row),
        "gap": "",
        "floor": "",
        "n": row.n if row.n < seeds else "",
    }
    if not cost and row.method != "retrain" and row.metric != "avg_gap" and not math.isnan(row.gap):
        shown["gap"] = f"{100 * row.gap:+.2f}"
        shown["floor"] = "" if math.isnan(row.floor) else f"{100 * row.floor:.2f}"
    return shown


def method_entry(method: str, params: Params, judged: Judged) -> dict[str, Any]:
    """A method's card, and its hyperparameters on each benchmark that was run."""
    hyperparameters = {b: judged.cards[b, method]["hyperparameters"] for b in params.run}
    return {
        "name": method,
        "card": judged.cards[params.run[0], method]["card"],
        "hyperparameters": {
            benchmark: ", ".join(f"{k} = {json.dumps(v)}" for k, v in values.items()) or "none"
            for benchmark, values in hyperparameters.items()
        },
    }

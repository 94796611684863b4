"""reports/index.html: one file that loads nothing, with a tab a benchmark and request, and a section a method.

Everything reads without JavaScript: tables are plain HTML, charts stand there as SVG, all tabs below each other. With
it, DataTables (from the copy that the package itables ships) sorts and filters, Vega (as vl-convert bundles it) draws
charts that answer the pointer; both lie in the file, packed by zlib. templates/glue.js joins them.

The page has the same bytes for the same tables, parameters and stamps of commit, hardware and versions; it holds no
times.
"""

import base64
import json
import math
import re
import zlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from bench.config import Params
from bench.metrics.comparisons import INDISTINGUISHABLE
from bench.report import charts, evidence, text
from bench.report.downloads import links
from bench.report.evidence import Evidence
from bench.report.flags import ACCESS, FLAGS, RULED_OUT, Rows, access, advice, controls, flags
from bench.report.tables import COSTS, LEFT_OUT, NOT_SERVED, PINNED, Judged, requests

LAST = 1e9  # where a cell without a gap goes when the table is sorted
FAMILIES = {  # of metrics, by what their names begin with
    "Accuracy": ("UA", "RA", "TA", "ACC_"),
    "Membership attacks": ("mia_",),
    "Likelihood-ratio attacks": ("ulira", "ruli", "rmia"),
    "Distances over models": ("klom", "epsilon"),
    "Distances of predictions": (
        *("js_", "kl_", "churn", "disagreement", "activation_", "completeness", "zrf", "confusion_forget"),
        *("confusion_test", "indiscernibility", "retention_deviation"),
    ),
    "Summaries": ("avg_gap", "tow", "aus", "nomus"),
    "Manipulated data": ("poison", "corruption", "confusion"),
    "Cost": ("samples", "flops", "stored_bytes", "round_targets"),
}
REST = "Weights, features and relearning"
ALL_COLUMNS = ["Family", "Metric", "Method", "Value", "95 % interval", "Gap", "Its interval", "Floor", "n", "Verdict"]
ALL_COLUMNS += ["Rank"]


def render(
    params: Params,
    table: pd.DataFrame,
    judged: Judged,
    found: Evidence | None = None,
    reproduction: pd.DataFrame | None = None,
) -> str:
    """The page.

    Args:
        table: the leaderboard.
        found: what stands beside it; without it the page has no confusions, curves and provenance.
        reproduction: a table for a tab of its own, published values beside ours.
    """
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = found or Evidence()
    sections = [
        section(params, judged, str(benchmark), str(request), here)
        for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False)
    ]
    methods = [method_entry(m, params, judged, found) for m in params.methods]
    drawn = {s["id"]: s["chart"] for s in sections if s["chart"]}
    drawn |= {curve["id"]: curve["chart"] for entry in methods for curve in entry["curves"]}
    return environment.get_template("index.html").render(
        sections=sections,
        methods=methods,
        marks=f"{text.MARKS_MEANING}. {text.RANK_MEANING}.",
        meaning={title: text.MEANING[m] for m, title in text.HEADLINE.items()},
        shared=f"{text.SHARED} {text.SHARED_MEANING}." if "round_targets" in set(table["metric"]) else "",
        access=ACCESS,
        flags=FLAGS,
        ruled_out=RULED_OUT,
        provenance=found.provenance,
        reproduction=None if reproduction is None else cells_of(reproduction),
        all_columns=ALL_COLUMNS,
        charts=packed(json.dumps(drawn).encode()),
        datatables=packed(files("itables").joinpath("html/dt_bundle.js").read_bytes()),
        vega=packed(charts.library()),
    )


def packed(content: bytes) -> str:
    """Bytes for a `script` element that is no script: compressed as browsers can undo ('deflate'), in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def cells_of(table: pd.DataFrame) -> dict[str, Any]:
    """A table as text, NaN as nothing, for the template to escape."""
    shown = table.astype(object).where(table.notna(), "")
    return {"columns": [str(c) for c in table.columns], "rows": [[str(v) for v in row] for row in shown.to_numpy()]}


def section(params: Params, judged: Judged, name: str, request: str, here: pd.DataFrame) -> dict[str, Any]:
    """What the template shows of one benchmark and request."""
    benchmark = params.benchmark(name)
    shown = [m for m in text.HEADLINE if m in set(here["metric"])]
    cards = {m: judged.cards[name, m]["card"] for m in params.methods}
    rows, served, bad = [], {}, {}
    for method in text.ordered(here):
        values = {r.metric: r for r in here[here["method"] == method].itertuples()}
        status = next(iter(values.values())).status
        values = {metric: row for metric, row in values.items() if metric and row.n}
        absent = "does not serve this request" if status == NOT_SERVED else status if LEFT_OUT in status else ""
        bad[method] = [] if absent else flags(method, status, values, cards[method])
        if values:
            served[method] = values
        rows.append(board_row(method, values, shown, len(benchmark.seeds)))
        rows[-1] |= {"status": status, "absent": absent, "flags": bad[method], "access": access(cards[method])}
    floors = here[here["method"] == "retrain"].set_index("metric")["floor"]
    apart = controls(params, cards)
    chart = charts.pareto(served, cards, apart)
    papers = {m: card["paper"] for m, card in cards.items()}
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
        "advice": advice(served, cards, bad, apart),
        "untouched": untouched(served),
        "downloads": links(f"{name}-{request}", here, papers),
        "chart": chart,
        "svg": Markup(charts.svg(chart)) if chart else "",
        "metrics": here.loc[here["metric"] != "", "metric"].nunique(),
        "all": packed(json.dumps(every_metric(here), ensure_ascii=False).encode()),
    }


def untouched(served: Mapping[str, Rows]) -> str:
    """How far from retrain a network is that forgot nothing: what any method has to win here."""
    rows = served.get("original", {})
    return f"{100 * rows['avg_gap'].mean:.2f}" if "avg_gap" in rows else ""


def board_row(method: str, values: Rows, shown: list[str], seeds: int) -> dict[str, Any]:
    """A method's cells of the headline metrics, and its place."""
    cells = [cell(values[m], seeds) if m in values else {"order": LAST, "value": "-"} for m in shown]
    if "round_targets" in values and "samples" in shown:
        last = cells[shown.index("samples")]
        last["value"] = f"{last['value']}{text.SHARED}"
    place = values.get("avg_gap")
    return {
        "method": method,
        "pinned": PINNED.index(method) if method in PINNED else len(PINNED),
        "rank": text.places(place),
        "rank_order": LAST if place is None or math.isnan(place.rank) else place.rank,
        "cells": cells,
    }


def cell(row: Any, seeds: int) -> dict[str, Any]:
    """A value with its interval, gap, its interval and mark; ordered by the distance to retrain, costs by size.

    `n` is told apart where it is smaller than the benchmark's number of seeds.
    """
    cost = row.metric in COSTS
    shown = {
        "value": text.number(row.metric, row.mean),
        "order": row.mean if cost else LAST if math.isnan(row.gap) else abs(row.gap),
        "mark": text.mark(row),
        "near": row.verdict == INDISTINGUISHABLE,
        "interval": text.interval(row),
        "gap": "",
        "bounds": "",
        "n": row.n,
        "few": row.n < seeds,
    }
    if not cost and row.method != "retrain" and row.metric != "avg_gap" and not math.isnan(row.gap):
        shown["gap"] = signed(row.gap)
        shown["bounds"] = "" if math.isnan(row.gap_low) else f"[{signed(row.gap_low)}, {signed(row.gap_high)}]"
    return shown


def signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def every_metric(here: pd.DataFrame) -> list[list[str]]:
    """Rows of `ALL_COLUMNS` as escaped text, in the units of leaderboard.csv: by family, metric, then as the board."""
    place = {method: i for i, method in enumerate(text.ordered(here))}
    families = [*FAMILIES, REST]
    rows = []
    for r in here[here["metric"] != ""].itertuples():
        of = family(r.metric)
        entry = [of, r.metric, r.method, plain(r.mean), between(r.ci_low, r.ci_high)]
        entry += [plain(r.gap), between(r.gap_low, r.gap_high), plain(r.floor), str(r.n)]
        entry += ["" if pd.isna(r.verdict) else r.verdict, "" if math.isnan(r.rank) else text.places(r)]
        rows.append(((families.index(of), r.metric, place[r.method]), [str(escape(value)) for value in entry]))
    return [entry for _, entry in sorted(rows, key=lambda row: row[0])]


def family(metric: str) -> str:
    """The family of the longest beginning that fits."""
    fits = [(len(start), name) for name, starts in FAMILIES.items() for start in starts if metric.startswith(start)]
    return max(fits, default=(0, REST))[1]


def plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def between(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.4g}, {high:.4g}]"


def method_entry(method: str, params: Params, judged: Judged, found: Evidence) -> dict[str, Any]:
    """A method's section: card, hyperparameters on each benchmark, where its samples go, how they are relearned."""
    entries = {b: judged.cards[b, method] for b in params.run}
    first = entries[params.run[0]]
    card, file = first["card"], str(first.get("file", ""))
    curves = evidence.relearning(params, found.curves, method)
    for curve in curves:
        curve["id"] = f"relearning-{curve['benchmark']}-{curve['request']}-{method}"
        curve["chart"] = charts.curves() | {"datasets": {"curves": curve.pop("curves")}}
    return {
        "name": method,
        "card": card,
        "access": access(card),
        "file": file,
        "source": f"../{file}" if re.fullmatch(r"methods/\w+\.py", file) else "",
        "url": url if (url := (card["paper"] or {}).get("url", "")).startswith(("https://", "http://")) else "",
        "hyperparameters": {b: entry["hyperparameters"] for b, entry in entries.items()},
        "destinations": evidence.destinations(found.confusion, method),
        "curves": curves,
    }

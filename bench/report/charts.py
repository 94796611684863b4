"""Charts of the page, as Vega-Lite (Altair): drawn by the reader's browser, and once as SVG for those without scripts.

Lines and letters take the page's own colour (`currentColor`), so that a chart follows it into dark mode. Every series
has a shape or a dash of its own.
"""

import json
import math
from collections.abc import Collection
from functools import cache
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from bench.report.flags import access, cost
from bench.report.tables import PINNED

KINDS = {  # of methods, by their access cards -> shape, colour (Okabe and Ito's, readable on white and on black)
    "reference": ("cross", "#999999"),
    "control": ("triangle-down", "#999999"),
    "training-free, retain-free": ("triangle-up", "#E69F00"),
    "training-free": ("diamond", "#009E73"),
    "retain-free": ("square", "#CC79A7"),
    "trains on retained data": ("circle", "#3B8FD0"),
}
APART = ("reference", "control")  # not among what is compared
POINTS = [0, 0.1, 0.3, 1, 3, 10, 30, 100]  # ticks of the axis of gaps, percentage points
TIMES = [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]  # and of that of costs
DATA = {"all": "all data", "retain": "retained data", "few-shot": "a few of each class"}
NETWORKS = {  # whose curves are compared -> shape, dash, colour
    "this method": ("circle", [1, 0], "#D55E00"),
    "retrain": ("square", [6, 3], "#3B8FD0"),
    "original": ("triangle-up", [2, 2], "#999999"),
}
WIDTH = 640  # of the SVG; the browser takes the width that there is
INK = "currentColor"
PLAIN = "'' + datum.value"  # as the ticks above are written


def _config(chart: Any) -> Any:
    axis = {"labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK, "gridColor": "#80808040"}
    return (
        chart.configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(**axis, labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
        .configure_legend(labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=12, labelLimit=260)
        .configure_header(labelColor=INK, titleColor=INK, labelFontSize=12)
        .configure_text(color=INK, fontSize=12)
        .configure_rule(color=INK)
    )


def pareto(
    methods: dict[str, Any], cards: dict[str, dict[str, Any]], apart: Collection[str] = ()
) -> dict[str, Any] | None:
    """Average gap against cost, relative to retraining, and the line of what is not beaten on both.

    Args:
        methods: of each method its rows by metric.
        apart: controls.

    Returns:
        A Vega-Lite specification; None if fewer than two methods have a gap and a cost.
    """
    found = []
    for method, rows in methods.items():
        spent = cost(rows)
        if "avg_gap" in rows and not math.isnan(spent):
            gap = rows["avg_gap"]
            ranks = "" if math.isnan(gap.rank) else f"{gap.rank:.0f} ({gap.rank_low:.0f}–{gap.rank_high:.0f})"
            of_card = ", ".join(n for n in access(cards[method]) if n in {"training-free", "retain-free"})
            kind = "reference" if method in PINNED else of_card or "trains on retained data"
            kind = "control" if kind != "reference" and method in apart else kind
            kind = ", ".join(sorted(kind.split(", "), reverse=True))
            point = {"method": method, "cost": round(spent, 4), "gap": round(100 * gap.mean, 4)}
            found.append(point | {"rank": ranks, "kind": kind})
    if len(found) < 2:
        return None
    found = sorted(found, key=lambda point: (point["cost"], point["gap"]))
    for point in found:
        point["front"] = point["kind"] not in APART and not any(_beats(other, point) for other in found)
    for point in found:
        if point["kind"] in APART:
            point |= {"label": point["method"], "below": False}
    for i, point in enumerate(p for p in found if p["front"]):
        point |= {"label": point["method"], "below": bool(i % 2)}  # so that neighbours don't overlap
    table = pd.DataFrame(found)
    kinds = [k for k in KINDS if k in set(table["kind"])]
    ticks = [t for t in TIMES if t <= 1.5 * table["cost"].max()]
    heights = [t for t in POINTS if t <= 1.5 * max(0.1, table["gap"].max())]
    x = alt.X(
        "cost:Q",
        title="cost relative to retraining",
        scale=alt.Scale(type="symlog", constant=0.01, domain=[0, 1.6 * max(1.0, table["cost"].max())]),
        axis=alt.Axis(values=ticks, labelExpr=PLAIN),
    )
    y = alt.Y(
        "gap:Q",
        title="average gap to retrain, points",
        scale=alt.Scale(type="symlog", constant=0.1, domain=[0, 1.3 * max(0.1, table["gap"].max())]),
        axis=alt.Axis(values=heights, labelExpr=PLAIN),
    )
    base = alt.Chart(table).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("method:N"),
        alt.Tooltip("gap:Q", title="average gap, points", format=".2f"),
        alt.Tooltip("cost:Q", title="cost / retrain", format=".3f"),
        alt.Tooltip("rank:N", title="rank (range)"),
        alt.Tooltip("kind:N"),
    ]
    shapes, colours = ([KINDS[k][i] for k in kinds] for i in (0, 1))
    points = base.mark_point(size=110, filled=True, opacity=1).encode(
        shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds, range=shapes)),
        color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds, range=colours)),
        tooltip=tooltip,
    )
    line = base.transform_filter("datum.front").mark_line(color=INK, opacity=0.5, strokeDash=[4, 3], strokeWidth=1)
    names = base.transform_filter("isValid(datum.label)").encode(text="label:N")
    above = names.transform_filter("!datum.below").mark_text(align="left", dx=8, dy=-8)
    below = names.transform_filter("datum.below").mark_text(align="right", dx=-8, dy=10)
    chart = alt.layer(line.encode(order="cost:Q"), points, above, below).properties(width="container", height=330)
    chart = _config(chart).configure_legend(
        orient="bottom", columns=2, labelColor=INK, labelFontSize=12, labelLimit=260, symbolSize=90
    )
    return dict(chart.to_dict())


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one["kind"] in APART:
        return False
    no_worse = one["cost"] <= other["cost"] and one["gap"] <= other["gap"]
    return bool(no_worse and (one["cost"] < other["cost"] or one["gap"] < other["gap"]))


@cache
def curves() -> dict[str, Any]:
    """Accuracy on the forget set while copies of unlearned networks train again, a panel a kind of training data.

    Its data set `curves` is empty: rows of `network` (one of `NETWORKS`), `data`, `step`, `accuracy` (in percent).
    """
    of_network: dict[str, Any] = {"title": None, "legend": alt.Legend(orient="bottom")}

    def scale(values: list[Any]) -> alt.Scale:
        return alt.Scale(domain=list(NETWORKS), range=values)

    shapes, dashes, colours = (list(values) for values in zip(*NETWORKS.values(), strict=True))
    lines = (
        alt.Chart(alt.NamedData("curves"))
        .mark_line(point=alt.OverlayMarkDef(size=40))
        .encode(
            x=alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=4)),
            y=alt.Y("accuracy:Q", title="accuracy on the forget set, %", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("network:N", scale=scale(colours), **of_network),
            strokeDash=alt.StrokeDash("network:N", scale=scale(dashes), **of_network),
            shape=alt.Shape("network:N", scale=scale(shapes), **of_network),
            tooltip=["network:N", "data:N", "step:Q", alt.Tooltip("accuracy:Q", format=".1f")],
        )
        .properties(width=170, height=150)
        .facet(alt.Facet("data:N", title=None, sort=[*DATA.values()]), columns=3)
    )
    return dict(_config(lines).to_dict())


def svg(spec: dict[str, Any]) -> str:
    """The chart as it looks without a browser."""
    return str(vl_convert.vegalite_to_svg(json.dumps(spec | {"width": WIDTH})))


@cache
def library() -> bytes:
    """Vega, Vega-Lite and vega-embed (BSD licence) as one module, which sets `window.vegaEmbed`."""
    return str(vl_convert.javascript_bundle()).encode()  # type: ignore[call-arg]  # its stub lacks the default

"""The reproduction plot: published numbers and ours, a panel a metric, a line of panels a published table."""

import math
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from bench.figures.style import COLOURS, STYLE
from bench.report.paper_tables import LAYOUTS, Layout
from bench.report.reproduction import DIFFERS, MATCH, NAMES, UNDECIDED

THEIRS: dict[str, Any] = {"color": COLOURS[1], "marker": "o", "mfc": "white", "ms": 4.5}
RERUN: dict[str, Any] = {"color": "#666666", "marker": "d", "mfc": "white", "ms": 4}
OURS: dict[str, dict[str, Any]] = {
    MATCH: {"color": COLOURS[0], "marker": "s", "ms": 4},
    DIFFERS: {"color": COLOURS[0], "marker": "X", "ms": 5.5},
}
OURS[UNDECIDED] = OURS[MATCH] | {"mfc": "white"}
LABELS = {MATCH: "ours: match", DIFFERS: "ours: differs", UNDECIDED: "ours: undecided"}
WIDTH, LEFT, GAP, ROW, ABOVE, BELOW, LEGEND = 7.0, 1.35, 0.22, 0.19, 0.62, 0.32, 0.25  # inches
# Places are set: a solver's differ in their last bits. With no engine at all, a first save would leave STYLE's solver.
PLACED = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)


def draw(table: pd.DataFrame) -> Figure:
    """Theirs with the spread that they print, ours with its 95 % interval, in percent.

    Args:
        table: that of `bench.report.reproduction.compare`.
    """
    heights = [ROW * len(layout.methods) for layout in LAYOUTS]
    top = height = sum(heights) + len(LAYOUTS) * (ABOVE + BELOW) + LEGEND
    width = (WIDTH - LEFT - GAP) / max(len(layout.metrics) for layout in LAYOUTS)
    with plt.rc_context(STYLE | {"font.size": 8}):
        figure = plt.figure(figsize=(WIDTH, height), layout=PLACED)
        for layout, high in zip(LAYOUTS, heights, strict=True):
            cells, low = layout.cells(table), top - ABOVE - high
            done = any(not math.isnan(row.ours) for row in cells.values())
            title = f"{layout.title}\nours: {layout.benchmark}{'' if done else ', not run'}"
            figure.text(0.1 / WIDTH, (top - 0.05) / height, title, va="top")
            for k, metric in enumerate(layout.metrics):
                place = ((LEFT + k * width) / WIDTH, low / height, (width - GAP) / WIDTH, high / height)
                axis = figure.add_axes(place, label=f"{layout.name} {metric}")
                _panel(axis, layout, metric, cells, table)
                names = list(layout.methods) if k == 0 else [""] * len(layout.methods)
                axis.set_yticks(range(len(names)), names)
            top = low - BELOW
        styles = {"published": THEIRS, "somebody else's run": RERUN} | {LABELS[k]: v for k, v in OURS.items()}
        entries = [plt.Line2D([], [], ls="", label=label, **style) for label, style in styles.items()]
        figure.legend(handles=entries, loc="lower center", ncols=5, fontsize=7.5)
    return figure


def _panel(axis: Axes, layout: Layout, metric: str, cells: dict[tuple[str, str], Any], table: pd.DataFrame) -> None:
    for i, method in enumerate(layout.methods):
        row = cells.get((method, metric))
        if row is None:
            continue
        _point(axis, row.published, i - 0.17, row.published_spread, row.published_spread, THEIRS)
        if row.result in OURS:
            _point(axis, row.ours, i + 0.17, row.ours - row.ci_low, row.ci_high - row.ours, OURS[row.result])
        same = (table["our_method"] == method) & (table["metric"] == metric) & (table["benchmark"] == layout.benchmark)
        others = table[same & (table["provenance"] == "independent re-run") & (table["request"] == layout.request)]
        for other in others["published"].dropna():
            _point(axis, other, i - 0.17, math.nan, math.nan, RERUN)
    axis.set_title(f"{NAMES.get(metric, metric)} (%)", fontsize=8)
    axis.margins(x=0.12)
    axis.set_ylim(len(layout.methods) - 0.4, -0.6)


def _point(axis: Axes, value: float, y: float, below: float, above: float, style: dict[str, Any]) -> None:
    """A number in percent with its spread, none where that is NaN."""
    spread = None if math.isnan(below) else [[100 * below], [100 * above]]
    axis.errorbar(100 * value, y, xerr=spread, ls="", capsize=2, lw=1, **style)

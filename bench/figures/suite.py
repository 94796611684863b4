"""The suite's own figures: gap to retrain, forgetting against cost, accuracy per class."""

import math

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.figures.style import COLOURS, MARKERS, STYLE

DECADES = [-100, -10, -1, 0, 1, 10, 100]
GAPS = {"UA": "UA", "RA": "RA", "TA": "TA", "mia_salun": "MIA (SalUn)"}


def gap_to_retrain(here: pd.DataFrame, title: str) -> Figure:
    """Gap of UA, RA, TA and MIA to retrain for each method, with its interval and the noise floor.

    Args:
        here: the leaderboard's rows of one benchmark and request.
    """
    methods = [m for m in dict.fromkeys(here["method"]) if m != "retrain" and _has(here, m)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(GAPS), figsize=(1.75 * len(GAPS) + 1, 0.32 * len(methods) + 1.2), sharey=True, squeeze=False
        )
        for axis, (metric, label) in zip(axes[0], GAPS.items(), strict=True):
            rows = here[here["metric"] == metric].set_index("method")
            floor = 100 * rows["floor"].get("retrain", math.nan)
            axis.axvspan(-floor, floor, color="#bbbbbb", alpha=0.6, lw=0)
            axis.axvline(0, color="black", lw=0.8)
            for i, method in enumerate(methods):
                row = rows.loc[method]
                half = 0 if math.isnan(row["ci_high"]) else 100 * (row["ci_high"] - row["mean"])
                axis.errorbar(100 * row["gap"], i, xerr=half, fmt="o", ms=4, color=COLOURS[0], capsize=2, lw=1.2)
            axis.set_title(label, fontsize=9)
            axis.set_xscale("symlog", linthresh=1)  # -100 and 0.5 both have their place
            low, high = axis.get_xlim()
            ticks = [t for t in DECADES if low <= t <= high]
            axis.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=7)
            axis.minorticks_off()
            axis.margins(x=0.12)
        axes[0][0].set_yticks(range(len(methods)), methods)
        axes[0][0].invert_yaxis()
        figure.supxlabel("gap to retrain (percentage points); grey: noise floor of retraining", fontsize=9)
        figure.suptitle(title, fontsize=10)
    return figure


def forgetting_against_cost(here: pd.DataFrame, title: str) -> Figure:
    """Average gap to retrain against samples passed, relative to retraining: the lower left is best."""
    gaps = here[here["metric"] == "avg_gap"].set_index("method")
    costs = here[here["metric"] == "samples"].set_index("method")["mean"]
    with plt.rc_context(STYLE):
        methods = [m for m in gaps.index if m != "retrain"]
        figure, axis = plt.subplots(figsize=(6.2, max(3.4, 0.21 * len(methods))))
        for i, method in enumerate(methods):
            marker, colour = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)], COLOURS[i % len(COLOURS)]
            x, y, name = costs[method], 100 * gaps["mean"][method], f"{i + 1}  {method}"
            axis.scatter(x, y, marker=marker, color=colour, s=34, label=name, zorder=3)
            axis.annotate(str(i + 1), (x, y), (4, 3), textcoords="offset points", fontsize=7)
        if "retrain" in gaps.index:
            axis.axvline(1, color="black", lw=0.8, ls=":")
        axis.set_xlabel("samples passed, relative to retraining")
        axis.set_ylabel("average gap to retrain (points)")
        axis.set_xlim(left=-0.04 * max(1.0, costs.max()))
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(0, 1.6 * max(1.0, 100 * gaps["mean"].max()))
        ticks = [t for t in DECADES if 0 <= t <= axis.get_ylim()[1]]
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.set_title(title, fontsize=10)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def accuracy_per_class(classes: pd.DataFrame, methods: list[str], title: str) -> Figure:
    """Test accuracy of each class before ('original') and after each method, a panel a target.

    Args:
        classes: rows of `classes.csv` of one benchmark and request.
    """
    targets = list(dict.fromkeys(classes["target"]))
    methods = [m for m in methods if m in set(classes["method"])]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(
            1, len(targets), figsize=(3.4 * len(targets) + 1.3, 0.34 * len(methods) + 1.3), squeeze=False, sharey=True
        )
        for axis, target in zip(axes[0], targets, strict=True):
            here = classes[classes["target"] == target]
            grid = here.pivot_table(index="method", columns="class", values="accuracy").reindex(methods)
            image = axis.imshow(100 * grid, vmin=0, vmax=100, cmap="cividis", aspect="auto")
            for (i, j), value in np.ndenumerate(grid.to_numpy()):
                if not math.isnan(value):
                    axis.text(
                        j,
                        i,
                        f"{100 * value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=6.5,
                        color="black" if value > 0.55 else "white",
                    )
            axis.set_xticks(range(grid.shape[1]), grid.columns)
            axis.set_title(target, fontsize=9)
            axis.set_xlabel("class")
            axis.spines[:].set_visible(False)
        axes[0][0].set_yticks(range(len(methods)), methods)
        figure.colorbar(image, ax=axes[0].tolist(), label="test accuracy (%)", pad=0.01)
        figure.suptitle(title, fontsize=10)
    return figure


def _has(here: pd.DataFrame, method: str) -> bool:
    return bool(set(here.loc[here["method"] == method, "metric"]) & set(GAPS))

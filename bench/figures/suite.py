"""The suite's own figures: gap to retrain, forgetting against cost, accuracy per class, and what ranks are worth."""

import math
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.figures.axes import label_points, logarithmic
from bench.figures.given import Given
from bench.figures.style import COLOURS, STYLE
from bench.metrics import comparisons
from bench.metrics.comparisons import DIFFERENT, INDISTINGUISHABLE, UNDECIDED, CriticalDifference
from bench.report import tables, text
from bench.report.flags import controls

DECADES = [-100, -10, -1, 0, 1, 10, 100]
VERDICTS = {INDISTINGUISHABLE: (COLOURS[2], "o"), UNDECIDED: ("#666666", "D"), DIFFERENT: (COLOURS[1], "s")}
GAPS = {"UA": "UA", "RA": "RA", "TA": "TA", "mia_salun": "MIA (SalUn)"}


def figures(given: Given) -> Iterator[tuple[str, Figure]]:
    """File name, without suffix, and figure."""
    params, benchmark, table = given.params, given.benchmark, given.table
    ranks, blocks = tables.ranks(params, given.judged), tables.blocks(params, given.judged)
    retrains = {
        (each.benchmark, each.request): each.values["retrain"].groupby(level="seed").mean()
        for each in tables.compared(params, given.judged)
    }
    apart = controls(params, {m: given.judged.cards[benchmark, m]["card"] for m in params.methods})
    for request, _, targets in tables.requests(given.section):
        here, title = table[table["request"] == request], f"{benchmark}, request {request}"
        classes = given.judged.classes[given.judged.classes["target"].isin(targets)]
        yield f"{request}-accuracy-per-class", accuracy_per_class(classes, list(params.methods), title)
        if here["gap"].notna().any():
            yield f"{request}-gap-to-retrain", gap_to_retrain(here, title)
            yield f"{request}-forgetting-against-cost", forgetting_against_cost(here, title, apart)
            if len(per_seed := retrains[benchmark, request]) > 1:
                yield f"{request}-noise-floors", noise_floors(here, per_seed, title)
        if len(of_request := ranks[ranks["request"] == request]):
            yield f"{request}-rank-stability", rank_stability(of_request, title)
        if min((scores := blocks[benchmark, request].dropna()).shape) > 2:
            of_seeds = f"{title}; blocks are {len(scores)} seeds"
            found = comparisons.critical_difference(scores)
            yield f"{request}-critical-difference", critical_difference(found, of_seeds)


def gap_to_retrain(here: pd.DataFrame, title: str) -> Figure:
    """Gap of UA, RA, TA and MIA to retrain for each method, with its interval and verdict, and the noise floor.

    Args:
        here: the leaderboard's rows of one benchmark and request.
    """
    methods = [m for m in dict.fromkeys(here["method"]) if m != "retrain" and _has(here, m)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(GAPS), figsize=(7, 0.24 * len(methods) + 1.5), sharey=True, squeeze=False)
        for axis, (metric, label) in zip(axes[0], GAPS.items(), strict=True):
            rows = here[here["metric"] == metric].set_index("method")
            floor = 100 * rows["floor"].get("retrain", math.nan)
            axis.axvspan(-floor, floor, color="#bbbbbb", alpha=0.6, lw=0)
            axis.axvline(0, color="black", lw=0.8)
            for i, method in enumerate(methods):
                row = rows.loc[method]
                half = [[row["gap"] - row["gap_low"]], [row["gap_high"] - row["gap"]]]
                colour, marker = VERDICTS.get(row["verdict"], VERDICTS[UNDECIDED])
                axis.errorbar(
                    100 * row["gap"],
                    i,
                    xerr=100 * np.nan_to_num(half).clip(0),
                    fmt=marker,
                    ms=4,
                    color=colour,
                    capsize=2,
                    lw=1.2,
                )
            axis.set_title(label, fontsize=9)
            axis.set_xscale("symlog", linthresh=1)  # -100 and 0.5 both have their place
            low, high = axis.get_xlim()
            ticks = [t for t in DECADES if low <= t <= high]
            axis.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=7)
            axis.minorticks_off()
            axis.margins(x=0.12)
        axes[0][0].set_yticks(range(len(methods)), methods)
        axes[0][0].invert_yaxis()
        entries = [plt.Line2D([], [], color=c, marker=m, ls="", ms=4, label=v) for v, (c, m) in VERDICTS.items()]
        unit = "gap to retrain (percentage points); grey: noise floor of retraining"  # a label would be in its way
        looks: Any = {"title": unit, "title_fontsize": 9, "fontsize": 8, "ncols": len(entries)}
        figure.legend(handles=entries, loc="outside lower center", **looks)
        figure.suptitle(title, fontsize=10)
    return figure


def forgetting_against_cost(here: pd.DataFrame, title: str, apart: Collection[str] = ()) -> Figure:
    """Average gap to retrain against cost, both on logarithmic axes that have a 0; the lower left is best.

    The Pareto front, filled and joined by steps, is of those that no other method matches in both and beats in one;
    references and controls stand apart.
    Within the grey band gaps say little: it is the mean of the noise floors of the four metrics that are averaged.

    Args:
        here: the leaderboard's rows of one benchmark and request; without FLOPs, cost is in samples.
        apart: references and controls.
    """
    unit = "flops" if "flops" in set(here["metric"]) else "samples"
    table = pd.DataFrame({name: _means(here, metric) for name, metric in {"cost": unit, "gap": "avg_gap"}.items()})
    table = table.dropna().assign(gap=lambda t: 100 * t["gap"])
    aside = table[table.index.isin(apart)]
    front = pareto_front(table.drop(aside.index))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 4.6))
        if (floor := 100 * here.loc[(here["method"] == "retrain") & here["metric"].isin(GAPS), "floor"].mean()) > 0:
            axis.axhspan(0, floor, color="#dddddd", lw=0, label="noise floor of retraining")
        steps = table.loc[front]
        looks: Any = {"marker": "o", "ms": 5, "color": COLOURS[0], "mec": "black", "mew": 0.8, "lw": 1.2, "zorder": 4}
        axis.step(steps["cost"], steps["gap"], where="post", label="Pareto front", **looks)
        beaten = table.drop([*front, *aside.index])
        looks = {"marker": "s", "s": 26, "color": "white", "edgecolor": "black", "lw": 0.8, "zorder": 3}
        axis.scatter(beaten["cost"], beaten["gap"], label="another is as good in both", **looks)
        looks = {"marker": "x", "s": 26, "color": "black", "lw": 1, "zorder": 3}
        if len(aside):
            axis.scatter(aside["cost"], aside["gap"], label="reference or control", **looks)
        if "retrain" in table.index:
            axis.axvline(1, color="black", lw=0.8, ls=":")
        logarithmic(axis, "x", table["cost"])
        logarithmic(axis, "y", table["gap"])
        axis.set_xlabel(f"{'FLOPs' if unit == 'flops' else 'samples passed'}, relative to retraining")
        axis.set_ylabel("average gap to retrain (percentage points)")
        axis.set_title(title, fontsize=10)
        figure.legend(loc="outside lower center", fontsize=8, ncols=4)
        ordered = [*front, *beaten.index, *aside.index]
        corners = [point for a, b in pairwise(steps.to_numpy()) for point in (a, (b[0], a[1]), b)]
        corners += [(1, axis.get_ylim()[1])] if "retrain" in table.index else []
        label_points(axis, [tuple(table.loc[m, ["cost", "gap"]]) for m in ordered], ordered, corners)
    return figure


def pareto_front(table: pd.DataFrame) -> list[str]:
    """Those of the index that none is as low as in all columns and lower in one, sorted by the first column.

    Of equal ones all stand on it.
    """
    values = table.to_numpy()
    worse = (values[:, None] >= values).all(axis=2) & (values[:, None] > values).any(axis=2)
    return list(table[~worse.any(axis=1)].sort_values(list(table.columns), kind="stable").index)


def noise_floors(here: pd.DataFrame, retrains: pd.DataFrame, title: str) -> Figure:
    """How far single retrains scatter in each headline metric, its floor and margin, and the gaps of the methods.

    Args:
        here: the leaderboard's rows of one benchmark and request.
        retrains: index seed, columns metrics.
    """
    reference = here[here["method"] == "retrain"].set_index("metric")
    metrics = [m for m in text.HEADLINE if reference["floor"].get(m, math.nan) >= 0]
    gaps = here[(here["method"] != "retrain") & here["gap"].notna()]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 0.42 * len(metrics) + 1.5))
        for i, metric in enumerate(metrics):
            floor, margin = 100 * reference.loc[metric, ["floor", "margin"]].to_numpy(float)
            away = 100 * (retrains[metric] - retrains[metric].mean()).abs().to_numpy()
            far = 100 * gaps.loc[gaps["metric"] == metric, "gap"].abs().to_numpy()
            beyond = far > floor + comparisons.ROUNDING
            first = i == 0  # its markers stand for all in the legend
            axis.barh(i, floor, 0.8, color="#cccccc", label="noise floor" if first else "_")
            axis.vlines(margin, i - 0.4, i + 0.4, color="black", lw=1.5, label="margin" if first else "_")
            below, above = np.full(len(away), i + 0.2), np.full(len(far), i - 0.15)
            axis.plot(away, below, "x", color="black", ms=4, mew=0.9, label="a retrain" if first else "_")
            for chosen, fill, label in (
                (~beyond, "white", "a method"),
                (beyond, COLOURS[1], "a method beyond the floor"),
            ):
                axis.plot(
                    far[chosen],
                    above[chosen],
                    "o",
                    ms=4.5,
                    mew=0.7,
                    mfc=fill,
                    mec="black",
                    alpha=0.8,
                    label=label if first else "_",
                )
            place: Any = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 8}
            axis.text(1.01, i, f"{beyond.sum()} of {len(far)}", **place)
        axis.set_yticks(range(len(metrics)), [text.HEADLINE[m] for m in metrics])
        axis.set_ylim(len(metrics) - 0.4, -0.6)
        logarithmic(axis, "x", 100 * gaps.loc[gaps["metric"].isin(metrics), "gap"].abs())
        axis.set_xlabel("distance to the mean retrain (percentage points; JS: hundredths of a nat)")
        axis.set_title(f"{title}; {len(retrains)} retrains", fontsize=10)
        axis.text(1.01, 1.0, "beyond floor", transform=axis.transAxes, va="bottom", fontsize=8)
        figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _means(here: pd.DataFrame, metric: str) -> pd.Series:
    return here[here["metric"] == metric].set_index("method")["mean"]


def accuracy_per_class(classes: pd.DataFrame, methods: list[str], title: str) -> Figure:
    """Test accuracy of each class before ('original') and after each method, a panel a target.

    Args:
        classes: rows of `classes.csv` of one benchmark and request.
    """
    targets = list(dict.fromkeys(classes["target"]))
    methods = [m for m in methods if m in set(classes["method"])]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(
            1, len(targets), figsize=(2.2 * len(targets) + 1.6, 0.22 * len(methods) + 1.2), squeeze=False, sharey=True
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
                        fontsize=5.5,
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


def critical_difference(found: CriticalDifference, title: str) -> Figure:
    """Average ranks on an axis; a bar joins methods that Nemenyi's test does not tell apart (Demšar, JMLR 7, 2006).

    Labels stand left and right in the order of the ranks.
    """
    ranks, k = found.ranks, len(found.ranks)
    half, bars = (k + 1) // 2, found.nemenyi
    first = 0.35 + 0.28 * len(bars)  # height of the uppermost label below the axis, in lines
    with plt.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure, axis = plt.subplots(figsize=(6.4, 0.21 * (first + half) + 1.1))
        axis.set_xlim(0.5, k + 0.5)
        axis.set_ylim(first + half, -1.6)
        axis.xaxis.tick_top()
        axis.spines["top"].set(visible=True, position=("data", 0), bounds=(1, k))
        axis.set_xticks(range(1, k + 1, 1 + k // 12))
        axis.tick_params(axis="x", labelsize=8)
        axis.set_yticks([])
        for i, (method, rank) in enumerate(ranks.items()):
            left = i < half
            y = first + (i if left else k - 1 - i) + 0.4
            edge = 0.5 if left else k + 0.5
            axis.plot([rank, rank, edge], [0, y, y], color="black", lw=0.7, clip_on=False)
            name = f"{method} ({rank:.1f}) " if left else f" ({rank:.1f}) {method}"
            axis.text(edge, y, name, ha="right" if left else "left", va="center", fontsize=8)
        for i, bar in enumerate(bars):
            y, ends = 0.35 + 0.28 * i, [ranks[bar[0]] - 0.06, ranks[bar[-1]] + 0.06]
            axis.plot(ends, [y, y], color=COLOURS[0], lw=2.4, solid_capstyle="butt", zorder=3)
        if found.difference < k:
            axis.plot([1, 1 + found.difference], [-1.2, -1.2], color=COLOURS[1], lw=2.4, solid_capstyle="butt")
        axis.text(1, -1.45, f"critical difference {found.difference:.1f}", fontsize=8, color=COLOURS[1], va="bottom")
        p = f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
        axis.set_xlabel(
            f"average rank by average gap (Friedman's test: p {p if p[0] == '<' else '= ' + p})", fontsize=8
        )
        figure.suptitle(title, fontsize=10)
    return figure


def rank_stability(ranks: pd.DataFrame, title: str) -> Figure:
    """Rank of each method by average gap, with everything and with each metric or seed left out.

    Args:
        ranks: rows of ranks.csv of one benchmark and request.
    """
    columns = list(dict.fromkeys(zip(ranks["kind"], ranks["left_out"].astype(str), strict=True)))
    keyed = ranks.assign(left_out=ranks["left_out"].astype(str))
    grid = keyed.pivot(index="method", columns=["kind", "left_out"], values="rank")[columns]
    grid = grid.sort_values(columns[0], kind="stable")
    taus = keyed.drop_duplicates(["kind", "left_out"]).set_index(["kind", "left_out"])["tau"]
    labels = {"none": "all", "metric": "without {}", "seed": "without seed {}"}
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(0.5 * len(columns) + 2.4, 0.24 * len(grid) + 1.9))
        axis.imshow(grid, vmin=1, vmax=len(grid), cmap="cividis_r", aspect="auto")
        for (i, j), rank in np.ndenumerate(grid.to_numpy()):
            shown, pale = f"{rank:g}", rank < 0.55 * len(grid)
            axis.text(j, i, shown, ha="center", va="center", fontsize=6.5, color="black" if pale else "white")
        names = [
            f"{labels[kind].format(GAPS.get(what, what))}" + ("" if kind == "none" else f"\nτ = {taus[kind, what]:.2f}")
            for kind, what in columns
        ]
        axis.set_xticks(range(len(columns)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        axis.set_yticks(range(len(grid)), grid.index)
        axis.axvline(0.5, color="white", lw=3)
        axis.spines[:].set_visible(False)
        figure.suptitle(f"{title}: rank by average gap", fontsize=10)
    return figure


def _has(here: pd.DataFrame, method: str) -> bool:
    return bool(set(here.loc[here["method"] == method, "metric"]) & set(GAPS))

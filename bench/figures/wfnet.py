"""WF-Net (Poppi et al., arXiv:2304.02049): what its gates switch off, and what a round's rows forget and keep.

The paper's own figures could not be sourced, so these are not numbered. They are drawn from the gates that the runs
keep, and from the studies `wfnet-...`, of which `wfnet-round` is the leaderboard's own round.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.figures.given import Given
from bench.figures.style import COLOURS, MARKERS, STYLE
from bench.metrics.statistics import over_seeds

METHOD = "wfnet"
OFF = 0.5  # a unit is switched off where its gate is below
MOST = 20  # rows that have a bar, or a number in the map
LINES = ["-", "--", "-.", ":"]

Gates = Mapping[str, np.ndarray]  # weight's name -> gates, [classes, units], in the order of the layers


def figures(given: Given) -> Iterator[tuple[str, Figure]]:
    """File name, without suffix, and figure."""
    name = given.benchmark
    if kept := gates(given):
        seed, several = next(iter(kept)), f"seeds {', '.join(map(str, kept))}"
        yield "wfnet-gates", gate_maps(kept[seed], f"{name}, WF-Net, seed {seed}")
        yield "wfnet-switched-off-by-depth", by_depth(list(kept.values()), f"{name}, WF-Net, {several}")
        yield "wfnet-overlap", overlap(list(kept.values()), f"{name}, WF-Net, {several}")
    if (rows := given.study("wfnet-round")) is not None:
        title = f"{name}, WF-Net, seeds {', '.join(map(str, rows['seed'].unique()))}"
        yield "wfnet-accuracy-against-step", against_step(rows, title)
        yield "wfnet-worst-rows", worst_rows(rows, retrained(given), title)
    if (rows := given.study("wfnet-weights")) is not None:
        yield (
            "wfnet-weights-pareto",
            pareto(rows, f"{name}, WF-Net, seed {rows['seed'].iloc[0]}, rounds of half the epochs"),
        )
    if (rows := given.study("wfnet-explanations")) is not None:
        yield "wfnet-insertion-deletion", explanations(rows, f"{name}, WF-Net, seed {rows['seed'].iloc[0]}")


def gates(given: Given) -> dict[int, Gates]:
    """Of each seed whose round did not fail; empty where the method has no runs."""
    found: dict[int, Gates] = {}
    if METHOD not in given.params.methods or given.section.left_out(METHOD):
        return found
    served = [target.name for target in given.targets if target.classes]
    for seed in given.section.seeds:
        if (kept := given.artifacts(METHOD, "prepared", seed)) is not None:
            sidecars = (given.sidecar(METHOD, target, seed)["notes"] for target in served)
            layers = next((notes["layers"] for notes in sidecars if "layers" in notes), sorted(kept))
            found[seed] = {layer: kept[layer] for layer in layers}
    return found


def retrained(given: Given) -> dict[int, tuple[float, float]]:
    """Class -> test accuracy of its retrains on it and on the worst other class, mean over seeds."""
    table, found = given.judged.classes, {}
    table = table[(table["benchmark"] == given.benchmark) & (table["method"] == "retrain")]
    for target in given.targets:
        if len(target.classes) == 1:
            grid = table[table["target"] == target.name].pivot_table(index="seed", columns="class", values="accuracy")
            (c,) = target.classes
            if c not in grid:
                continue
            found[c] = float(grid[c].mean()), float(grid.drop(columns=c).min(axis=1).mean())
    return found


def gate_maps(layers: Gates, title: str) -> Figure:
    """Gates of each layer as a picture: a line a class, a column an output unit."""
    columns = min(2, len(layers))
    lines = -(-len(layers) // columns)
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(lines, columns, figsize=(7, 0.95 * lines + 0.8), squeeze=False, sharey=True)
        for axis in axes.flat[len(layers) :]:
            axis.remove()
        for axis, (layer, alpha) in zip(axes.flat, layers.items(), strict=False):
            image = axis.imshow(alpha, vmin=0, vmax=1, cmap="cividis", aspect="auto", interpolation="nearest")
            axis.set_title(shown(layer), fontsize=8, pad=2)
            axis.tick_params(labelsize=6)
            axis.yaxis.set_major_locator(MaxNLocator(10, integer=True))
            axis.spines[:].set_visible(False)
        figure.supxlabel("output unit of the layer", fontsize=9)
        figure.supylabel("class whose row it is", fontsize=9)
        figure.colorbar(image, ax=list(axes.flat[: len(layers)]), label="gate α", pad=0.01, aspect=30)
        figure.suptitle(title, fontsize=10)
    return figure


def by_depth(rounds: list[Gates], title: str) -> Figure:
    """How much of each layer is closed, mean over classes with 95 % intervals over seeds."""
    layers = list(rounds[0])
    series = {
        f"share of units with α < {OFF:g}": lambda alpha: (alpha < OFF).mean(),
        "mean of 1 − α": lambda alpha: (1 - alpha.astype(np.float64)).mean(),
    }
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(3.6, min(7.0, 0.3 * len(layers) + 1.6)), 3.4))
        for i, (label, closed) in enumerate(series.items()):
            found = [over_seeds(np.array([100 * closed(of[layer]) for of in rounds])) for layer in layers]
            mean, low, high = np.array(found).T
            half = np.nan_to_num([mean - low, high - mean])
            axis.errorbar(np.arange(len(layers)), mean, yerr=half, label=label, ms=4, capsize=2, lw=1.2, **look(i))
        every = -(-len(layers) // 24)
        names = [shown(layer) for layer in layers[::every]]
        axis.set_xticks(
            range(0, len(layers), every), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7
        )
        axis.set_ylim(bottom=0)
        axis.set_xlabel("layer, from input to output")
        axis.set_ylabel("closed (%)")
        figure.legend(loc="outside lower center", fontsize=8)
        axis.set_title(title, fontsize=9)
    return figure


def jaccard(layers: Gates) -> tuple[np.ndarray, np.ndarray]:
    """How alike the sets are that two classes switch off, over all layers, and how alike chance makes them.

    Returns:
        |A ∩ B| / |A ∪ B|, [classes, classes], NaN where both are empty; and the same with the intersection that
        independent sets of their sizes in each layer have in the mean, Σ a b / n.
    """
    off = [(alpha < OFF).astype(np.float64) for alpha in layers.values()]
    sizes = [of.sum(1) for of in off]
    both = np.sum([of @ of.T for of in off], axis=0)
    expected = np.sum([np.outer(size, size) / of.shape[1] for size, of in zip(sizes, off, strict=True)], axis=0)
    total = np.add.outer(np.sum(sizes, axis=0), np.sum(sizes, axis=0))
    with np.errstate(invalid="ignore"):
        return both / (total - both), expected / (total - expected)


def overlap(rounds: list[Gates], title: str) -> Figure:
    """Of each pair of classes how much of what their rows switch off is common, mean over seeds that have any."""
    several = np.array([jaccard(of) for of in rounds])
    known = np.isfinite(several)
    with np.errstate(invalid="ignore"):
        found, chance = np.where(known, several, 0).sum(0) / known.sum(0)
    share = np.mean([(np.concatenate(list(of.values()), axis=1) < OFF).mean(1) for of in rounds], axis=0)
    classes = len(found)
    pairs = np.tril(np.ones_like(found, dtype=bool), -1)
    side = 4.6 if classes <= MOST else 4.0
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(side + 0.6, side))
        values = np.where(pairs, found, np.nan)
        top = max(float(np.nanmax(values, initial=0)), 0.01)
        image = axis.imshow(values, vmin=0, vmax=top, cmap="cividis")
        if classes <= MOST:
            for i, j in zip(*np.nonzero(pairs), strict=True):
                colour = "black" if values[i, j] > 0.55 * top else "white"
                axis.text(
                    j, i, f"{values[i, j]:.2f}".removeprefix("0"), ha="center", va="center", fontsize=6.5, color=colour
                )
            for c in range(classes):
                axis.text(c, c, f"{100 * share[c]:.1f}%", ha="center", va="center", fontsize=6.5)
            axis.set_xticks(range(classes))
            axis.set_yticks(range(classes))
        axis.set_xlabel("class")
        axis.set_ylabel("class")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label="common share of the units switched off (Jaccard)", shrink=0.8)
        mean, expected = (of[pairs & known.any(0)[0]].mean() for of in (found, chance))
        said = f"mean {mean:.2f}; independent sets of these sizes {expected:.2f}"
        axis.set_title(f"{title}\n{said}\ndiagonal: share of units that a row switches off", fontsize=8)
    return figure


def against_step(rows: pd.DataFrame, title: str) -> Figure:
    """Test accuracy during a round, mean over rows and seeds, and between which bounds each lies."""
    series = {"ACC_r": "all other classes", "ACC_worst": "worst other class", "ACC_f": "its own class"}
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.4, 3.6))
        for i, (column, label) in enumerate(series.items()):
            of_step = 100 * rows.groupby("step")[column].agg(["mean", "min", "max"])
            axis.fill_between(of_step.index, of_step["min"], of_step["max"], color=COLOURS[i], alpha=0.18, lw=0)
            axis.plot(of_step.index, of_step["mean"], label=label, ms=4, lw=1.2, **look(i))
        axis.set_ylim(-3, 103)
        axis.set_xlabel("step of the round, which trains all rows")
        axis.set_ylabel("test accuracy under a class's row (%)")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        axis.set_title(f"{title}\nmean and range of all rows and seeds", fontsize=9)
    return figure


def worst_rows(rows: pd.DataFrame, retrain: Mapping[int, tuple[float, float]], title: str) -> Figure:
    """Each class's row after the round: test accuracy on the class, and on the worst other one, named above it.

    Bars are means over seeds, with their range; above `MOST` classes there are those with the worst rows.

    Args:
        retrain: class -> the same two accuracies of networks retrained without it.
    """
    first, last = (rows[rows["step"] == step] for step in (rows["step"].min(), rows["step"].max()))
    means = last.groupby("row")[["ACC_f", "ACC_worst"]].mean()
    chosen = sorted((means["ACC_f"] - means["ACC_worst"]).nlargest(MOST).index)
    some = f", the {MOST} worst of {len(means)} rows" if len(means) > MOST else ""
    with plt.rc_context(STYLE | {"axes.grid.axis": "y"}):
        figure, axis = plt.subplots(figsize=(7, 3.2))
        places = np.arange(len(chosen))
        bars = {"ACC_f": ("forgotten class", ""), "ACC_worst": ("worst retained class (which: above)", "///")}
        for i, (column, (label, hatch)) in enumerate(bars.items()):
            of_row = 100 * last.groupby("row")[column].agg(["mean", "min", "max"]).loc[chosen]
            x, half = places + 0.4 * i - 0.2, [of_row["mean"] - of_row["min"], of_row["max"] - of_row["mean"]]
            axis.bar(x, of_row["mean"], 0.38, label=label, facecolor=COLOURS[1 - i], edgecolor="white", hatch=hatch)
            axis.errorbar(x, of_row["mean"], yerr=half, fmt="none", color="black", capsize=2, lw=0.9)
            known = [k for k, c in enumerate(chosen) if c in retrain]
            if known:
                reference = [100 * retrain[chosen[k]][i] for k in known]
                label = "retrain" if i else "_"
                axis.plot(
                    x[known], reference, "D", ms=4.5, mfc="white", mec="black", clip_on=False, zorder=4, label=label
                )
        for k, c in enumerate(chosen):
            here = last[last["row"] == c]
            forgotten, some_wrong = 100 * here["ACC_f"], here.loc[here["ACC_worst"] < 1, "worst"]
            axis.text(k - 0.2, forgotten.max() + 4, f"{forgotten.mean():.2g}", ha="center", fontsize=7)
            axis.text(k + 0.2, 104, "/".join(map(str, some_wrong.unique())), ha="center", fontsize=7)
        before = 100 * first.groupby("row")["ACC_worst"].mean().loc[chosen]
        axis.hlines(before, places + 0.01, places + 0.39, color="black", lw=1.6, label="original")
        axis.set_xticks(places, chosen)
        axis.set_ylim(0, 112)
        axis.set_yticks(range(0, 101, 20))
        axis.set_xlabel("class whose row is active")
        axis.set_ylabel("test accuracy (%)")
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        axis.set_title(title + some, fontsize=10)
    return figure


def pareto(rows: pd.DataFrame, title: str) -> Figure:
    """Forgetting against retention, means over rows, for each pair of weights; circled where no other pair beats it."""
    means = rows.groupby(["sparsity_weight", "forget_weight"])[["ACC_f", "ACC_r"]].mean()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.4, 3.6))
        for i, (sparsity, of) in enumerate(means.groupby(level=0)):
            x, y = 100 * of["ACC_f"].to_numpy(), 100 * of["ACC_r"].to_numpy()
            axis.plot(x, y, ms=5, lw=1.1, label=f"sparsity weight λ₂ = {sparsity:g}", **look(i))
            for (_, weight), a, b in zip(of.index, x, y, strict=True):
                axis.annotate(
                    f"{weight:g}",
                    (a, b),
                    (5, -10 if i else 5),
                    textcoords="offset points",
                    fontsize=7,
                    color=COLOURS[i],
                )
        best = 100 * means[undominated(means["ACC_f"].to_numpy(), means["ACC_r"].to_numpy())]
        axis.plot(best["ACC_f"], best["ACC_r"], "o", ms=10, mfc="none", mec="black", label="not dominated")
        axis.set_xscale("symlog", linthresh=1)
        top = max(1.5, 1.6 * float(100 * means["ACC_f"].max()))
        ticks = [t for t in (0, 0.5, 1, 3, 10, 30, 100) if t <= top]
        axis.set_xlim(-0.1, top)
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.margins(y=0.12)
        axis.set_xlabel("test accuracy on the forgotten class (%)")
        axis.set_ylabel("test accuracy on the others (%)")
        figure.legend(loc="outside lower center", fontsize=8)
        axis.set_title(f"{title}\nmean over rows; numbers: forget weight λ₁", fontsize=9)
    return figure


def undominated(cost: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Which points no other one beats or equals in both, and beats in one, bool [n]."""
    at_least = (cost[:, None] >= cost) & (worth[:, None] <= worth)
    better = (cost[:, None] > cost) | (worth[:, None] < worth)
    return np.asarray(~(at_least & better).any(axis=1))


def explanations(rows: pd.DataFrame, title: str) -> Figure:
    """Probability of the class that the original sees, as the pixels come or go, those first that a map ranks highest.

    Insertion begins with a blurred image; blanked pixels have the mean colour (RISE, arXiv:1806.07421, 4.3).
    """
    said = {
        ("gates", "before"): "gates' map, original",
        ("Grad-CAM", "before"): "Grad-CAM, original",
        ("chance", "before"): "random order, original",
        ("gates", "after"): "gates' map, the class's row active",
    }
    games, areas = list(rows["game"].unique()), dict[str, list[str]]()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(games), figsize=(7, 3.5), sharey=True, squeeze=False)
        for axis, game in zip(axes[0], games, strict=True):
            for i, ((maker, network), label) in enumerate(said.items()):
                here = rows[(rows["game"] == game) & (rows["map"] == maker) & (rows["network"] == network)]
                axis.plot(100 * here["changed"], here["probability"], ms=3.5, lw=1.2, **look(i))
                areas.setdefault(label, []).append(f"{np.trapezoid(here['probability'], here['changed']):.2f}")
            axis.set_title(game, fontsize=9)
            axis.set_xlabel(f"pixels {'revealed' if game == 'insertion' else 'blanked'} (%)")
        axes[0][0].set_ylim(-0.02, 1.02)
        axes[0][0].set_ylabel("mean probability")
        labels = [f"{label} ({', '.join(values)})" for label, values in areas.items()]
        figure.legend(axes[0][0].lines, labels, loc="outside lower center", ncols=2, fontsize=8)
        figure.suptitle(f"{title}; in brackets: areas under the curves", fontsize=10)
    return figure


def look(i: int) -> dict[str, Any]:
    """Colour, marker and line of a series."""
    return {"color": COLOURS[i], "marker": MARKERS[i], "ls": LINES[i]}


def shown(layer: str) -> str:
    """A layer's name without what all of them end in."""
    return layer.removesuffix("weight").rstrip("._")

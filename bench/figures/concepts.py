"""Figures of concept poisoning: concept weights, poison panels, loss histograms, destinations, ablation.

Source: Chang, Zhu, Xu, Liu and Zhou, "Class Machine Unlearning for Complex Data via Concepts Inference and Data
Poisoning" (arXiv:2405.15662), and the authors' code, from which the bins of the losses are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.figures.given import Given
from bench.figures.spread import bars_of, lengths, spread
from bench.figures.style import COLOURS, STYLE
from bench.forget import Target
from bench.metrics.judged import Judged

METHOD, CONTROL = "concept_poison", "label_only"
SHOWN = ("original", METHOD, CONTROL, "retrain")
HATCHES = {"original": "", METHOD: "//", CONTROL: "..", "retrain": "xx"}
BINS = np.linspace(0, 20, 11)  # of losses, in nats
GROUPS = {"forgotten": "forget_train", "retained": "retain_train", "unseen, not forgotten": "retain_test"}
LINES: dict[str, dict[str, Any]] = {  # of the groups
    "forgotten": {"color": COLOURS[1], "fill": True, "alpha": 0.45},
    "retained": {"color": COLOURS[0], "lw": 1.4},
    "unseen, not forgotten": {"color": "black", "lw": 1.1, "ls": "--"},
}
DESTINATIONS = ("itself", "donor", "another")
POISONS, LABELS = ("localized", "center", "random", "full", "none"), ("targeted", "random", "keep")
PANELS = ("similarity", *POISONS[:-1])
ABLATED = {"ACC_f_train": "forgotten class, training", "ACC_f": "forgotten class, test", "ACC_r": "others, test"}


def figures(given: Given) -> Iterator[tuple[str, Figure]]:
    """File name, without suffix, and figure."""
    name = given.benchmark
    if (table := given.study("concepts-weights")) is not None:
        yield "concepts-weights", weights(table, given.dataset.train.images, name)
    if (table := given.study("concepts-images")) is not None:
        yield "concepts-poisoned-images", panels(table, given.dataset.train.images, name)
    if (table := given.study("concepts-ablation")) is not None:
        yield "concepts-ablation", ablation(table, name)
    methods = [m for m in SHOWN if m in given.params.methods and not given.section.left_out(m)]
    if METHOD not in methods or given.section.corruption is not None:
        return
    if targets := [t for t in given.targets if t.kinds == {"class"} and not len(t.earlier)]:
        yield "concepts-losses", losses(measured(given, methods, targets), name, len(given.section.seeds))
        moves = moved(given, methods, targets)
        groups = grouped(moves, donors(given, methods, targets), targets)
        yield "concepts-destinations", destinations(moves, groups, name)


# --- concepts and images ---------------------------------------------------------------------------


def weights(table: pd.DataFrame, images: np.ndarray, name: str) -> Figure:
    """The first concepts of each class and of its donor by weight, each beside the window that shows it most.

    Args:
        table: of `concepts-weights`.
        images: the training images, uint8 [n, channels, height, width].
    """
    classes = list(dict.fromkeys(table["class"]))
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(len(classes), 2, figsize=(7, 2.1 * len(classes) + 0.6), squeeze=False)
        for line, c in zip(axes, classes, strict=True):
            here = table[table["class"] == c]
            for axis, of in zip(line, dict.fromkeys(here["of"]), strict=False):
                rows = here[here["of"] == of].sort_values("place")
                marked = "overwritten" if of == c else "pasted"
                chosen = (rows["concept"] == rows[marked]).to_numpy()
                axis.barh(
                    rows["place"],
                    rows["weight"],
                    0.72,
                    color=np.where(chosen, COLOURS[1], "#bbbbbb"),
                    hatch=["//" if yes else "" for yes in chosen],
                    edgecolor="black",
                    lw=0.6,
                )
                axis.set_yticks(rows["place"], [str(n) for n in rows["name"]], fontsize=7)
                axis.tick_params(axis="y", length=0)
                axis.set_ylim(len(rows) - 0.5, -0.5)
                what = f"class {c}" if of == c else f"its donor, class {of} ({rows['rule'].iloc[0]})"
                axis.set_title(f"{what}; hatched: {marked}", fontsize=8)
                for row in rows.to_dict("records"):
                    if row["image"] >= 0:
                        _window(axis, images[row["image"]], row, len(rows))
        figure.supxlabel("weight of the concept for the class", fontsize=9)
        figure.suptitle(
            f"{name}, seed {table['seed'].iloc[0]}: concepts by weight, and where the class shows them", fontsize=10
        )
    return figure


def _window(axis: Any, image: np.ndarray, row: dict[str, Any], count: int) -> None:
    """An image at the left of its bar, its window outlined."""
    inset = axis.inset_axes((-0.27, 1 - (row["place"] + 0.97) / count, 0.16, 0.94 / count))
    _picture(inset, image)
    corner = row["column"] - 0.5, row["row"] - 0.5
    inset.add_patch(Rectangle(corner, row["size"], row["size"], fill=False, ec=COLOURS[1], lw=1.4))


def _picture(axis: Any, image: np.ndarray) -> None:
    """A uint8 image [channels, height, width], without ticks."""
    image = image.transpose(1, 2, 0)
    axis.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def panels(table: pd.DataFrame, images: np.ndarray, name: str) -> Figure:
    """Images of each class, where they show its concept, and what each way of poisoning makes of them.

    Args:
        table: of `concepts-images`.
        images: the training images, uint8 [n, channels, height, width].
    """
    wanted = list(dict.fromkeys(zip(table["class"], table["image"], strict=True)))
    shown = [panel for panel in PANELS if panel in set(table["shown"])]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(len(wanted), 1 + len(shown), figsize=(7, 7 / 6 * len(wanted) + 0.5), squeeze=False)
        for line, (c, image) in zip(axes, wanted, strict=True):
            rows = table[(table["class"] == c) & (table["image"] == image)].set_index("shown")
            before = images[image]
            _picture(line[0], before)
            line[0].set_ylabel(f"class {c}\ndonor {rows['donor'].iloc[0]}", fontsize=8)
            for axis, panel in zip(line[1:], shown, strict=True):
                values = read(rows.loc[panel])
                if panel == "similarity":
                    axis.imshow(values[0], cmap="cividis", vmin=-1, vmax=1)
                    axis.set(xticks=[], yticks=[])
                    axis.spines[:].set_visible(False)
                    row, column = np.unravel_index(values[0].argmax(), values[0].shape)
                    axis.plot(column, row, marker="x", color="black", ms=6, mew=1.6)
                else:
                    _picture(axis, values.astype(np.uint8))
                    _outline(axis, (values != before).any(axis=0))
        for axis, title in zip(axes[0], ("before", *shown), strict=True):
            axis.set_title({"similarity": "cosine with concept"}.get(title, title), fontsize=8)
        seed = table["seed"].iloc[0]
        figure.suptitle(f"{name}, seed {seed}: images of forgotten classes before and after poisoning", fontsize=10)
    return figure


def read(row: pd.Series) -> np.ndarray:
    """The values that the study wrote, float64 [channels, rows, columns]."""
    values = np.array(row["pixels"].split(), dtype=float)
    return values.reshape(-1, row["rows"], row["columns"])


def _outline(axis: Any, changed: np.ndarray) -> None:
    """A frame around what is not as it was."""
    rows, columns = np.nonzero(changed)
    if len(rows):
        corner = columns.min() - 0.5, rows.min() - 0.5
        width, height = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
        axis.add_patch(Rectangle(corner, width, height, fill=False, ec=COLOURS[1], lw=1.2))


# --- losses ----------------------------------------------------------------------------------------


def measured(given: Given, methods: list[str], targets: list[Target]) -> dict[tuple[str, str, str], np.ndarray]:
    """Losses in nats of all seeds' samples, by target, method and group; of runs that did not fail."""
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for target in targets:
        for method in methods:
            for seed in given.section.seeds:
                if (logits := given.logits(method, target.name, seed)) is not None:
                    run = Judged.of(logits, given.dataset, target)
                    for group, part in GROUPS.items():
                        found.setdefault((target.name, method, group), []).append(-getattr(run, part).log_confidence)
    return {key: np.concatenate(values) for key, values in found.items()}


def losses(of: dict[tuple[str, str, str], np.ndarray], name: str, seeds: int) -> Figure:
    """Histograms of the cross-entropy of forgotten, retained and unseen samples, a row a class, a column a network."""
    targets, methods = (list(dict.fromkeys(key[i] for key in of)) for i in (0, 1))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(targets), len(methods), figsize=(7, 1.35 * len(targets) + 1.1), sharex=True, sharey=True, squeeze=False
        )
        for line, target in zip(axes, targets, strict=True):
            for axis, method in zip(line, methods, strict=True):
                for group, look in LINES.items():
                    if (values := of.get((target, method, group))) is not None:
                        axis.stairs(shares(values), BINS, label=group, **look)
                axis.set_yscale("log")
                axis.set_ylim(5e-4, 1.5)
            line[0].set_ylabel(f"{target}\nshare of samples", fontsize=8)
        for axis, method in zip(axes[0], methods, strict=True):
            axis.set_title(method, fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("loss (nats)", fontsize=8)
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(LINES), fontsize=8)
        said = f"{seeds} seeds together; last bin: all above {BINS[-2]:g}"
        figure.suptitle(f"{name}: cross-entropy after forgetting a class, {said}", fontsize=10)
    return figure


def shares(values: np.ndarray) -> np.ndarray:
    """Share of the samples in each of `BINS`; what is above counts in the last."""
    return np.histogram(values.clip(BINS[0], BINS[-1]), BINS)[0] / len(values)


# --- destinations ----------------------------------------------------------------------------------


def moved(given: Given, methods: list[str], targets: list[Target]) -> pd.DataFrame:
    """Share of a forgotten class's test samples that is predicted as each class, a row a run: target, method, seed."""
    parts = []
    for method in methods:
        table = given.confusion(method)
        table = table[(table["set"] == "forget_test") & table["target"].isin([t.name for t in targets])]
        of_run = ["target", "method", "seed", "unlearning_seed"]
        runs = table.pivot_table(index=of_run, columns="predicted", values="share", fill_value=0.0)
        parts.append(runs.groupby(level=of_run[:3]).mean())
    return pd.concat(parts).reindex(columns=range(given.dataset.classes)).fillna(0.0)


def donors(given: Given, methods: list[str], targets: list[Target]) -> dict[tuple[str, str, int], int]:
    """(target, method, seed) -> class that donated, by the notes of the run; `METHOD`'s where a method has no donor."""
    found = {}
    for target in targets:
        for seed in given.section.seeds:
            notes = {method: given.sidecar(method, target.name, seed)["notes"] for method in methods}
            for method in methods:
                if has := notes[method].get("concepts", notes[METHOD].get("concepts")):
                    found[target.name, method, seed] = has[str(target.classes[0])]["donor"]
    return found


def grouped(moves: pd.DataFrame, donated: dict[tuple[str, str, int], int], targets: list[Target]) -> pd.DataFrame:
    """`moved`, its destinations taken together as `DESTINATIONS`; runs without a donor are left out."""
    own = {target.name: target.classes[0] for target in targets}
    kept = moves[[key in donated for key in moves.index]]
    still = [row[own[key[0]]] for key, row in kept.iterrows()]
    there = [row[donated[key]] for key, row in kept.iterrows()]
    rest = kept.sum(axis=1) - still - there
    return pd.DataFrame(dict(zip(DESTINATIONS, (still, there, rest), strict=True)), index=kept.index)


def destinations(moves: pd.DataFrame, groups: pd.DataFrame, name: str) -> Figure:
    """Where the forgotten class's test samples go: left itself, donor, another class; right each class, means of seeds.

    Args:
        moves: what `moved` returns.
        groups: what `grouped` returns.
    """
    targets, methods = (list(dict.fromkeys(moves.index.get_level_values(level))) for level in ("target", "method"))
    width = 0.84 / len(methods)
    with plt.rc_context(STYLE | {"axes.grid": False, "hatch.linewidth": 0.6}):
        figure, axes = plt.subplots(
            len(targets), 2, figsize=(7, 1.5 * len(targets) + 1.0), width_ratios=(2, 3), squeeze=False
        )
        for (left, right), target in zip(axes, targets, strict=True):
            for i, method in enumerate(methods):
                runs = 100 * groups[[key[:2] == (target, method) for key in groups.index]]
                if runs.empty:
                    continue
                found = np.array([spread(runs[where].to_numpy()) for where in DESTINATIONS])
                left.bar(
                    np.arange(len(DESTINATIONS)) + (i - (len(methods) - 1) / 2) * width,
                    found[:, 0],
                    width,
                    yerr=lengths(*found.T),
                    color="white" if method == "original" else COLOURS[i],
                    hatch=HATCHES[method],
                    edgecolor="black",
                    lw=0.5,
                    error_kw={"lw": 0.8, "capsize": 1.5},
                    label=method,
                )
            left.set_xticks(range(len(DESTINATIONS)), DESTINATIONS, fontsize=8)
            left.set_ylim(0, 105)
            left.set_ylabel(f"{target} (%)", fontsize=8)
            mean = 100 * moves.xs(target, level="target").groupby(level="method").mean().reindex(methods)
            every = 1 + len(mean.columns) // 21  # hundred classes have no room for numbers
            right.imshow(mean, vmin=0, vmax=100, cmap="cividis", aspect="auto")
            for (i, j), share in np.ndenumerate(mean.to_numpy() if every == 1 else np.zeros((0, 0))):
                colour = "black" if share > 55 else "white"
                right.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
            right.set_yticks(range(len(methods)), methods, fontsize=7)
            right.set_xticks(range(0, len(mean.columns), every), mean.columns[::every], fontsize=8)
            right.spines[:].set_visible(False)
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(methods), fontsize=8)
        axes[-1][1].set_xlabel("predicted class", fontsize=8)
        seeds = moves.index.unique("seed").size
        figure.suptitle(f"{name}: where test images of forgotten classes go; {bars_of(seeds)}", fontsize=10)
    return figure


# --- ablation --------------------------------------------------------------------------------------


def ablation(table: pd.DataFrame, name: str) -> Figure:
    """Accuracies by way of poisoning (rows) and of labelling (columns); means over classes, small: over which seeds.

    Args:
        table: of `concepts-ablation`.
    """
    seeds, classes = table["seed"].nunique(), table["class"].nunique()
    of_seed = table.groupby(["poison", "relabel", "seed"])[list(ABLATED)].mean() * 100
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(ABLATED), figsize=(7, 3.1), sharey=True)
        for axis, (metric, label) in zip(axes, ABLATED.items(), strict=True):
            by_cell = of_seed[metric].groupby(level=["poison", "relabel"])
            grid = by_cell.mean().unstack()
            image = axis.imshow(grid.loc[list(POISONS), list(LABELS)], vmin=0, vmax=100, cmap="cividis", aspect="auto")
            for i, poison in enumerate(POISONS):
                for j, relabel in enumerate(LABELS):
                    values = by_cell.get_group((poison, relabel))
                    colour = "black" if values.mean() > 55 else "white"
                    axis.text(j, i - 0.12, f"{values.mean():.1f}", ha="center", va="center", fontsize=8, color=colour)
                    between = f"{values.min():.0f}–{values.max():.0f}"
                    axis.text(j, i + 0.28, between, ha="center", va="center", fontsize=6, color=colour)
            before = by_cell.mean().get(("original", "original"), np.nan)
            axis.set_title(f"{label}\n(before: {before:.1f})", fontsize=8)
            axis.set_xticks(range(len(LABELS)), LABELS, fontsize=8)
            axis.spines[:].set_visible(False)
        axes[0].set_yticks(range(len(POISONS)), POISONS)
        axes[0].set_ylabel("image")
        figure.supxlabel("label", fontsize=9)
        figure.colorbar(image, ax=axes.tolist(), label="accuracy (%)", pad=0.01)
        said = f"{classes} class{'es' * (classes > 1)}, {seeds} seed{'s' * (seeds > 1)}"
        figure.suptitle(f"{name}: what is poisoned and how it is labelled; {said}, small: range of seeds", fontsize=10)
    return figure

"""Figures of Kodge, Saha and Roy, "Deep Unlearning", TMLR 2024 (arXiv:2312.00761).

Of the paper's numbers two are known to us, of its first version: figure 4 (compute) and 5 (several classes). The
others follow scripts of the released code, which the functions name.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import roc_curve

from bench.figures.given import Given
from bench.figures.style import COLOURS, MARKERS, STYLE
from bench.forget import Target
from bench.metrics.likelihood import MIN_MODELS, cross_fitted, margin, student
from bench.metrics.roc import Fold
from bench.report import tables

METHOD = "kodge"
STAGES = {"original": "original", METHOD: "Kodge", "retrain": "retrain"}  # before, after, what should come out
COMPARED = ("gradient_ascent", "neggrad_plus", "unsir", "scrub", "ssd", METHOD)  # the paper's Table 1, where we have it
LOOKS = (
    {  # colour and marker of a row, in every figure
        name: (COLOURS[k], MARKERS[k]) for k, name in enumerate((METHOD, *COMPARED[:-1], "retrain"))
    }
    | {"original": ("#777777", "*")}
)
SERVED = {"class", "classes"}  # kinds of request
PANELS = 3  # targets of one request in a figure
NEIGHBOURS = 5  # classes that are most confused with the forgotten one, at most a third of all others
NUMBERED = 20  # classes up to which cells and ticks are readable
WIDE = 7.0  # inches: the width of a page's text


def figures(given: Given) -> Iterator[tuple[str, Figure]]:
    """File name, without suffix, and figure."""
    name = given.benchmark
    if (study := given.study("kodge-toy")) is not None:
        yield "kodge-toy-boundaries", toy_boundaries(study)
    if (study := given.study("kodge-alphas")) is not None:
        yield "kodge-alphas", alphas(study, name)
    if (study := given.study("kodge-missing")) is not None:
        yield "kodge-missing-class", missing_class(study, name)
    if (study := given.study("kodge-grad-cam")) is not None:
        yield "kodge-grad-cam", saliency(study, name)
    growing = several_classes(given)
    if growing.empty and (study := given.study("kodge-classes")) is not None:
        growing = study
    if len(growing):
        yield "kodge-figure-5-several-classes", accuracy_by_classes(growing, name)
    for row, kinds, names in tables.requests(given.section):
        title = f"{name}, request {row}"
        if kinds == {"confusion"}:
            yield f"kodge-confused-classes-{row}", confused(given.table[given.table["request"] == row], title)
        if kinds == {"class"} and METHOD in given.params.methods and not given.section.left_out(METHOD):
            yield from of_classes(given, row, title, [t for t in given.targets if t.name in names])


def of_classes(given: Given, row: str, title: str, targets: list[Target]) -> Iterator[tuple[str, Figure]]:
    """The figures of a request for single classes."""
    here = given.table[given.table["request"] == row]
    if {"samples", "flops"} <= set(here["metric"]):
        yield f"kodge-figure-4-compute-{row}", compute(here, title)
    first = targets[:PANELS]
    shares = {method: table for method in STAGES if len(table := given.confusion(method))}
    if METHOD in shares:
        yield f"kodge-confusion-{row}", confusion_matrices(shares, first, given.dataset.classes, title)
    near = {target.name: found for target in first if (found := neighbours(given, target))}
    if len(near) == len(first):
        yield f"kodge-interclass-{row}", interclass(given.judged.classes, near, first, title)
    if given.section.corruption is None and (folds := likelihood_ratios(given, first)):
        yield f"kodge-ulira-roc-{row}", ulira_roc(folds, title)


def label_of(method: str) -> str:
    return STAGES.get(method, method)


# --- toy data -----------------------------------------------------------------------------------------


def toy_boundaries(study: pd.DataFrame) -> Figure:
    """Class regions of a small network on four Gaussians before and after, and of a retrain (demo.py).

    Args:
        study: of `kodge-toy`.
    """
    classes = sorted(study.loc[study["part"] == "test", "label"].unique())
    pale = ListedColormap(["#ffffff" if c == classes[0] else _paler(COLOURS[c]) for c in classes])
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(STAGES), figsize=(WIDE, 2.75), sharey=True)
        for axis, (network, title) in zip(axes, STAGES.items(), strict=True):
            here = study[study["network"] == network]
            grid, test = here[here["part"] == "grid"], here[here["part"] == "test"]
            regions = grid.pivot(index="y", columns="x", values="predicted")
            x, y = regions.columns.to_numpy(), regions.index.to_numpy()
            axis.pcolormesh(x, y, regions, cmap=pale, vmin=classes[0] - 0.5, vmax=classes[-1] + 0.5, rasterized=True)
            for c in classes:
                axis.contour(x, y, regions == c, levels=[0.5], colors="black", linewidths=0.7)
                points = test[test["label"] == c]
                axis.scatter(points["x"], points["y"], s=5, marker=MARKERS[c], color=COLOURS[c], lw=0, alpha=0.8)
            kept, gone = (test[(test["label"] == classes[0]) == forgotten] for forgotten in (False, True))
            right = [100 * (part["label"] == part["predicted"]).mean() for part in (kept, gone)]
            for row, column in itertools.product((0, -1), (0, -1)):  # which class has each corner
                at = 0.92 * x[column], 0.92 * y[row]
                axis.text(*at, str(regions.iloc[row, column]), ha="center", va="center", fontsize=9, weight="bold")
            axis.set_title(f"{title}\nretained {right[0]:.1f} %, forgotten {right[1]:.1f} %", fontsize=8)
            axis.set_xticks([-2, 0, 2])
            axis.set_xlabel("first feature")
            axis.set_aspect("equal")
        axes[0].set_ylabel("second feature")
        entries = [
            plt.Line2D([], [], color=COLOURS[c], marker=MARKERS[c], ls="", ms=5, label=f"class {c}") for c in classes
        ]
        entries[0].set_label(f"class {classes[0]}, to be forgotten (white)")
        figure.legend(handles=entries, loc="outside lower center", ncols=len(classes), fontsize=8)
        figure.suptitle("Four Gaussians, five layers: predicted class, and accuracy on test data (1 seed)", fontsize=10)
    return figure


def _paler(colour: str) -> tuple[float, ...]:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return tuple(1 - 0.4 * (1 - rgb))


# --- what became of the classes -----------------------------------------------------------------------


def mean_confusion(shares: pd.DataFrame, target: str, classes: int) -> np.ndarray:
    """Share of each class's test samples by predicted class, mean over runs, [classes, classes].

    Args:
        shares: `attack`'s confusion.csv of a method.
    """
    here = shares[(shares["target"] == target) & (shares["set"] != "forget")]
    runs = len(here[["seed", "unlearning_seed"]].drop_duplicates())
    found = np.zeros((classes, classes))
    np.add.at(found, (here["class"].to_numpy(), here["predicted"].to_numpy()), here["share"].to_numpy() / max(runs, 1))
    return found


def confusion_matrices(
    shares: Mapping[str, pd.DataFrame], targets: Sequence[Target], classes: int, title: str
) -> Figure:
    """Confusion on test data before and after, and of retrain; a row of panels a target, whose class is marked."""
    named, side = classes <= NUMBERED, WIDE / len(shares)
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(
            len(targets), len(shares), figsize=(WIDE, side * len(targets) * 0.93 + 0.7), squeeze=False, sharey=True
        )
        for i, target in enumerate(targets):
            for axis, (method, table) in zip(axes[i], shares.items(), strict=True):
                matrix = mean_confusion(table, target.name, classes)
                image = axis.imshow(100 * matrix, vmin=0, vmax=100, cmap="Greys")
                for (true, predicted), share in np.ndenumerate(matrix):
                    if named and share >= 0.005:
                        colour = "white" if share > 0.5 else "black"
                        text = f"{100 * share:.0f}"
                        axis.text(predicted, true, text, ha="center", va="center", fontsize=5.5, color=colour)
                for c in target.classes:
                    axis.axhspan(c - 0.5, c + 0.5, fill=False, ec=COLOURS[1], lw=1.2)
                if named:
                    axis.set_xticks(range(classes))
                    axis.set_yticks(range(classes))
                axis.tick_params(labelsize=6.5, length=2)
                axis.set_title(f"{label_of(method)}, {target.name}", fontsize=8.5)
            axes[i][0].set_ylabel("true class", fontsize=8)
        for axis in axes[-1]:
            axis.set_xlabel("predicted class", fontsize=8)
        figure.colorbar(image, ax=axes.ravel().tolist(), label="share of the true class (%)", shrink=0.6, pad=0.01)
        figure.suptitle(f"{title}: test data, mean over seeds; framed: the forgotten class", fontsize=10)
    return figure


def neighbours(given: Given, target: Target) -> list[int]:
    """The classes that the originals most confuse with the forgotten one, by mean probability on its test samples."""
    labels, classes = given.dataset.test.labels, given.dataset.classes
    gone = np.isin(labels, target.classes)
    runs = [given.logits("original", target.name, seed) for seed in given.section.seeds]
    found = [softmax(run["test"][gone].astype(np.float64), axis=1).mean(axis=0) for run in runs if run is not None]
    if not found:
        return []
    probability = np.mean(found, axis=0)
    probability[list(target.classes)] = -1
    count = min(NEIGHBOURS, max(1, (classes - len(target.classes)) // 3))
    return [int(c) for c in np.argsort(-probability, kind="stable")[:count]]


def interclass(
    accuracies: pd.DataFrame, near: Mapping[str, Sequence[int]], targets: Sequence[Target], title: str
) -> Figure:
    """Accuracy on the classes most confused with the forgotten one, and on all others (interclass_confusion.py).

    Args:
        accuracies: rows of classes.csv.
        near: the classes of each target that are confused with it.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(targets), figsize=(min(WIDE, 2.3 * len(targets) + 1), 2.6), sharey=True, squeeze=False
        )
        for axis, target in zip(axes[0], targets, strict=True):
            here = accuracies[accuracies["target"] == target.name]
            groups = {
                "confused": here["class"].isin(near[target.name]),
                "others": ~here["class"].isin([*near[target.name], *target.classes]),
            }
            for k, method in enumerate(STAGES):
                for place, chosen in enumerate(groups.values()):
                    of_seed = 100 * here[chosen & (here["method"] == method)].groupby("seed")["accuracy"].mean()
                    _with_range(axis, place + 0.2 * (k - 1), of_seed, method)
            classes = ", ".join(map(str, sorted(near[target.name])))
            axis.set_xticks([0, 1], [f"confused\n({classes})", "others"])
            axis.set_xlim(-0.5, 1.5)
            axis.set_title(target.name, fontsize=9)
            axis.grid(axis="x", visible=False)
        axes[0][0].set_ylabel("test accuracy (%)")
        figure.legend(handles=_entries(STAGES), loc="outside lower center", ncols=len(STAGES), fontsize=8)
        figure.suptitle(
            f"{title}: the classes most confused with the\nforgotten one (mean and range over seeds)", fontsize=10
        )
    return figure


def confused(here: pd.DataFrame, title: str) -> Figure:
    """Share of two confused classes' test samples that is still called the other, by method.

    Args:
        here: the leaderboard's rows of a benchmark and request of the kind `confusion`.
    """
    rows = here[here["metric"] == "confusion_error"].sort_values("mean", kind="stable").reset_index(drop=True)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.0, 0.24 * len(rows) + 1.2))
        for i, row in rows.iterrows():
            colour, marker = LOOKS.get(row["method"], ("black", "o"))
            half = 100 * np.nan_to_num([[row["mean"] - row["ci_low"]], [row["ci_high"] - row["mean"]]]).clip(0)
            axis.errorbar(100 * row["mean"], i, xerr=half, fmt=marker, color=colour, ms=5, capsize=2, lw=1.2)
        axis.set_yticks(range(len(rows)), rows["method"])
        axis.invert_yaxis()
        axis.set_xlim(left=min(0, axis.get_xlim()[0]))
        axis.set_xlabel("test samples of the two classes called the other (%)")
        figure.suptitle(f"{title}: {int(rows['n'].max())} seeds, 95 % intervals", fontsize=10)
    return figure


# --- alphas, samples, classes -------------------------------------------------------------------------


def alphas(study: pd.DataFrame, benchmark: str) -> Figure:
    """Retain accuracy, forget accuracy and score of each pair of alphas on test data (tune_our.py).

    Framed is the pair that has the best score on validation data; of equal ones the one that changes least.

    Args:
        study: of `kodge-alphas`.
    """
    panels = {"ACC_r": "accuracy on retained classes", "ACC_f": "on the forgotten class", "test": "ACC_r (1 - ACC_f)"}
    mean = study.groupby(["alpha_f", "alpha_r"], as_index=False)[["validation", *panels]].mean()
    order = mean.sort_values(["validation", "alpha_f", "alpha_r"], ascending=[False, True, False], kind="stable")
    best = order.iloc[0]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(1, len(panels), figsize=(WIDE, 2.7), sharey=True)
        for axis, (column, label) in zip(axes, panels.items(), strict=True):
            grid = mean.pivot(index="alpha_r", columns="alpha_f", values=column)
            image = axis.imshow(100 * grid, vmin=0, vmax=100, cmap="cividis", origin="lower", aspect="auto")
            for (i, j), value in np.ndenumerate(grid.to_numpy()):
                colour = "black" if value > 0.55 else "white"
                axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
            i, j = grid.index.get_loc(best["alpha_r"]), grid.columns.get_loc(best["alpha_f"])
            axis.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=COLOURS[1], lw=2))
            axis.set_xticks(range(grid.shape[1]), [f"{a:g}" for a in grid.columns], fontsize=8)
            axis.set_yticks(range(grid.shape[0]), [f"{a:g}" for a in grid.index], fontsize=8)
            axis.set_title(label, fontsize=9)
            axis.set_xlabel(r"$\alpha_f$")
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel(r"$\alpha_r$")
        figure.colorbar(image, ax=axes.tolist(), label="%", pad=0.01)
        figure.suptitle(f"{_about(study, benchmark)}: test data; framed: chosen on validation data", fontsize=10)
    return figure


def missing_class(study: pd.DataFrame, benchmark: str) -> Figure:
    """Accuracy of each class before Kodge, after it, and after it without samples of that class (missing_class.py).

    Args:
        study: of `kodge-missing`.
    """
    series = {
        "original": ("original", LOOKS["original"]),
        "complete": ("Kodge, all classes in its retain samples", LOOKS[METHOD]),
        "missing": ("Kodge, this class missing from them", (COLOURS[1], "X")),
    }
    order = sorted(study["class"].unique())
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDE, 2.9))
        for k, (column, (_, look)) in enumerate(series.items()):
            for place, c in enumerate(order):
                of_seed = 100 * study[study["class"] == c].groupby("seed")[column].mean()
                _with_range(axis, place + 0.22 * (k - 1), of_seed, column, look)
        axis.set_xticks(range(len(order)), order)
        axis.set_xlabel("class that is missing, and whose test accuracy is shown")
        axis.set_ylabel("test accuracy (%)")
        axis.grid(axis="x", visible=False)
        entries = [
            plt.Line2D([], [], color=colour, marker=marker, ls="", ms=5, label=label)
            for label, (colour, marker) in series.values()
        ]
        figure.legend(handles=entries, loc="outside lower center", ncols=len(series), fontsize=8)
        figure.suptitle(f"{_about(study, benchmark)}: mean and range over seeds", fontsize=10)
    return figure


def several_classes(given: Given) -> pd.DataFrame:
    """Accuracies of requests for more and more classes: `kind`, `forgotten`, `method`, `seed`, `ACC_r`, `ACC_f`."""
    kinds = {"classes": "one-shot", "sequential": "sequential"}
    ways = {row: kinds[r.kind] for row, r in given.section.requests.items() if r.kind in kinds}
    served = given.targets if ways and METHOD in given.params.methods else []
    of = {t.name: (ways[t.request], len(t.classes)) for t in served if t.request in ways and t.kinds <= SERVED}
    runs = given.judged.runs
    runs = runs[runs["target"].isin(of) & runs["metric"].isin(["ACC_r", "ACC_f"]) & runs["method"].isin(LOOKS)]
    keys = ["target", "method", "seed"]
    table = runs.pivot_table(index=keys, columns="metric", values="value").reset_index()
    return table.assign(
        kind=[of[target][0] for target in table["target"]], forgotten=[of[target][1] for target in table["target"]]
    )


def accuracy_by_classes(table: pd.DataFrame, benchmark: str) -> Figure:
    """Accuracy on retained and on forgotten classes against the number of these, at once and one after another.

    Figures 5a and 5b of version 1.

    Args:
        table: `several_classes`, or of the study `kodge-classes`; the kind 'both' is drawn in either column.
    """
    ways = [kind for kind in ("one-shot", "sequential") if kind in set(table["kind"])]
    methods = [m for m in LOOKS if m in set(table["method"])]
    rows = {"ACC_r": "retained classes", "ACC_f": "forgotten classes"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(ways), figsize=(min(WIDE, 3.0 * len(ways) + 1), 4.2), sharex="col", sharey="row", squeeze=False
        )
        for column, way in enumerate(ways):
            for axis, metric in zip(axes[:, column], rows, strict=True):
                for k, method in enumerate(methods):
                    here = table[table["kind"].isin([way, "both"]) & (table["method"] == method)]
                    grouped = 100 * here.groupby("forgotten")[metric].agg(["mean", "min", "max"])
                    colour, marker = LOOKS[method]
                    half = [grouped["mean"] - grouped["min"], grouped["max"] - grouped["mean"]]
                    x = grouped.index + 0.06 * (k - (len(methods) - 1) / 2)
                    axis.errorbar(x, grouped["mean"], yerr=half, marker=marker, color=colour, ms=5, lw=1.2, capsize=2)
                axis.margins(y=0.08)
            axes[0][column].set_title({"one-shot": "at once", "sequential": "one after another"}[way], fontsize=9)
            axes[1][column].set_xlabel("classes forgotten")
            axes[1][column].set_xticks(sorted(table["forgotten"].unique()))
        for axis, label in zip(axes[:, 0], rows.values(), strict=True):
            axis.set_ylabel(f"test accuracy (%),\n{label}")
        figure.legend(handles=_entries(methods), loc="outside lower center", ncols=min(len(methods), 4), fontsize=8)
        figure.suptitle(f"{_about(table, benchmark)}: mean and range over seeds", fontsize=10)
    return figure


# --- cost ---------------------------------------------------------------------------------------------


def compute(here: pd.DataFrame, title: str) -> Figure:
    """Samples passed and FLOPs of each method, in retrainings; figure 4 of version 1, without its seconds.

    Args:
        here: the leaderboard's rows of one benchmark and request.
    """
    costs = {metric: here[here["metric"] == metric].set_index("method") for metric in ("flops", "samples")}
    mean = pd.DataFrame({metric: rows["mean"] for metric, rows in costs.items()})
    mean = mean[mean["flops"] > 0].sort_values("flops", kind="stable")
    looks = {"flops": ("FLOPs, algebra included", COLOURS[0], "o"), "samples": ("samples passed", COLOURS[1], "s")}
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.4, 0.24 * len(mean) + 1.5))
        axis.axvline(1, color="black", lw=0.8, ls=":")
        for metric, (_, colour, marker) in looks.items():
            rows = costs[metric].loc[mean.index]
            shown = rows["mean"] > 0  # a logarithm has no place for nothing
            half = np.nan_to_num([rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]]).clip(0)
            y = np.arange(len(rows)) + (0.14 if metric == "samples" else -0.14)
            axis.errorbar(
                rows["mean"][shown], y[shown], xerr=half[:, shown], fmt=marker, color=colour, ms=4.5, capsize=2, lw=1.2
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_yticks(range(len(mean)), mean.index)
        for tick in axis.get_yticklabels():
            tick.set_fontweight("bold" if tick.get_text() == METHOD else "normal")
        axis.invert_yaxis()
        axis.set_xlabel("cost of a request, relative to retraining")
        entries = [plt.Line2D([], [], color=c, marker=m, ls="", ms=5, label=label) for label, c, m in looks.values()]
        figure.legend(handles=entries, loc="outside lower center", ncols=2, fontsize=8)
        figure.suptitle(f"{title}: {int(costs['flops']['n'].max())} seeds, 95 % intervals", fontsize=10)
    return figure


# --- Grad-CAM -----------------------------------------------------------------------------------------


def saliency(study: pd.DataFrame, benchmark: str) -> Figure:
    """Grad-CAM for the true class over a few test images, before and after, and of a retrain.

    Args:
        study: of `kodge-grad-cam`.
    """
    samples = list(dict.fromkeys(study["sample"]))
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(
            len(samples), 1 + len(STAGES), figsize=(5.6, 1.42 * len(samples) + 0.7), squeeze=False
        )
        for i, sample in enumerate(samples):
            of_sample = study[study["sample"] == sample]
            first = of_sample[of_sample["network"] == of_sample["network"].iloc[0]]
            image = first.pivot(index="row", columns="column", values="pixel").to_numpy()
            axes[i][0].imshow(image, cmap="gray")
            label = int(first["label"].iloc[0])
            gone = f"class-{label}" == first["target"].iloc[0]
            axes[i][0].set_ylabel(f"class {label},\n{'forgotten' if gone else 'retained'}", fontsize=8)
            highest = of_sample["map"].max() or 1.0
            for axis, (network, title) in zip(axes[i][1:], STAGES.items(), strict=True):
                here = of_sample[of_sample["network"] == network]
                heat = here.pivot(index="row", columns="column", values="map").to_numpy()
                axis.imshow(image, cmap="gray", alpha=0.35)
                drawn = axis.imshow(heat / highest, cmap="magma", vmin=0, vmax=1, alpha=0.75)
                said = f"{int(here['predicted'].iloc[0])} ({100 * here['confidence'].iloc[0]:.0f} %)"
                axis.set_xlabel(said, fontsize=8)
                if i == 0:
                    axis.set_title(title, fontsize=9)
        axes[0][0].set_title("test image", fontsize=9)
        for axis in axes.ravel():
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        figure.colorbar(drawn, ax=axes.ravel().tolist(), label="Grad-CAM, 1: largest of the image's three", shrink=0.6)
        title = f"{_about(study, benchmark)}: Grad-CAM for the true class"
        figure.suptitle(f"{title}\nbelow: predicted class (probability of the true one)", fontsize=9)
    return figure


# --- U-LiRA -------------------------------------------------------------------------------------------


def margins(given: Given, method: str, target: Target) -> dict[int, np.ndarray]:
    """Of the forget set, as `bench.metrics.likelihood` wants them, by seed, of those runs that there are."""
    labels, found = given.dataset.train.labels[target.indices], {}
    for seed in given.section.seeds:
        if (logits := given.logits(method, target.name, seed)) is not None:
            found[seed] = margin(logits["train"][target.indices], labels)
    return found


def likelihood_ratios(given: Given, targets: Sequence[Target]) -> dict[str, dict[str, list[Fold]]]:
    """Target -> method -> what `bench.metrics.likelihood.ulira` judges: scores of unlearned and retrained models."""
    found: dict[str, dict[str, list[Fold]]] = {}
    for target in targets if len(given.section.seeds) >= MIN_MODELS else []:
        retrained = margins(given, "retrain", target)
        for method in ("original", *COMPARED):
            unlearned = margins(given, method, target)
            seeds = sorted(unlearned.keys() & retrained.keys())
            if len(seeds) >= MIN_MODELS:
                sides = [np.stack([side[seed] for seed in seeds]) for side in (unlearned, retrained)]
                found.setdefault(target.name, {})[method] = cross_fitted(sides[0], sides[1], student)
    return found


def ulira_roc(folds: Mapping[str, Mapping[str, Sequence[Fold]]], title: str) -> Figure:
    """True against false positives of U-LiRA, both in logarithms: can unlearned models be told from retrains?

    All folds' scores together, as `bench.metrics.roc.judge` takes them at low false-positive rates.

    Args:
        folds: target -> method -> scores of members and of non-members.
    """
    methods = [m for m in LOOKS if any(m in of for of in folds.values())]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(folds), figsize=(min(WIDE, 2.4 * len(folds) + 0.8), 3.3), sharey=True, squeeze=False
        )
        for axis, (target, of) in zip(axes[0], folds.items(), strict=True):
            least = 1.0
            for method in reversed(methods):  # Kodge lies on top
                if method in of:
                    members, others = (np.concatenate([f[side] for f in of[method]], axis=None) for side in (0, 1))
                    truth = np.repeat([1, 0], [members.size, others.size])
                    false, true, _ = roc_curve(truth, np.concatenate([members, others]))
                    step, (colour, marker) = 1 / others.size, LOOKS[method]  # one false positive, where curves begin
                    x = np.append(step, false[false > step])
                    y = np.append(true[false <= step].max(), true[false > step])
                    axis.plot(x, y, color=colour, marker=marker, ms=4, lw=1.1, markevery=0.2)
                    least = min(least, step)
            axis.plot([least, 1], [least, 1], color="black", lw=0.8, ls=":")
            axis.set(xscale="log", yscale="log", xlim=(least, 1.15), ylim=(least, 1.3))
            axis.set_title(target, fontsize=9)
            axis.set_xlabel("false-positive rate")
        axes[0][0].set_ylabel("true-positive rate")
        figure.legend(handles=_entries(methods, lw=1.1), loc="outside lower center", ncols=4, fontsize=8)
        count = max(len(f) for of in folds.values() for f in of.values())
        figure.suptitle(f"{title}: U-LiRA against retrain, {count} seeds", fontsize=10)
    return figure


# --- parts of figures ---------------------------------------------------------------------------------


def _about(study: pd.DataFrame, benchmark: str) -> str:
    """Benchmark, target and seeds of a study's table."""
    target = f", {study['target'].iloc[0]}" if "target" in study and study["target"].nunique() == 1 else ""
    seeds = study["seed"].nunique()
    return f"{benchmark}{target}, {seeds} seed{'s' if seeds > 1 else ''}"


def _with_range(axis: Axes, x: float, values: pd.Series, row: str, look: tuple[str, str] | None = None) -> None:
    """The mean of some seeds' values as a marker, and their range as a bar."""
    if len(values):
        colour, marker = look or LOOKS[row]
        mean = values.mean()
        half = [[mean - values.min()], [values.max() - mean]]
        axis.errorbar(x, mean, yerr=half, fmt=marker, color=colour, ms=5.5, capsize=2, lw=1.2)


def _entries(methods: Sequence[str] | Mapping[str, str], lw: float = 0.0) -> list[plt.Line2D]:
    found = []
    for method in methods:
        colour, marker = LOOKS[method]
        found.append(plt.Line2D([], [], color=colour, marker=marker, lw=lw, ms=5, label=label_of(method)))
    return found

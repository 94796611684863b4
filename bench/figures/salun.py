"""SalUn's figures, from the study `salun-random` (bench/studies/salun.py).

Fan et al., arXiv:2310.12508: figure 1 (gap of UA to retrain by the share that is forgotten, and its spread over
hyperparameters) and two of the appendix (average gap by the mask's share; the mask on other methods). Beside the gap of
UA stands the average gap, here that of single runs: the mean of |run - mean retrain of the same fraction| over UA, RA,
TA and MIA.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures.axes import logarithmic
from bench.figures.given import Given
from bench.figures.style import COLOURS, MARKERS, STYLE
from bench.report.tables import AVERAGED

STUDY = "salun-random"
GAPS = {"UA": "|gap| of UA", "average": "average gap"}  # column -> title of its panel
UNIT = "percentage points"
METHODS = ("finetune", "gradient_ascent", "l1_sparse", "random_labels", "salun", "original", "retrain")
LOOKS: dict[str, Any] = {
    m: {"color": c, "marker": s} for m, c, s in zip(METHODS, COLOURS[:5] + ["black"] * 2, MARKERS, strict=True)
}
LINES: dict[str, Any] = {"original": ":", "retrain": "--"}
LABELS = {"retrain": "retrain, to the others"}


def figures(given: Given) -> Iterator[tuple[str, Figure]]:
    """File name, without suffix, and figure."""
    if (study := given.study(STUDY)) is None:
        return
    table, seeds = with_gaps(study), study["seed"].nunique()
    title, of_seeds = f"{given.benchmark}, random forget sets", f"bars: lowest and highest of {seeds} seeds"
    yield "salun-figure-1a-forgetting-amount", forgetting_amount(table, f"{title}; {of_seeds}")
    if len(varied := table[table["lr"] != 1]):
        yield "salun-figure-1b-hyperparameters", hyperparameters(table, f"{title}; {varied['seed'].nunique()} seed")
    smallest = table[table["fraction"] == table["fraction"].min()]
    title = f"{given.benchmark}, {100 * smallest['fraction'].iloc[0]:g} % forgotten at random; {of_seeds}"
    if (own := own_share(given)) and len(smallest[smallest["mask"] > 0]):
        yield "salun-mask-share", mask_share(smallest, own, title)
        yield "salun-masks-on-other-methods", masks_on_other_methods(smallest, own, title)


def own_share(given: Given) -> float:
    """The mask's share where SalUn has its own hyperparameters; 0 without SalUn."""
    card = given.judged.cards.get((given.benchmark, "salun"), {})
    return float(card.get("hyperparameters", {}).get("mask_share", 0))


def with_gaps(study: pd.DataFrame) -> pd.DataFrame:
    """The study's runs with `GAPS` in percentage points; a retrain's are to the others of its fraction.

    A run that diverged has none.
    """
    retrains = study[study["method"] == "retrain"]
    measures, rows = list(AVERAGED), []
    for _, run in study.iterrows():
        others = retrains[retrains["fraction"] == run["fraction"]]
        if run["method"] == "retrain":
            others = others[others["seed"] != run["seed"]]
        away = 100 * (run[measures].astype(float) - others[measures].mean()).abs()
        rows.append({"UA": away["UA"], "average": away.mean(skipna=False)})
    return study.drop(columns=measures).assign(**pd.DataFrame(rows, index=study.index))


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of entries as the benchmark has them."""
    return table[(table["lr"] == 1) & (table["epochs"] == 1) & (table["mask"] == 0)]


def forgetting_amount(table: pd.DataFrame, title: str) -> Figure:
    """Gaps by the share of the training set that is forgotten, a line a method."""
    runs = plain(table)
    there = [m for m in METHODS if m in set(runs["method"])]
    with plt.rc_context(STYLE):
        figure, axes = panels(title)
        for axis, gap in zip(axes, GAPS, strict=True):
            for i, method in enumerate(there):
                mine = runs[runs["method"] == method]
                shift = 0.6 * (i - (len(there) - 1) / 2)  # bars beside each other
                _line(axis, mine, 100 * mine["fraction"], gap, method, shift)
            logarithmic(axis, "y", runs[gap])
            axis.set_xlabel("forgotten share of the training set (%)")
            axis.set_xticks(100 * runs["fraction"].unique())
        _legend(figure, axes[0])
    return figure


def hyperparameters(table: pd.DataFrame, title: str) -> Figure:
    """Gaps of each method over its settings, of the smallest and of the largest forget set.

    A bar from the best to the worst setting; the benchmark's own is filled. Settings that diverged are counted.
    """
    varied = table[table["lr"] != 1]
    there = [m for m in METHODS if m in set(varied["method"])]
    rates, lengths = (" or ".join(f"{v:g}" for v in sorted(varied[c].unique())) for c in ("lr", "epochs"))
    other = f"learning rate × {rates}, epochs × {lengths}"
    swept = table[(table["mask"] == 0) & (table["seed"] == varied["seed"].min()) & table["method"].isin(there)]
    with plt.rc_context(STYLE):
        figure, axes = panels(title)
        for axis, gap in zip(axes, GAPS, strict=True):
            for k, fraction in enumerate((table["fraction"].min(), table["fraction"].max())):
                for i, method in enumerate(there):
                    mine = swept[(swept["method"] == method) & (swept["fraction"] == fraction)]
                    x, own = i + 0.36 * (k - 0.5), mine[(mine["lr"] == 1) & (mine["epochs"] == 1)]
                    first = i == 0  # its marks stand for all in the legend
                    axis.bar(
                        x,
                        mine[gap].max() - mine[gap].min(),
                        0.3,
                        bottom=mine[gap].min(),
                        color=("#dddddd", "white")[k],
                        edgecolor="#666666",
                        hatch=("", "////")[k],
                        label=f"{100 * fraction:g} % forgotten" if first else "_",
                    )
                    for runs, fill, label in ((mine, "white", other), (own, "black", "own setting")):
                        marks: Any = {
                            "ms": 4.5,
                            "mec": "black",
                            "zorder": 3,
                            "label": label if first and not k else "_",
                        }
                        axis.plot([x] * len(runs), runs[gap], "o", mfc=fill, **marks)
                    if lost := int(mine[gap].isna().sum()):
                        axis.annotate(f"{lost} diverged", (x, 0), ha="center", va="bottom", rotation=90, fontsize=6)
            logarithmic(axis, "y", swept[gap])
            axis.set_xticks(range(len(there)), there, rotation=20, ha="right")
        _legend(figure, axes[0])
    return figure


def mask_share(table: pd.DataFrame, own: float, title: str) -> Figure:
    """Gaps of SalUn by the share of the weights that its mask lets train; 100 % is random labels without a mask.

    Args:
        own: the share where `mask` is 0.
    """
    salun = table[(table["method"] == "salun") & (table["lr"] == 1) & (table["epochs"] == 1)]
    shares, references = 100 * salun["mask"].replace(0, own), plain(table)
    with plt.rc_context(STYLE):
        figure, axes = panels(title)
        for axis, gap in zip(axes, GAPS, strict=True):
            _line(axis, salun, shares, gap, "salun")
            for reference, line in LINES.items():
                level = references.loc[references["method"] == reference, gap].mean()
                axis.axhline(level, color="black", lw=1, ls=line, label=LABELS.get(reference, reference))
            axis.set_xlabel("trained share of the weights (%)")
            axis.set_xticks(sorted(shares.unique()))
            axis.set_ylim(bottom=0)
        _legend(figure, axes[0])
    return figure


def masks_on_other_methods(table: pd.DataFrame, own: float, title: str) -> Figure:
    """Gaps of methods without and with SalUn's mask, which random labels with it are."""
    pairs = {"random labels": [("salun", 1.0), ("salun", 0.0)]}
    pairs |= {m.replace("_", " "): [(m, 0.0), (m, own)] for m in ("finetune", "gradient_ascent")}
    runs = table[(table["lr"] == 1) & (table["epochs"] == 1)].set_index(["method", "mask"]).sort_index()
    pairs = {name: pair for name, pair in pairs.items() if all(key in runs.index for key in pair)}
    looks = {"without the mask": ("white", "////"), f"with it ({100 * own:g} % of the weights)": (COLOURS[0], "")}
    with plt.rc_context(STYLE):
        figure, axes = panels(title)
        for axis, gap in zip(axes, GAPS, strict=True):
            for i, pair in enumerate(pairs.values()):
                for k, (key, (label, (fill, hatch))) in enumerate(zip(pair, looks.items(), strict=True)):
                    values, x = runs.loc[[key], gap], i + 0.4 * (k - 0.5)
                    shown: Any = {
                        "color": fill,
                        "edgecolor": "black",
                        "hatch": hatch,
                        "label": label if i == 0 else "_",
                    }
                    axis.bar(x, values.mean(), 0.36, yerr=_reach(values), capsize=3, **shown)
            axis.set_xticks(range(len(pairs)), pairs)
        _legend(figure, axes[0])
    return figure


def panels(title: str) -> tuple[Figure, Sequence[Axes]]:
    """A panel each of `GAPS`."""
    figure, axes = plt.subplots(1, len(GAPS), figsize=(7, 3.3))
    for axis, label in zip(axes, GAPS.values(), strict=True):
        axis.set_title(f"{label} to retrain", fontsize=9)
    axes[0].set_ylabel(UNIT)
    figure.suptitle(title, fontsize=10)
    return figure, axes


def _line(axis: Axes, runs: pd.DataFrame, places: pd.Series, gap: str, method: str, shift: float = 0.0) -> None:
    """Means over seeds at each place, with bars from the lowest to the highest."""
    groups = runs[gap].groupby(places)
    mean = groups.mean()
    reach = [mean - groups.min(), groups.max() - mean]
    line = LINES.get(method, "-")
    axis.errorbar(
        mean.index + shift,
        mean,
        yerr=reach,
        ls=line,
        lw=1.2,
        ms=4.5,
        capsize=2,
        label=LABELS.get(method, method),
        **LOOKS[method],
    )


def _reach(values: pd.Series) -> list[list[float]]:
    return [[values.mean() - values.min()], [values.max() - values.mean()]]


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), fontsize=8)

"""Figures of RUM: ToW by level, RUM beside shuffle and vanilla, dynamics along its steps, proxies of memorization.

Source: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024 (arXiv:2406.01257), figure 1 and
those of its sections 5 and 6; proxies: Zhao et al., "Scalability of memorization-based machine unlearning"
(arXiv:2410.16516).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench import store
from bench.figures.given import Given
from bench.figures.spread import bars_of, lengths, spread
from bench.figures.style import COLOURS, MARKERS, STYLE
from bench.metrics import battery
from bench.metrics.memorization import rank_correlations
from bench.requests import EntangledRequest, MemorizedRequest

LEVELS = ("low", "medium", "high")
KINDS = {  # of requests -> what they go by, and what is measured then
    "memorized": "level of memorization; below: its mean",
    "entangled": "level of entanglement, by distance to the centre; below: ES",
}
SINGLE = (  # the algorithms that the paper compares
    "original",
    "gradient_ascent",
    "neggrad_plus",
    "scrub",
    "finetune",
    "l1_sparse",
    "influence",
    "salun",
    "random_labels",
)
PROXIES = {"confidence": "confidence, mean over epochs", "holdout": "KL after held-out training"}
PROXIES |= {"curvature": "curvature of the loss", "distance": "distance to the centre"}
WAYS = {"vanilla": "//", "shuffle": "..", "RUM": ""}  # -> hatch
SCORES = {"tow": "ToW", "tow_mia": "ToW-MIA"}
BASICS = ["UA", "RA", "TA", "mia_salun"]
LINES = ("-", "--", ":")
SETS = ("forget", "retain", "test", *LEVELS)


def figures(given: Given) -> Iterator[tuple[str, Figure]]:
    """File name, without suffix, and figure."""
    name, study = given.benchmark, given.study("rum-levels")
    ranked = of_leaderboard(given)
    if ranked.empty and study is not None:
        ranked = of_study(study)
    if len(ranked):
        yield "rum-figure-1-tow-by-level", tow_by_level(ranked, name)
    for entry, ways in variants(given).items():
        bars = given.table[given.table["metric"].isin(SCORES) & given.table["method"].isin(ways)]
        if entry in set(bars["method"]) and len(ways) > 1:
            yield f"{entry}-beside-shuffle-and-vanilla", tow_bars(bars, ways, name)
    if (steps := given.study("rum-sequence")) is not None:
        yield "rum-sequence-dynamics", dynamics(steps, name)
    if (scores := given.scores()) and "memorization" in scores:
        yield "rum-proxies-against-memorization", proxies(scores, name)


# --- figure 1 --------------------------------------------------------------------------------------


def of_leaderboard(given: Given) -> pd.DataFrame:
    """ToW where the benchmark's requests go by level: kind, level, measured, method, mean, low, high, n."""
    rows: list[dict[str, Any]] = []
    table = given.table[(given.table["metric"] == "tow") & given.table["method"].isin(SINGLE)]
    for request, section in given.section.requests.items():
        if isinstance(section, MemorizedRequest | EntangledRequest) and section.level in LEVELS:
            measured = _measured(given, request)[section.kind]
            about = {"kind": section.kind, "level": section.level, "measured": measured}
            for row in table[table["request"] == request].to_dict("records"):
                known = {"mean": row["mean"], "low": row["ci_low"], "high": row["ci_high"], "n": row["n"]}
                rows.append(about | {"method": row["method"]} | known)
    return pd.DataFrame(rows, columns=["kind", "level", "measured", "method", "mean", "low", "high", "n"])


def _measured(given: Given, target: str) -> dict[str, float]:
    """Mean memorization and entanglement of a forget set, by kind of request."""
    summary = store.read_json(store.scores_file(given.benchmark).with_name("summary.json"))["targets"][target]
    return {"memorized": summary["mean_memorization"], "entangled": summary["es_global"]}


def of_study(study: pd.DataFrame) -> pd.DataFrame:
    """The same of the table of `rum-levels`; its ToW is the leaderboard's, to the mean of its retrains."""
    rows = []
    for (kind, level), here in study.groupby(["kind", "level"], sort=False):
        retrains = here.loc[here["method"] == "retrain", BASICS].to_dict("records")
        measured = here["memorization" if kind == "memorized" else "entanglement"].mean()
        for method, runs in here[here["method"] != "retrain"].groupby("method", sort=False):
            each = [battery.scores(run, None, retrains, False).values["tow"] for run in runs.to_dict("records")]
            mean, low, high = spread(np.array(each))
            known = {"mean": mean, "low": low, "high": high, "n": len(each)}
            rows.append({"kind": kind, "level": level, "measured": measured, "method": method} | known)
    return pd.DataFrame(rows)


def tow_by_level(ranked: pd.DataFrame, name: str) -> Figure:
    """ToW of each algorithm against the level of the forget set's memorization, and of its entanglement.

    Args:
        ranked: what `of_leaderboard` returns.
    """
    kinds = [kind for kind in KINDS if kind in set(ranked["kind"])]
    methods = [method for method in SINGLE if method in set(ranked["method"])]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(kinds), figsize=(2.8 * len(kinds) + 1.4, 3.0), sharey=True, squeeze=False)
        for axis, kind in zip(axes[0], kinds, strict=True):
            here = ranked[ranked["kind"] == kind]
            levels = [level for level in LEVELS if level in set(here["level"])]
            measured = here.drop_duplicates("level").set_index("level")["measured"]
            for i, method in enumerate(methods):
                rows = here[here["method"] == method].set_index("level").reindex(levels)
                axis.errorbar(
                    np.arange(len(levels))
                    + 0.36 * ((i + 0.5) / len(methods) - 0.5),  # side by side, not over each other
                    rows["mean"],
                    yerr=lengths(rows["mean"], rows["low"], rows["high"]),
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                    ls=LINES[i // len(COLOURS)],
                    ms=4.5,
                    lw=1.2,
                    capsize=2,
                    label=method,
                )
            axis.set_xticks(range(len(levels)), [f"{level}\n{_rounded(measured[level])}" for level in levels])
            axis.set_xlabel(KINDS[kind], fontsize=8)
            axis.set_xlim(-0.4, len(levels) - 0.6)
        axes[0][0].set_ylabel("ToW (1: as retrained)")
        axes[0][0].set_ylim(bottom=0 if ranked["low"].min() < 0.5 else None, top=1.02)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8)
        figure.suptitle(f"{name}: tug of war by level; bars: {bars_of(int(ranked['n'].max()))}", fontsize=10)
    return figure


def _rounded(value: float) -> str:
    return f"{round(value, 2) + 0.0:g}"  # never -0


# --- RUM, shuffle, vanilla -------------------------------------------------------------------------


def variants(given: Given) -> dict[str, dict[str, str]]:
    """Entry of RUM -> the entries that it is compared with -> their labels.

    Those are its two controls, and each algorithm of its parts alone, with the same hyperparameters: of the last
    part's, on the whole forget set at once, that is 'vanilla'.
    """
    params, name = given.params, given.benchmark
    settings = {method: params.hyperparameters(method, name) for method in params.methods}
    entries = [method for method in params.methods if params.file(method) == "rum"]
    found = {}
    for entry in entries:
        if settings[entry].get("control"):
            continue
        parts = settings[entry].get("parts", [])
        ways = {}
        for k, part in enumerate(parts):
            wanted = part["method"], part.get("hyperparameters", {})
            for method in params.methods:
                if (params.file(method), settings[method]) == wanted:
                    ways[method] = "vanilla" if k == len(parts) - 1 else f"{method} alone"
        for control in ("vanilla", "shuffle"):
            same = [e for e in entries if settings[e] == settings[entry] | {"control": control}]
            ways |= dict.fromkeys(same, control)
        found[entry] = ways | {entry: "RUM"}
    return found


def tow_bars(bars: pd.DataFrame, ways: dict[str, str], name: str) -> Figure:
    """ToW and ToW-MIA of RUM, its controls and the algorithms of its parts, on each request.

    Args:
        bars: the leaderboard's rows of these metrics and methods.
        ways: method -> label; those of `WAYS` have a hatch of their own.
    """
    requests = list(dict.fromkeys(bars["request"]))
    width = 0.84 / len(ways)
    with plt.rc_context(STYLE | {"axes.grid": False, "hatch.linewidth": 0.6}):
        figure, axes = plt.subplots(
            len(SCORES), 1, figsize=(min(7.0, 0.28 * len(ways) * len(requests) + 2.6), 4.2), sharex=True
        )
        for axis, (metric, label) in zip(axes, SCORES.items(), strict=True):
            for i, (method, way) in enumerate(ways.items()):
                rows = bars[(bars["metric"] == metric) & (bars["method"] == method)].set_index("request")
                rows = rows.reindex(requests)
                axis.bar(
                    np.arange(len(requests)) + (i - (len(ways) - 1) / 2) * width,
                    rows["mean"],
                    width * 0.94,
                    yerr=lengths(rows["mean"], rows["ci_low"], rows["ci_high"]),
                    color="white" if way not in WAYS else COLOURS[i % len(COLOURS)],
                    alpha=0.9,
                    hatch=WAYS.get(way, "xx" if i else ""),
                    edgecolor="black",
                    lw=0.6,
                    error_kw={"lw": 0.9, "capsize": 2},
                    label=f"{way} ({method})" if way in WAYS else way,
                )
            axis.set_ylim(0, 1.04)
            axis.set_ylabel(label)
        axes[-1].set_xticks(range(len(requests)), requests)
        if len(requests) > 4:
            axes[-1].tick_params(axis="x", rotation=25, labelsize=7)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8)
        seeds = int(bars["n"].max())
        figure.suptitle(f"{name}: RUM and its controls, 1: as retrained; {bars_of(seeds)}", fontsize=10)
    return figure


# --- dynamics --------------------------------------------------------------------------------------


def dynamics(steps: pd.DataFrame, name: str) -> Figure:
    """Accuracy on each set, and on each part of the forget set, after each step; at the right, retraining.

    Args:
        steps: the table of `rum-sequence`.
    """
    entries = [method for method in dict.fromkeys(steps["method"]) if method != "retrain"]
    samples = steps.groupby("set")["samples"].first()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(entries), figsize=(2.9 * len(entries) + 1.4, 4.6), sharex=True, sharey=True, squeeze=False
        )
        for column, entry in zip(axes.T, entries, strict=True):
            here = steps[steps["method"] == entry]
            made = here.drop_duplicates("step").sort_values("step")["algorithm"].fillna("")
            last = int(here["step"].max())
            for axis, sets in zip(column, (SETS[:3], SETS[3:]), strict=True):
                for i, of in enumerate(sets, start=SETS.index(sets[0])):
                    look = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 4.5, "lw": 1.2, "capsize": 2}
                    look["ls"] = LINES[i % 3]
                    dodge = 0.06 * (i % 3 - 1)
                    _accuracies(axis, here[here["set"] == of], dodge, look | {"label": f"{of} (n = {samples[of]})"})
                    retrained = steps[(steps["method"] == "retrain") & (steps["set"] == of)]
                    _accuracies(axis, retrained, last + 1.2 + dodge, look | {"ls": "none"})
                axis.axvline(last + 0.6, color="#888888", lw=0.8, ls=":")
            ticks = ["before", *(f"step {k}:\n{what}" for k, what in enumerate(made[1:], start=1))]
            column[1].set_xticks([*range(last + 1), last + 1.2], [*ticks, "retrain"], fontsize=7, rotation=30)
            column[0].set_title(entry, fontsize=9)
        for row in axes:
            row[0].set_ylabel("accuracy (%)")
            row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        n = steps["seed"].nunique()
        figure.suptitle(f"{name}: mixed forget set along the steps of RUM; bars: {bars_of(n)}", fontsize=10)
    return figure


def _accuracies(axis: Any, rows: pd.DataFrame, shift: float, look: dict[str, Any]) -> None:
    """Mean over seeds of each step, in percent, with its bar."""
    if rows.empty:
        return
    steps = np.array(sorted(rows["step"].unique()))
    found = np.array([spread(100 * rows.loc[rows["step"] == step, "accuracy"].to_numpy()) for step in steps])
    axis.errorbar(steps + shift, found[:, 0], yerr=lengths(*found.T), **look)


# --- proxies ---------------------------------------------------------------------------------------


def proxies(scores: dict[str, np.ndarray], name: str) -> Figure:
    """Each proxy of a training sample against its memorization; Spearman's rank correlation above.

    Args:
        scores: float64 [n] by name.
    """
    shown = [proxy for proxy in PROXIES if proxy in scores]
    rho, n = rank_correlations(scores), len(scores["memorization"])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(shown), figsize=(1.75 * len(shown), 2.6), squeeze=False)
        for axis, proxy in zip(axes[0], shown, strict=True):
            axis.scatter(
                scores["memorization"], scores[proxy], s=5, color=COLOURS[0], alpha=0.35, lw=0, rasterized=True
            )
            axis.set_title(f"ρ = {rho[proxy]:.2f}", fontsize=9)
            axis.set_ylabel(PROXIES[proxy], fontsize=8)
            axis.tick_params(labelsize=7)
        figure.supxlabel("memorization", fontsize=9)
        figure.suptitle(f"{name}: {n} training samples, Spearman's ρ", fontsize=10)
    return figure

"""The leaderboard as Markdown, and as numbers for `dvc metrics` and `dvc plots`."""

import math
from typing import Any

import pandas as pd

from bench.metrics.comparisons import DIFFERENT, INDISTINGUISHABLE
from bench.report.tables import COSTS

HEADLINE = {  # metric -> column title, in the order of the tables
    "avg_gap": "Avg. gap",
    "tow": "ToW",
    "UA": "UA",
    "RA": "RA",
    "TA": "TA",
    "mia_salun": "MIA (SalUn)",
    "ACC_r": "ACC_r",
    "ACC_f": "ACC_f",
    "mia_kodge": "MIA (Kodge)",
    "mia_loss_auc": "MIA loss AUC",
    "ulira_auc": "U-LiRA AUC",
    "js_forget": "JS to retrain",
    "poison_success": "Attack success",
    "confusion_error": "Confused",
    "corruption_hidden": "Hidden fit",
    "samples": "Passes / retrain",
}
MEANING = {
    "avg_gap": "mean distance to retrain over UA, RA, TA and MIA (SalUn)",
    "tow": "tug of war: product of 1 - distance to retrain over UA, RA, TA; retrain's row: to the other retrains",
    "UA": "1 - accuracy on the forget set (train)",
    "RA": "accuracy on the retain set (train)",
    "TA": "accuracy on test samples, without the forgotten class",
    "mia_salun": "share of the forget set that an SVC fitted on retain against test calls non-member",
    "ACC_r": "test accuracy on retained classes",
    "ACC_f": "test accuracy on the forgotten class",
    "mia_kodge": "share of the forgotten class's test samples that an SVC fitted on retain against forget calls so",
    "mia_loss_auc": "cross-fitted logistic regression of the loss, forget set against unseen samples of its classes",
    "ulira_auc": "likelihood-ratio attack by sample: unlearned against retrained; the row of retrain needs six seeds",
    "js_forget": "Jensen-Shannon divergence on the forget set to retrains of other seeds, in percent of a nat",
    "poison_success": "share of test images of other classes that the trigger turns into the poison's target class",
    "confusion_error": "share of the two confused classes' test samples that is called the other",
    "corruption_hidden": "share of the manipulated training samples that were not discovered, called their false label",
    "samples": "samples passed forward and backward, relative to retraining",
}
FOR_DVC = ("avg_gap", "UA", "RA", "TA", "mia_salun", "poison_success", "confusion_error", "samples")  # few: a line each

SHARED = "†"
SHARED_MEANING = (
    "one round serves all targets of a seed (all classes, for WF-Net); a run's passes and seconds hold the "
    "round divided by the targets that it served here"
)


MARKS = {INDISTINGUISHABLE: "≈", DIFFERENT: "≠"}  # of a verdict; undecided has none
MARKS_MEANING = (
    "≈: indistinguishable from retrain, by an equivalence test (TOST, 5 %) whose margin is 1.96 standard deviations of "
    "the retrains. ≠: different from it (Welch's test, 5 %). Neither: these seeds do not decide"
)
RANK_MEANING = (
    "Rank: place by average gap, and the places in 95 % of bootstrap draws of seeds and targets; methods with a failed "
    "run have none"
)


def number(metric: str, value: float) -> str:
    """Accuracies and attacks in percent with two decimals, relative cost as a factor."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}x" if metric in COSTS else f"{100 * value:.2f}"


def cell(row: Any, seeds: int) -> str:
    """'97.31 [96.90, 97.72] ≈': mean, interval, the verdict's mark, and n where it is smaller."""
    parts = number(row.metric, row.mean), interval(row), mark(row), f"(n={row.n})" if row.n < seeds else ""
    return " ".join(filter(None, parts))


def interval(row: Any) -> str:
    """'[96.90, 97.72]', or nothing where there is none to show."""
    if row.metric in COSTS or math.isnan(row.ci_low):
        return ""
    return f"[{number(row.metric, row.ci_low)}, {number(row.metric, row.ci_high)}]"


def mark(row: Any) -> str:
    return MARKS.get(row.verdict, "")


def places(row: Any) -> str:
    """'3 (2–5)': a rank and its range; '-' where there is none."""
    if row is None or math.isnan(row.rank):
        return "-"
    return f"{row.rank:.0f} ({row.rank_low:.0f}–{row.rank_high:.0f})"


def leaderboard(table: pd.DataFrame) -> str:
    """A Markdown table a benchmark and request, methods by average gap, original and retrain first."""
    parts, shared = ["# Leaderboard", ""], False
    for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False):
        shown = [m for m in HEADLINE if m in set(here["metric"])]
        seeds = int(here["n"].max())
        parts += [f"## {benchmark}, request `{request}`", ""]
        parts += [_line(["Method", "Rank", *(HEADLINE[m] for m in shown)])]
        parts += [_line(["---", "---:", *("---:" for _ in shown)])]
        for method in ordered(here):
            rows = {r.metric: r for r in here[here["method"] == method].itertuples()}
            status = next(iter(rows.values())).status
            name = method if status == "ok" else f"{method} ({_short(status)})"
            cells = [cell(rows[m], seeds) if m in rows else "-" for m in shown]
            if "round_targets" in rows and "samples" in shown:
                cells[shown.index("samples")] += SHARED
                shared = True
            parts.append(_line([name, places(rows.get("avg_gap")), *cells]))
            if method == "retrain":
                floors = [number(m, rows[m].floor) if m in rows and m not in COSTS else "-" for m in shown]
                parts.append(_line(["*its noise floor*", "-", *(f if f == "-" else f"± {f}" for f in floors)]))
        parts += ["", f"Mean over {seeds} seeds and its 95 % interval; percent, but for passes.", ""]
    parts += [f"{SHARED} {SHARED_MEANING}.", ""] if shared else []
    parts += [
        "The target of every column is its value on the `retrain` row. Another set of honest retrains would lie",
        "within its noise floor of it in 95 of 100 cases. Intervals are over seeds and targets (bootstrap).",
        "",
        f"{MARKS_MEANING}. {RANK_MEANING}.",
        "",
        *(f"- **{title}**: {MEANING[m]}." for m, title in HEADLINE.items()),
        "",
        "Made by `dvc repro` (stage `leaderboard`); seconds, hardware and commit are in `timings.md`.",
    ]
    return "\n".join(parts) + "\n"


def ordered(here: pd.DataFrame) -> list[str]:
    """Methods of one request: original, retrain, then by average gap, those without one last."""
    gaps = here[here["metric"] == "avg_gap"].set_index("method")["mean"]
    methods = list(dict.fromkeys(here["method"]))
    place = {"original": -2.0, "retrain": -1.0}
    return sorted(methods, key=lambda m: place.get(m, float(gaps.get(m, math.inf))))


def timings(table: pd.DataFrame) -> str:
    """Costs as Markdown, with the hardware and the commit of each row."""
    titles = ["Method", "Seconds", "Seconds / retrain", "Seeds", "Hardware", "Commit", "torch", "FLOPs / retrain"]
    titles += ["Memory, MB", "Memory / retrain", "Kept, MB", "Pays from request on: seconds", "FLOPs"]
    parts = ["# Costs", ""]
    for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False):
        parts += [f"## {benchmark}, request `{request}`", "", _line(titles)]
        parts += [_line(["---", *(["---:"] * 3), *(["---"] * 3), *(["---:"] * 6)])]
        for _, of_method in here.groupby("method", sort=False):
            rows = {r.metric: r for r in of_method.itertuples()}
            r = rows["seconds"]
            half = "" if math.isnan(r.ci_high) else f" ± {r.ci_high - r.mean:.3f}"
            cells = [r.method, f"{r.mean:.3f}{half}", _ratio(rows, "seconds"), str(r.n), r.hardware, r.commit, r.torch]
            cells += [_ratio(rows, "flops"), _megabytes(rows, "peak_bytes"), _ratio(rows, "peak_bytes")]
            cells += [_megabytes(rows, "stored_bytes"), _requests(rows, "seconds"), _requests(rows, "flops")]
            parts.append(_line(cells))
        parts.append("")
    parts += [
        "Unlearning alone, without loading, evaluation or the kernels' start-up, each run on one thread of a worker; "
        "by the stage `unlearn`, and again by `dvc repro -f -s unlearn@BENCHMARK-METHOD`. "
        "Where one round serves all targets of a seed (kodge, ssd, wfnet, concept_poison), a run holds its part of it.",
        "",
        "Memory: the device's peak, without a GPU the growth of the process's peak resident memory, which is "
        "coarse. Kept: tensors beside the network and the data. Pays from request on: the least "
        "number of requests for which one preparation and then a request each cost no more than retraining for each "
        "(docs/metrics.md).",
    ]
    return "\n".join(parts) + "\n"


def _ratio(rows: dict[str, Any], metric: str) -> str:
    return "-" if metric not in rows or math.isnan(rows[metric].ratio) else f"{rows[metric].ratio:.2f}x"


def _megabytes(rows: dict[str, Any], metric: str) -> str:
    return f"{rows[metric].mean / 1e6:.1f}" if metric in rows else "-"


def _requests(rows: dict[str, Any], unit: str) -> str:
    value = rows[f"{unit}_break_even"].mean if f"{unit}_break_even" in rows else math.nan
    return "-" if math.isnan(value) else "never" if math.isinf(value) else f"{value:.0f}"


def memorization(summary: dict[str, Any]) -> str:
    """What the stage `memorize` found, as Markdown: agreement of the proxies, entanglement of the forget sets."""
    if not summary:
        return ""
    parts = ["", "## Memorization", "", _line(["Score", "Spearman's rho to memorization"]), _line(["---", "---:"])]
    for name, rho in summary["spearman_to_memorization"].items():
        parts.append(_line([name, "-" if rho is None else f"{rho:.3f}"]))
    parts += ["", _line(["Target", "Mean memorization", "ES (global mean)", "ES (midpoint)"])]
    parts.append(_line(["---", "---:", "---:", "---:"]))
    for target, row in summary["targets"].items():
        cells = [f"{row[key]:.3f}" for key in ("mean_memorization", "es_global", "es_midpoint")]
        parts.append(_line([target, *cells]))
    parts += [
        "",
        "Memorization is Feldman and Zhang's estimate from networks trained on random subsets; the proxies come from",
        "one training. ES is the entanglement score of a forget set and the rest in the embeddings of the first",
        "original; its two variants take different middles (docs/metrics.md). Made by the stage `memorize`.",
    ]
    return "\n".join(parts) + "\n"


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """request -> method -> metric -> mean, of the metrics `FOR_DVC` of one benchmark, to four decimals."""
    nested: dict[str, Any] = {}
    for row in table[table["metric"].isin(FOR_DVC)].itertuples():
        nested.setdefault(row.request, {}).setdefault(row.method, {})[row.metric] = round(row.mean, 4)
    return nested


def plotted(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """request -> what `dvc plots` draws of one benchmark: `method, metric, value`, in the order of the leaderboard.

    Values in percent, passes relative to retraining.
    """
    shown = [metric for metric in FOR_DVC if metric in set(table["metric"])]
    found = {}
    for request, here in table[table["metric"].isin(shown)].groupby("request", sort=False):
        place = {method: i for i, method in enumerate(ordered(here))}
        here = here.sort_values("method", key=lambda names: names.map(place), kind="stable")
        here = here.assign(value=here["mean"].where(here["metric"].isin(COSTS), 100 * here["mean"]).round(2))
        here = here.assign(metric=pd.Categorical(here["metric"], shown)).sort_values("metric", kind="stable")
        found[str(request)] = here.assign(metric=here["metric"].map(HEADLINE))[["method", "metric", "value"]]
    return found


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(c.replace('|', '/') for c in cells)} |"


def _short(status: str) -> str:
    return status.split("; ")[0] if status.startswith("failed") else status

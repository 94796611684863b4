"""The leaderboard as Markdown, and as nested numbers for `dvc metrics`."""

import math
from typing import Any

import pandas as pd

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
    "poison_success": "share of test images of other classes that the trigger turns into the poison's target class",
    "confusion_error": "share of the two confused classes' test samples that is called the other",
    "corruption_hidden": "share of the manipulated training samples that were not discovered, called their false label",
    "samples": "samples passed forward and backward, relative to retraining",
}

SHARED = "†"
SHARED_MEANING = (
    "one round serves all targets of a seed (all classes, for WF-Net); a run's passes and seconds hold the "
    "round divided by the targets that it served here"
)


def number(metric: str, value: float) -> str:
    """Accuracies and attacks in percent with two decimals, relative cost as a factor."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}x" if metric in COSTS else f"{100 * value:.2f}"


def cell(row: Any, seeds: int) -> str:
    """'97.31 ± 0.42', with '*' where the gap to retrain is within the noise floor, and n where it is smaller."""
    shown = number(row.metric, row.mean)
    if not math.isnan(row.ci_high) and row.metric not in COSTS:
        shown += f" ± {100 * (row.ci_high - row.mean):.2f}"
    return shown + ("*" if within_floor(row) else "") + (f" (n={row.n})" if row.n < seeds else "")


def within_floor(row: Any) -> bool:
    """Whether the gap is no larger than that of another honest retrain would be, in 95 of 100 cases."""
    return row.method != "retrain" and not math.isnan(row.floor) and abs(row.gap) <= row.floor


def leaderboard(table: pd.DataFrame) -> str:
    """A Markdown table a benchmark and request, methods by average gap, original and retrain first."""
    parts, shared = ["# Leaderboard", ""], False
    for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False):
        shown = [m for m in HEADLINE if m in set(here["metric"])]
        seeds = int(here["n"].max())
        parts += [f"## {benchmark}, request `{request}`", ""]
        parts += [_line(["Method", *(HEADLINE[m] for m in shown)]), _line(["---", *("---:" for _ in shown)])]
        for method in ordered(here):
            rows = {r.metric: r for r in here[here["method"] == method].itertuples()}
            status = next(iter(rows.values())).status
            name = method if status == "ok" else f"{method} ({_short(status)})"
            cells = [cell(rows[m], seeds) if m in rows else "-" for m in shown]
            if "round_targets" in rows and "samples" in shown:
                cells[shown.index("samples")] += SHARED
                shared = True
            parts.append(_line([name, *cells]))
        parts += ["", f"Mean over {seeds} seeds ± half of the 95 % interval; percent, but for passes.", ""]
    parts += [f"{SHARED} {SHARED_MEANING}.", ""] if shared else []
    parts += [
        "The target of every column is its value on the `retrain` row. `*`: within the noise floor, that is, no",
        "farther from it than another set of honest retrains would be in 95 of 100 cases.",
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
    """Seconds as Markdown, with the hardware and the commit of each row."""
    parts = ["# Seconds", ""]
    for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False):
        parts += [f"## {benchmark}, request `{request}`", ""]
        parts += [_line(["Method", "Seconds", "Seconds / retrain", "Seeds", "Hardware", "Commit", "torch"])]
        parts += [_line(["---", "---:", "---:", "---:", "---", "---", "---"])]
        for r in here.itertuples():
            half = "" if math.isnan(r.ci_high) else f" ± {r.ci_high - r.mean:.3f}"
            ratio = "-" if math.isnan(r.ratio) else f"{r.ratio:.2f}x"
            parts.append(_line([r.method, f"{r.mean:.3f}{half}", ratio, str(r.n), r.hardware, r.commit, r.torch]))
        parts.append("")
    parts.append(
        "Unlearning alone, without loading, evaluation or the kernels' start-up, each run on one thread of a worker; "
        "by the stage `unlearn`, and again by `dvc repro -f -s unlearn@BENCHMARK-METHOD`. "
        "Where one round serves all targets of a seed (kodge, ssd, wfnet, concept_poison), a run holds its part of it."
    )
    return "\n".join(parts) + "\n"


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
    """benchmark -> request -> method -> metric -> mean, of the headline metrics."""
    nested: dict[str, Any] = {}
    for row in table[table["metric"].isin(HEADLINE)].itertuples():
        place = nested.setdefault(row.benchmark, {}).setdefault(row.request, {}).setdefault(row.method, {})
        place[row.metric] = round(row.mean, 6)
    return nested


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(c.replace('|', '/') for c in cells)} |"


def _short(status: str) -> str:
    return status.split("; ")[0] if status.startswith("failed") else status

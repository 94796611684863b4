"""What a method may touch, what is wrong with its numbers, what follows for a reader: by rules that the page states."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from bench.config import Params
from bench.metrics.comparisons import DIFFERENT
from bench.report.tables import AVERAGED, PINNED

ACCESS = {  # what the page filters by -> what it says of an access card
    "retain-free": "reads no retained data",
    "training-free": "takes no gradient steps",
    "label-free": "reads no labels",
    "one-round": "one round serves all classes or targets; each request after it is cheap",
}
FEW = 5  # with fewer seeds a bootstrap's bounds are nearly the extremes of its draws (docs/metrics.md)
COLLAPSE = 0.05  # of accuracy, below retrain
FLAGS = {
    "failed": "a run raised an error; its seed is left out of the means",
    "diverged": "a run's outputs were not finite; its seed is left out of the means",
    "over-forgotten": "UA is above retrain's by more than the margin (1.96 standard deviations of the retrains) and "
    "marked ≠: samples are wrong that honest retrains still get right. Where retrains reach 100 %, as on a class, it "
    "cannot show",
    "utility collapse": f"RA or TA is more than {100 * COLLAPSE:g} points, and more than the margin, below retrain's",
    "too few seeds": f"fewer than {FEW} seeds: intervals are nearly the extremes of what was seen, few verdicts fall",
    "tuned on oracle": "the access card says that hyperparameters were chosen by looking at retrained networks or test "
    "data, which nobody has who needs to unlearn. The suite's own were chosen on validation data (docs/methods.md)",
}

RULED_OUT = ("failed", "diverged", "over-forgotten", "utility collapse")

Rows = Mapping[str, Any]  # metric -> a leaderboard's row, of one benchmark, request and method


def access(card: Mapping[str, Any]) -> list[str]:
    """Which of `ACCESS` an access card fulfils."""
    held = {
        "retain-free": "retain" not in card["reads"],
        "training-free": not card["trains"],
        "label-free": not card["labels"],
        "one-round": bool(card.get("shares")),
    }
    return [name for name, holds in held.items() if holds]


def flags(method: str, status: str, rows: Rows, card: Mapping[str, Any]) -> list[str]:
    """Which of `FLAGS` a method earns on one request; `rows` is empty where it has no numbers."""
    found = []
    if status.startswith("failed"):
        found.append("diverged" if "diverged" in status else "failed")
    if method not in PINNED:
        if (ua := rows.get("UA")) is not None and ua.verdict == DIFFERENT and ua.gap > ua.margin:
            found.append("over-forgotten")
        if any(m in rows and rows[m].gap < -max(COLLAPSE, rows[m].margin) for m in ("RA", "TA")):
            found.append("utility collapse")
    if rows and max((row.n for row in rows.values()), default=0) < FEW:
        found.append("too few seeds")
    if card.get("tuned_on_oracle"):
        found.append("tuned on oracle")
    return found


def controls(params: Params, cards: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Entries that stand for no method of their own: without a paper (references too), or variants of another one."""
    return {m for m in params.methods if not cards[m]["paper"] or params.file(m) != m}


def cost(rows: Rows) -> float:
    """FLOPs relative to retraining, or samples passed where FLOPs are not known; NaN where neither is."""
    return next((float(rows[m].mean) for m in ("flops", "samples") if m in rows), math.nan)


def advice(
    methods: Mapping[str, Rows],
    cards: Mapping[str, Mapping[str, Any]],
    bad: Mapping[str, list[str]],
    apart: Collection[str] = (),
) -> list[tuple[str, str, str]]:
    """Which method to use on one request: (question, method or nothing, why), from the table alone.

    Asked are published methods, not `controls` (which may hide what they should forget), that cost less than
    retraining and are not flagged as `RULED_OUT`.

    Args:
        apart: the controls.
    """
    asked = {
        m: rows
        for m, rows in methods.items()
        if m not in PINNED
        and "avg_gap" in rows
        and m not in apart
        and not cost(rows) >= 1
        and not set(RULED_OUT) & set(bad[m])
    }
    if "avg_gap" not in methods.get("retrain", {}):
        return []
    if not asked:
        return [("Retrain", "", "no method here is cheaper than retraining and free of flags that rule it out.")]

    def nearest(names: list[str]) -> str:
        return min(names, key=lambda m: asked[m]["avg_gap"].mean)

    def facts(m: str) -> str:
        spent = cost(asked[m])
        told = f"{100 * asked[m]['avg_gap'].mean:.2f} points from retrain on average"
        unit = "FLOPs" if "flops" in asked[m] else "passes"
        return told + ("." if math.isnan(spent) else f", at {spent:.2f} times its {unit}.")

    best = nearest(list(asked))
    ties = [m for m in asked if m != best and asked[m]["avg_gap"].rank_low <= asked[best]["avg_gap"].rank_high]
    ties = sorted(ties, key=lambda m: asked[m]["avg_gap"].mean)
    why = facts(best)
    if ties:
        more = f" and {len(ties) - 4} more" if len(ties) > 4 else ""
        why += f" By the ranges of ranks it may as well be {', '.join(ties[:4])}{more}."
    found = [("Nearest to retrain", best, why)]
    question = "Cheapest without a ≠ on UA, RA, TA and MIA (SalUn)"
    equal = [
        m
        for m, rows in asked.items()
        if not math.isnan(cost(rows)) and not any(a in rows and rows[a].verdict == DIFFERENT for a in AVERAGED)
    ]
    cheapest = min(equal, key=lambda m: cost(asked[m]), default="")
    found.append((question, cheapest, facts(cheapest) if cheapest else "none; each differs on one of them."))
    for name, question in {"training-free": "Without training", "retain-free": "Without retained data"}.items():
        of_kind = [m for m in asked if name in access(cards[m])]
        found.append((question, nearest(of_kind), facts(nearest(of_kind))) if of_kind else (question, "", "none."))
    if "ulira_auc" in asked[best]:
        auc = f"with an AUC of {asked[best]['ulira_auc'].mean:.2f}; 0.50 would be chance."
        why = f"the likelihood-ratio attack U-LiRA tells networks of {best} from retrained ones {auc}"
        found.append(("What a small gap does not show", "", why))
    return found

"""What a method may touch, what is wrong with its numbers, and what follows for a reader: rules that the page states."""

import math
from collections.abc import Mapping
from typing import Any

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


def cost(rows: Rows) -> float:
    """FLOPs relative to retraining, or samples passed where FLOPs are not known; NaN where neither is."""
    return next((float(rows[m].mean) for m in ("flops", "samples") if m in rows), math.nan)


def advice(methods: Mapping[str, Rows], cards: Mapping[str, Mapping[str, Any]], bad: Mapping[str, list[str]]) -> list:
    """Which method to use on one request: (question, methods, why), from the table alone.

    Asked are published methods without `failed`, `diverged`, `over-forgotten` or `utility collapse`: a control
    (without a paper) hides what it should forget.
    """
    ruled_out = {"failed", "diverged", "over-forgotten", "utility collapse"}
    asked = {
        m: rows
        for m, rows in methods.items()
        if m not in PINNED and "avg_gap" in rows and cards[m]["paper"] and not ruled_out & set(bad[m])
    }
    if not asked:
        return []

    def nearest(names: list[str]) -> str:
        return min(names, key=lambda m: asked[m]["avg_gap"].mean)

    def facts(m: str) -> str:
        spent = cost(asked[m])
        told = f"{100 * asked[m]['avg_gap'].mean:.2f} points from retrain on average"
        return told + ("" if math.isnan(spent) else f", at {spent:.2f} times the cost of retraining")

    best = nearest(list(asked))
    ties = [m for m in asked if m != best and asked[m]["avg_gap"].rank_low <= asked[best]["avg_gap"].rank_high]
    ties = sorted(ties, key=lambda m: asked[m]["avg_gap"].mean)
    said = f"{facts(best)}. "
    if ties:
        said += f"The ranges of ranks don't tell it from {', '.join(ties[:4])}"
        said += f" and {len(ties) - 4} more." if len(ties) > 4 else "."
    found = [("Nearest to retrain", best, said)]
    equal = [
        m
        for m, rows in asked.items()
        if not math.isnan(cost(rows)) and not any(m in rows and rows[m].verdict == DIFFERENT for m in AVERAGED)
    ]
    if equal:
        cheap = min(equal, key=lambda m: cost(asked[m]))
        found.append(("Cheapest without a ≠ on UA, RA, TA and MIA (SalUn)", cheap, f"{facts(cheap)}."))
    else:
        found.append(("Cheapest without a ≠ on UA, RA, TA and MIA (SalUn)", "", "none: each differs on one of them."))
    for name, question in {"training-free": "Without training", "retain-free": "Without retained data"}.items():
        if of_kind := [m for m in asked if name in access(cards[m])]:
            found.append((question, nearest(of_kind), f"{facts(nearest(of_kind))}."))
    return found

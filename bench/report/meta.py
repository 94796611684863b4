"""What each metric makes of the planted cases (`bench.meta`): verdicts, and their table in docs/metrics.md.

A case is near, far, or between, by how it was made. Its gap is the mean of its metric over the seeds, less that of the
retrains; it is seen where it is larger than the noise floor, that of a two-sample t-test with the variance that
`retrain` and `another_seed` have within themselves.

    ordered   near and not seen; far and seen; between, and nearer than the original by more than chance
    fooled    near, but seen; far or between, but not seen, by a metric that sees the original; farther than the
              original, but less was kept
    blind     not seen, nor is the original; or not told from the original, of which more was kept
"""

import math
from itertools import groupby

import numpy as np
import pandas as pd
from scipy import stats

from bench.errors import BadInput
from bench.metrics.statistics import LEVEL
from bench.report.tables import has_target

COLUMNS = ["metric", "case", "request", "value", "target", "floor", "verdict"]
NEAR, BETWEEN, FAR = "near", "between", "far"
EXPECTED = {  # where a case lies, by how it was made
    "perfect": NEAR,
    "another_seed": NEAR,
    "half": BETWEEN,
    "original": FAR,
    "head_masked": FAR,
    "logit_suppressed": FAR,
    "over_forgotten": FAR,
    "random_weights": FAR,
}
ORDERED, FOOLED, BLIND = "ordered", "fooled", "blind"
SHOWN = {ORDERED: "+", FOOLED: "**fooled**", BLIND: "blind"}
ROUNDING = 1e-9
SHARES, BOUNDS = ("_auc", "_accuracy"), ("low", "high")  # of attacks whose target is 1/2, and their intervals
BEGIN, END = "<!-- meta -->\n", "<!-- end -->"


def verdict(case: str, gap: float, original: float, floor: float, apart: float = 0.0) -> str:
    """'ordered', 'fooled' or 'blind'.

    Args:
        case: one of `EXPECTED`.
        gap, original: of the case and of the original to retrain, signed.
        floor: the largest gap that another set of honest retrains would have.
        apart: the largest difference that chance would make between the case and the original.
    """
    expected, floor = EXPECTED[case], floor + ROUNDING
    seen, size, most = abs(gap) > floor, abs(gap), abs(original)
    if expected == NEAR:
        return FOOLED if seen else ORDERED
    if not seen:
        return FOOLED if most > floor else BLIND
    if expected == BETWEEN and size >= most - apart - ROUNDING:
        return FOOLED if size > most + apart + ROUNDING else BLIND
    return ORDERED


def verdicts(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a request, metric and case, with the columns `COLUMNS`.

    Costs are no metrics, nor are numbers beside a metric (`_beside`), nor what is the same for all networks. A value
    of all seeds together is judged if it is the area or accuracy of an attack, whose target is 1/2, by its interval.

    Args:
        runs: those of retrain and of the cases, as the stage `attack` writes them; a request has one target.
    """
    rows = []
    for request, here in runs.dropna(subset=["metric", "value"]).groupby("request", sort=False):
        for metric, values in here.groupby("metric", sort=False):
            if not has_target(metric) or _beside(metric, here) or values["value"].nunique() == 1:
                continue
            found = {method: of_method["value"].to_numpy() for method, of_method in values.groupby("method")}
            if "original" not in found:
                continue
            if max(map(len, found.values())) == 1:
                low, high = (here[here["metric"] == f"{metric}_{end}"].set_index("method")["value"] for end in BOUNDS)
                judged = _shares(found, low, high) if metric.endswith(SHARES) else {}
            else:
                judged = _judged(found) if "retrain" in found else {}
            rows += [[metric, case, request, *row] for case, row in judged.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _beside(metric: str, runs: pd.DataFrame) -> bool:
    """Whether it is a bound or the floor of another metric, or a number of models or of samples."""
    name, _, end = metric.rpartition("_")
    return "_models_" in metric or end == "samples" or (end in {"low", "high", "floor"} and name in set(runs["metric"]))


def _shares(
    found: dict[str, np.ndarray], low: pd.Series, high: pd.Series
) -> dict[str, tuple[float, float, float, str]]:
    """As `_judged`, of attacks that tell models apart: a case is seen where its interval does not hold 1/2.

    Args:
        low, high: bounds, index method; cases without are not judged.
    """
    cases = [case for case in EXPECTED if case in found and case in low.index and case in high.index]
    if "original" not in cases:
        return {}
    gaps = {case: float(found[case].item()) - 0.5 for case in cases}
    half = {case: float(high[case] - low[case]) / 2 for case in cases}
    inside = {case: float(low[case]) <= 0.5 <= float(high[case]) for case in cases}
    rows = {}
    for case in cases:
        # an interval may lie to one side of its value: what counts is whether it holds 1/2
        floor = max(half[case], abs(gaps[case])) if inside[case] else min(half[case], abs(gaps[case]) / 2)
        original = 0.0 if inside["original"] else math.copysign(max(abs(gaps["original"]), 2 * floor), gaps["original"])
        rows[case] = gaps[case] + 0.5, 0.5, half[case], verdict(case, gaps[case], original, floor, half["original"])
    return rows


def _judged(found: dict[str, np.ndarray]) -> dict[str, tuple[float, float, float, str]]:
    """Value, target, floor and verdict of each case, from the values of retrain and the cases on one metric."""
    retrain, original = found["retrain"], found["original"]
    target = float(retrain.mean())
    gaps = {case: float(found[case].mean()) - target for case in EXPECTED if case in found}
    honest = [retrain, found["another_seed"]] if "another_seed" in found else [retrain]
    rows = {}
    for case, gap in gaps.items():
        floor = by_chance(honest, len(found[case]), len(retrain))
        if not math.isnan(floor):
            apart = by_chance([found[case], original], len(found[case]), len(original))
            rows[case] = gap + target, target, floor, verdict(case, gap, gaps["original"], floor, apart)
    return rows


def by_chance(samples: list[np.ndarray], n: int, m: int) -> float:
    """What the means of n and m values differ by at most in 95 of 100 cases, with the variance within the samples.

    t(0.975, f) * s * sqrt(1/n + 1/m), as in Student's two-sample test; of a sample alone, `noise_floor`. NaN with no
    degree of freedom f.
    """
    free = sum(len(values) - 1 for values in samples)
    if free < 1:
        return math.nan
    variance = sum(float(((values - values.mean()) ** 2).sum()) for values in samples) / free
    return float(stats.t.ppf((1 + LEVEL) / 2, free)) * math.sqrt(variance * (1 / n + 1 / m))


def markdown(table: pd.DataFrame) -> str:
    """A table a request: a line a metric, one for neighbours with the same verdicts, a column a case."""
    parts = []
    for request, here in table.groupby("request", sort=False):
        wide = here.pivot(index="metric", columns="case", values="verdict").reindex(here["metric"].unique())
        cases = [case for case in EXPECTED if case in wide]
        parts += [f"Request `{request}`:", ""]
        parts += [_line(["Metric", *(f"`{case}`" for case in cases)]), _line(["---"] + [":---:"] * len(cases))]
        lines = [(metric, [SHOWN.get(wide.at[metric, case], "-") for case in cases]) for metric in wide.index]
        for cells, alike in groupby(lines, key=lambda line: line[1]):
            parts.append(_line([", ".join(f"`{metric}`" for metric, _ in alike), *cells]))
        parts.append("")
    return "\n".join(parts)


def inserted(page: str, table: pd.DataFrame) -> str:
    """The page with the table between its markers.

    Raises:
        BadInput: it has none.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BadInput(f"docs/metrics.md: has no lines '{BEGIN.strip()}' and '{END}' for the table to go between")
    return f"{before}{begin}\n{markdown(table)}{end}{after}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"

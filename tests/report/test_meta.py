"""What is said of a metric on planted cases, on tables made by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from bench.errors import BadInput
from bench.metrics.statistics import noise_floor
from bench.report import meta

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("case", "gap", "original", "expected"),
    [
        ("another_seed", 0.9, -5, "ordered"),
        ("another_seed", -1.1, -5, "fooled"),  # an honest retrain called another thing
        ("another_seed", 0.9, 0.5, "ordered"),
        ("perfect", 0.0, -5, "ordered"),
        ("perfect", 3.0, -5, "fooled"),
        ("perfect", -3.0, -5, "fooled"),
        ("original", -5, -5, "ordered"),
        ("original", 0.9, 0.9, "blind"),
        ("head_masked", 1.1, -5, "ordered"),
        ("head_masked", 0.9, -5, "fooled"),
        ("head_masked", 0.9, 0.5, "blind"),
        ("over_forgotten", 7, -5, "ordered"),
        ("random_weights", 7, 0.5, "ordered"),
        ("half", -3, -5, "ordered"),
        ("half", 0.9, -5, "fooled"),
        ("half", -4.5, -5, "blind"),  # not told from the original
        ("half", -6.5, -5, "fooled"),
    ],
)
def test_verdict_with_a_floor_of_one(case, gap, original, expected):
    assert meta.verdict(case, gap, original, floor=1.0, apart=1.0) == expected


def test_what_chance_makes_between_half_and_original_is_not_the_floor():
    assert meta.verdict("half", -4.5, -5, floor=1.0, apart=0.1) == "ordered"
    assert meta.verdict("half", -4.5, -5, floor=0.0, apart=1.0) == "blind"


def runs(values: dict[str, list[float]], metric: str = "m", request: str = "class") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"benchmark": "meta", "request": request, "target": request, "method": method, "seed": seed}
            | {"status": "ok", "metric": metric, "value": value}
            for method, of_method in values.items()
            for seed, value in enumerate(of_method)
        ]
    )


samples = st.lists(st.floats(-10, 10), min_size=2, max_size=9).map(np.array)


@pytest.mark.filterwarnings("ignore:Precision loss")  # SciPy, of samples that hardly vary
@given(samples, samples)
def test_what_chance_makes_is_where_students_two_sample_test_has_p_five_percent(a, b):
    limit = meta.by_chance([a, b], len(a), len(b))
    assume(limit > 0.01)
    moved = b - b.mean() + a.mean() + limit
    assert ttest_ind(a, moved).pvalue == pytest.approx(0.05, rel=1e-6)


@given(samples, st.integers(1, 9))
def test_of_the_retrains_alone_it_is_the_noise_floor(retrain, n):
    assert meta.by_chance([retrain], n, len(retrain)) == pytest.approx(noise_floor(retrain, n), abs=1e-12)


def test_the_floor_is_that_of_both_sets_of_honest_retrains():
    table = meta.verdicts(runs({"retrain": [1, 1, 1], "original": [0.2] * 3, "another_seed": [1, 1, 0.97]}))
    table = table.set_index("case")
    assert table["floor"].tolist() == [pytest.approx(2.776 * math.sqrt(6e-4 / 4 * 2 / 3), rel=1e-3)] * 2
    assert table["target"].tolist() == [1, 1]
    assert table["value"].to_dict() == pytest.approx({"another_seed": 0.99, "original": 0.2})
    assert table["verdict"].to_dict() == {"another_seed": "ordered", "original": "ordered"}


def test_of_one_value_a_case_an_attack_is_judged_by_whether_its_interval_holds_one_half():
    bounds = {"perfect": (0.5, 0.45, 0.55), "another_seed": (0.6, 0.52, 0.68), "half": (0.7, 0.6, 0.8)}
    bounds |= {"original": (0.9, 0.85, 0.95), "head_masked": (0.45, 0.39, 0.51), "over_forgotten": (0.1, 0.05, 0.15)}
    parts = [
        runs({case: [of[i]] for case, of in bounds.items()}, f"u_auc{end}")
        for i, end in enumerate(("", "_low", "_high"))
    ]
    parts.append(runs({case: [2 * abs(of[0] - 0.5)] for case, of in bounds.items()}, "u_leakage"))
    table = meta.verdicts(pd.concat(parts))
    assert set(table["metric"]) == {"u_auc"}  # nothing tells how far chance takes the leakage
    assert table.set_index("case")["verdict"].to_dict() == {
        "perfect": "ordered",
        "another_seed": "fooled",
        "half": "ordered",
        "original": "ordered",
        "head_masked": "fooled",
        "over_forgotten": "ordered",
    }
    blind = {"original": (0.52, 0.45, 0.59), "head_masked": (0.45, 0.39, 0.51), "half": (0.7, 0.6, 0.8)}
    parts = [
        runs({case: [of[i]] for case, of in blind.items()}, f"u_auc{end}")
        for i, end in enumerate(("", "_low", "_high"))
    ]
    assert meta.verdicts(pd.concat(parts)).set_index("case")["verdict"].to_dict()["head_masked"] == "blind"


def test_metrics_are_those_that_the_runs_have_but_for_costs_bounds_floors_and_counts():
    values = {"retrain": [0.1, 0.2], "original": [0.8, 0.9]}
    of_metric = [runs(values, m) for m in ("new", "new_low", "new_high", "new_floor", "tie_low", "samples_forward")]
    of_metric.append(runs({"retrain": [3, 3], "original": [3, 3]}, "constant"))
    of_metric.append(runs({"retrain": [4, 4], "original": [8, 8]}, "new_models_unlearned"))
    of_metric.append(runs({"retrain": [math.nan, math.nan], "original": [0.3, 0.4]}, "undefined"))
    assert meta.verdicts(pd.concat(of_metric))["metric"].unique().tolist() == ["new", "tie_low"]


def test_each_request_is_judged_by_its_own_retrains():
    values = {"retrain": [0.1, 0.2], "original": [9.8, 9.9]}
    other = {"retrain": [5.1, 5.3], "original": [5.2, 5.3]}
    table = meta.verdicts(pd.concat([runs(values), runs(other, request="random")]))
    assert table[["request", "verdict"]].values.tolist() == [["class", "ordered"], ["random", "blind"]]


def row(metric: str, case: str, verdict: str, request: str = "class") -> list:
    return [metric, case, request, 0.5, 0.4, 0.1, verdict]


def test_neighbours_with_the_same_verdicts_share_a_line_and_what_was_not_judged_has_a_dash():
    rows = [row("a", "perfect", "ordered"), row("a", "original", "blind")]
    rows += [row("b", "perfect", "ordered"), row("b", "original", "blind")]
    rows += [row("c", "perfect", "fooled")]
    lines = meta.markdown(pd.DataFrame(rows, columns=meta.COLUMNS)).splitlines()
    assert lines[2:] == [
        "| Metric | `perfect` | `original` |",
        "| --- | :---: | :---: |",
        "| `a`, `b` | + | blind |",
        "| `c` | **fooled** | - |",
    ]


def test_only_what_stands_between_the_markers_is_replaced():
    table = pd.DataFrame([row("a", "original", "blind")], columns=meta.COLUMNS)
    page = f"before\n{meta.BEGIN}old\n{meta.END}\nafter {meta.END}\n"
    once = meta.inserted(page, table)
    assert once.startswith(f"before\n{meta.BEGIN}\n")
    assert once.endswith(f"{meta.END}\nafter {meta.END}\n")
    assert "old" not in once
    assert meta.inserted(once, table) == once
    with pytest.raises(BadInput, match="meta"):
        meta.inserted("a page without markers", table)


@pytest.mark.skipif(not (ROOT / "reports/meta.csv").exists(), reason="`python -m bench meta` was not run")
def test_the_table_in_the_documentation_is_that_of_the_committed_numbers():
    page = (ROOT / "docs/metrics.md").read_text()
    assert meta.inserted(page, pd.read_csv(ROOT / "reports/meta.csv")) == page

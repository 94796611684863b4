"""The suite's own figures, read back from their axes."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from bench.figures import suite
from bench.figures.axes import label_points

COSTS = {"original": 0.0, "retrain": 1.0, "cheap": 0.01, "dear": 2.0, "middle": 0.1, "beaten": 0.1}
GAPS = {"original": 0.5, "retrain": 0.0, "cheap": 0.2, "dear": 0.001, "middle": 0.05, "beaten": 0.06}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def board(floor: float = 0.01) -> pd.DataFrame:
    """A leaderboard of one request: average gap, FLOPs, and a gap in each of its four metrics."""
    rows = []
    for method, gap in GAPS.items():
        rows.append({"method": method, "metric": "avg_gap", "mean": gap, "gap": gap})
        rows.append({"method": method, "metric": "flops", "mean": COSTS[method]})
        for metric in ("UA", "RA", "TA", "mia_salun"):
            sign = -1 if metric == "TA" else 1
            rows.append({"method": method, "metric": metric, "gap": sign * gap, "floor": floor, "margin": 2 * floor})
    return pd.DataFrame(rows)


def test_the_front_is_what_a_search_over_all_pairs_leaves():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 6, (40, 2)), columns=["cost", "gap"], index=[f"m{i}" for i in range(40)])
    wanted = {
        a
        for a, (cost, gap) in table.iterrows()
        if not any(c <= cost and g <= gap and (c < cost or g < gap) for _, (c, g) in table.iterrows())
    }
    found = suite.pareto_front(table)
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert table.loc[found, "cost"].is_monotonic_increasing
    assert table.loc[found, "gap"].is_monotonic_decreasing


def test_references_and_controls_stand_apart_from_the_front():
    """Without retrain, which costs 1 and is nearest, what is next to it stands on the front."""
    (axis,) = suite.forgetting_against_cost(board(), "t", {"retrain"}).axes
    (front,) = (line for line in axis.lines if line.get_label() == "Pareto front")
    assert [1, 0] not in front.get_xydata().tolist()
    aside = next(c for c in axis.collections if c.get_label() == "reference or control")
    assert [tuple(point) for point in aside.get_offsets()] == [(1, 0)]


def test_the_chart_fills_and_joins_the_front_and_hollows_the_rest():
    figure = suite.forgetting_against_cost(board(), "t")
    (axis,) = figure.axes
    (rest,) = axis.collections
    assert {tuple(point) for point in rest.get_offsets()} == {(0.1, 6.0), (2.0, 0.1)}
    np.testing.assert_allclose(rest.get_facecolor()[0], (1, 1, 1, 1))
    (front,) = (line for line in axis.lines if line.get_label() == "Pareto front")
    np.testing.assert_allclose(front.get_xydata(), [(0, 50), (0.01, 20), (0.1, 5), (1, 0)])
    assert {label.get_text() for label in axis.texts} - {""} == set(GAPS)
    assert (axis.get_xscale(), axis.get_yscale()) == ("symlog", "symlog")


def test_without_flops_the_chart_shows_samples():
    here = board().replace({"metric": {"flops": "samples"}})
    assert suite.forgetting_against_cost(here, "t").axes[0].get_xlabel().startswith("samples")


def test_names_of_crowded_points_do_not_overlap():
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    rng = np.random.default_rng(1)
    points = [tuple(0.45 + 0.1 * rng.random(2)) for _ in range(9)] + [(0.99, 0.99), (0.01, 0.01)]
    across = [(0.0, 0.5), (0.6, 0.5), (0.6, 0.2)]
    label_points(axis, points, [f"method_{i}" for i in range(len(points))], across)
    figure.draw_without_rendering()
    boxes = [text.get_tightbbox() for text in axis.texts if text.get_text()]
    assert len(boxes) == len(points)
    (_, y), (x, _), (_, low) = axis.transData.transform(across)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert axis.bbox.x0 <= box.x0
        assert box.x1 <= axis.bbox.x1
        assert not (box.y0 < y < box.y1 and box.x0 < x)
        assert not (box.x0 < x < box.x1 and box.y0 < y and box.y1 > low)


def test_noise_floors_show_retrains_floors_margins_and_who_is_beyond():
    """Retrains at 0.90, 0.91 and 0.95 lie 2, 1 and 3 points from their mean, 0.92."""
    retrains = pd.DataFrame(
        {m: [0.9, 0.91, 0.95] for m in ("UA", "RA", "TA", "mia_salun")}, index=pd.Index([0, 1, 2], name="seed")
    )
    figure = suite.noise_floors(board(floor=0.055), retrains, "t")
    (axis,) = figure.axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["UA", "RA", "TA", "MIA (SalUn)"]  # `avg_gap` and costs have no floor
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([5.5] * 4)
    assert [lines.get_segments()[0][0][0] for lines in axis.collections] == pytest.approx([11] * 4)
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    for line in crosses:
        np.testing.assert_allclose(sorted(line.get_xdata()), [1, 2, 3])
    within, beyond = (line for line in axis.lines if line.get_marker() == "o" and round(line.get_ydata()[0]) == 2)
    np.testing.assert_allclose(sorted(within.get_xdata()), [0.1, 5])  # TA's gaps are negative
    np.testing.assert_allclose(sorted(beyond.get_xdata()), [6, 20, 50])
    assert [text.get_text() for text in axis.texts][:4] == ["3 of 5"] * 4


def test_a_metric_without_floor_is_left_out_of_the_noise_floors():
    here = board()
    here.loc[here["metric"] == "RA", "floor"] = math.nan
    retrains = pd.DataFrame({m: [0.9, 0.91] for m in ("UA", "TA", "mia_salun")}, index=pd.Index([0, 1], name="seed"))
    (axis,) = suite.noise_floors(here, retrains, "t").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["UA", "TA", "MIA (SalUn)"]

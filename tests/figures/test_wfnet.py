"""WF-Net's figures from made-up gates and tables, read back from their axes; its studies on four classes."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from bench.config import Params
from bench.explanations import gate_map, scores
from bench.figures import wfnet as drawn
from bench.forget import Target
from bench.metrics.statistics import over_seeds
from bench.stages import setting, unlearn
from bench.studies import wfnet as studies
from bench.training import Samples
from methods.wfnet import WFNet, gated_forward
from tests.conftest import CLASSES, blobs, build, make_problem

LAYERS = {"stem.weight": 5, "block.in_proj_weight": 8, "last.weight": 3}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def made_gates(seed: int, classes: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random((classes, width)).astype(np.float32) for name, width in LAYERS.items()}


def made_rows(classes: int = 3, seeds=(0, 1), steps=(0, 4, 9)) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    keys = itertools.product(seeds, steps, range(classes))
    rows = [{"seed": s, "step": t, "row": c, "worst": (c + 1) % classes} for s, t, c in keys]
    return pd.DataFrame(rows).assign(**{name: rng.random(len(rows)) for name in ("ACC_f", "ACC_r", "ACC_worst")})


def given(**changed) -> SimpleNamespace:
    """A benchmark without studies and without runs of the method."""
    base = {"benchmark": "made", "params": SimpleNamespace(methods={}), "targets": [], "study": lambda name: None}
    return SimpleNamespace(**base | {"section": SimpleNamespace(seeds=[0, 1], left_out=lambda method: "")} | changed)


def test_nothing_is_drawn_where_there_is_nothing():
    assert list(drawn.figures(given())) == []


def test_gates_are_taken_in_the_order_of_the_layers_and_of_seeds_whose_round_did_not_fail():
    kept = {1: {name: made_gates(1)[name] for name in sorted(LAYERS)}}
    found = given(
        params=SimpleNamespace(methods={"wfnet": {}}),
        targets=[SimpleNamespace(name="random", classes=()), SimpleNamespace(name="class-2", classes=(2,))],
        artifacts=lambda method, target, seed: kept.get(seed),
        sidecar=lambda method, target, seed: {"notes": {"layers": list(LAYERS)}},
    )
    gates = drawn.gates(found)
    assert list(gates) == [1]
    assert list(gates[1]) == list(LAYERS)
    names = [name for name, _ in drawn.figures(found)]
    assert names == ["wfnet-gates", "wfnet-switched-off-by-depth", "wfnet-overlap"]


def test_gate_maps_show_every_gate():
    gates = made_gates(0)
    axes = drawn.gate_maps(gates, "made").axes
    pictures = {axis.get_title(): axis.images[0].get_array() for axis in axes if axis.images}
    assert list(pictures) == ["stem", "block.in_proj", "last"]
    for array, alpha in zip(pictures.values(), gates.values(), strict=True):
        np.testing.assert_array_equal(array, alpha)


def test_by_depth_has_mean_and_interval_over_seeds():
    rounds = [made_gates(seed) for seed in range(3)]
    axis = drawn.by_depth(rounds, "made").axes[0]
    for container, closed in zip(axis.containers, (lambda a: a < 0.5, lambda a: 1 - a), strict=True):
        line, _, (bars,) = container
        for k, name in enumerate(LAYERS):
            mean, low, high = over_seeds(np.array([100 * closed(of[name]).mean(dtype=float) for of in rounds]))
            assert line.get_ydata()[k] == pytest.approx(mean)
            assert bars.get_segments()[k][:, 1] == pytest.approx([low, high])


def test_jaccard_by_sets():
    gates = made_gates(3)
    gates = {name: np.concatenate([alpha, np.ones_like(alpha[:2])]) for name, alpha in gates.items()}
    off = [{(n, k) for n, a in gates.items() for k in range(a.shape[1]) if a[c, k] < 0.5} for c in range(6)]
    found, _ = drawn.jaccard(gates)
    for (i, a), (j, b) in itertools.product(enumerate(off), repeat=2):
        if a | b:
            assert found[i, j] == pytest.approx(len(a & b) / len(a | b))
    assert np.isnan(found[4, 5])
    assert found[0, 4] == 0


def test_chance_has_the_mean_intersection_of_all_arrangements():
    alpha = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]], dtype=np.float32)
    _, chance = drawn.jaccard({"a": alpha, "b": alpha[:, ::-1]})
    mean = np.mean([2 * sum((alpha[0] == 0) & (alpha[1][list(p)] == 0)) for p in itertools.permutations(range(5))])
    assert chance[0, 1] == pytest.approx(mean / (4 + 6 - mean))


def test_overlap_is_the_mean_over_seeds_that_have_one():
    """In the second seed the classes 0 and 1 switch nothing off."""
    rounds = [made_gates(0), {name: np.concatenate([np.ones_like(a[:2]), a[2:]]) for name, a in made_gates(1).items()}]
    shown = drawn.overlap(rounds, "made").axes[0].images[0].get_array().filled(np.nan)
    first, second = (drawn.jaccard(of)[0] for of in rounds)
    assert shown[1, 0] == pytest.approx(first[1, 0])
    assert shown[3, 2] == pytest.approx((first[3, 2] + second[3, 2]) / 2)
    assert np.isnan(shown[np.triu_indices(4)]).all()


def test_against_step_has_means_within_their_range():
    rows = made_rows()
    axis = drawn.against_step(rows, "made").axes[0]
    for line, column in zip(axis.lines, ("ACC_r", "ACC_worst", "ACC_f"), strict=True):
        expected = [100 * rows[rows["step"] == step][column].mean() for step in (0, 4, 9)]
        assert list(line.get_xdata()) == [0, 4, 9]
        assert line.get_ydata() == pytest.approx(expected)


def test_worst_rows_are_those_of_the_last_step():
    rows = made_rows()
    axis = drawn.worst_rows(rows, {1: (0.0, 0.9)}, "made").axes[0]
    bars = [container for container in axis.containers if hasattr(container, "patches")]
    for container, column in zip(bars, ("ACC_f", "ACC_worst"), strict=True):
        expected = [100 * rows[(rows["step"] == 9) & (rows["row"] == c)][column].mean() for c in range(3)]
        assert [bar.get_height() for bar in container] == pytest.approx(expected)
    marks = [
        (round(float(x), 2), float(y)) for line in axis.lines if line.get_marker() == "D" for x, y in line.get_xydata()
    ]
    assert marks == [(0.8, 0), (1.2, 90)]


def test_of_many_rows_the_worst_are_shown():
    rows = made_rows(classes=30)
    labels = [int(t.get_text()) for t in drawn.worst_rows(rows, {}, "made").axes[0].get_xticklabels()]
    last = rows[rows["step"] == 9].groupby("row")[["ACC_f", "ACC_worst"]].mean()
    badness = last["ACC_f"] - last["ACC_worst"]
    assert labels == sorted(badness.sort_values(ascending=False).index[:20])


def test_undominated_by_pairs():
    rng = np.random.default_rng(2)
    cost, worth = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    for k, kept in enumerate(drawn.undominated(cost, worth)):
        beaten = [
            a <= cost[k] and b >= worth[k] and (a, b) != (cost[k], worth[k]) for a, b in zip(cost, worth, strict=True)
        ]
        assert kept == (not any(beaten))


def test_pareto_has_a_line_a_sparsity_weight():
    rows = [
        {
            "seed": 0,
            "sparsity_weight": l2,
            "forget_weight": l1,
            "row": c,
            "ACC_f": (0.3 - l1) / (1 + c),
            "ACC_r": 1 - l1 - l2,
        }
        for l2, l1, c in itertools.product((0.1, 0.2), (0.1, 0.2), (0, 1))
    ]
    axis = drawn.pareto(pd.DataFrame(rows), "made").axes[0]
    lines = [line for line in axis.lines if "sparsity" in str(line.get_label())]
    assert [line.get_ydata().tolist() for line in lines] == [pytest.approx([80, 70]), pytest.approx([70, 60])]
    assert lines[0].get_xdata() == pytest.approx([15, 7.5])
    (best,) = (line for line in axis.lines if line.get_label() == "not dominated")
    assert sorted(zip(*best.get_data(), strict=True)) == [pytest.approx((7.5, 70)), pytest.approx((15, 80))]


def test_explanations_name_the_area_under_each_curve():
    whose = [("gates", "before"), ("gates", "after"), ("Grad-CAM", "before"), ("chance", "before")]
    rows = [
        {"seed": 0, "game": game, "map": maker, "network": network, "changed": x, "probability": p}
        for game in ("insertion", "deletion")
        for maker, network in whose
        for x, p in (
            [(0.0, 0.0), (0.5, 1.0), (1.0, 0.0)] if network == "after" else [(0.0, 0.2), (0.5, 0.2), (1.0, 0.2)]
        )
    ]
    figure = drawn.explanations(pd.DataFrame(rows), "made")
    said = [text.get_text().rsplit("(")[1] for text in figure.legends[0].get_texts()]
    assert said == ["0.20, 0.20)", "0.20, 0.20)", "0.20, 0.20)", "0.50, 0.50)"]
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]


@pytest.fixture(scope="module")
def case(trained) -> studies.Case:
    problem = make_problem()
    problem = replace(problem, views={"train": problem.train}, key=("tiny",))
    images, labels = blobs(48, seed=3)
    return studies.Case(WFNet(epochs=4, batch_size=32, lr=0.05), trained, problem, Samples(images, labels))


def judged_by_hand(case: studies.Case, gates: dict[str, torch.Tensor], c: int) -> dict[str, float]:
    images, labels = case.test.images, case.test.labels
    values = {name: alpha[c].expand(len(images), -1) for name, alpha in gates.items()}
    with torch.no_grad():
        right = (gated_forward(case.original, values, images).argmax(1) == labels).double()
    of_others = [float(right[labels == d].mean()) for d in range(CLASSES) if d != c]
    return {
        "row": c,
        "ACC_f": float(right[labels == c].mean()),
        "ACC_r": float(right[labels != c].mean()),
        "worst": [d for d in range(CLASSES) if d != c][int(np.argmin(of_others))],
        "ACC_worst": min(of_others),
    }


def test_watched_rows_begin_with_the_original_and_end_with_what_the_method_prepares(case, monkeypatch):
    monkeypatch.setattr(studies.Case, "of", classmethod(lambda cls, *_: case))
    rows = studies.watched(SimpleNamespace(), "made", 0)
    steps = sorted({row["step"] for row in rows})
    assert (steps[0], steps[-1]) == (0, 4 * 5)
    assert len(rows) == len(steps) * CLASSES
    prepared = case.algorithm.prepare(case.original, case.problem)
    opened = {name: torch.ones_like(alpha) for name, alpha in prepared.items()}
    for step, gates in ((0, opened), (steps[-1], prepared)):
        for c in range(CLASSES):
            (row,) = (row for row in rows if (row["step"], row["row"]) == (step, c))
            assert row == pytest.approx({"seed": 0, "step": step} | judged_by_hand(case, gates, c))


def test_weights_are_those_asked_for_and_rounds_are_short(case, monkeypatch):
    asked = {}

    def of(cls, params, name, seed, **changed):
        asked.update(changed)
        return replace(case, algorithm=case.algorithm.model_copy(update=changed))

    monkeypatch.setattr(studies.Case, "of", classmethod(of))
    params = SimpleNamespace(hyperparameters=lambda method, name: {"epochs": 5, "lr": 0.05})
    rows = studies.weighted(params, "made", 1, 0.3, 0.2)
    assert asked == {"forget_weight": 0.3, "sparsity_weight": 0.2, "expansion": 1, "epochs": 3}
    algorithm = case.algorithm.model_copy(update=asked)
    gates = algorithm.train_gates(case.original, case.problem)
    expected = [
        {"seed": 1, "forget_weight": 0.3, "sparsity_weight": 0.2} | judged_by_hand(case, gates, c)
        for c in range(CLASSES)
    ]
    assert [row == pytest.approx(other) for row, other in zip(rows, expected, strict=True)] == CLASSES * [True]


def test_curves_of_the_original_have_the_areas_of_rise(case, monkeypatch):
    monkeypatch.setattr(studies.Case, "of", classmethod(lambda cls, *_: case))
    table = pd.DataFrame(studies.explained(SimpleNamespace(), "made", 0))
    gates = case.algorithm.train_gates(case.original, case.problem)
    found = {"insertion": 0.0, "deletion": 0.0}
    for c in range(CLASSES):
        images, row = case.test.images[case.test.labels == c], {name: a[c] for name, a in gates.items()}
        of_class = scores(case.original, images, lambda x, row=row: gate_map(case.original, row, x), 4)
        found = {game: area + of_class[game] / CLASSES for game, area in found.items()}  # classes are of one size
    for game, area in found.items():
        here = table[(table["game"] == game) & (table["map"] == "gates") & (table["network"] == "before")]
        assert len(here) == 17
        assert np.trapezoid(here["probability"], here["changed"]) == pytest.approx(area, abs=1e-6)
    whole = table[(table["changed"] == 1) & (table["game"] == "insertion")].set_index(["map", "network"])["probability"]
    assert whole["gates", "before"] == pytest.approx(whole["chance", "before"])  # all pixels are there


def test_a_study_starts_from_what_the_stage_prepares_from(monkeypatch):
    """The same key of draws and the same view, so the study's round is the leaderboard's."""
    images, labels = blobs(40)
    splits = {name: Samples(images, labels) for name in ("train", "validation", "test")}
    monkeypatch.setattr(setting, "samples", lambda *_: splits)
    monkeypatch.setattr(setting, "load_original", lambda *_: build(0))
    section = {
        "dataset": "digits",
        "validation": 0.1,
        "architecture": "resnet-small",
        "training": {"epochs": 1, "batch_size": 4, "lr": 0.1},
        "requests": {"class": {"kind": "class", "targets": [1, 2]}},
        "seeds": [0, 6],
    }
    methods = {"original": {}, "retrain": {}, "wfnet": {"epochs": 7, "benchmarks": {"made": {"eps": 0.3}}}}
    params = Params.model_validate({"run": ["made"], "benchmarks": {"made": section}, "methods": methods})
    seen = []
    monkeypatch.setattr(WFNet, "prepare", lambda self, model, problem: seen.append(problem))
    targets = [
        [Target("class", f"class-{c}", frozenset({"class"}), (c,), (labels == c).nonzero().flatten().numpy())]
        for c in (1, 2)
    ]
    unlearn.prepare(WFNet(), build(0), params, "made", "wfnet", targets, 6)
    found = studies.Case.of(params, "made", 6, retain_weight=2.0)
    (stage,) = seen
    assert found.problem.key == stage.key
    assert found.problem.train.key == stage.train.key
    assert torch.equal(found.problem.train.rows, stage.train.rows)
    assert found.problem.train.order == stage.train.order
    assert (found.algorithm.epochs, found.algorithm.eps, found.algorithm.retain_weight) == (7, 0.3, 2.0)
    assert [job[2] for job in studies.of_seeds(params, "made")] == [0, 6]

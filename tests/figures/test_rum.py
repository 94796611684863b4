"""RUM's figures from small tables, values read back from the axes; its studies against the stage's own runs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench import forget, store
from bench.errors import BadInput
from bench.figures import rum as figures
from bench.forget import Target
from bench.stages import unlearn
from bench.studies import rum as studies
from tests.figures.planted import METHODS, NAME, SEED, params, plant


def lines(axis) -> dict[str, np.ndarray]:
    """Label of each errorbar -> its means."""
    return {made.get_label(): made.lines[0].get_ydata() for made in axis.containers}


# --- figures ---------------------------------------------------------------------------------------


def test_tow_of_the_study_is_the_product_of_what_lacks_to_the_mean_retrain():
    about = {"kind": "memorized", "level": "low", "memorization": 0.25, "entanglement": 9.0, "mia_salun": 0.0}
    values = {("retrain", 0): (0.2, 1.0, 0.9), ("retrain", 1): (0.4, 0.8, 0.9)}
    values |= {("salun", 0): (0.3, 0.9, 0.9), ("salun", 1): (0.5, 0.7, 0.6)}
    study = pd.DataFrame(
        [about | dict(zip(("method", "seed", "UA", "RA", "TA"), (*of, *v), strict=True)) for of, v in values.items()]
    )
    [row] = figures.of_study(study).to_dict("records")
    second = (1 - 0.2) * (1 - 0.2) * (1 - 0.3)  # the mean retrain has 0.3, 0.9, 0.9; the first seed meets it
    assert (row["low"], row["high"]) == pytest.approx((second, 1.0))
    assert row["mean"] == pytest.approx((1 + second) / 2)
    assert (row["method"], row["measured"], row["n"]) == ("salun", 0.25, 2)


def test_levels_of_the_leaderboard_are_drawn_with_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {level: {"kind": "memorized", "level": level, "size": 20} for level in ("high", "low", "mixed")}
    given = SimpleNamespace(benchmark=NAME, section=params(requests=made).benchmark(NAME))
    given.table = pd.DataFrame(
        [
            {"request": r, "method": m, "metric": k, "mean": v, "ci_low": v - 0.1, "ci_high": v, "n": 5}
            for r, values in {"high": (0.5, 0.7), "low": (0.8, 0.9), "mixed": (0.1, 0.1)}.items()
            for m, v in zip(("salun", "kodge"), values, strict=True)
            for k in ("tow", "UA")
        ]
    )
    told = {r: {"mean_memorization": v, "es_global": 1.0} for r, v in {"high": 0.512, "low": -1e-9}.items()}
    store.write_json(store.scores_file(NAME).with_name("summary.json"), {"targets": told})
    [axis] = figures.tow_by_level(figures.of_leaderboard(given), NAME).axes
    assert {label: list(y) for label, y in lines(axis).items()} == {"salun": [0.8, 0.5]}  # no method of the paper's
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["low\n0", "high\n0.51"]


def test_variants_are_found_by_their_hyperparameters():
    given = SimpleNamespace(benchmark=NAME, params=params())
    ways = {"original": "original alone", "finetune": "finetune alone", "salun": "vanilla", "rum_shuffle": "shuffle"}
    assert figures.variants(given) == {"rum": ways | {"rum": "RUM"}}
    other = params().model_copy(update={"methods": METHODS | {"salun": {"lr": 0.5}}})
    assert "salun" not in figures.variants(SimpleNamespace(benchmark=NAME, params=other))["rum"]


def test_bars_are_as_high_as_the_leaderboard_says():
    rows = [
        {"request": r, "method": m, "metric": k, "mean": v, "ci_low": v - 0.05, "ci_high": v + 0.02, "n": 5}
        for r, m, k, v in [("class", "salun", "tow", 0.5), ("class", "rum", "tow", 0.7), ("random", "rum", "tow", 0.9)]
    ]
    first, _ = figures.tow_bars(pd.DataFrame(rows), {"salun": "vanilla", "rum": "RUM"}, NAME).axes
    heights = [[bar.get_height() for bar in made] for made in first.containers if hasattr(made, "patches")]
    np.testing.assert_allclose(heights, [[0.5, np.nan], [0.7, 0.9]])


def test_dynamics_are_means_in_percent_and_retrain_stands_apart():
    rows = [
        {"method": m, "seed": s, "step": k, "algorithm": a, "set": of, "samples": 4, "accuracy": accuracy}
        for m, k, a in [("rum", 0, np.nan), ("rum", 1, "finetune"), ("retrain", 0, np.nan)]
        for of in figures.SETS
        for s, accuracy in enumerate({"rum": (1.0, 0.5 + 0.5 * (k == 0)), "retrain": (0.25, 0.5)}[m])
    ]
    above, below = figures.dynamics(pd.DataFrame(rows), NAME).axes
    forget, retrained = above.containers[:2]
    assert list(forget.lines[0].get_ydata()) == [100, 75]
    assert list(retrained.lines[0].get_ydata()) == [37.5]
    assert retrained.lines[0].get_xdata()[0] > forget.lines[0].get_xdata().max() + 0.5
    assert [t.get_text() for t in below.get_xticklabels()] == ["before", "step 1:\nfinetune", "retrain"]
    assert below.containers[0].get_label() == "low (n = 4)"


def test_proxies_are_titled_with_the_correlation_of_ranks():
    draw = np.random.default_rng(0)
    scores = {"memorization": draw.random(50), "confidence": draw.random(50), "curvature": draw.random(50) ** 3}
    ranks = {name: values.argsort().argsort() for name, values in scores.items()}
    for axis, proxy in zip(figures.proxies(scores, NAME).axes, ("confidence", "curvature"), strict=True):
        rho = np.corrcoef(ranks["memorization"], ranks[proxy])[0, 1]
        assert axis.get_title() == f"ρ = {rho:.2f}"
        drawn = axis.collections[0].get_offsets()
        np.testing.assert_allclose(drawn, np.stack([scores["memorization"], scores[proxy]], 1))


# --- studies ---------------------------------------------------------------------------------------


def test_the_last_step_of_a_sequence_is_the_stages_run(tmp_path, monkeypatch):
    made = plant(tmp_path, monkeypatch)
    job = next(job for job in studies.sequences(made, NAME) if job[2] == "rum")
    target = job[3]
    rows = pd.DataFrame(studies.sequence(*job))
    unlearn.one_job(made, NAME, "rum", [[target]], SEED)
    predicted = store.read_tensors(store.run_file(NAME, "rum", target.name, SEED))
    data = store.read_tensors(store.dataset_folder(NAME) / "samples.safetensors")
    right = predicted["train"].argmax(1) == data["train_labels"]
    last = rows[rows["step"] == 3].set_index("set")["accuracy"]
    assert last["forget"] == pytest.approx(right[target.indices].mean())
    assert last["retain"] == pytest.approx(np.delete(right, target.indices).mean())
    assert last["test"] == pytest.approx((predicted["test"].argmax(1) == data["test_labels"]).mean())
    assert list(rows.drop_duplicates("step")["algorithm"]) == ["", "original", "finetune", "salun"]
    for of in figures.SETS:  # nothing is done for the first part
        before, after = rows[(rows["set"] == of) & (rows["step"] < 2)]["accuracy"]
        assert before == after
    sizes = rows.drop_duplicates("set").set_index("set")["samples"]
    assert sizes[["low", "medium", "high", "forget", "retain"]].tolist() == [7, 7, 6, 20, 140]


def test_thirds_are_by_rank():
    score = np.random.default_rng(0).random(30)
    target = Target("r", "r", frozenset(), (), np.arange(3, 28, 4))  # seven samples
    ranked = sorted(target.indices.tolist(), key=lambda row: score[row])
    found = {name: rows.tolist() for name, rows in studies.thirds(target, score).items()}
    assert found == {"low": ranked[:3], "medium": ranked[3:5], "high": ranked[5:]}


def test_levels_are_judged_as_the_stages_runs_are(tmp_path, monkeypatch):
    made = plant(tmp_path, monkeypatch)
    monkeypatch.setattr(studies, "PART", 8)  # forget sets of 20
    jobs = studies.levels(made, NAME)
    assert [job[2].name for job in jobs] == ["memorized-low", "memorized-high", "entangled-low", "entangled-high"]
    target = jobs[1][2]
    score = store.read_tensors(store.scores_file(NAME))["memorization"]
    assert score[target.indices].min() >= np.sort(score)[-20]
    rows = {row["method"]: row for row in studies.level(*jobs[1])}
    assert list(rows) == list(studies.ALGORITHMS)
    assert rows["salun"]["memorization"] == pytest.approx(np.sort(score)[-20:].mean())
    unlearn.one_job(made, NAME, "salun", [[target]], SEED)
    predicted = store.read_tensors(store.run_file(NAME, "salun", target.name, SEED))["train"]
    labels = store.read_tensors(store.dataset_folder(NAME) / "samples.safetensors")["train_labels"]
    right = predicted.argmax(1) == labels
    assert rows["salun"]["UA"] == pytest.approx(1 - right[target.indices].mean())
    assert (rows["salun"]["kind"], rows["salun"]["level"]) == ("memorized", "high")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"memorization": None, "requests": {"r": {"kind": "random", "fraction": 0.2}}}, "memorization: {models"),
        ({"requests": {"r": {"kind": "random", "fraction": 0.2}}}, "level: mixed"),
    ],
)
def test_what_a_study_lacks_is_named(tmp_path, monkeypatch, changed, message):
    plant(tmp_path, monkeypatch)
    with pytest.raises(BadInput, match=rf"benchmarks\.{NAME}\.studies: rum-sequence .*{message}"):
        studies.sequences(params(**changed), NAME)


def test_the_request_of_the_benchmark_is_what_is_walked(tmp_path, monkeypatch):
    made = plant(tmp_path, monkeypatch)
    jobs = studies.sequences(made, NAME)
    assert {job[2] for job in jobs} == {"retrain", "rum", "rum_shuffle"}
    [wanted] = [t for t in forget.of_benchmark(NAME, made.benchmark(NAME)) if t.request == "memorized"]
    assert all(np.array_equal(job[3].indices, wanted.indices) for job in jobs)

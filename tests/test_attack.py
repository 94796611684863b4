"""The stage `attack` on predictions made by hand: what its tables hold, and what stands in attack.json instead."""

import numpy as np
import pandas as pd
import pytest

from bench import datasets, store
from bench.config import Params
from bench.errors import BadInput
from bench.metrics.distances import disagreement
from bench.stages import attack

NAME, SEEDS, CLASSES = "made", [0, 1, 2], 10
SIZES = {"train": 300, "validation": 50, "test": 150}
CARD = {"card": {"serves": ["class", "random"]}, "hyperparameters": {}}
SHIFT = {"original": 6.0, "retrain": 3.0, "mine": 4.0}


def params() -> Params:
    benchmark = {
        "dataset": "digits",
        "validation": 0.1,
        "architecture": "resnet-small",
        "training": {"epochs": 1, "batch_size": 2, "lr": 0.1},
        "requests": {"class": {"kind": "class", "targets": [3]}, "random": {"kind": "random", "fraction": 0.2}},
        "seeds": SEEDS,
    }
    return Params.model_validate(
        {"run": [NAME], "benchmarks": {NAME: benchmark}, "methods": {m: {} for m in SHIFT}},
    )


def labels(split: str) -> np.ndarray:
    found = np.arange(SIZES[split]) % CLASSES
    return np.where(found == 7, 6, found) if split == "test" else found  # no test sample of class 7


def write_run(method: str, target: str, seed: int, reason: str = "", unlearning_seed: int = 0) -> None:
    path = store.run_file(NAME, method, target, seed, unlearning_seed)
    rng = np.random.default_rng([seed, len(method), len(target), unlearning_seed])
    if not reason:
        logits = {
            s: rng.normal(size=(n, CLASSES)) + SHIFT[method] * np.eye(CLASSES)[labels(s)] for s, n in SIZES.items()
        }
        store.write_tensors(path, {s: z.astype(np.float32) for s, z in logits.items()})
    sidecar = {"status": "failed" if reason else "ok", "reason": reason, "samples": {"forward": 10, "backward": 5}}
    sidecar |= {"flops": {"forward": 100, "backward": 50, "beside": 0}, "stored_bytes": 0}
    data = datasets.content_hash(store.dataset_folder(NAME))
    store.write_json(path.with_suffix(".json"), sidecar | {"data": data})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_WORKERS", "1")
    monkeypatch.setattr("bench.jobs.start_method", "fork")
    tensors = {f"{s}_images": np.zeros((n, 1, 2, 2), np.uint8) for s, n in SIZES.items()}
    tensors |= {f"{s}_labels": labels(s).astype(np.int64) for s in SIZES}
    tensors |= {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
    store.write_tensors(store.dataset_folder(NAME) / "samples.safetensors", tensors)
    store.write_json(store.dataset_folder(NAME) / "audit.json", {"splits": {s: {"sha256": s} for s in SIZES}})
    for method in SHIFT:
        store.write_json(store.predictions_folder(NAME, method) / "method.json", CARD)
        for target in ("class-3", "random"):
            for seed in SEEDS:
                write_run(method, target, seed)
    return tmp_path


def test_the_stage_says_how_many_models_it_had_and_how_much_it_could_not_estimate(folder):
    write_run("retrain", "random", 2, reason="diverged")
    said = attack.run(params(), NAME, "mine")
    assert "models a target: 3 mine, 2 retrain, 3 original" in said
    missing = store.read_json(store.table_folder(NAME, "mine") / "attack.json")["missing"]
    assert f"; {len({m for record in missing for m in record['metrics']})} metrics could not be estimated" in said


def judged(method: str) -> tuple[pd.DataFrame, dict]:
    attack.run(params(), NAME, method)
    place = store.table_folder(NAME, method)
    return pd.read_csv(place / "runs.csv", keep_default_na=False), store.read_json(place / "attack.json")


def test_tables_hold_no_nan_and_what_is_missing_has_a_reason(folder):
    runs, told = judged("mine")
    place = store.table_folder(NAME, "mine")
    for name in ("runs", "classes", "confusion"):
        table = pd.read_csv(place / f"{name}.csv")
        assert table.drop(columns="seed").notna().all(axis=None)
    assert told["models"]["random"] == {"mine": 3, "retrain": 3, "original": 3}
    lacking = {metric for record in told["missing"] for metric in record["metrics"]}
    assert {"mia_svc_loss_tpr01", "ulira_tpr_1pct", "klom_legacy"} & lacking
    assert all(record["reason"] for record in told["missing"])
    of_class, of_random = (set(runs.loc[runs["request"] == r, "metric"]) for r in ("class", "random"))
    assert {"ACC_f", "ACC_r", "mia_kodge"} <= of_class - of_random
    names = {"UA", "RA", "TA", "mia_salun", "mia_loss_auc", "js_forget", "kl_run_retrain_test", "zrf_js2", "tow"}
    names |= {"tow_mia", "nomus", "aus", "avg_gap_run", "churn_retain", "completeness_forget", "ulira_auc", "ruli_auc"}
    names |= {"rmia_auc", "klom", "epsilon_score", "mia_logistic_margin_auc", "mia_boosting_loss_auc"}
    names |= {f"activation_{definition}_forget" for definition in ("l1", "l2", "rms")}
    assert names <= of_class & of_random
    together = runs["seed"] == ""
    assert set(runs.loc[together, "metric"]) & {"ulira_auc", "klom"}
    assert not set(runs.loc[together, "metric"]) & {"UA", "js_forget"}


def test_the_tug_of_war_is_with_retrains_of_other_seeds(folder):
    """By hand, of a method and of retrain: 1 - |difference to the mean of the two others|, multiplied."""
    tables = {method: judged(method)[0] for method in ("mine", "retrain")}
    of = {m: t[(t["target"] == "random") & (t["seed"] != "")].astype({"value": float}) for m, t in tables.items()}
    values = {m: t.pivot_table(index="seed", columns="metric", values="value") for m, t in of.items()}
    for method, table in values.items():
        for seed in table.index:
            near = [1 - abs(table.loc[seed, a] - values["retrain"][a].drop(seed).mean()) for a in ("UA", "RA", "TA")]
            assert table.loc[seed, "tow"] == pytest.approx(np.prod(near)), method


def test_a_retrain_is_compared_with_those_of_other_seeds(folder):
    runs, told = judged("retrain")
    found = runs[(runs["target"] == "random") & (runs["metric"] == "disagreement_test")]
    test = [store.read_tensors(store.run_file(NAME, "retrain", "random", s))["test"] for s in SEEDS]
    for seed, value in zip(found["seed"], found["value"], strict=True):
        others = [disagreement(test[int(seed)], test[s]) for s in SEEDS if s != int(seed)]
        assert float(value) == pytest.approx(np.mean(others))
    assert any("ulira_auc" in r["metrics"] and "needs 3" in r["reason"] for r in told["missing"])
    assert "klom" not in set(runs["metric"])


def test_confusion_shares_sum_to_one_and_classes_without_samples_are_left_out(folder):
    judged("mine")
    confusion, classes = (pd.read_csv(store.table_folder(NAME, "mine") / f"{n}.csv") for n in ("confusion", "classes"))
    sums = confusion.groupby(["target", "seed", "set", "class"])["share"].sum()
    assert np.allclose(sums, 1)
    assert set(confusion.loc[(confusion["target"] == "class-3") & (confusion["set"] == "forget"), "class"]) == {3}
    assert 7 not in set(classes["class"])
    right = confusion[(confusion["set"] == "test") & (confusion["class"] == confusion["predicted"])]
    both = right.merge(classes, on=["target", "seed", "class"])
    assert len(both) > 40
    assert np.allclose(both["share"], both["accuracy"])


def test_failed_runs_are_told_and_leave_the_bank(folder):
    write_run("mine", "random", 1, reason="diverged")
    write_run("retrain", "random", 2, reason="diverged")
    runs, told = judged("mine")
    assert runs.loc[runs["status"] != "ok", ["target", "seed", "status"]].to_numpy().tolist() == [
        ["random", "1", "failed: diverged"]
    ]
    assert told["models"]["random"] == {"mine": 2, "retrain": 2, "original": 3}
    models = runs[(runs["target"] == "random") & (runs["metric"] == "klom_models_retrained")]
    assert models["value"].astype(float).tolist() == [1.0]  # seed 0 alone succeeded on both sides
    assert "js_forget" in set(runs[(runs["target"] == "random") & (runs["seed"] == "2")]["metric"])


def test_without_any_retrain_the_reason_says_so(folder):
    for seed in SEEDS:
        write_run("retrain", "random", seed, reason="no")
    runs, told = judged("mine")
    assert not {"js_forget", "tow", "ulira_auc"} & set(runs.loc[runs["target"] == "random", "metric"])
    reasons = {m: r["reason"] for r in told["missing"] if r["target"] == "random" for m in r["metrics"]}
    assert reasons["js"] == reasons["tow"] == reasons["ulira"] == "no retrain to compare with"


def test_logits_of_another_shape_are_refused(folder):
    path = store.run_file(NAME, "mine", "random", 0)
    store.write_tensors(path, store.read_tensors(path) | {"test": np.zeros((3, CLASSES), np.float32)})
    with pytest.raises(BadInput, match="must have the shape"):
        judged("mine")


def test_further_seeds_of_unlearning_and_judging_have_rows_of_their_own(folder):
    """Runs of one unlearning seed are compared with each other; what judging draws is asked once more."""
    for method in SHIFT:
        for target in ("class-3", "random"):
            for seed in SEEDS:
                write_run(method, target, seed, unlearning_seed=4)
    section = params().benchmark(NAME).model_copy(update={"unlearning_seeds": [0, 4], "judging_seeds": [0, 1]})
    attack.run(params().model_copy(update={"benchmarks": {NAME: section}}), NAME, "mine")
    runs = pd.read_csv(store.table_folder(NAME, "mine") / "runs.csv")
    here = runs[(runs["target"] == "random") & runs["seed"].notna()]
    assert (here[here["metric"] == "UA"].groupby(["seed", "unlearning_seed"]).size() == 1).all()
    drawn = here[here["metric"] == "mia_loss_auc"].groupby(["seed", "unlearning_seed"])["value"].nunique()
    assert drawn.tolist() == [2] * 6
    together = runs[runs["seed"].isna() & (runs["target"] == "random") & (runs["metric"] == "ulira_auc")]
    assert together["unlearning_seed"].tolist() == [0, 4]
    test = [
        store.read_tensors(store.run_file(NAME, m, "random", *of))["test"]
        for m, *of in (("mine", 0, 4), ("retrain", 1, 4), ("retrain", 2, 4))
    ]
    found = here[(here["metric"] == "disagreement_test") & (here["seed"] == 0) & (here["unlearning_seed"] == 4)]
    assert found["value"].item() == pytest.approx(np.mean([disagreement(test[0], other) for other in test[1:]]))

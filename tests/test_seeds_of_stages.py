"""Training, unlearning and judging seeds apart: names of files, draws, jobs, and what each makes run again."""

from pathlib import Path

import numpy as np
import pytest

from bench import store
from bench.config import Params
from bench.forget import Target
from bench.metrics.attacks import mia_loss
from bench.metrics.judged import Part
from bench.seeds import derive

pytest.importorskip("torch")

from bench.stages import plan, unlearn

TARGET = Target("class", "class-3", frozenset({"class"}), (3,), np.array([4, 7]))
FURTHER = {"unlearning_seeds": [0, 2], "judging_seeds": [5]}


def params(**seeds) -> Params:
    section = {
        "dataset": "digits",
        "validation": 0.1,
        "architecture": "resnet-small",
        "training": {"epochs": 1, "batch_size": 2, "lr": 0.1},
        "requests": {"class": {"kind": "class", "targets": [3]}},
        "seeds": [0, 1],
    }
    benchmarks = {"small": section | seeds}
    return Params.model_validate(
        {"run": ["small"], "benchmarks": benchmarks, "methods": {"original": {}, "retrain": {}}}
    )


def test_one_unlearning_and_one_judging_seed_are_the_default():
    section = params().benchmark("small")
    assert (section.unlearning_seeds, section.judging_seeds) == ([0], [0])


def test_names_of_files():
    folder = Path("data/predictions/small/salun/class-3")
    assert store.run_file("small", "salun", "class-3", 1) == folder / "seed-1.safetensors"
    assert store.run_file("small", "salun", "class-3", 1, 2) == folder / "seed-1.2.safetensors"
    assert store.artifacts_file("small", "salun", "class-3", 1) == folder / "seed-1.artifacts.safetensors"
    assert store.artifacts_file("small", "salun", "class-3", 1, 2) == folder / "seed-1.2.artifacts.safetensors"


def test_a_job_for_each_pair_of_seeds(monkeypatch):
    monkeypatch.setattr("bench.forget.of_benchmark", lambda *_: [TARGET])
    assert [job[4:] for job in unlearn.jobs(params(), "small", "retrain")] == [(0, 0), (1, 0)]
    pairs = [job[4:] for job in unlearn.jobs(params(**FURTHER), "small", "retrain")]
    assert pairs == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_a_further_unlearning_seed_changes_what_is_drawn_and_not_the_order_of_base_training(monkeypatch):
    given = []
    monkeypatch.setattr("bench.stages.setting.samples", lambda *_: {"train": Labels(), "validation": None})
    monkeypatch.setattr("bench.stages.setting.builder", lambda *_: None)
    monkeypatch.setattr(unlearn, "problem", lambda *_, **arguments: given.append(arguments))
    for seeds in ((1,), (1, 0), (1, 2)):
        unlearn.target_problem(params(), "small", "salun", TARGET, *seeds)
    first, same, other = given
    assert first["key"] == same["key"] == ("small", "class-3", "salun", 1)
    assert derive(*other["key"]) != derive(*first["key"])
    assert first["base_order"] == other["base_order"]


class Labels:
    """As much of the samples as is asked for."""

    def __init__(self):
        import torch

        self.labels = torch.arange(10)

    def __len__(self) -> int:
        return 10


def test_judging_seeds_make_nothing_run_again_but_judging():
    """The plan of a stage differs where its stage must run again."""
    before, after, further = (
        {path: content["parameters"] for path, content in plan.contents(p)}
        for p in (params(), params(judging_seeds=[0, 1]), params(unlearning_seeds=[0, 1]))
    )
    changed = {path.stem for path in before if before[path] != after[path]}
    assert changed == {"attack", "leaderboard", "figures", "timings", "page"}
    changed = {path.stem for path in before if before[path] != further[path]}
    assert changed == {"unlearn", "attack", "probe", "leaderboard", "figures", "timings", "page"}


def test_a_judging_seed_deals_other_folds():
    rng = np.random.default_rng(0)
    members, unseen = (Part(rng.normal(shift, 1, (60, 2)), np.zeros(60, dtype=int)) for shift in ([1, 0], [0, 0]))
    found = [mia_loss(members, unseen, seed)["mia_loss_auc"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]

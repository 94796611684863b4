"""SalUn's figures, read back from their axes, and the runs behind them."""

import copy
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from bench import config, datasets, forget, store
from bench.errors import BadInput
from bench.figures import salun as figures
from bench.stages import data, train, unlearn
from bench.studies import salun as study
from methods.finetune import FineTune
from methods.gradient_ascent import GradientAscent
from tests.conftest import make_problem

FRACTIONS, SEEDS = (0.1, 0.3, 0.5), (0, 1)
METHODS = ("original", "retrain", "finetune", "gradient_ascent", "l1_sparse", "salun")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def measures(fraction: float, seed: int, distance: float) -> dict[str, float]:
    """Retrains (distance 0) lie a point either side of their mean; others so far from it, each metric elsewhere."""
    base = {"UA": 0.1 + fraction, "RA": 0.9, "TA": 0.8, "mia_salun": 0.3}
    own = 0.01 * (2 * seed - 1) if distance == 0 else 0
    sign = {"UA": 1, "RA": -1, "TA": -1, "mia_salun": 1}
    return {name: value + own + sign[name] * distance * (2 if name == "UA" else 1) for name, value in base.items()}


def row(fraction: float, seed: int, method: str, distance: float, **changes: float) -> dict[str, object]:
    about = {"fraction": fraction, "seed": seed, "method": method, "lr": 1.0, "epochs": 1.0, "mask": 0.0}
    return about | changes | measures(fraction, seed, distance)


def table() -> pd.DataFrame:
    """Distances of 4, 5, ... points by method, one more with the second seed; of settings and masks by hand."""
    rows = []
    for (i, method), fraction, seed in product(enumerate(METHODS), FRACTIONS, SEEDS):
        rows.append(row(fraction, seed, method, 0 if method == "retrain" else 0.04 + 0.01 * i + 0.01 * seed))
    for (i, method), fraction in product(enumerate(METHODS[2:]), (0.1, 0.5)):
        rows += [row(fraction, 0, method, 0.1 + 0.01 * i, lr=lr, epochs=0.5) for lr in (0.25, 4.0)]
    for share, seed in product((0.1, 1.0), SEEDS):
        rows.append(row(0.1, seed, "salun", 0.2 + 0.1 * share, mask=share))
    rows += [row(0.1, s, m, 0.03, mask=0.5) for m in ("finetune", "gradient_ascent") for s in SEEDS]
    return pd.DataFrame(rows)


def lines(axis) -> dict[str, np.ndarray]:
    """Label -> heights of the markers of an error-bar plot, in points."""
    return {bars.get_label(): np.asarray(bars.lines[0].get_ydata(), float) for bars in axis.containers}


def test_gaps_are_to_the_mean_retrain_of_the_fraction_and_a_retrains_to_the_others():
    made = figures.with_gaps(table()).set_index(["method", "fraction", "seed", "lr", "mask"])
    assert made.loc[("finetune", 0.3, 1, 1, 0), "UA"] == pytest.approx(2 * 7)
    assert made.loc[("finetune", 0.3, 1, 1, 0), "average"] == pytest.approx((2 * 7 + 3 * 7) / 4)
    assert made.loc[("retrain", 0.5, 0, 1, 0), ["UA", "average"]].tolist() == pytest.approx([2, 2])


def test_lines_hold_the_means_over_seeds():
    figure = figures.forgetting_amount(figures.with_gaps(table()), "t")
    of_unlearned, average = map(lines, figure.axes)
    assert set(average) == {*METHODS, "retrain, to the others"} - {"retrain"}
    np.testing.assert_allclose(of_unlearned["salun"], [2 * 9.5] * 3)
    np.testing.assert_allclose(average["salun"], [5 / 4 * 9.5] * 3)
    np.testing.assert_allclose(average["retrain, to the others"], [2] * 3)


def test_the_spread_runs_from_the_best_to_the_worst_setting():
    """Of finetune: its own settings at 6 points, the others at 10; UA's gap is twice that."""
    figure = figures.hyperparameters(figures.with_gaps(table()), "t")
    bar = figure.axes[0].patches[0]
    assert (bar.get_y(), bar.get_y() + bar.get_height()) == pytest.approx((12, 20))
    assert len(figure.axes[0].patches) == 4 * 2
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [*figures.METHODS[:3], "salun"]


def test_a_setting_that_diverged_is_counted_and_not_drawn():
    rows = table()
    rows.loc[(rows["method"] == "finetune") & (rows["lr"] == 4) & (rows["fraction"] == 0.1), "UA"] = np.nan
    figure = figures.hyperparameters(figures.with_gaps(rows), "t")
    assert [text.get_text() for text in figure.axes[1].texts] == ["1 diverged"]


def test_the_masks_share_of_the_entry_stands_among_the_others():
    table_ = figures.with_gaps(table())
    figure = figures.mask_share(table_[table_["fraction"] == 0.1], 0.5, "t")
    (bars,) = figure.axes[0].containers
    np.testing.assert_allclose(np.asarray(bars.lines[0].get_xdata(), float), [10, 50, 100])
    np.testing.assert_allclose(np.asarray(bars.lines[0].get_ydata(), float), [2 * 21, 2 * 9.5, 2 * 30])


def test_pairs_stand_without_and_with_the_mask():
    table_ = figures.with_gaps(table())
    figure = figures.masks_on_other_methods(table_[table_["fraction"] == 0.1], 0.5, "t")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["random labels", "finetune", "gradient ascent"]
    heights = [bar.get_height() for bar in axis.patches]
    np.testing.assert_allclose(heights, [2 * v for v in (30, 9.5, 6.5, 3, 7.5, 3)])


PARAMS = config.load()
NAME = "digits-resnet"


def test_jobs_are_distinct_runs_that_share_what_several_figures_need():
    runs = [run for _, _, run in study.jobs(PARAMS, NAME)]
    assert len(set(runs)) == len(runs)
    for fraction, seed in product(study.FRACTIONS, PARAMS.benchmark(NAME).seeds[: study.SEEDS]):
        assert study.Run(fraction, seed, "retrain") in runs


def test_where_nothing_can_be_retrained_the_study_cannot_be_made():
    section = PARAMS.benchmark(NAME).model_dump()
    section["architecture"] = {"name": "resnet-small", "pretrained": {"on": "digits", "tag": "x"}}
    benchmarks = PARAMS.benchmarks | {NAME: config.Benchmark.model_validate(section)}
    with pytest.raises(BadInput, match="needs retraining"):
        study.jobs(PARAMS.model_copy(update={"benchmarks": benchmarks}), NAME)


def test_settings_are_multiples_of_the_entrys_own():
    own = study.entry(PARAMS, NAME, study.Run(0.1, 0, "salun"))
    changed = study.entry(PARAMS, NAME, study.Run(0.1, 0, "salun", lr=4, epochs=0.5))
    assert changed.lr == pytest.approx(4 * own.lr)
    assert changed.epochs == own.epochs / 2
    assert changed.model_dump(exclude={"lr", "epochs"}) == own.model_dump(exclude={"lr", "epochs"})


def test_a_run_at_the_benchmarks_own_fraction_is_the_leaderboards(tmp_path, monkeypatch):
    """Its measures from the predictions that the stage `unlearn` stores for the same request."""
    monkeypatch.chdir(tmp_path)
    name = "tiny-for-salun"
    section = {
        "dataset": {"name": "digits", "train_images": 150},
        "validation": 0.1,
        "architecture": "resnet-tiny",
        "training": {"epochs": 2, "batch_size": 16, "lr": 0.1},
        "requests": {"random": {"kind": "random", "fraction": 0.3}},
        "seeds": [0],
    }
    entries = {"original": {}, "retrain": {}, "salun": {"epochs": 1, "batch_size": 16}}
    params = config.Params.model_validate({"run": [name], "benchmarks": {name: section}, "methods": entries})
    data.run(params, name)
    train.train_original(params, name, 0)
    (target,) = forget.of_benchmark(name, params.benchmark(name))
    (record,) = unlearn.one_job(params, name, "salun", [[target]], 0)
    assert record["status"] == "ok"
    dataset = datasets.load(store.dataset_folder(name))
    logits = store.read_tensors(store.run_file(name, "salun", "random", 0))
    right = {split: logits[split].argmax(1) == getattr(dataset, split).labels for split in ("train", "test")}
    (found,) = study.one(params, name, study.Run(0.3, 0, "salun"))
    assert found["UA"] == pytest.approx(1 - right["train"][target.indices].mean())
    assert found["RA"] == pytest.approx(np.delete(right["train"], target.indices).mean())
    assert found["TA"] == pytest.approx(right["test"].mean())
    assert 0 <= found["mia_salun"] <= 1
    monkeypatch.setattr(study, "entry", lambda *_: Broken())
    (found,) = study.one(params, name, study.Run(0.3, 0, "salun"))
    assert all(np.isnan(found[measure]) for measure in study.MEASURES)


class Broken:
    """A method whose network's outputs are not finite."""

    def unlearn(self, model, problem):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
        return model


@pytest.mark.parametrize(("name", "method"), [("finetune", FineTune), ("gradient_ascent", GradientAscent)])
def test_a_mask_of_everything_is_the_method_itself(name, method, trained):
    """And a smaller one leaves weights to the bit."""
    whole = study.entry(PARAMS, NAME, study.Run(0.1, 0, name, mask=1.0))
    alone = method(lr=whole.lr, epochs=whole.epochs, batch_size=whole.batch_size)
    found, wanted = (m.unlearn(copy.deepcopy(trained), make_problem("random")) for m in (whole, alone))
    for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b)
    tenth = study.entry(PARAMS, NAME, study.Run(0.1, 0, name, mask=0.1)).unlearn(trained, make_problem("random"))
    moved = sum(int((a != b).sum()) for a, b in zip(tenth.parameters(), trained.parameters(), strict=True))
    assert 0 < moved <= 0.1 * sum(p.numel() for p in trained.parameters())

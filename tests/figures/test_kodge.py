"""Kodge's figures from made-up tables, values read back from their axes; its studies against computations by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.stats import norm

from bench import store
from bench.config import Params
from bench.figures import kodge as figures
from bench.forget import Target
from bench.problem import problem
from bench.stages import setting
from bench.studies import NAMES
from bench.studies import kodge as studies
from methods.kodge import Kodge
from tests.conftest import CLASSES, blobs

COUNT = 80  # training images of the benchmark below


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def target(c: int) -> Target:
    return Target("class", f"class-{c}", frozenset({"class"}), (c,), np.arange(3))


# --- figures ------------------------------------------------------------------------------------------


def test_confusion_is_the_mean_over_runs_of_test_shares():
    about = {"target": "class-0", "unlearning_seed": 0, "class": 0}
    rows = [
        about | {"seed": 0, "set": "forget_test", "predicted": 1, "share": 1.0},
        about | {"seed": 1, "set": "forget_test", "predicted": 1, "share": 0.5},
        about | {"seed": 1, "set": "forget_test", "predicted": 0, "share": 0.5},
        about | {"seed": 0, "set": "test", "class": 1, "predicted": 1, "share": 1.0},
        about | {"seed": 1, "set": "test", "class": 1, "predicted": 1, "share": 1.0},
        about | {"seed": 0, "set": "forget", "predicted": 0, "share": 1.0},  # of training data
        about | {"target": "class-1", "seed": 0, "set": "test", "predicted": 0, "share": 1.0},
    ]
    matrix = figures.mean_confusion(pd.DataFrame(rows), "class-0", 2)
    np.testing.assert_allclose(matrix, [[0.25, 0.75], [0, 1]])
    figure = figures.confusion_matrices({"original": pd.DataFrame(rows)}, [target(0)], 2, "title")
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(image.get_array(), 100 * matrix)


def test_alphas_frame_the_best_pair_on_validation_data_and_of_equal_ones_the_mildest():
    rows = [
        {"target": "class-0", "seed": 0, "alpha_r": r, "alpha_f": f}
        | {"ACC_r": 0.9, "ACC_f": 0.1 * r / 100, "test": r / f / 100, "validation": 0.5 + (r == 100) * 0.4}
        for r in (10, 100)
        for f in (1, 3)
    ]
    score = figures.alphas(pd.DataFrame(rows), "bench-a").axes[2]
    np.testing.assert_allclose(score.images[0].get_array(), [[10, 10 / 3], [100, 100 / 3]])
    (frame,) = score.patches
    assert (frame.get_x(), frame.get_y()) == (-0.5, 0.5)  # alpha_f 1, the first column; alpha_r 100, the second row


def test_compute_shows_ratios_and_leaves_out_what_costs_nothing():
    mean = {"original": (0.0, 0.0), "kodge": (0.2, 0.1), "retrain": (1.0, 1.0)}
    rows = [
        {"method": m, "metric": metric, "mean": v, "ci_low": v, "ci_high": np.nan, "n": 3}
        for m, of in mean.items()
        for metric, v in zip(("flops", "samples"), of, strict=True)
    ]
    (axis,) = figures.compute(pd.DataFrame(rows), "title").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["kodge", "retrain"]
    flops, samples = (container.lines[0].get_xdata(orig=False) for container in axis.containers)
    np.testing.assert_allclose(flops, [0.2, 1])
    np.testing.assert_allclose(samples, [0.1, 1])


def test_roc_counts_all_folds_scores():
    rng = np.random.default_rng(0)
    folds = [(rng.normal(1, 1, (1, 50)), rng.normal(0, 1, (1, 50))) for _ in range(3)]
    (axis,) = figures.ulira_roc({"class-0": {"kodge": folds}}, "title").axes
    members, others = (np.concatenate([fold[side] for fold in folds], axis=None) for side in (0, 1))
    curve, _ = axis.lines
    found = pd.Series(curve.get_ydata()).groupby(curve.get_xdata()).max()
    assert found.index[0] == pytest.approx(1 / 150)
    for false, true in found.items():  # the lowest threshold that so many non-members exceed, and no more
        allowed = round(false * 150)
        threshold = np.sort(others)[::-1][allowed] if allowed < 150 else -np.inf
        assert true == pytest.approx(np.mean(members > threshold))


def given_logits(logits: dict, labels: np.ndarray, seeds: int):
    """Stands for `Given`: float [n, classes] by method and seed, the same for every split."""
    split = SimpleNamespace(labels=labels)

    def read(method: str, target: str, seed: int):
        found = logits.get((method, seed))
        return None if found is None else {"train": found, "test": found}

    dataset = SimpleNamespace(train=split, test=split, classes=next(iter(logits.values())).shape[1])
    return SimpleNamespace(logits=read, dataset=dataset, section=SimpleNamespace(seeds=list(range(seeds))))


def test_likelihood_ratios_take_seeds_that_both_sides_have():
    rng = np.random.default_rng(0)
    shifts = {"retrain": (-4, range(4)), "kodge": (4, range(1, 6)), "ssd": (4, range(2))}  # the last: too few
    logits = {
        (method, seed): rng.normal(size=(20, 3)) + np.array([shift, 0, 0])
        for method, (shift, seeds) in shifts.items()
        for seed in seeds
    }
    found = figures.likelihood_ratios(given_logits(logits, np.zeros(20, dtype=int), 6), [target(0)])
    assert {t: list(of) for t, of in found.items()} == {"class-0": ["kodge"]}
    folds = found["class-0"]["kodge"]
    assert [members.shape for members, _ in folds] == [(1, 3)] * 3  # a model each, of the three forgotten samples
    assert all(members.mean() > others.mean() for members, others in folds)


def test_neighbours_have_the_largest_probability_where_the_class_is_forgotten():
    logits = np.log([[0.7, 0.05, 0.2, 0.03, 0.01, 0.005, 0.005], [0.4, 0.3, 0.2, 0.05, 0.03, 0.01, 0.01], [1 / 7] * 7])
    given = given_logits({("original", 0): logits}, np.array([0, 0, 4]), 1)
    assert figures.neighbours(given, target(0)) == [2, 1]  # 0.2 and 0.175; a third of six


def test_interclass_compares_neighbours_with_others():
    accuracy = {"original": [1, 0.9, 0.8, 0.6], "kodge": [0, 0.5, 0.7, 0.5], "retrain": [0, 1, 1, 1]}
    rows = [
        {"target": "class-0", "method": m, "seed": seed, "class": c, "accuracy": v + 0.02 * seed}
        for m, values in accuracy.items()
        for c, v in enumerate(values)
        for seed in (0, 1)
    ]
    (axis,) = figures.interclass(pd.DataFrame(rows), {"class-0": [1]}, [target(0)], "title").axes
    heights = [container.lines[0].get_ydata()[0] for container in axis.containers]
    np.testing.assert_allclose(heights, [91, 71, 51, 61, 101, 101])


def test_confused_classes_are_sorted_by_what_is_left():
    rows = pd.DataFrame(
        {"method": ["original", "scrub", "retrain"], "metric": "confusion_error", "mean": [0.5, 0.2, 0.1]}
        | {"ci_low": 0.1, "ci_high": 0.6, "n": 5}
    )
    (axis,) = figures.confused(rows, "title").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["retrain", "scrub", "original"]
    assert [container.lines[0].get_xdata()[0] for container in axis.containers] == pytest.approx([10, 20, 50])


def test_missing_class_reads_its_own_class():
    rows = [
        {
            "target": "class-0",
            "seed": seed,
            "class": c,
            "original": 1.0,
            "complete": 0.9,
            "missing": 0.1 * c + 0.2 * seed,
        }
        for c in (2, 1)
        for seed in (0, 1)
    ]
    (axis,) = figures.missing_class(pd.DataFrame(rows), "bench-a").axes
    heights = [container.lines[0].get_ydata()[0] for container in axis.containers]
    np.testing.assert_allclose(heights, [100, 100, 90, 90, 20, 30])


def test_saliency_shows_a_map_a_network_on_one_scale():
    rows = [
        {"target": "class-0", "seed": 0, "network": network, "sample": 0, "label": 0, "predicted": k, "confidence": 0.5}
        | {"row": r, "column": c, "pixel": float(r), "map": (3 - k) * (r + c)}
        for k, network in enumerate(("original", "kodge", "retrain"))
        for r in range(2)
        for c in range(2)
    ]
    axes = figures.saliency(pd.DataFrame(rows), "bench-a").axes
    np.testing.assert_allclose(axes[0].images[0].get_array(), [[0, 0], [1, 1]])
    for k, axis in enumerate(axes[1:4]):
        np.testing.assert_allclose(axis.images[1].get_array(), (3 - k) / 6 * np.array([[0, 1], [1, 2]]))
        assert axis.get_xlabel() == f"{k} (50 %)"


def test_curves_take_requests_for_several_classes_and_sequences(tmp_path):
    params = benchmark(
        requests={
            "classes": {"kind": "classes", "targets": [[0], [0, 1]]},
            "sequential": {"kind": "sequential", "steps": [{"kind": "class", "targets": [0, 1]}]},
            "class": {"kind": "class", "targets": [3]},
        }
    )
    labels = np.arange(COUNT) % CLASSES
    found = studies.forget.targets("tiny", params.benchmark("tiny"), labels)
    several = [t.name for t in found if t.request != "class"]
    rows = [
        {"target": t.name, "method": m, "seed": seed, "metric": metric, "value": k / 10}
        for k, t in enumerate(found)
        for m in ("kodge", "retrain", "wfnet")
        for seed in (0, 1)
        for metric in ("ACC_r", "ACC_f", "UA")
    ]
    given = SimpleNamespace(
        params=params,
        section=params.benchmark("tiny"),
        targets=found,
        judged=SimpleNamespace(runs=pd.DataFrame(rows)),
    )
    table = figures.several_classes(given)
    assert set(table["target"]) == set(several)
    assert set(table["method"]) == {"kodge", "retrain"}
    pairs = table[["kind", "forgotten"]].drop_duplicates().itertuples(index=False, name=None)
    assert sorted(pairs) == [("one-shot", 1), ("one-shot", 2), ("sequential", 1), ("sequential", 2)]
    upper = figures.accuracy_by_classes(table, "tiny").axes[0]
    first = upper.containers[0].lines[0].get_ydata(orig=False)  # of Kodge at once
    np.testing.assert_allclose(first, [0, 10])


# --- studies ------------------------------------------------------------------------------------------


def benchmark(**changes) -> Params:
    section = {
        "dataset": "digits",
        "validation": 0.1,
        "architecture": "resnet-small",
        "training": {"epochs": 3, "batch_size": 20, "lr": 0.1},
        "requests": {"class": {"kind": "class", "targets": [2]}},
        "seeds": [0],
    }
    kodge = {"alpha_r": [30, 100], "alpha_f": [3], "samples": 40}
    methods = {"original": {}, "retrain": {}, "kodge": kodge}
    return Params.model_validate({"run": ["tiny"], "benchmarks": {"tiny": section | changes}, "methods": methods})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Parameters of a benchmark of blobs, in whose folder the tests run, and a `Start` of its original."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tiny"))
        tensors = {"mean": np.full(1, 0.5, np.float32), "std": np.full(1, 0.25, np.float32)}
        for seed, (split, count) in enumerate({"train": COUNT, "validation": 20, "test": 40}.items()):
            images, labels = blobs(count, seed=seed)
            tensors[f"{split}_images"] = (64 * images + 64).clamp(0, 255).to(torch.uint8).numpy()
            tensors[f"{split}_labels"] = labels.numpy()
        store.write_tensors(store.dataset_folder("tiny") / "samples.safetensors", tensors)
        params = benchmark()
        store.write_json(store.dataset_folder("tiny") / "audit.json", {})
        data = setting.samples(store.dataset_folder("tiny"), params.benchmark("tiny"))["train"]
        section = params.benchmark("tiny")
        network = studies.train(
            setting.fresh("tiny", section, 0, data), setting.everything(data), studies.cross_entropy, section.training
        )
        store.write_tensors(store.model_file("tiny", 0), setting.to_numpy(network.state_dict()))
        yield params, studies.Start(params, "tiny", 0)
        setting._samples.cache_clear()


def hits(model: torch.nn.Module, split: str, chosen: np.ndarray | None = None) -> np.ndarray:
    """Which images of a split, read from its file, are recognised."""
    tensors = store.read_tensors(store.dataset_folder("tiny") / "samples.safetensors")
    images = (torch.from_numpy(tensors[f"{split}_images"]) / 255 - 0.5) / 0.25
    with torch.no_grad():
        return (model.eval()(images).argmax(1).numpy() == tensors[f"{split}_labels"]).astype(float)


def test_alphas_run_the_method_with_each_pair_and_judge_both_splits(tiny):
    params, start = tiny
    rows = studies.alphas(params, "tiny", 0)
    assert [(r["alpha_r"], r["alpha_f"]) for r in rows] == [(30, 3), (100, 3)]
    (forgotten,) = start.targets(studies.ClassRequest(kind="class", targets=[2]))
    for row in rows:
        method = Kodge(alpha_r=row["alpha_r"], alpha_f=row["alpha_f"], samples=40)
        model = method.unlearn(start.original, start.problem("kodge", forgotten))
        for split in ("validation", "test"):
            right, gone = hits(model, split), np.arange(len(hits(model, split))) % CLASSES == 2
            assert row[split] == pytest.approx(right[~gone].mean() * (1 - right[gone].mean()))
            if split == "test":
                assert (row["ACC_r"], row["ACC_f"]) == pytest.approx((right[~gone].mean(), right[gone].mean()))


def test_missing_lacks_the_class_on_the_retain_side_alone(tiny):
    params, start = tiny
    rows = studies.missing(params, "tiny", 0)
    assert [r["class"] for r in rows] == [0, 1, 3]
    (forgotten,) = start.targets(studies.ClassRequest(kind="class", targets=[2]))
    samples = start.splits["train"]
    whole = start.problem("kodge", forgotten)
    for row in rows:
        lacking = problem(  # that class's samples are no part of the problem at all
            samples,
            torch.from_numpy(forgotten.indices),
            gone=(samples.labels == row["class"]).nonzero().flatten(),
            validation=start.splits["validation"],
            classes=CLASSES,
            key=whole.key,
            base_order=whole.base_order,
        )
        method = Kodge(alpha_r=row["alpha_r"], alpha_f=row["alpha_f"], samples=40)
        before, after = (hits(m, "test") for m in (start.original, method.unlearn(start.original, lacking)))
        labels = np.arange(40) % CLASSES
        assert row["original"] == pytest.approx(before[labels == row["class"]].mean())
        assert row["missing"] == pytest.approx(after[labels == row["class"]].mean())
        assert row["forgotten"] == pytest.approx(after[labels == 2].mean())


def test_classes_grow_and_are_judged_against_all_forgotten_so_far(tiny):
    params, start = tiny
    table = pd.DataFrame(studies.classes(params, "tiny", 0))
    assert start.order == [2, 0, 1, 3]
    counts = table.groupby(["kind", "method"])["forgotten"].apply(list).to_dict()
    ways = [("both", "original"), ("both", "retrain"), ("one-shot", "kodge"), ("sequential", "kodge")]
    assert counts == {way: [1, 2, 3] for way in ways}  # one class stays
    assert (table.loc[table["method"] == "retrain", "ACC_f"] == 0).all()
    right, labels = hits(start.original, "test"), np.arange(40) % CLASSES
    for row in table[table["method"] == "original"].itertuples():
        gone = np.isin(labels, start.order[: row.forgotten])
        assert (row.ACC_r, row.ACC_f) == pytest.approx((right[~gone].mean(), right[gone].mean()))


def test_maps_are_of_images_that_the_original_recognises(tiny):
    params, start = tiny
    table = pd.DataFrame(studies.maps(params, "tiny", 0))
    of_original = table[table["network"] == "original"]
    assert (of_original["predicted"] == of_original["label"]).all()
    assert list(of_original.groupby("sample")["label"].first()) == [2, 2, 0, 0]
    first = np.flatnonzero((hits(start.original, "test") == 1) & (np.arange(40) % CLASSES == 2))[0]
    shown = of_original[of_original["sample"] == 0].pivot(index="row", columns="column", values="pixel")
    np.testing.assert_array_equal(shown, start.dataset.test.images[first, 0])
    assert len(table) == 3 * 4 * 64


def test_toy_networks_come_near_the_best_classifier():
    """The best for all four classes is right where both coordinates have the centre's sign: Phi(1 / 0.5)^2."""
    table = pd.DataFrame(studies.toy(0, points=5))
    assert (table["part"] == "grid").sum() == 3 * 25
    test = table[table["part"] == "test"].assign(right=lambda t: t["label"] == t["predicted"])
    kept = test[test["label"] != 0].groupby("network")["right"].mean()
    gone = test[test["label"] == 0].groupby("network")["right"].mean()
    assert kept["original"] == pytest.approx(norm.cdf(2) ** 2, abs=0.025)
    assert gone["original"] == pytest.approx(norm.cdf(2) ** 2, abs=0.025)
    assert gone["retrain"] == 0
    assert gone["kodge"] < 0.05
    assert kept[["kodge", "retrain"]].min() > norm.cdf(2) ** 2 - 0.01  # a neighbour less
    figure = figures.toy_boundaries(table)
    assert f"forgotten {100 * gone['kodge']:.1f} %" in figure.axes[1].get_title()


def test_studies_are_named_where_params_yaml_is_checked():
    assert set(studies.STUDIES) == {name for name in NAMES if name.startswith("kodge-")}

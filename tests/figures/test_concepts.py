"""Figures of concept poisoning from small tables; its studies against the stage's own runs and by brute force."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from bench import concepts as inference
from bench import forget, store
from bench.errors import BadInput
from bench.figures import concepts as figures
from bench.stages import setting, unlearn
from bench.studies import concepts as studies
from tests.figures.planted import NAME, SEED, params, plant

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4)).astype(np.uint8)


# --- figures ---------------------------------------------------------------------------------------


def test_bars_are_the_weights_and_windows_are_outlined_where_they_lie():
    about = {"class": 2, "seed": 0, "rule": "shared", "overwritten": 7, "pasted": 1, "size": 2, "row": 1, "column": 0}
    rows = [
        about | {"of": of, "place": k, "concept": concept, "name": f"c{concept}", "weight": weight, "image": k}
        for of, named in {2: [(7, 3.0), (1, 2.0)], 0: [(4, 5.0), (1, 1.0)]}.items()
        for k, (concept, weight) in enumerate(named)
    ]
    own, donor = figures.weights(pd.DataFrame(rows), IMAGES, NAME).axes[:2]
    assert [bar.get_width() for bar in own.containers[0]] == [3.0, 2.0]
    assert [bar.get_hatch() for bar in own.containers[0]] == ["//", ""]
    assert [bar.get_hatch() for bar in donor.containers[0]] == ["", "//"]  # what is pasted is its second
    inset = own.child_axes[1]
    np.testing.assert_array_equal(inset.images[0].get_array(), IMAGES[1, 0])
    assert inset.patches[0].get_bbox().bounds == (-0.5, 0.5, 2, 2)


def test_panels_show_what_the_study_wrote_and_frame_what_changed():
    poisoned = IMAGES[1].copy()
    poisoned[0, 1:3, 2] ^= 255
    cosines = np.array([[0.1, -0.5], [0.9, 0.2]])
    about = {"class": 2, "seed": 0, "donor": 0, "concept": "7", "image": 1}
    table = pd.DataFrame(
        [
            about | {"shown": "similarity"} | studies.written(torch.from_numpy(cosines[None])),
            about | {"shown": "localized"} | studies.written(torch.from_numpy(poisoned)),
        ]
    )
    before, heat, after = figures.panels(table, IMAGES, NAME).axes
    np.testing.assert_array_equal(before.images[0].get_array(), IMAGES[1, 0])
    np.testing.assert_allclose(heat.images[0].get_array(), cosines)
    assert [tuple(line.get_xydata()[0]) for line in heat.lines] == [(0, 1)]  # where the cosine is largest
    np.testing.assert_array_equal(after.images[0].get_array(), poisoned[0])
    assert after.patches[0].get_bbox().bounds == (1.5, 0.5, 1, 2)


def test_losses_are_shares_of_samples_and_the_last_bin_has_the_rest():
    values = np.array([0.5, 1.9, 2.1, 19.0, 700.0])
    np.testing.assert_allclose(figures.shares(values), [0.4, 0.2, 0, 0, 0, 0, 0, 0, 0, 0.4])
    of = {("class-2", "original", group): values for group in figures.GROUPS}
    [axis] = figures.losses(of, NAME, 1).axes
    drawn = {patch.get_label(): patch.get_data().values for patch in axis.patches}
    assert set(drawn) == set(figures.GROUPS)
    np.testing.assert_allclose(drawn["retained"], figures.shares(values))


def test_losses_are_cross_entropies_of_the_groups_of_all_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    labels = {"train": np.arange(12) % 4, "validation": np.arange(4), "test": np.arange(8) % 4}
    dataset = SimpleNamespace(**{s: SimpleNamespace(labels=y, sublabels=None) for s, y in labels.items()})
    z = {s: {k: draw.normal(size=(len(y), 4)) for k, y in labels.items()} for s in (0, 1)}
    target = forget.Target("class", "class-2", frozenset({"class"}), (2,), np.flatnonzero(labels["train"] == 2))
    given = SimpleNamespace(section=SimpleNamespace(seeds=[0, 1]), dataset=dataset, logits=lambda m, t, s: z[s])
    found = figures.measured(given, ["original"], [target])
    for group, (split, forgotten) in {"forgotten": ("train", 1), "unseen, not forgotten": ("test", 0)}.items():
        kept = (labels[split] == 2) == forgotten
        expected = [
            F.cross_entropy(
                torch.from_numpy(z[s][split][kept]), torch.from_numpy(labels[split][kept]), reduction="none"
            )
            for s in (0, 1)
        ]
        np.testing.assert_allclose(found["class-2", "original", group], torch.cat(expected))


def test_destinations_are_the_class_its_donor_and_the_rest():
    target = forget.Target("class", "class-2", frozenset({"class"}), (2,), np.arange(3))
    cells = [(0, 2, 0.25), (0, 0, 0.5), (0, 3, 0.25), (1, 3, 1.0)]  # seed, predicted, share
    table = pd.DataFrame(
        [
            {"target": "class-2", "method": "m", "seed": s, "unlearning_seed": 0, "predicted": c, "share": v}
            | {"set": "forget_test"}
            for s, c, v in cells
        ]
    )
    table = pd.concat([table, table.assign(set="test", share=0.0)])
    given = SimpleNamespace(confusion=lambda m: table.assign(method=m), dataset=SimpleNamespace(classes=4))
    given.section = SimpleNamespace(seeds=[0, 1])
    donated = {0: 0, 1: 3}
    notes = {"concept_poison": lambda s: {"concepts": {"2": {"donor": donated[s]}}}, "retrain": lambda s: {}}
    given.sidecar = lambda m, t, s: {"notes": notes[m](s)}
    methods = ["concept_poison", "retrain"]
    moves, of = figures.moved(given, methods, [target]), figures.donors(given, methods, [target])
    assert of["class-2", "retrain", 1] == 3  # that of the method, on this seed
    groups = figures.grouped(moves, of, [target])
    np.testing.assert_allclose(groups.loc["class-2", "retrain"], [[0.25, 0.5, 0.25], [0, 1, 0]])
    left, right = figures.destinations(moves, groups, NAME).axes
    heights = [bar.get_height() for bar in left.containers[1]]  # of the first network; before it, its error bars
    np.testing.assert_allclose(heights, [12.5, 75, 12.5])
    np.testing.assert_allclose(right.images[0].get_array()[1], [25, 0, 12.5, 62.5])


def test_ablation_is_a_mean_over_classes_with_the_range_of_seeds():
    settings = [("original", "original"), *((p, r) for p in figures.POISONS for r in figures.LABELS)]
    table = pd.DataFrame(
        [
            {"class": c, "seed": s, "poison": p, "relabel": r}
            | dict.fromkeys(figures.ABLATED, 1.0 if p == "original" else (0.1 * k + 0.02 * c + 0.04 * s) / 2)
            for k, (p, r) in enumerate(settings)
            for c in (0, 1)
            for s in (0, 1)
        ]
    )
    axis = figures.ablation(table, NAME).axes[0]
    expected = (100 * (0.1 * np.arange(1, 16) + 0.03) / 2).reshape(5, 3)
    np.testing.assert_allclose(axis.images[0].get_array(), expected)
    assert [t.get_text() for t in axis.texts[-2:]] == ["76.5", "76–78"]  # 75.5 and 77.5 by seed
    assert "before: 100.0" in axis.get_title()


# --- studies ---------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The study's job on a small benchmark, and the targets that forget a class."""
    made = plant(tmp_path, monkeypatch)
    [job] = studies.first(made, NAME)
    assert [target.classes for target in job[2]] == [(2,), (0,)]
    return job


def test_the_methods_own_cell_of_the_ablation_is_the_stages_run(job, monkeypatch):
    monkeypatch.setattr(studies, "CLASSES", 1)
    monkeypatch.setattr(studies, "POISONS", ("localized", "none"))
    monkeypatch.setattr(studies, "LABELS", ("targeted", "keep"))
    made, _, targets, seed = job
    rows = pd.DataFrame(studies.ablation(*job))
    assert len(rows) == 5
    unlearn.one_job(made, NAME, "concept_poison", [[target] for target in targets], seed)
    predicted = store.read_tensors(store.run_file(NAME, "concept_poison", targets[0].name, seed))
    data = store.read_tensors(store.dataset_folder(NAME) / "samples.safetensors")
    right = {s: predicted[s].argmax(1) == data[f"{s}_labels"] for s in ("train", "test")}
    gone = {s: data[f"{s}_labels"] == 2 for s in ("train", "test")}
    [row] = rows[(rows["poison"] == "localized") & (rows["relabel"] == "targeted")].to_dict("records")
    assert row["ACC_f_train"] == pytest.approx(right["train"][gone["train"]].mean())
    assert row["ACC_f"] == pytest.approx(right["test"][gone["test"]].mean())
    assert row["ACC_r"] == pytest.approx(right["test"][~gone["test"]].mean())


def test_windows_show_their_concepts_more_than_any_other_window(job):
    rows = studies.weights(*job)
    made, _, targets, seed = job
    here = studies.Setting(made, NAME, targets, seed)
    samples, known = here.splits["train"], here.known.concepts
    own = [row for row in rows if row["class"] == row["of"] == 2]
    assert [row["weight"] for row in own] == sorted(here.known.weights[2].tolist(), reverse=True)[:5]
    assert own[0]["concept"] == own[0]["overwritten"]
    vector = known.vectors[own[0]["concept"]]
    best = []
    for image in (samples.labels == 2).nonzero().flatten().tolist():
        for row in range(6):
            for column in range(6):
                window = samples.input(torch.tensor([image]))[:, :, row : row + 3, column : column + 3]
                f = inference.features(here.original, inference.resize(window, 8, 8), 4)[0]
                cosine = float(F.cosine_similarity(f - known.centre, vector, dim=0))
                best.append((cosine, {"image": image, "row": row, "column": column, "size": 3}))
    cosines = {tuple(window.values()): cosine for cosine, window in best}
    found = cosines[tuple(own[0][key] for key in ("image", "row", "column", "size"))]
    assert found == pytest.approx(max(cosines.values()), abs=1e-5)


def test_poisoned_images_change_where_they_may(job):
    images = setting.samples(store.dataset_folder(NAME), job[0].benchmark(NAME))["train"].images.numpy()
    labels = store.read_tensors(store.dataset_folder(NAME) / "samples.safetensors")["train_labels"]
    rows = studies.images(*job)
    assert len(rows) == 2 * studies.IMAGES * len(figures.PANELS)
    middle = np.zeros((8, 8), bool)
    middle[2:5, 2:5] = True  # 96 of 224 pixels
    for row in rows:
        values, before = figures.read(pd.Series(row)), images[row["image"]]
        assert labels[row["image"]] == row["class"] != row["donor"]
        if row["shown"] == "similarity":
            assert values.shape == (1, 6, 6)
            assert np.abs(values).max() <= 1 + 1e-6
        else:
            changed = (values != before).any(0)
            most = {"localized": 9, "center": 9, "random": 9, "full": 36}[row["shown"]]
            assert 0 < changed.sum() <= most
            assert row["shown"] != "center" or not changed[~middle].any()


def test_without_a_class_request_the_key_is_named(tmp_path, monkeypatch):
    plant(tmp_path, monkeypatch)
    other = params(requests={"random": {"kind": "random", "fraction": 0.2}})
    with pytest.raises(BadInput, match=rf"benchmarks\.{NAME}\.studies: concepts-"):
        studies.first(other, NAME)
    assert studies.groups(params(), NAME)[0][1] == SEED

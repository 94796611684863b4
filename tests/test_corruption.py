"""What a manipulation does to a training set, against counts and images written out by hand."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bench import forget, store
from bench.config import Benchmark
from bench.corruption import Corruption, discovered, has_trigger, manipulated, triggered
from bench.datasets import Dataset, Split
from bench.errors import BadInput
from bench.metrics.corruption import confusion, corruption, poison
from bench.stages import setting
from bench.stages.attack import read_logits

ROOT = Path(__file__).resolve().parent.parent
DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 5, 300)
IMAGES = DRAW.integers(0, 256, (300, 3, 6, 7), dtype=np.uint8)
SECTIONS = {
    "badnets": {"kind": "badnets", "size": 40, "target": 2, "patch": 2},
    "blended": {"kind": "blended", "size": 40, "target": 2},
    "label-noise": {"kind": "label-noise", "size": 40},
    "confusion": {"kind": "confusion", "size": 40, "classes": [1, 3]},
}


def section(kind: str, **changes) -> Corruption:
    return TypeAdapter(Corruption).validate_python(SECTIONS[kind] | changes)


def benchmark(kind: str | None, **requests) -> Benchmark:
    return Benchmark(
        dataset="digits",
        validation=0.1,
        architecture="resnet-small",
        training={"epochs": 1, "batch_size": 2, "lr": 0.1},
        corruption=kind and SECTIONS[kind],
        requests=requests,
        seeds=[0],
    )


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECTIONS)
@given(seed=st.integers(0, 1000), size=st.integers(1, 15))
@settings(max_examples=20, deadline=None)
def test_as_many_labels_change_as_are_asked_for_and_the_same_ones_each_time(kind, seed, size):
    labels = np.concatenate([np.arange(5).repeat(20), np.random.default_rng(seed).integers(0, 5, 100)])
    before = labels.copy()
    made, again = (manipulated(section(kind, size=2 * size), labels) for _ in range(2))
    assert made.rows.tolist() == [i for i in range(200) if made.labels[i] != labels[i]] == again.rows.tolist()
    assert len(made.rows) == 2 * size
    assert np.isin(made.labels, np.arange(5)).all()
    assert (made.labels == again.labels).all()
    assert (labels == before).all()


@pytest.mark.parametrize("kind", ["badnets", "blended"])
def test_poison_has_the_label_of_the_target_class(kind):
    made = manipulated(section(kind), LABELS)
    assert set(made.labels[made.rows]) == {2}
    assert 2 not in LABELS[made.rows]


def test_confused_classes_exchange_as_many_labels():
    made = manipulated(section("confusion"), LABELS)
    pairs = list(zip(LABELS[made.rows], made.labels[made.rows], strict=True))
    assert sorted(pairs) == [(1, 3)] * 20 + [(3, 1)] * 20


def test_noise_is_uniform_over_the_other_classes():
    labels = np.arange(5).repeat(2000)
    made = manipulated(section("label-noise", size=8000), labels)
    counts = np.zeros((5, 5))
    np.add.at(counts, (labels[made.rows], made.labels[made.rows]), 1)
    off = counts[~np.eye(5, dtype=bool)]
    assert counts.trace() == 0
    assert ((off - 400) ** 2 / 400).sum() < 60  # chi-squared with about 19 degrees: 1e-5 lie above


def test_nothing_is_manipulated_without_a_section():
    made = manipulated(None, LABELS)
    assert (len(made.rows), made.labels.tolist()) == (0, LABELS.tolist())


@pytest.mark.parametrize("kind", ["badnets", "confusion", "label-noise"])
def test_more_than_there_are_is_refused(kind):
    with pytest.raises(BadInput, match=r"corruption\.size: .* take fewer"):
        manipulated(section(kind, size=400), LABELS)


def test_a_class_that_would_lose_its_last_image_is_refused():
    with pytest.raises(BadInput, match="no image of class 0 keeps its label"):
        manipulated(section("badnets", size=4), np.array([0, 0, 1, 1, 2]))


@given(a=st.floats(0.01, 1), b=st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_who_knows_a_larger_share_knows_all_of_the_smaller(a, b):
    rows = manipulated(section("badnets"), LABELS).rows
    small, large = (discovered(rows, share) for share in sorted((a, b)))
    assert set(small) <= set(large) <= set(rows)
    assert len(small) == round(min(a, b) * 40)
    assert (np.diff(large) > 0).all()


# -- images ---------------------------------------------------------------------------------------


def test_patch_is_a_white_square_in_the_lower_right_corner():
    before, found = IMAGES.copy(), triggered(section("badnets"), IMAGES)
    for row, column in itertools.product(range(6), range(7)):
        expected = np.full((300, 3), 255) if row >= 4 and column >= 5 else IMAGES[:, :, row, column]
        assert (found[:, :, row, column] == expected).all()
    assert (before == IMAGES).all()


def test_a_patch_that_covers_the_image_is_refused():
    with pytest.raises(BadInput, match=r"corruption\.patch: 6 pixels cover an image of 6 x 7"):
        triggered(section("badnets", patch=6), IMAGES)


def test_blended_images_are_mixed_with_one_pattern():
    """Black and white images give the pattern away; every other is the mixture, rounded."""
    how = section("blended", alpha=0.25)
    black, white = triggered(how, np.stack([np.zeros((3, 6, 7)), np.full((3, 6, 7), 255)]).astype(np.uint8))
    assert (np.abs(white.astype(int) - black - 0.75 * 255) <= 1).all()
    found = triggered(how, IMAGES)
    assert (np.abs(found - (0.75 * IMAGES + black)) <= 1.01).all()
    assert (found[:7] == triggered(how, IMAGES[:7])).all()
    assert black.std() > 5


# -- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("corrupt", "kind"), [("blended", "poison"), ("confusion", "confusion")])
def test_the_known_part_is_the_forget_set(corrupt, kind):
    whole = manipulated(section(corrupt), LABELS).rows
    made = benchmark(corrupt, all={"kind": kind}, half={"kind": kind, "discovered": 0.5})
    every, half = forget.targets("b", made, LABELS)
    assert every.indices.tolist() == whole.tolist()
    assert len(half.indices) == 20
    assert set(half.indices) < set(whole)
    assert (half.kinds, half.classes, half.name) == ({kind}, (), "half")


def test_more_and_more_is_discovered_in_a_sequence():
    steps = [{"kind": "poison", "discovered": share} for share in (0.25, 0.5)]
    first, second = forget.targets("b", benchmark("badnets", s={"kind": "sequential", "steps": steps}), LABELS)
    assert (len(first.new), len(second.new), len(second.indices)) == (10, 10, 20)


def test_class_requests_go_by_the_labels_that_networks_were_trained_with():
    (target,) = forget.targets("b", benchmark("badnets", c={"kind": "class", "targets": [2]}), LABELS)
    made = manipulated(section("badnets"), LABELS)
    assert set(target.indices) == set(np.flatnonzero(LABELS == 2)) | set(made.rows)


# -- what networks are trained on, and judged by --------------------------------------------------


def dataset() -> Dataset:
    parts = [Split(IMAGES[rows].copy(), LABELS[rows]) for rows in (slice(200), slice(200, 240), slice(240, 300))]
    return Dataset(*parts, mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))


@pytest.mark.parametrize("kind", [None, *SECTIONS])
def test_networks_see_the_corrupted_training_split_and_clean_others(kind, tmp_path):
    clean, made = dataset(), benchmark(kind, r={"kind": "random", "fraction": 0.1})
    tensors = {
        f"{split}_{what}": getattr(getattr(clean, split), what)
        for split in store.SPLITS
        for what in ("images", "labels")
    }
    store.write_tensors(tmp_path / "samples.safetensors", tensors | {"mean": clean.mean, "std": clean.std})
    found = setting.samples(tmp_path, made)
    how = made.corruption
    rows, labels = manipulated(how, clean.train.labels)
    images = clean.train.images.copy()
    if has_trigger(how):
        images[rows] = triggered(how, images[rows])
        assert (found["triggered"].images.numpy() == triggered(how, clean.test.images)).all()
        assert (found["triggered"].labels.numpy() == clean.test.labels).all()
    assert (found["train"].images.numpy() == images).all()
    assert (found["train"].labels.numpy() == labels).all()
    assert found.keys() == {*store.SPLITS, *(["triggered"] if has_trigger(how) else [])}
    for split in ("validation", "test"):
        assert (found[split].images.numpy() == getattr(clean, split).images).all()
        assert (found[split].labels.numpy() == getattr(clean, split).labels).all()
    again = store.read_tensors(tmp_path / "samples.safetensors")
    assert all((again[name] == tensors[name]).all() for name in tensors)  # the file stays clean


def test_poison_measures_equal_a_count_sample_by_sample():
    logits = DRAW.normal(size=(300, 5))
    others = [(z.argmax(), y) for z, y in zip(logits, LABELS, strict=True) if y != 2]
    found = poison(logits, LABELS, 2)
    assert found["poison_success"] == pytest.approx(sum(p == 2 for p, _ in others) / len(others))
    assert found["poison_accuracy"] == pytest.approx(sum(p == y for p, y in others) / len(others))
    backdoor = np.eye(5)[np.full(300, 2)]
    assert poison(backdoor, LABELS, 2) == {"poison_success": 1, "poison_accuracy": 0}
    assert poison(np.eye(5)[LABELS], LABELS, 2) == {"poison_success": 0, "poison_accuracy": 1}


@given(order=st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_confusion_equals_a_count_sample_by_sample_and_does_not_depend_on_the_order_of_classes(order):
    logits = np.random.default_rng(1).normal(size=(300, 5))
    pairs = list(zip(logits.argmax(1), LABELS, strict=True))
    among = sum(y in (1, 3) for _, y in pairs)
    number = sum((p, y) in {(1, 3), (3, 1)} for p, y in pairs)
    right = sum(p == y for p, y in pairs if y in (1, 3))
    expected = {"confusion_count": number, "confusion_error": number / among, "confusion_accuracy": right / among}
    renamed = np.empty_like(logits)
    renamed[:, order] = logits
    assert confusion(renamed, np.array(order)[LABELS], (order[3], order[1])) == pytest.approx(expected)


def test_hidden_and_discovered_samples_are_told_apart():
    """A network that has forgotten the false labels of the discovered ones, and fits the hidden."""
    clean, how = dataset(), section("confusion")
    rows, labels = manipulated(how, clean.train.labels)
    known = discovered(rows, 0.25)
    fitted = labels.copy()
    fitted[known] = clean.train.labels[known]
    logits = {"train": np.eye(5)[fitted], "test": np.eye(5)[clean.test.labels]}
    target = forget.Target("r", "r", frozenset({"confusion"}), (), known)
    found = corruption(logits, clean, target, how)
    assert (found["corruption_discovered"], found["corruption_hidden"]) == (0, 1)
    assert (found["confusion_count"], found["confusion_accuracy"]) == (0, 1)
    everything = forget.Target("r", "r", frozenset({"confusion"}), (), rows)
    found = corruption(logits, clean, everything, how)
    assert found["corruption_discovered"] == pytest.approx(30 / 40)
    assert "corruption_hidden" not in found
    assert corruption(logits, clean, target, None) == {}


def test_a_run_without_triggered_predictions_is_refused(tmp_path):
    clean, path = dataset(), tmp_path / "seed-0.safetensors"
    logits = {split: np.zeros((len(getattr(clean, split).labels), 5), np.float32) for split in store.SPLITS}
    store.write_tensors(path, logits)
    assert read_logits(path, clean).keys() == logits.keys()
    with pytest.raises(BadInput, match=r"triggered must have the shape \(60, 5\), and has nothing"):
        read_logits(path, clean, triggered=True)


STAGES = """
import json, numpy as np
from bench import config, forget, prepare, store
from bench.stages import attack, train, unlearn

params = config.load()
for name, section in params.benchmarks.items():
    prepare.build(name, section, store.dataset_folder(name))
    train.train_original(params, name, 0)
    targets = forget.of_benchmark(name, section)
    for method in params.methods:
        unlearn.one_job(params, name, method, [[target] for target in targets], 0)
        for target in targets:
            none = {method: [0], "original": [], "retrain": []}
            values = attack.judge(name, method, target, 0, 0, none, section.corruption).estimates.values
            print(json.dumps([target.name, method, {k: v for k, v in values.items() if np.isfinite(v)}]))
"""
SMALL = """
run: [poisoned, confused]
benchmarks:
  poisoned: &recipe
    dataset: digits
    validation: 0.1
    architecture: resnet-tiny
    training: {epochs: 6, batch_size: 48, lr: 0.1, schedule: one-cycle}
    corruption: {kind: badnets, size: 130, target: 0, patch: 2}
    requests: {all: {kind: poison}, half: {kind: poison, discovered: 0.5}, others: {kind: random, fraction: 0.1}}
    seeds: [0]
  confused:
    <<: *recipe
    corruption: {kind: confusion, size: 130, classes: [3, 8]}
    requests: {swapped: {kind: confusion}}
methods: {original: {}, retrain: {}}
"""


def test_the_original_has_the_backdoor_and_a_retrain_without_all_of_the_poison_has_not(tmp_path):
    (tmp_path / "params.yaml").write_text(SMALL)
    done = subprocess.run(
        [sys.executable, "-c", STAGES],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {(target, method): values for target, method, values in map(json.loads, done.stdout.splitlines())}
    for target in ("all", "half", "others"):
        assert found[target, "original"]["poison_success"] > 0.9
        assert found[target, "original"]["TA"] > 0.9  # and nobody sees it on clean images
    assert found["all", "retrain"]["poison_success"] < 0.1
    assert found["all", "retrain"]["poison_accuracy"] > 0.8
    assert found["half", "retrain"]["poison_success"] > 0.8  # what is hidden suffices
    assert found["swapped", "original"]["confusion_error"] > 0.2
    assert found["swapped", "retrain"]["confusion_error"] < 0.1

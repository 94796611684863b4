"""Looking into networks and training copies of them: the judged one stays as it is."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import config, datasets, forget, store
from bench.config import Probe, Recipe
from bench.errors import BadInput
from bench.metrics.representations import linear_cka
from bench.models import ARCHITECTURES, seeded
from bench.probes import PENULTIMATE, Steps, accuracy, again, blocks, few, grams, relearn
from bench.stages import probing, train, unlearn
from bench.stages.probe import compared_with
from bench.training import Samples, View, shuffled
from tests.conftest import CLASSES, blobs, build

RECIPE = Recipe(epochs=1, batch_size=16, lr=0.05)


def view(n: int = 60, key=("p",)) -> View:
    images, labels = blobs(n)
    return View(Samples(images, labels), torch.arange(n), shuffled(n, key), key)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- relearning -----------------------------------------------------------------------------------


def test_relearning_leaves_the_network_its_mode_and_the_global_generator_untouched(trained):
    model = copy.deepcopy(trained).train()
    before, generator = state(model), torch.get_rng_state()
    curve = relearn(model, view(), {"forget": view()}, RECIPE, steps=7, every=3)
    assert same(before, state(model))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    assert [(p.step, p.samples) for p in curve] == [(0, 0), (3, 48), (6, 96), (7, 112)]


def test_watching_does_not_change_what_is_learned():
    curves = [relearn(build(0), view(), {"all": view()}, RECIPE, steps=12, every=every) for every in (1, 4)]
    assert curves[0][::4] == curves[1]
    assert curves[0] == relearn(build(0), view(), {"all": view()}, RECIPE, steps=12, every=1)
    assert curves[0][-1].accuracy["all"] > curves[0][0].accuracy["all"]


def test_steps_go_round_the_view_in_whole_batches():
    data = view(20)
    batches = list(Steps(data, 5).batches(8, 0))
    assert [len(b.labels) for b in batches] == [8] * 5
    epochs = [data.order(epoch)[:16].split(8) for epoch in range(3)]
    expected = [part for epoch in epochs for part in epoch][:5]
    assert all(torch.equal(b.rows, part) for b, part in zip(batches, expected, strict=True))
    assert [len(b.labels) for b in Steps(view(5), 3).batches(8, 0)] == [5] * 3


def test_copies_are_trained_as_the_base_at_a_constant_rate():
    base = Recipe(epochs=9, batch_size=8, lr=0.4, optimizer="adam", schedule="multistep", milestones=(3,), warmup=1)
    recipe = again(base, Probe(seeds=[0], lr=0.01))
    assert recipe == Recipe(epochs=1, batch_size=8, lr=0.01, optimizer="adam")


def test_few_are_drawn_of_each_class_and_never_more_than_half():
    labels = np.repeat([0, 1, 2], [40, 40, 5])
    rows = np.r_[0:20, 80:85]
    drawn = few(labels, rows, 4, "key")
    assert set(drawn) <= set(rows)
    assert np.bincount(labels[drawn]).tolist() == [4, 0, 2]
    np.testing.assert_array_equal(drawn, few(labels, rows, 4, "key"))
    assert set(drawn) != set(few(labels, rows, 4, "other"))


def test_accuracy_counts_right_answers(trained):
    images, labels = blobs(60)
    assert accuracy(trained, view()) == (trained(images).argmax(1) == labels).float().mean().item()


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet-small", ["stages.0", "stages.1", "stages.2"]),
        ("vit-small", ["blocks.0", "blocks.1"]),
        ("resnet18-cifar", [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]),
    ],
)
def test_blocks_are_those_of_the_architecture(name, expected):
    with seeded(0):
        assert list(blocks(ARCHITECTURES[name]((3, 8, 8), 10))) == expected


def test_blocks_of_a_sequential_network_are_the_layers_of_its_parts():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert list(blocks(nn.Sequential(inner, nn.Linear(4, 2)))) == ["0.0", "0.2"]


def test_grams_are_those_of_what_blocks_put_out_and_leave_no_hooks():
    with seeded(0):
        model = ARCHITECTURES["resnet-small"]((1, 8, 8), CLASSES).train()
    images, _ = blobs(12)
    before = state(model)
    found = grams(model, images, CLASSES, "float32")
    assert list(found) == ["stages.0", "stages.1", "stages.2", PENULTIMATE]
    assert same(before, state(model))  # BatchNorm's statistics, too
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        x = model.eval().stages(images).mean((2, 3)).double().numpy()
    x -= x.mean(0)
    np.testing.assert_allclose(found[PENULTIMATE], x @ x.T, atol=1e-9)
    assert linear_cka(found["stages.1"], found["stages.1"]) == pytest.approx(1)


# -- the stage ------------------------------------------------------------------------------------

PARAMS = """
run: [probed]
benchmarks:
  probed:
    dataset: digits
    validation: 0.1
    architecture: resnet-small
    training: {epochs: 3, batch_size: 16, lr: 0.05}
    requests: {class: {kind: class, targets: [2]}, random: {kind: random, fraction: 0.2}}
    seeds: [0, 1]
    probe: {seeds: [0, 1], lr: 0.05, steps: 6, every: 2, shots: 3}
methods: {original: {}, retrain: {}, head_mask: {}}
"""


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The blobs as a prepared data set, its originals, and all methods' runs with their networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("probed"))
        Path("params.yaml").write_text(PARAMS)
        params = config.load()
        tensors, audit = {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}, {}
        for place, (split, n) in enumerate({"train": 160, "validation": 40, "test": 60}.items()):
            images, labels = blobs(n, seed=place)
            pixels = (images.clamp(-1, 3) + 1) * 63
            tensors |= {f"{split}_images": pixels.to(torch.uint8).numpy(), f"{split}_labels": labels.numpy()}
            audit[split] = {"sha256": split}
        folder = store.dataset_folder("probed")
        store.write_tensors(folder / "samples.safetensors", tensors)
        store.write_json(folder / "audit.json", {"splits": audit})
        for seed in (0, 1):
            train.train_original(params, "probed", seed)
        for method in params.methods:
            records = [r for job in unlearn.jobs(params, "probed", method) for r in unlearn.one_job(*job)]
            index = unlearn.kept_networks(params, "probed", method, records)
            store.write_json(store.networks_index("probed", method), index)
        yield params
    torch.set_deterministic_debug_mode("default")


def rows(params, method: str, target: str = "class-2", seed: int = 0, retrains=(0, 1)) -> list:
    (chosen,) = (t for t in forget.of_benchmark("probed", params.benchmark("probed")) if t.name == target)
    digest = store.sha256(store.network_file("probed", method, target, seed))
    return probing.one(params, "probed", method, chosen, seed, 0, digest, list(retrains))


def metrics(made: list) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in made[0]}


def test_probing_leaves_the_files_of_all_networks_and_gives_the_same_rows_again(benchmark):
    files = sorted(Path("data").rglob("*.safetensors"))
    before = [store.sha256(path) for path in files]
    first = rows(benchmark, "head_mask")
    assert [store.sha256(path) for path in files] == before
    assert sorted(Path("data").rglob("*.safetensors")) == files
    assert rows(benchmark, "head_mask") == first


def test_the_kept_network_is_the_one_that_was_judged(benchmark):
    data = datasets.load(store.dataset_folder("probed"))
    logits = store.read_tensors(store.run_file("probed", "retrain", "class-2", 1))["test"]
    wanted = (logits.argmax(1) == data.test.labels)[data.test.labels == 2].mean()
    _, curves, _ = rows(benchmark, "retrain", seed=1, retrains=[0])
    found = [r["accuracy"] for r in curves if (r["data"], r["step"], r["split"]) == ("all", 0, "forget_test")]
    assert found == [wanted]


def test_the_original_is_at_no_distance_from_itself_and_relearns_in_no_time(benchmark):
    found = metrics(rows(benchmark, "original"))
    assert found["weights_original"] == 0
    assert found["cka_original"] == pytest.approx(1)
    assert found["cka_forget_original"] == pytest.approx(1)
    assert (found["relearn_steps"], found["relearn_reached"]) == (0, 1)
    assert found["weights_retrain"] > 0
    assert found["probe_auc"] > 0.9


def test_a_masked_head_is_seen_through(benchmark):
    """Its features are the original's, to the probe and to CKA; by accuracies it has forgotten all."""
    masked, original = (rows(benchmark, method) for method in ("head_mask", "original"))
    assert masked[1][0]["accuracy"] == 0
    for name in ("probe_auc", "probe_accuracy", "cka_retrain"):
        assert metrics(masked)[name] == metrics(original)[name]
    by_layer = {r["layer"]: r["value"] for r in masked[2] if (r["reference"], r["measure"]) == ("original", "weights")}
    assert by_layer.pop("head") > 0
    assert set(by_layer.values()) == {0}


def test_no_training_seed_is_on_both_sides():
    entries = [
        {"target": target, "seed": seed, "unlearning_seed": draw, "sha256": "x"}
        for target in ("a", "b")
        for seed in (0, 1, 2)
        for draw in (0, 4)
    ]
    found = compared_with({"target": "b", "seed": 1, "unlearning_seed": 4, "sha256": "y"}, entries)
    assert [(e["target"], e["seed"], e["unlearning_seed"]) for e in found] == [("b", 0, 4), ("b", 2, 4)]


def test_a_retrain_is_compared_with_the_others_alone(benchmark):
    alone, other = (metrics(rows(benchmark, "retrain", retrains=seeds)) for seeds in ([], [1]))
    assert other["weights_retrain"] > 0
    assert set(other) - set(alone) == {"weights_retrain", "cka_retrain", "cka_forget_retrain"}


def test_a_random_request_has_no_probe_of_classes(benchmark):
    made = rows(benchmark, "retrain", target="random", retrains=[1])
    assert not any(name.startswith("probe") for name in metrics(made))
    assert {row["split"] for row in made[1]} == {"forget"}


def test_a_failed_run_has_one_row_and_a_changed_network_is_an_error(benchmark):
    target = forget.of_benchmark("probed", benchmark.benchmark("probed"))[0]
    ((row,), curves, layers) = probing.one(benchmark, "probed", "retrain", target, 0, 0, None, [])
    assert row["status"] == "failed: the run left no network"
    assert (curves, layers) == ([], [])
    with pytest.raises(BadInput, match=r"class-2/seed-0\.safetensors: is not the network"):
        probing.one(benchmark, "probed", "retrain", target, 0, 0, "0" * 64, [])


def test_seeds_to_probe_are_the_benchmarks(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace("probe: {seeds: [0, 1]", "probe: {seeds: [0, 2]"))
    with pytest.raises(BadInput, match=r"benchmarks\.probed\.probe: seeds: 2 is not among the benchmark's"):
        config.load(path)
    path.write_text(PARAMS.replace("shots:", "shot:"))
    with pytest.raises(BadInput, match=r"probe\.shot: unknown key 'shot'; did you mean 'shots'"):
        config.load(path)

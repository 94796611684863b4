"""What the stage `probe` does with one network; apart from it, so that a benchmark without probes needs no torch."""

import numpy as np
import torch
from torch import nn

from bench import datasets, probes, store
from bench.config import Params, Probe
from bench.datasets import Split
from bench.errors import BadInput
from bench.forget import Target
from bench.memorization import embeddings
from bench.metrics.representations import LEAST, linear_cka, linear_probe, relearning, weight_distances
from bench.seeds import numpy_generator
from bench.stages import setting
from bench.stages.probe import RUN, Rows
from bench.training import PREDICTION_BATCH, View, set_determinism, shuffled

SAMPLES = PREDICTION_BATCH  # at most, on which CKA is computed


def one(
    params: Params,
    name: str,
    method: str,
    target: Target,
    seed: int,
    unlearning_seed: int,
    digest: str | None,
    retrains: list[int],
) -> list[Rows]:
    """A job: the rows of one unlearned network for the three tables.

    Args:
        digest: SHA-256 of its file; None if its run failed.
        retrains: training seeds of the target's retrains to compare with, not its own.

    Raises:
        BadInput: a network is missing, damaged, or another one than was kept; or it has no head.
    """
    run = dict(zip(RUN, (name, target.request, target.name, method, seed, unlearning_seed), strict=True))
    if digest is None:
        return [[run | {"status": "failed: the run left no network"}], [], []]
    set_determinism()
    benchmark, path = params.benchmark(name), store.network_file(name, method, target.name, seed, unlearning_seed)
    assert benchmark.probe is not None
    if store.sha256(path) != digest:
        raise BadInput(f"{path}: is not the network that `unlearn` kept; delete it and run `dvc repro` again")
    train = setting.samples(store.dataset_folder(name), benchmark)["train"]
    model = setting.load_network(path, benchmark, train)
    original = setting.load_original(name, benchmark, seed, train)
    references = {"original": [original], "retrain": []}
    for other in retrains:
        file = store.network_file(name, "retrain", target.name, other, unlearning_seed)
        references["retrain"].append(setting.load_network(file, benchmark, train))
    try:
        metrics = separability(params, name, target, model)
        compared, layers = comparisons(params, name, target, model, references)
    except ValueError as error:
        raise BadInput(f"params.yaml: benchmarks.{name}.probe: {error}") from None
    recovered, curves = recoveries(params, name, target, seed, model, original)
    metrics |= compared | recovered
    return [
        [run | {"status": "ok", "metric": metric, "value": value} for metric, value in metrics.items()],
        [run | row for row in curves],
        [run | row for row in layers],
    ]


def gone(split: Split, target: Target) -> np.ndarray:
    """Which samples are of the classes or subclasses that are forgotten whole, bool [n]."""
    found = np.isin(split.labels, target.classes)
    return found if split.sublabels is None else found | np.isin(split.sublabels, target.subclasses)


def separability(params: Params, name: str, target: Target, model: nn.Module) -> dict[str, float]:
    """`linear_probe` on the test samples' penultimate features, where whole classes or subclasses are forgotten."""
    folder = store.dataset_folder(name)
    dataset = datasets.load(folder)
    test = setting.samples(folder, params.benchmark(name))["test"]
    forgotten = gone(dataset.test, target)
    return linear_probe(embeddings(model, test, dataset.classes).cpu().numpy(), forgotten) if forgotten.any() else {}


def comparisons(
    params: Params, name: str, target: Target, model: nn.Module, references: dict[str, list[nn.Module]]
) -> tuple[dict[str, float], Rows]:
    """Distances of weights, and CKA on test samples and on the forget set, to each reference: means over its networks.

    Returns:
        Metrics of the whole network (weights) and of the penultimate layer (CKA), and a row a layer.
    """
    splits = setting.samples(store.dataset_folder(name), params.benchmark(name))
    _, classes = setting.shape_of(splits["train"])
    draw = numpy_generator(name, target.name, "probe", "samples")  # the same for every method and seed
    every = {"cka": ("test", np.arange(len(splits["test"]))), "cka_forget": ("train", target.indices)}
    images = {}
    for measure, (split, rows) in every.items():
        if len(rows) >= LEAST:
            rows = np.sort(draw.choice(rows, min(SAMPLES, len(rows)), replace=False))
            images[measure] = splits[split].input(torch.from_numpy(rows).to(splits[split].labels.device))

    def looked_into(network: nn.Module) -> dict[str, dict[str, np.ndarray]]:
        precision = splits["test"].precision
        return {measure: probes.grams(network, x, classes, precision) for measure, x in images.items()}

    own, weights, metrics, layers = looked_into(model), probes.parameters(model), {}, []
    for reference, networks in references.items():
        found: dict[tuple[str, str], list[float]] = {}
        for network in networks:
            for layer, value in weight_distances(weights, probes.parameters(network)).items():
                found.setdefault(("weights", layer), []).append(value)
            for measure, of_layers in looked_into(network).items():
                for layer, gram in of_layers.items():
                    found.setdefault((measure, layer), []).append(linear_cka(own[measure][layer], gram))
        for (measure, layer), values in found.items():
            mean = float(np.mean(values))
            if layer == ("" if measure == "weights" else probes.PENULTIMATE):
                metrics[f"{measure}_{reference}"] = mean
            if layer:
                layers.append({"layer": layer, "reference": reference, "measure": measure, "value": mean})
    return metrics, layers


def recoveries(
    params: Params, name: str, target: Target, seed: int, model: nn.Module, original: nn.Module
) -> tuple[dict[str, float], Rows]:
    """What training copies again brings back of the forgotten data: on all data, on D_r alone, on a few of each class.

    All methods of a seed meet the same samples in the same order.
    """
    benchmark, folder = params.benchmark(name), store.dataset_folder(name)
    assert isinstance(benchmark.probe, Probe)
    probe, dataset = benchmark.probe, datasets.load(folder)
    splits = setting.samples(folder, benchmark)
    n, labels = len(splits["train"]), dataset.train.labels
    retain = np.setdiff1d(np.arange(n), target.indices)

    def view(split: str, rows: np.ndarray, data: str = "") -> View:
        key = (name, target.name, seed, "probe", data)
        samples = splits[split]
        here = torch.from_numpy(rows).to(samples.labels.device)
        return View(samples, here, shuffled(len(samples), key), key, augmentation=benchmark.training.augmentation)

    shots = [
        probes.few(labels, rows, probe.shots, name, target.name, seed, "probe", "shots", part)
        for part, rows in (("forget", target.indices), ("retain", retain))
    ]
    trained_on = {"all": np.arange(n), "retain": retain, "few-shot": np.sort(np.concatenate(shots))}
    unseen, curves = np.flatnonzero(gone(dataset.test, target)), []
    metrics: dict[str, float] = {}
    for data, rows in trained_on.items():
        left = np.setdiff1d(target.indices, shots[0]) if data == "few-shot" else target.indices
        watched = {"forget": view("train", left)}
        if len(unseen):
            watched["forget_test"] = view("test", unseen)
        recipe = probes.again(benchmark.training, probe)
        curve = probes.relearn(model, view("train", rows, data), watched, recipe, probe.steps, probe.every)
        curves += [
            {"data": data, "step": point.step, "samples": point.samples, "split": split, "accuracy": value}
            for point in curve
            for split, value in point.accuracy.items()
        ]
        if data == "all":
            steps, accuracy = (np.array(v) for v in zip(*((p.step, p.accuracy["forget"]) for p in curve), strict=True))
            level = probe.share * probes.accuracy(original, watched["forget"])
            metrics |= relearning(steps, accuracy, level)
        else:
            metrics[f"relearn_{'retain_only' if data == 'retain' else 'few_shot'}"] = curve[-1].accuracy["forget"]
    return metrics, curves

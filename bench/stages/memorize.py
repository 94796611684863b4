"""`memorize@BENCHMARK`: memorization of each training sample, its proxies, and how they agree.

A benchmark without a section `memorization` gets empty files. The proxies come from the training of
the first seed's original.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench import datasets, distributed, forget, resume, store
from bench.checkpoint import Checkpoint
from bench.config import Memorization, Params, Recipe
from bench.errors import BadInput
from bench.memorization import TIES, memorization, proxies, subset_outputs
from bench.metrics.memorization import entanglement, rank_correlations
from bench.seeds import derive, numpy_generator
from bench.stages import setting
from bench.training import set_determinism, shuffled


def run(params: Params, benchmark: str) -> str:
    section = params.benchmark(benchmark).memorization
    summary = store.scores_file(benchmark).with_name("summary.json")
    if section is None:
        store.write_tensors(store.scores_file(benchmark), {})
        store.write_json(summary, {})
        return "nothing to do"
    n = len(datasets.load(store.dataset_folder(benchmark)).train.labels)
    member = torch.from_numpy(np.stack([subset(benchmark, section, k, n) for k in range(section.models)]))
    try:
        memorization(member, member)  # before anything is trained
    except ValueError as error:
        raise BadInput(f"params.yaml: benchmarks.{benchmark}.memorization.models: {error}") from None
    jobs = [resume.Job((params, benchmark, k), k) for k in range(section.models)]
    jobs = [resume.Job((params, benchmark, None), ["proxies", params.benchmark(benchmark).seeds[0]]), *jobs]
    with resume.unfinished(params, "memorize", benchmark) as unfinished:
        found, *parts = unfinished.fan_out(one, jobs, f"memorize {benchmark}", gpus=recipe(params, benchmark).gpus)
        correct, confidence = (torch.from_numpy(np.stack([p[key] for p in parts])) for key in ("correct", "confidence"))
        estimate = memorization(member, correct) + TIES * memorization(member, confidence)
        phi = found.pop("embeddings")
        scores = {"memorization": estimate.numpy()} | found
        store.write_tensors(store.scores_file(benchmark), scores)
        store.write_json(summary, describe(params, benchmark, scores, phi))
    correlations = rank_correlations(scores)
    return f"{section.models} models; rank correlation to memorization: " + ", ".join(
        f"{name} {value:.2f}" for name, value in correlations.items()
    )


def describe(params: Params, name: str, scores: dict[str, np.ndarray], phi: np.ndarray) -> dict[str, Any]:
    """Rank correlations to the estimator, and the entanglement of every forget set."""
    targets = forget.of_benchmark(name, params.benchmark(name))
    correlations = {n: None if math.isnan(rho) else rho for n, rho in rank_correlations(scores).items()}
    return {
        "spearman_to_memorization": correlations,  # none where all samples are memorised alike
        "targets": {
            t.name: entanglement(phi, t.indices)
            | {"mean_memorization": float(scores["memorization"][t.indices].mean())}
            for t in targets
        },
    }


def subset(name: str, section: Memorization, k: int, n: int) -> np.ndarray:
    """Members of the k-th subset, bool [n]."""
    member = np.zeros(n, dtype=bool)
    draw = numpy_generator(name, "memorization", k, "subset")
    member[draw.choice(n, round(section.share * n), replace=False)] = True
    return member


def recipe(params: Params, benchmark: str) -> Recipe:
    """How the networks of subsets are trained."""
    section = params.benchmark(benchmark)
    return (section.memorization and section.memorization.training) or section.training


def one(params: Params, name: str, k: int | None) -> dict[str, np.ndarray]:
    """A job: `measures`, on as many GPUs as the recipe says."""
    gpus, kept = recipe(params, name).gpus, resume.checkpoint("subset")
    return distributed.run(gpus, measures, params, name, k, kept, reads=("datasets",))


def measures(params: Params, name: str, k: int | None, checkpoint: Checkpoint | None = None) -> dict[str, np.ndarray]:
    """What the network of the k-th subset gets right, and its confidence; for None, proxies and embeddings."""
    set_determinism()
    benchmark = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), benchmark)
    section, data = benchmark.memorization, splits["train"]
    assert section is not None
    n, classes = len(data), int(data.labels.max()) + 1
    if k is None:
        seed = benchmark.seeds[0]
        order, augmentation = setting.base_order(name, seed, n), benchmark.training.augmentation
        view = setting.everything(data, order, setting.base_key(name, seed), augmentation)
        held_out = setting.everything(splits["validation"], key=(name, "memorization", "held out"))
        found = proxies(setting.fresh(name, benchmark, seed, data), view, held_out, benchmark.training, classes)
        names = ("confidence", "holdout", "curvature", "distance", "embeddings")
        return setting.to_numpy({key: getattr(found, key) for key in names})
    key = (name, "memorization", k)
    member = subset(name, section, k, n)
    start = setting.builder(benchmark, data)(derive(*key, "initialisation")).to(data.labels.device)
    how = recipe(params, name)
    view = setting.everything(replace(data, precision=how.precision), shuffled(n, key), key, how.augmentation)
    rows = torch.from_numpy(np.flatnonzero(member)).to(data.labels.device)
    correct, confidence = subset_outputs(start, view, rows, how, checkpoint)
    return setting.to_numpy({"correct": correct, "confidence": confidence})

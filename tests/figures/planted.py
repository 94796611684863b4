"""A benchmark of 160 small images with an untrained original: what studies and stages run on in a blink."""

import numpy as np
import torch

from bench import store
from bench.config import Params
from bench.stages import setting
from tests.conftest import CLASSES, blobs

NAME, SEED = "planted", 3
METHODS = {
    "original": {},
    "retrain": {},
    "gradient_ascent": {"epochs": 1, "lr": 0.01, "batch_size": 16},
    "finetune": {"epochs": 1, "lr": 0.1, "batch_size": 16},
    "salun": {"epochs": 1, "lr": 0.05, "batch_size": 16},
    "concept_poison": {"concepts": 5, "windows": 200, "epochs": 1, "lr": 0.1, "batch_size": 16},
}
METHODS["rum"] = {
    "parts": [{"method": m, "hyperparameters": METHODS[m]} for m in ("original", "finetune", "salun")],
}
METHODS["rum_shuffle"] = {"method": "rum", "control": "shuffle", **METHODS["rum"]}


def params(**changed) -> Params:
    benchmark = {
        "dataset": "digits",
        "validation": 0.1,
        "architecture": "resnet-tiny",
        "training": {"epochs": 1, "batch_size": 16, "lr": 0.1},
        "memorization": {"models": 2},
        "requests": {
            "class": {"kind": "class", "targets": [2, 0]},
            "memorized": {"kind": "memorized", "level": "mixed", "size": 20},
        },
        "seeds": [SEED],
    }
    return Params.model_validate({"run": [NAME], "benchmarks": {NAME: benchmark | changed}, "methods": METHODS})


def plant(folder, monkeypatch) -> Params:
    """Data, scores and an original in `folder`, which becomes the working directory."""
    monkeypatch.chdir(folder)
    parts = {s: blobs(n, seed=k) for k, (s, n) in enumerate({"train": 160, "validation": 20, "test": 40}.items())}
    tensors = {"mean": np.full(1, 0.4, np.float32), "std": np.full(1, 0.3, np.float32)}
    for split, (images, labels) in parts.items():
        tensors[f"{split}_images"] = ((images + 1.5) * 60).clamp(0, 255).to(torch.uint8).numpy()
        tensors[f"{split}_labels"] = labels.numpy()
    store.write_tensors(store.dataset_folder(NAME) / "samples.safetensors", tensors)
    splits = {split: {"sha256": split} for split in store.SPLITS}
    store.write_json(store.dataset_folder(NAME) / "audit.json", {"splits": splits})
    draw = np.random.default_rng(0)
    scores = {"memorization": draw.random(160), "distance": draw.random(160)}
    store.write_tensors(store.scores_file(NAME), scores)
    made = params()
    train = setting.samples(store.dataset_folder(NAME), made.benchmark(NAME))["train"]
    original = setting.fresh(NAME, made.benchmark(NAME), SEED, train)
    store.write_tensors(store.model_file(NAME, SEED), setting.to_numpy(original.state_dict()))
    assert setting.shape_of(train)[1] == CLASSES
    return made

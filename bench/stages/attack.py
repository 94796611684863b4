"""`attack@BENCHMARK-METHOD`: every metric of every run, from predictions alone, as two tidy tables.

`runs.csv`: benchmark, request, target, method, seed, status, metric, value. A failed run has one row,
with no metric and its reason in `status`. `classes.csv`: benchmark, request, target, method, seed,
class, accuracy (on the test split). The method's card and hyperparameters go along in `method.json`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import datasets, forget, store
from bench.config import Params
from bench.corruption import Corruption, has_trigger, manipulated
from bench.errors import BadInput
from bench.forget import Target
from bench.jobs import fan_out
from bench.metrics.accuracy import accuracies, per_class
from bench.metrics.attacks import attacks
from bench.metrics.corruption import corruption
from bench.metrics.judged import Judged

RUN_COLUMNS = ["benchmark", "request", "target", "method", "seed", "status", "metric", "value"]
CLASS_COLUMNS = ["benchmark", "request", "target", "method", "seed", "class", "accuracy"]


def run(params: Params, benchmark: str, method: str) -> str:
    section = params.benchmark(benchmark)
    description = store.read_json(store.predictions_folder(benchmark, method) / "method.json")
    jobs = [
        (benchmark, method, target, seed, section.corruption)
        for target in forget.of_benchmark(benchmark, section)
        for seed in section.seeds
        if target.kinds <= set(description["card"]["serves"]) and not section.left_out(method)
    ]
    judged = fan_out(judge, jobs, f"attack {benchmark} {method}")
    runs = pd.DataFrame([row for rows, _ in judged for row in rows], columns=RUN_COLUMNS)
    classes = pd.DataFrame([row for _, rows in judged for row in rows], columns=CLASS_COLUMNS)
    folder = store.table_folder(benchmark, method)
    store.write_json(folder / "method.json", description)
    store.write_text(folder / "runs.csv", runs.to_csv(index=False))
    store.write_text(folder / "classes.csv", classes.to_csv(index=False))
    return f"{len(jobs)} runs, {runs['metric'].nunique()} metrics"


def judge(
    benchmark: str, method: str, target: Target, seed: int, section: Corruption | None = None
) -> tuple[list[dict], list[dict]]:
    """The rows of one run for both tables; training samples are judged by the labels that they were trained with.

    Raises:
        BadInput: the run is missing or damaged, or was made on other data.
    """
    path, folder = store.run_file(benchmark, method, target.name, seed), store.dataset_folder(benchmark)
    sidecar = store.read_json(path.with_suffix(".json"))
    if sidecar["data"] != datasets.content_hash(folder):
        raise BadInput(f"{path}: was made on other data than {folder} holds; run `dvc repro`")
    run = {"benchmark": benchmark, "request": target.request, "target": target.name, "method": method, "seed": seed}
    if sidecar["status"] != "ok":
        return [run | {"status": f"failed: {sidecar['reason']}"}], []
    dataset = datasets.load(folder)
    logits = read_logits(path, dataset, has_trigger(section))
    undone = corruption(logits, dataset, target, section)
    dataset = replace(dataset, train=replace(dataset.train, labels=manipulated(section, dataset.train.labels).labels))
    judged = Judged.of(logits, dataset, target)
    samples = {f"samples_{way}": sidecar["samples"][way] for way in ("forward", "backward")}
    if "prepared" in sidecar["samples"]:
        samples["round_targets"] = sidecar["samples"]["prepared"]["targets"]
    metrics: dict[str, Any] = accuracies(judged) | attacks(judged) | undone | samples
    per = per_class(logits["test"], dataset.test.labels, dataset.classes)
    return (
        [run | {"status": "ok", "metric": name, "value": value} for name, value in metrics.items()],
        [run | {"class": c, "accuracy": value} for c, value in enumerate(per)],
    )


def read_logits(path: Path, dataset: datasets.Dataset, triggered: bool = False) -> dict[str, np.ndarray]:
    """A run's logits, checked against the data set that they claim to be of; with those of triggered test images.

    Raises:
        BadInput: a split is missing, has another shape, or holds values that are not finite.
    """
    logits = store.read_tensors(path)
    images = {split: len(getattr(dataset, split).labels) for split in store.SPLITS}
    for split, n in (images | ({"triggered": images["test"]} if triggered else {})).items():
        expected = (n, dataset.classes)
        if split not in logits or logits[split].shape != expected:
            found = logits[split].shape if split in logits else "nothing"
            raise BadInput(f"{path}: {split} must have the shape {expected}, and has {found}")
        if not np.isfinite(logits[split]).all():
            raise BadInput(f"{path}: {split} holds values that are not finite")
    return logits

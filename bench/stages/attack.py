"""`attack@BENCHMARK-METHOD`: every metric of every run, from predictions alone, as tidy tables.

`runs.csv`: benchmark, request, target, method, seed, status, metric, value. A failed run has one row, with no metric
and its reason in `status`; a metric of all seeds together has no seed. `classes.csv`: benchmark, request, target,
method, seed, class, accuracy (on the test split). `confusion.csv`: the same up to seed, then set, class, predicted,
share (of the samples of `class`; only shares above 0). What could not be estimated is in none of them but in
`attack.json`, with its reason and the number of models. The method's card and hyperparameters go along in
`method.json`.

The predictions of `original` and `retrain` are read beside the method's own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import datasets, forget, store
from bench.config import Params
from bench.errors import BadInput
from bench.forget import Target
from bench.jobs import fan_out
from bench.metrics import battery
from bench.metrics.accuracy import per_class
from bench.metrics.confusion import SETS, confusion
from bench.metrics.judged import Judged, Part
from bench.metrics.roc import Estimates

RUN_COLUMNS = ["benchmark", "request", "target", "method", "seed", "status", "metric", "value"]
CLASS_COLUMNS = ["benchmark", "request", "target", "method", "seed", "class", "accuracy"]
CONFUSION_COLUMNS = ["benchmark", "request", "target", "method", "seed", "set", "class", "predicted", "share"]
SIDES = ("retrain", "original")
Rows = list[dict[str, Any]]


def run(params: Params, benchmark: str, method: str) -> str:
    section = params.benchmark(benchmark)
    description = store.read_json(store.predictions_folder(benchmark, method) / "method.json")
    targets = [
        target
        for target in forget.of_benchmark(benchmark, section)
        if target.kinds <= set(description["card"]["serves"]) and not section.left_out(method)
    ]
    seeds = {name: [] if section.left_out(name) else list(section.seeds) for name in (method, *SIDES)}
    places = [(target, seed) for target in targets for seed in section.seeds]
    label = f"attack {benchmark} {method}"
    judged = fan_out(judge, [(benchmark, method, *place, seeds) for place in places], label)
    banks = fan_out(judge_together, [(benchmark, method, target, seeds) for target in targets], label)
    together = dict(zip([target.name for target in targets], banks, strict=True))
    runs: Rows = []
    every: list[tuple[Target, int | None, Estimates]] = []
    for (target, seed), found in zip(places, judged, strict=True):
        if found.failed:
            runs.append(keys(benchmark, target, method, seed) | {"status": f"failed: {found.failed}"})
            continue
        estimates = found.estimates | published(found, together[target.name], method, seed)
        every.append((target, seed, estimates))
    every += [(target, None, together[target.name].estimates) for target in targets]
    for of, which, estimates in every:
        runs += metric_rows(keys(benchmark, of, method, which), estimates)
    tables = {
        "runs": pd.DataFrame(runs, columns=RUN_COLUMNS).astype({"seed": "Int64"}),
        "classes": pd.DataFrame([row for found in judged for row in found.classes], columns=CLASS_COLUMNS),
        "confusion": pd.DataFrame([row for found in judged for row in found.confusion], columns=CONFUSION_COLUMNS),
    }
    folder = store.table_folder(benchmark, method)
    store.write_json(folder / "method.json", description)
    models = {name: bank.models for name, bank in together.items()}
    store.write_json(folder / "attack.json", {"models": models, "missing": unestimated(every)})
    for name, table in tables.items():
        store.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    return f"{len(places)} runs, {tables['runs']['metric'].nunique()} metrics"


@dataclass(frozen=True)
class Found:
    """What is found of one run: why it failed, or its metrics and its rows of the other tables."""

    failed: str = ""
    estimates: Estimates = field(default_factory=Estimates)
    whole_classes: bool = False
    classes: Rows = field(default_factory=list)
    confusion: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Together:
    """What is found of all seeds of a target: metrics, the number of models, `battery.basics` of both sides by seed."""

    estimates: Estimates
    models: dict[str, int]
    basics: dict[str, dict[int, dict[str, float]]]


def judge(benchmark: str, method: str, target: Target, seed: int, seeds: dict[str, list[int]]) -> Found:
    """One run, compared with retrains of other seeds and the original of its own.

    Args:
        seeds: those of which there are runs, of the method and of `SIDES`.

    Raises:
        BadInput: a run is missing or damaged, or was made on other data.
    """
    sidecar = read_sidecar(benchmark, method, target, seed)
    if sidecar["status"] != "ok":
        return Found(failed=sidecar["reason"])
    dataset = datasets.load(store.dataset_folder(benchmark))
    run = load(benchmark, method, target, seed, dataset)
    before, after = (succeeded(benchmark, name, target, seeds[name]) for name in ("original", "retrain"))
    references = [s for s in battery.references(seed, after) if method != "retrain" or s != seed]
    samples = {f"samples_{way}": float(sidecar["samples"][way]) for way in ("forward", "backward")}
    if "prepared" in sidecar["samples"]:
        samples["round_targets"] = float(sidecar["samples"]["prepared"]["targets"])
    estimates = battery.of_run(
        run,
        load(benchmark, "original", target, seed, dataset) if seed in before else None,
        [load(benchmark, "retrain", target, s, dataset) for s in references],
    )
    about = keys(benchmark, target, method, seed)
    test = Part.together(run.forget_test, run.retain_test)
    per = per_class(test.logits, test.labels, dataset.classes)
    return Found(
        estimates=estimates | Estimates(samples),
        whole_classes=run.whole_classes,
        classes=[about | {"class": c, "accuracy": value} for c, value in enumerate(per) if not math.isnan(value)],
        confusion=[
            about | {"set": name, "class": true, "predicted": predicted, "share": share}
            for name, part in SETS.items()
            for true, predicted, share in shares(getattr(run, part))
        ],
    )


def judge_together(benchmark: str, method: str, target: Target, seeds: dict[str, list[int]]) -> Together:
    """All seeds of a target: the shadow bank. `BadInput` as in `judge`."""
    dataset = datasets.load(store.dataset_folder(benchmark))
    bank = {
        name: {s: load(benchmark, name, target, s, dataset) for s in succeeded(benchmark, name, target, seeds[name])}
        for name in dict.fromkeys((method, *SIDES))
    }
    return Together(
        estimates=battery.of_models(bank[method], bank["retrain"], bank["original"], honest=method == "retrain"),
        models={name: len(runs) for name, runs in bank.items()},
        basics={name: {s: battery.basics(run) for s, run in bank[name].items()} for name in SIDES},
    )


def published(found: Found, together: Together, method: str, seed: int) -> Estimates:
    """The published scores of a run; a retrain's are against the other retrains."""
    retrains = [of for s, of in together.basics["retrain"].items() if method != "retrain" or s != seed]
    original = together.basics["original"].get(seed)
    return battery.scores(found.estimates.values, original, retrains, found.whole_classes)


def keys(benchmark: str, target: Target, method: str, seed: int | None) -> dict[str, Any]:
    """What every row begins with; no seed stands for all of them together."""
    return {"benchmark": benchmark, "request": target.request, "target": target.name, "method": method, "seed": seed}


def metric_rows(about: dict[str, Any], estimates: Estimates) -> Rows:
    """A row a metric that could be estimated."""
    values = {name: value for name, value in estimates.values.items() if not math.isnan(value)}
    return [about | {"status": "ok", "metric": name, "value": value} for name, value in values.items()]


def unestimated(found: list[tuple[Target, int | None, Estimates]]) -> Rows:
    """What could not be estimated: a record a target, reason and seeds that lack the same; none: all seeds together."""
    seeds: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    for target, seed, estimates in found:
        by_reason: dict[str, list[str]] = {}
        for name, value in estimates.values.items():
            if math.isnan(value):
                by_reason.setdefault(estimates.missing[name], []).append(name)
        for why, names in by_reason.items():
            seeds.setdefault((target.name, why, tuple(sorted(names))), []).extend([] if seed is None else [seed])
    return [
        {"target": target, "seeds": of, "reason": why, "metrics": list(names)}
        for (target, why, names), of in seeds.items()
    ]


def shares(part: Part) -> Iterator[tuple[int, int, float]]:
    """True class, predicted class, and the share of the samples of the one that is predicted as the other."""
    counts = confusion(part)
    for true, predicted in np.argwhere(counts):
        yield int(true), int(predicted), float(counts[true, predicted] / counts[true].sum())


def read_sidecar(benchmark: str, method: str, target: Target, seed: int) -> dict[str, Any]:
    """What is said of a run beside its predictions.

    Raises:
        BadInput: it is missing or damaged, or the run was made on other data.
    """
    path, folder = store.run_file(benchmark, method, target.name, seed), store.dataset_folder(benchmark)
    sidecar: dict[str, Any] = store.read_json(path.with_suffix(".json"))
    if sidecar["data"] != datasets.content_hash(folder):
        raise BadInput(f"{path}: was made on other data than {folder} holds; run `dvc repro`")
    return sidecar


def succeeded(benchmark: str, method: str, target: Target, seeds: list[int]) -> list[int]:
    """Those of the seeds whose run did not fail."""
    return [seed for seed in seeds if read_sidecar(benchmark, method, target, seed)["status"] == "ok"]


def load(benchmark: str, method: str, target: Target, seed: int, dataset: datasets.Dataset) -> Judged:
    return Judged.of(read_logits(store.run_file(benchmark, method, target.name, seed), dataset), dataset, target)


def read_logits(path: Path, dataset: datasets.Dataset) -> dict[str, np.ndarray]:
    """A run's logits, checked against the data set that they claim to be of.

    Raises:
        BadInput: a split is missing, has another shape, or holds values that are not finite.
    """
    logits = store.read_tensors(path)
    for split in store.SPLITS:
        expected = (len(getattr(dataset, split).labels), dataset.classes)
        if split not in logits or logits[split].shape != expected:
            found = logits[split].shape if split in logits else "nothing"
            raise BadInput(f"{path}: {split} must have the shape {expected}, and has {found}")
        if not np.isfinite(logits[split]).all():
            raise BadInput(f"{path}: {split} holds values that are not finite")
    return logits

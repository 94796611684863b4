"""`attack@BENCHMARK-METHOD`: every metric of every run, from predictions alone, as tidy tables.

`runs.csv`: benchmark, request, target, method, seed, unlearning_seed, judging_seed, status, metric, value. A failed run
has one row, with no metric and its reason in `status`; a metric of all training seeds together has no seed. Attacks
that draw have a row a judging seed, other metrics one, with the first. `classes.csv`: benchmark, request, target,
method, seed, unlearning_seed, class, accuracy (on the test split). `confusion.csv`: the same up to the seeds, then set,
class, predicted, share (of the samples of `class`; only shares above 0). What could not be estimated is in none of them
but in `attack.json`, with its reason and the number of models. The method's card and hyperparameters go along in
`method.json`.

The predictions of `original` and `retrain` are read beside the method's own. What compares models compares those of one
unlearning seed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from bench.metrics import battery
from bench.metrics.accuracy import per_class
from bench.metrics.confusion import SETS, confusion
from bench.metrics.corruption import corruption
from bench.metrics.cost import costs
from bench.metrics.judged import Judged, Part
from bench.metrics.roc import Estimates

OF_RUN = ["benchmark", "request", "target", "method", "seed", "unlearning_seed"]
RUN_COLUMNS = [*OF_RUN, "judging_seed", "status", "metric", "value"]
CLASS_COLUMNS = [*OF_RUN, "class", "accuracy"]
CONFUSION_COLUMNS = [*OF_RUN, "set", "class", "predicted", "share"]
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
    places = [(target, seed, draw) for target in targets for seed in section.seeds for draw in section.unlearning_seeds]
    together = [(target, draw) for target in targets for draw in section.unlearning_seeds]
    label, judging = f"attack {benchmark} {method}", section.judging_seeds
    made = seeds, section.corruption
    judged = fan_out(judge, [(benchmark, method, *place, *made, judging) for place in places], label)
    found = fan_out(judge_together, [(benchmark, method, *place, *made) for place in together], label)
    banks = {(target.name, draw): bank for (target, draw), bank in zip(together, found, strict=True)}
    runs: Rows = []
    every: list[tuple[Target, int | None, Estimates]] = []
    for (target, seed, draw), one in zip(places, judged, strict=True):
        about = keys(benchmark, target, method, seed, draw) | {"judging_seed": judging[0]}
        if one.failed:
            runs.append(about | {"status": f"failed: {one.failed}"})
            continue
        estimates = one.estimates | published(one, banks[target.name, draw], method, seed)
        every.append((target, seed, estimates))
        runs += metric_rows(about, estimates)
        for again, more in one.again.items():
            runs += metric_rows(about | {"judging_seed": again}, more)
    for target, draw in together:
        estimates = banks[target.name, draw].estimates
        every.append((target, None, estimates))
        runs += metric_rows(keys(benchmark, target, method, None, draw) | {"judging_seed": judging[0]}, estimates)
    tables = {
        "runs": pd.DataFrame(runs, columns=RUN_COLUMNS).astype({"seed": "Int64"}),
        "classes": pd.DataFrame([row for one in judged for row in one.classes], columns=CLASS_COLUMNS),
        "confusion": pd.DataFrame([row for one in judged for row in one.confusion], columns=CONFUSION_COLUMNS),
    }
    folder = store.table_folder(benchmark, method)
    store.write_json(folder / "method.json", description)
    models = {target.name: banks[target.name, section.unlearning_seeds[0]].models for target in targets}
    missing = unestimated(every)
    store.write_json(folder / "attack.json", {"models": models, "missing": missing})
    for name, table in tables.items():
        store.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    line = f"{len(places)} runs, {tables['runs']['metric'].nunique()} metrics"
    if models:
        fewest = {name: min(of[name] for of in models.values()) for name in next(iter(models.values()))}
        line += "; models a target: " + ", ".join(f"{n} {name}" for name, n in fewest.items())
    if lacking := {metric for record in missing for metric in record["metrics"]}:
        line += f"; {len(lacking)} metrics could not be estimated for some target, {folder}/attack.json says why"
    return line


@dataclass(frozen=True)
class Found:
    """What is found of one run: why it failed, or its metrics and its rows of the other tables.

    Attributes:
        again: of each further judging seed, the metrics that depend on it.
    """

    failed: str = ""
    estimates: Estimates = field(default_factory=Estimates)
    again: dict[int, Estimates] = field(default_factory=dict)
    whole_classes: bool = False
    classes: Rows = field(default_factory=list)
    confusion: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Together:
    """What is found of all training seeds of a target and unlearning seed.

    Attributes:
        models: how many there are, by method.
        basics: method -> training seed -> `battery.basics`, of both of `SIDES`.
    """

    estimates: Estimates
    models: dict[str, int]
    basics: dict[str, dict[int, dict[str, float]]]


def judge(
    benchmark: str,
    method: str,
    target: Target,
    seed: int,
    unlearning_seed: int,
    seeds: dict[str, list[int]],
    section: Corruption | None = None,
    judging_seeds: Sequence[int] = (0,),
) -> Found:
    """One run, compared with retrains of other training seeds and the original of its own.

    Args:
        seeds: training seeds of which there are runs, of the method and of `SIDES`.
        section: how the training set was manipulated; its samples are judged by the labels that they were trained with.

    Raises:
        BadInput: a run is missing or damaged, or was made on other data.
    """
    sidecar = read_sidecar(benchmark, method, target, seed, unlearning_seed)
    if sidecar["status"] != "ok":
        return Found(failed=sidecar["reason"])
    dataset = trained_on(benchmark, section)

    def loaded(name: str, of: int) -> Judged:
        return load(benchmark, name, target, of, unlearning_seed, dataset)

    run = loaded(method, seed)
    before, after = (
        succeeded(benchmark, name, target, seeds[name], unlearning_seed) for name in ("original", "retrain")
    )
    references = [s for s in battery.references(seed, after) if method != "retrain" or s != seed]
    first, *further = judging_seeds
    estimates = battery.of_run(
        run,
        loaded("original", seed) if seed in before else None,
        [loaded("retrain", s) for s in references],
        first,
    )
    if section is not None:
        logits = read_logits(
            store.run_file(benchmark, method, target.name, seed, unlearning_seed), dataset, has_trigger(section)
        )
        honest = datasets.load(store.dataset_folder(benchmark))
        estimates |= Estimates(corruption(logits, honest, target, section))
    about = keys(benchmark, target, method, seed, unlearning_seed)
    test = Part.together(run.forget_test, run.retain_test)
    per = per_class(test.logits, test.labels, dataset.classes)
    return Found(
        estimates=estimates | Estimates(costs(sidecar)),
        again={draw: battery.drawn(run, draw) for draw in further},
        whole_classes=run.whole_classes,
        classes=[about | {"class": c, "accuracy": value} for c, value in enumerate(per) if not math.isnan(value)],
        confusion=[
            about | {"set": name, "class": true, "predicted": predicted, "share": share}
            for name, part in SETS.items()
            for true, predicted, share in shares(getattr(run, part))
        ],
    )


def judge_together(
    benchmark: str,
    method: str,
    target: Target,
    unlearning_seed: int,
    seeds: dict[str, list[int]],
    section: Corruption | None = None,
) -> Together:
    """All training seeds of a target and unlearning seed: the shadow bank. `BadInput` as in `judge`."""
    dataset = trained_on(benchmark, section)
    bank = {
        name: {
            s: load(benchmark, name, target, s, unlearning_seed, dataset)
            for s in succeeded(benchmark, name, target, seeds[name], unlearning_seed)
        }
        for name in dict.fromkeys((method, *SIDES))
    }
    return Together(
        estimates=battery.of_models(bank[method], bank["retrain"], bank["original"], honest=method == "retrain"),
        models={name: len(runs) for name, runs in bank.items()},
        basics={name: {s: battery.basics(run) for s, run in bank[name].items()} for name in SIDES},
    )


def published(found: Found, together: Together, method: str, seed: int) -> Estimates:
    """The published scores of a run, against the retrains of other seeds; its own seed's where there is no other."""
    found_of = together.basics["retrain"]
    retrains = [of for s, of in found_of.items() if s != seed]
    if not retrains and method != "retrain":
        retrains = list(found_of.values())
    original = together.basics["original"].get(seed)
    return battery.scores(found.estimates.values, original, retrains, found.whole_classes)


def keys(benchmark: str, target: Target, method: str, seed: int | None, unlearning_seed: int) -> dict[str, Any]:
    """What every row begins with; no seed stands for all of them together."""
    values = benchmark, target.request, target.name, method, seed, unlearning_seed
    return dict(zip(OF_RUN, values, strict=True))


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
            of = seeds.setdefault((target.name, why, tuple(sorted(names))), [])
            of += [seed] if seed is not None and seed not in of else []
    return [
        {"target": target, "seeds": of, "reason": why, "metrics": list(names)}
        for (target, why, names), of in seeds.items()
    ]


def shares(part: Part) -> Iterator[tuple[int, int, float]]:
    """True class, predicted class, and the share of the samples of the one that is predicted as the other."""
    counts = confusion(part)
    for true, predicted in np.argwhere(counts):
        yield int(true), int(predicted), float(counts[true, predicted] / counts[true].sum())


def read_sidecar(benchmark: str, method: str, target: Target, seed: int, unlearning_seed: int) -> dict[str, Any]:
    """What is said of a run beside its predictions.

    Raises:
        BadInput: it is missing or damaged, or the run was made on other data.
    """
    path = store.run_file(benchmark, method, target.name, seed, unlearning_seed)
    folder = store.dataset_folder(benchmark)
    sidecar: dict[str, Any] = store.read_json(path.with_suffix(".json"))
    if sidecar["data"] != datasets.content_hash(folder):
        raise BadInput(f"{path}: was made on other data than {folder} holds; run `dvc repro`")
    return sidecar


def succeeded(benchmark: str, method: str, target: Target, seeds: list[int], unlearning_seed: int) -> list[int]:
    """Those of the training seeds whose run did not fail."""
    return [s for s in seeds if read_sidecar(benchmark, method, target, s, unlearning_seed)["status"] == "ok"]


def trained_on(benchmark: str, section: Corruption | None) -> datasets.Dataset:
    """The data set under the labels that networks were trained with."""
    dataset = datasets.load(store.dataset_folder(benchmark))
    return replace(dataset, train=replace(dataset.train, labels=manipulated(section, dataset.train.labels).labels))


def load(
    benchmark: str, method: str, target: Target, seed: int, unlearning_seed: int, dataset: datasets.Dataset
) -> Judged:
    path = store.run_file(benchmark, method, target.name, seed, unlearning_seed)
    return Judged.of(read_logits(path, dataset), dataset, target)


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

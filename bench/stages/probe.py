"""`probe@BENCHMARK-METHOD`: what needs weights, of the unlearned networks that the benchmark's `probe` had kept.

`probes.csv`: the columns of `attack`'s runs.csv, but for the seed of judging, since nothing is drawn by it.
`curves.csv`: benchmark, request, target, method, seed, unlearning_seed, data (what a copy was trained on: 'all',
'retain', 'few-shot'), step, samples, split (on what it was then judged), accuracy. `layers.csv`: the same up to the
seeds, then layer, reference ('original', 'retrain'), measure, value.
A benchmark without a section `probe` gets tables without rows.
"""

from functools import cache
from typing import Any

import pandas as pd

from bench import forget, store
from bench.config import Params

RUN = ["benchmark", "request", "target", "method", "seed", "unlearning_seed"]
COLUMNS = {
    "probes": [*RUN, "status", "metric", "value"],
    "curves": [*RUN, "data", "step", "samples", "split", "accuracy"],
    "layers": [*RUN, "layer", "reference", "measure", "value"],
}

Rows = list[dict[str, Any]]


def run(params: Params, benchmark: str, method: str) -> str:
    section = params.benchmark(benchmark)
    if section.probe is None:
        write(benchmark, method, [])
        return "nothing to do"
    from bench import resume
    from bench.stages import probing  # and so torch, before workers fork

    kept = store.read_json(store.networks_index(benchmark, method))
    retrains = [r for r in store.read_json(store.networks_index(benchmark, "retrain")) if r["sha256"]]
    targets = {target.name: target for target in forget.of_benchmark(benchmark, section)}
    original = cache(lambda seed: store.sha256(store.model_file(benchmark, seed)))
    todo = []
    for entry in kept:
        target, *seeds = targets[entry["target"]], entry["seed"], entry["unlearning_seed"]
        others = compared_with(entry, retrains)
        facts = {"probe": section.probe.model_dump(), "network": entry, "retrains": others, "target": target}
        arguments = (params, benchmark, method, target, *seeds, entry["sha256"], [r["seed"] for r in others])
        todo.append(resume.Job(arguments, facts | {"original": original(seeds[0])}))
    with resume.unfinished(params, "probe", benchmark, method) as unfinished:
        made = unfinished.fan_out(probing.one, todo, f"probe {benchmark} {method}")
        write(benchmark, method, made)
    return f"{len(made)} networks"


def compared_with(entry: dict[str, Any], retrains: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of the retrains of an entry's target and unlearning seed, but for that of its own training seed.

    Networks of one seed share the order of their training data, so that no seed is on both sides.
    """
    same = "target", "unlearning_seed"
    return [r for r in retrains if all(r[key] == entry[key] for key in same) and r["seed"] != entry["seed"]]


def write(benchmark: str, method: str, made: list[list[Rows]]) -> None:
    """The three tables, of what the jobs returned."""
    for place, (name, columns) in enumerate(COLUMNS.items()):
        table = pd.DataFrame([row for tables in made for row in tables[place]], columns=columns)
        store.write_text(store.probe_folder(benchmark, method) / f"{name}.csv", table.to_csv(index=False))

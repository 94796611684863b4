"""Write down for each stage what its result depends on beside data: its code, and its part of params.yaml.

DVC compares these small files, one a stage, so that a stage runs again if something changed that it reads: a module
that it imports, a parameter, the file of a method that another method calls (RUM). Were modules listed one by one in
dvc.yaml, the lists would have to be kept in step by hand, and DVC would take a second over each stage: around it, it
parses and writes all of dvc.lock.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import methods
from bench import imports, store
from bench.config import Params
from bench.report import published

OF_METHODS = {"skip", "hyperparameters"}  # of a benchmark's section: stand with the method that they concern
OF_OTHERS = OF_METHODS | {"probe", "studies"}


def run(params: Params) -> str:
    count = 0
    for path, content in contents(params):
        store.write_json(path, content)
        count += 1
    return f"{count} stages: {len(params.methods)} methods on {len(params.run)} benchmarks"


def contents(params: Params) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The plan's files, and what is in them."""
    code, entries = cache(lambda stage: imports.hashes(f"bench.stages.{stage}")), list(params.methods)
    for name in params.run:
        section = params.benchmark(name)
        whole = section.model_dump(mode="json")
        of_attack = {key: value for key, value in whole.items() if key not in OF_OTHERS}
        of_unlearn = {key: value for key, value in of_attack.items() if key != "judging_seeds"}
        parameters = {
            "data": {key: whole[key] for key in ("dataset", "validation")},
            "train": {key: whole[key] for key in ("architecture", "training", "corruption", "seeds")},
            "memorize": {key: value for key, value in of_unlearn.items() if key != "unlearning_seeds"},
        }
        parameters |= dict.fromkeys(("leaderboard", "timings", "figures"), whole | {"methods": entries})
        used = {entry: methods.consists_of(params, entry, name) for entry in entries}
        parameters["study"] = of_unlearn | {"studies": section.studies, "methods": used} if section.studies else {}
        for stage, values in parameters.items():
            yield store.plan_file(stage, name), {"code": code(stage), "parameters": values}
        for entry in entries:
            left_out = {"left_out": section.left_out(entry)}
            made_of = {"method": methods.consists_of(params, entry, name), "kept": section.probed_seeds}
            of_probe = of_unlearn | {"probe": whole["probe"]}
            for stage, values in {"unlearn": of_unlearn | made_of, "attack": of_attack, "probe": of_probe}.items():
                yield store.plan_file(stage, name, entry), {"code": code(stage), "parameters": values | left_out}
    every = {name: params.benchmark(name).model_dump(mode="json") for name in params.run}
    compared = {name: section for name, section in every.items() if name in published.BENCHMARKS}
    named = {"benchmarks": sorted(params.benchmarks), "methods": entries if compared else []}
    yield store.plan_file("reproduction"), {"code": code("reproduction"), "parameters": compared | named}
    yield store.plan_file("page"), {"code": code("page"), "parameters": every | {"methods": entries}}

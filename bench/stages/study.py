"""`study@BENCHMARK`: the tables of its `studies`, which the figures of papers are drawn from; none without that key."""

from typing import Any

import pandas as pd

from bench import store
from bench.config import PARAMS, Params
from bench.errors import BadInput
from bench.jobs import fan_out
from bench.stages.unlearn import Diverged
from bench.studies import Study, concepts, kodge, rum, salun, wfnet

STUDIES: dict[str, Study] = {
    **kodge.STUDIES,
    **wfnet.STUDIES,
    **salun.STUDIES,
    **rum.STUDIES,
    **concepts.STUDIES,
}  # name -> what it does


def run(params: Params, benchmark: str) -> str:
    section = params.benchmark(benchmark)
    names = section.studies
    if names and not section.oracle:
        where = f"{PARAMS}: benchmarks.{benchmark}.studies"
        raise BadInput(f"{where}: they compare with retraining, and the pretrained weights have seen the training set")
    for name in names:
        todo = [(benchmark, name, arguments) for arguments in STUDIES[name].jobs(params, benchmark)]
        made = fan_out(one, todo, f"study {benchmark} {name}")
        table = pd.DataFrame([row for rows in made for row in rows])
        store.write_text(store.study_file(benchmark, name), table.to_csv(index=False))
    store.write_json(store.study_folder(benchmark) / "index.json", names)
    return f"{len(names)} studies"


def one(benchmark: str, name: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
    """A job of a study.

    Raises:
        BadInput: a method diverged.
    """
    try:
        return STUDIES[name].one(*arguments)
    except Diverged as error:
        where = f"{PARAMS}: benchmarks.{benchmark}.studies"
        raise BadInput(f"{where}: {name}: {error}; change its hyperparameters, or leave the study out") from None

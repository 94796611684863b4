"""`study@BENCHMARK`: the tables of its `studies`, which the figures of papers are drawn from; none without that key."""

import pandas as pd

from bench import store
from bench.config import Params
from bench.jobs import fan_out
from bench.studies import Study, concepts, kodge, rum, salun, wfnet

STUDIES: dict[str, Study] = {
    **kodge.STUDIES,
    **wfnet.STUDIES,
    **salun.STUDIES,
    **rum.STUDIES,
    **concepts.STUDIES,
}  # name -> what it does


def run(params: Params, benchmark: str) -> str:
    names = params.benchmark(benchmark).studies
    for name in names:
        study = STUDIES[name]
        made = fan_out(study.one, study.jobs(params, benchmark), f"study {benchmark} {name}")
        table = pd.DataFrame([row for rows in made for row in rows])
        store.write_text(store.study_file(benchmark, name), table.to_csv(index=False))
    store.write_json(store.study_folder(benchmark) / "index.json", names)
    return f"{len(names)} studies"

"""`page`: the tables of every benchmark in `run`, and the reproduction's -> reports/index.html."""

import pandas as pd

from bench import store
from bench.config import Params
from bench.report import evidence, page, reproduction, tables


def run(params: Params) -> str:
    judged = tables.read(params)
    path = store.REPORTS / "index.html"
    table = tables.leaderboard(params, judged)
    compared = reproduction.rows(pd.read_csv(store.REPORTS / "reproduction.csv"))
    store.write_text(path, page.render(params, table, judged, evidence.read(params, judged), compared))
    return f"{len(params.run)} benchmarks; open {path}"

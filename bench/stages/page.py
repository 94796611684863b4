"""`page`: the tables of every benchmark in `run` -> reports/index.html."""

from bench import store
from bench.config import Params
from bench.report import evidence, page, tables


def run(params: Params) -> str:
    judged = tables.read(params)
    path = store.REPORTS / "index.html"
    table = tables.leaderboard(params, judged)
    store.write_text(path, page.render(params, table, judged, evidence.read(params, judged)))
    return f"{len(params.run)} benchmarks; open {path}"

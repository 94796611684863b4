"""`page`: the tables of every benchmark in `run` -> reports/index.html."""

from bench import store
from bench.config import Params
from bench.report import page, tables


def run(params: Params) -> str:
    judged = tables.read(params)
    path = store.REPORTS / "index.html"
    store.write_text(path, page.render(params, tables.leaderboard(params, judged), judged))
    return f"{len(params.run)} benchmarks; open {path}"

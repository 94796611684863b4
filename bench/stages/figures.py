"""`figures@BENCHMARK`: its tables -> reports/BENCHMARK/figures/REQUEST-*.pdf and .png."""

from bench import store
from bench.config import Params
from bench.figures import suite
from bench.figures.style import save
from bench.report import tables


def run(params: Params, benchmark: str) -> str:
    params, folder = params.only(benchmark), store.report_folder(benchmark) / "figures"
    judged = tables.read(params)
    table, count = tables.leaderboard(params, judged), 0
    for request, _, targets in tables.requests(params.benchmark(benchmark)):
        here, title = table[table["request"] == request], f"{benchmark}, request {request}"
        classes = judged.classes[judged.classes["target"].isin(targets)]
        figures = {"accuracy-per-class": suite.accuracy_per_class(classes, list(params.methods), title)}
        if here["gap"].notna().any():
            figures["gap-to-retrain"] = suite.gap_to_retrain(here, title)
            figures["forgetting-against-cost"] = suite.forgetting_against_cost(here, title)
        for what, figure in figures.items():
            save(figure, folder / f"{request}-{what}")
        count += len(figures)
    return f"{count} figures in {folder}"

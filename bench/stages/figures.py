"""`figures`: tables -> reports/figures/BENCHMARK-REQUEST-*.pdf and .png."""

from pathlib import Path

from bench.config import Params
from bench.figures import suite
from bench.figures.style import save
from bench.report import tables

FIGURES = Path("reports/figures")


def run(params: Params) -> str:
    judged = tables.read(params)
    table = tables.leaderboard(params, judged)
    count = 0
    for (benchmark, request), here in table.groupby(["benchmark", "request"], sort=False):
        name, title = f"{benchmark}-{request}", f"{benchmark}, request {request}"
        targets = next(t for row, _, t in tables.requests(params.benchmark(str(benchmark))) if row == request)
        classes = judged.classes
        classes = classes[(classes["benchmark"] == benchmark) & classes["target"].isin(targets)]
        figures = {
            "gap-to-retrain": suite.gap_to_retrain(here, title),
            "forgetting-against-cost": suite.forgetting_against_cost(here, title),
            "accuracy-per-class": suite.accuracy_per_class(classes, list(params.methods), title),
        }
        for what, figure in figures.items():
            save(figure, FIGURES / f"{name}-{what}")
        count += len(figures)
    return f"{count} figures in {FIGURES}"

"""`figures@BENCHMARK`: its tables -> reports/BENCHMARK/figures/REQUEST-*.pdf and .png."""

from bench import store
from bench.config import Params
from bench.figures import suite
from bench.figures.style import save
from bench.metrics.comparisons import critical_difference
from bench.report import tables


def run(params: Params, benchmark: str) -> str:
    params, folder = params.only(benchmark), store.report_folder(benchmark) / "figures"
    judged = tables.read(params)
    table, count = tables.leaderboard(params, judged), 0
    ranks, blocks = tables.ranks(params, judged), tables.blocks(params, judged)
    for request, _, targets in tables.requests(params.benchmark(benchmark)):
        here, title = table[table["request"] == request], f"{benchmark}, request {request}"
        classes = judged.classes[judged.classes["target"].isin(targets)]
        figures = {"accuracy-per-class": suite.accuracy_per_class(classes, list(params.methods), title)}
        if here["gap"].notna().any():
            figures["gap-to-retrain"] = suite.gap_to_retrain(here, title)
            figures["forgetting-against-cost"] = suite.forgetting_against_cost(here, title)
        if len(of_request := ranks[ranks["request"] == request]):
            figures["rank-stability"] = suite.rank_stability(of_request, title)
        if min((scores := blocks[benchmark, request].dropna()).shape) > 2:
            of_seeds = f"{title}; blocks are {len(scores)} seeds"
            figures["critical-difference"] = suite.critical_difference(critical_difference(scores), of_seeds)
        for what, figure in figures.items():
            save(figure, folder / f"{request}-{what}")
        count += len(figures)
    return f"{count} figures in {folder}"

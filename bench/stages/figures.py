"""`figures@BENCHMARK`: tables and predictions -> reports/BENCHMARK/figures/*.pdf, .svg and .png.

Each module of bench/figures draws what it can from what the benchmark has.
"""

from bench import store
from bench.config import Params
from bench.figures import concepts, kodge, rum, salun, suite, wfnet
from bench.figures.given import Given
from bench.figures.style import save

MODULES = (suite, kodge, wfnet, salun, rum, concepts)


def run(params: Params, benchmark: str) -> str:
    given, folder, names = Given(params.only(benchmark), benchmark), store.report_folder(benchmark) / "figures", []
    for module in MODULES:
        for name, figure in module.figures(given):
            save(figure, folder / name)
            names.append(name)
    return f"{len(names)} figures in {folder}"

"""`timings@BENCHMARK`: seconds of each method, in files apart, since no two runs of the suite agree on them."""

from bench import store
from bench.config import Params
from bench.report import text
from bench.report.timings import timings


def run(params: Params, benchmark: str) -> str:
    table, folder = timings(params.only(benchmark)), store.report_folder(benchmark)
    store.write_text(folder / "timings.csv", table.to_csv(index=False, float_format="%.6g"))
    store.write_text(folder / "timings.md", text.timings(table))
    return f"{len(table)} rows, in {folder / 'timings.md'}"

"""`timings`: seconds of each method, in files apart, since no two runs of the suite agree on them."""

from pathlib import Path

from bench import store
from bench.config import Params
from bench.report import tables, text

REPORTS = Path("reports")


def run(params: Params) -> str:
    table = tables.timings(params)
    store.write_text(REPORTS / "timings.csv", table.to_csv(index=False, float_format="%.6g"))
    store.write_text(REPORTS / "timings.md", text.timings(table))
    return f"{len(table)} rows, in {REPORTS / 'timings.md'}"

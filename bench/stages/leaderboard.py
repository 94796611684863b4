"""`leaderboard@BENCHMARK`: its tables -> reports/BENCHMARK/leaderboard.csv and .md; tests.csv: paired tests between
methods; ranks.csv: ranks with a metric or a seed left out; for DVC metrics.json, and plots/REQUEST.csv."""

from bench import store
from bench.config import Params
from bench.report import tables, text


def run(params: Params, benchmark: str) -> str:
    params, folder = params.only(benchmark), store.report_folder(benchmark)
    judged = tables.read(params)
    table = tables.leaderboard(params, judged)
    summary = store.read_json(store.scores_file(benchmark).with_name("summary.json"))
    found = {
        "leaderboard": table,
        "tests": tables.tests(params, judged, text.HEADLINE),
        "ranks": tables.ranks(params, judged),
    }
    for name, rows in found.items():
        store.write_text(folder / f"{name}.csv", rows.to_csv(index=False, float_format="%.6g"))
    store.write_text(folder / "leaderboard.md", text.leaderboard(table) + text.memorization(summary))
    store.write_json(folder / "metrics.json", text.metrics(table))
    for request, rows in text.plotted(table).items():
        store.write_text(folder / "plots" / f"{request}.csv", rows.to_csv(index=False))
    failed = table.loc[table["status"].str.startswith("failed"), ["request", "method"]].drop_duplicates()
    note = f"; failed: {', '.join('/'.join(row) for row in failed.itertuples(index=False))}" if len(failed) else ""
    return f"{len(table)} rows, in {folder / 'leaderboard.md'}{note}"

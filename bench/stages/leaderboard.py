"""`leaderboard@BENCHMARK`: its tables -> reports/BENCHMARK/leaderboard.csv and .md, and metrics.json for DVC."""

from bench import store
from bench.config import Params
from bench.report import tables, text


def run(params: Params, benchmark: str) -> str:
    params, folder = params.only(benchmark), store.report_folder(benchmark)
    table = tables.leaderboard(params, tables.read(params))
    summary = store.read_json(store.scores_file(benchmark).with_name("summary.json"))
    store.write_text(folder / "leaderboard.csv", table.to_csv(index=False, float_format="%.6g"))
    store.write_text(folder / "leaderboard.md", text.leaderboard(table) + text.memorization(summary))
    store.write_json(folder / "metrics.json", text.metrics(table))
    failed = table.loc[table["status"].str.startswith("failed"), ["request", "method"]].drop_duplicates()
    note = f"; failed: {', '.join('/'.join(row) for row in failed.itertuples(index=False))}" if len(failed) else ""
    return f"{len(table)} rows, in {folder / 'leaderboard.md'}{note}"

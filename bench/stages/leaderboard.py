"""`leaderboard`: all tables -> reports/leaderboard.csv and .md, memorization.md, metrics.json for DVC, index.html."""

from pathlib import Path

from bench import store
from bench.config import Params
from bench.report import page, tables, text

REPORTS = Path("reports")


def run(params: Params) -> str:
    judged = tables.read(params)
    table = tables.leaderboard(params, judged)
    store.write_text(REPORTS / "leaderboard.csv", table.to_csv(index=False, float_format="%.6g"))
    store.write_text(REPORTS / "leaderboard.md", text.leaderboard(table))
    summaries = {b: store.read_json(store.scores_file(b).with_name("summary.json")) for b in params.run}
    store.write_text(REPORTS / "memorization.md", text.memorization(summaries))
    store.write_json(REPORTS / "metrics.json", text.metrics(table))
    store.write_text(REPORTS / "index.html", page.render(params, table, judged))
    failed = table.loc[table["status"].str.startswith("failed"), ["benchmark", "request", "method"]].drop_duplicates()
    note = f"; failed: {', '.join('/'.join(row) for row in failed.itertuples(index=False))}" if len(failed) else ""
    return f"{len(table)} rows; open {REPORTS / 'index.html'}{note}"

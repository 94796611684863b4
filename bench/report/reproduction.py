"""Published numbers beside ours: what is compared, what counts as a match, and how it is shown.

The interval of a difference is put together from those of the two means (Zou and Donner, "Construction of confidence
limits about effect measures", Statistics in Medicine 27(10), 2008, 1693-1702), and widened by the published number's
rounding. Theirs is Student's, from the spread and the number of runs or classes that they print, ours is the
leaderboard's. A side without a spread is given the other's: a single published run then counts as one more of ours,
which makes it a prediction interval.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy import stats

from bench import store
from bench.config import Params
from bench.errors import BadInput
from bench.report import published, tables
from bench.report.published import PAPERS, PROTOCOLS, SOURCED
from bench.report.text import HEADLINE

MATCH, DIFFERS, UNDECIDED, NOT_RUN = "match", "differs", "undecided", "not run"
RESULTS = {
    MATCH: "the 95 % interval of the difference, ours minus theirs, holds 0; of a published range, ours meets it",
    DIFFERS: "it does not",
    UNDECIDED: "neither side has a spread",
    NOT_RUN: "no committed leaderboard has our number",
}
OURS = {"benchmark": str, "request": str, "method": str, "metric": str, "status": str, "mean": float}
OURS |= {"ci_low": float, "ci_high": float, "n": float}
COLUMNS = [
    *("paper", "version", "table", "dataset", "network", "request", "method", "metric"),
    *("published", "published_low", "published_high", "published_spread", "spread_over", "published_n"),
    *(
        "provenance",
        "source",
        "remark",
        "benchmark",
        "row",
        "our_method",
        "our_metric",
        "ours",
        "ci_low",
        "ci_high",
        "n",
    ),
    *("difference", "difference_low", "difference_high", "unit", "unit_of", "in_units", "result", "why"),
]
NAMES = HEADLINE | {
    "ACC_f_train": "ACC_f, train",
    **{f"mia_salun_{feature}": f"MIA ({feature})" for feature in ("correctness", "entropy", "prob")},
    "mia_salun_m_entropy": "MIA (m_entropy)",
}
TAIL = 0.975
NO_LEADERBOARD = "no leaderboard"
SHOWN = [
    *("Paper", "Table", "Request", "Method", "Metric", "Published", "From", "Ours", "Difference", "In spreads"),
    *("Result", "Benchmark", "Source", "Remark"),
]
RIGHT = {"Published", "Ours", "Difference", "In spreads", "Numbers"}
INTRODUCTION = """\
# Reproduction

Published numbers beside ours. A number is here if it has a source (never memory) and a benchmark of params.yaml
measures the same: {compared} of {numbers} in [published.csv](published.csv), which has the source of each.
"""
EXPLANATION = """\
All in percent, differences in percentage points. ± is the spread that the source prints, [ ] a 95 % interval, of ours
as on the leaderboard. The interval of a difference joins both sides' and adds half a unit of the last digit printed;
theirs is Student's, from their spread and its number of runs or classes. Where they print no spread, ours over seeds
stands for it, and their number counts as one more run; *In spreads* says whose its unit is. A
match with a wide interval says little, and of a hundred true matches some five are called different by chance.

The same as a figure: [reproduction.pdf](figures/reproduction.pdf); in LaTeX, as the papers lay it out: [latex](latex);
every column: [reproduction.csv](reproduction.csv). *From* says where a number was found:
"""


def leaderboards(params: Params) -> dict[str, str]:
    """benchmark -> the text of its leaderboard.csv, of those that `PROTOCOLS` names and that have one.

    That of a benchmark in `run` is made from its tables, as the stage `leaderboard` makes it; others' are read as they
    are committed.

    Raises:
        BadInput: a table is missing or damaged.
    """
    found = {}
    for benchmark in published.BENCHMARKS:
        path = store.report_folder(benchmark) / "leaderboard.csv"
        if benchmark in params.run:
            alone = params.only(benchmark)
            table = tables.leaderboard(alone, tables.read(alone))
            found[benchmark] = table.to_csv(index=False, float_format="%.6g")
        elif path.exists():
            found[benchmark] = path.read_text()
    return found


def read(texts: Mapping[str, str]) -> pd.DataFrame:
    """The leaderboards in one table, of the columns `OURS`.

    Raises:
        BadInput: one is damaged.
    """
    parts = [pd.DataFrame(columns=list(OURS)).astype(OURS)]
    for benchmark, text in texts.items():
        try:
            parts.append(pd.read_csv(io.StringIO(text), usecols=list(OURS), dtype=OURS)[list(OURS)])
        except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            path = store.report_folder(benchmark) / "leaderboard.csv"
            raise BadInput(f"{path}: no leaderboard ({error}); run the benchmark again, or delete the file") from None
    return pd.concat(parts, ignore_index=True)


def compare(numbers: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """A row with the columns `COLUMNS` for each published number that a benchmark measures too.

    Args:
        numbers: published, as `published.read` has them.
        ours: rows of leaderboards, with the columns `OURS`.
    """
    keyed = {tuple(row[k] for k in list(OURS)[:4]): row for row in ours.to_dict("records")}
    status = {tuple(row[k] for k in list(OURS)[:3]): row["status"] for row in ours.to_dict("records")}
    run, compared = set(ours["benchmark"]), []
    for number, protocol, method, metric in published.pairs(numbers):
        place = (protocol.benchmark, protocol.row, method)
        row = {
            **number.drop(["mean", "low", "high", "spread", "n", "rounding", "arxiv"]).to_dict(),
            **{f"published{f'_{name}' * (name != 'mean')}": number[name] for name in published.NUMBERS},
            **{"benchmark": protocol.benchmark, "row": protocol.row, "our_method": method, "our_metric": metric},
        }
        found = keyed.get((*place, metric))
        if found is None or math.isnan(found["mean"]):
            why = status.get(place, "no such row") if protocol.benchmark in run else NO_LEADERBOARD
            why = "no such metric" if why == "ok" else why
            compared.append(row | {"result": NOT_RUN, "why": why})
        else:
            own = {"ours": found["mean"], **{name: found[name] for name in ("ci_low", "ci_high", "n")}}
            compared.append(row | own | judge(number, found))
    return pd.DataFrame(compared, columns=COLUMNS)


def judge(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The difference of two numbers, its interval, in units of a spread, and the result.

    Args:
        theirs: `mean` or a range (`low`, `high`, of which one may be NaN); `spread` and `n` where known; `rounding`.
        ours: `mean`, `ci_low`, `ci_high` (NaN with one run), `n`.
    """
    spread, whose = theirs["spread"], "theirs"
    own = (ours["ci_high"] - ours["ci_low"]) / 2 * math.sqrt(ours["n"]) / _quantile(ours["n"])
    if math.isnan(spread):
        spread, whose, half = own, "ours", _quantile(ours["n"]) * own  # theirs counts as one run
    else:
        half = _quantile(theirs["n"]) * spread / math.sqrt(_number(theirs["n"]))
    below, above = ours["mean"] - ours["ci_low"], ours["ci_high"] - ours["mean"]
    if math.isnan(below):  # one run of ours, as if one of theirs
        below = above = 0.0 if math.isnan(theirs["mean"]) else _quantile(theirs["n"]) * theirs["spread"]
    if math.isnan(theirs["mean"]):  # a range: the difference is to its nearer end, and has no interval
        low, high = (b if not math.isnan(b) else a for b, a in ((theirs["low"], -math.inf), (theirs["high"], math.inf)))
        difference = ours["mean"] - min(max(ours["mean"], low), high)
        reach = [ours["mean"] - below - high, ours["mean"] + above - low]
    else:
        difference = ours["mean"] - theirs["mean"]
        reach = [difference - math.hypot(below, half), difference + math.hypot(above, half)]
    first, last = reach[0] - theirs["rounding"], reach[1] + theirs["rounding"]
    result = UNDECIDED if math.isnan(first) else MATCH if first <= 1e-12 and last >= -1e-12 else DIFFERS
    bounds = {} if math.isnan(theirs["mean"]) else {"difference_low": first, "difference_high": last}
    unit, whose = (spread, whose) if spread > 0 else (own, "ours")  # a printed spread of 0 is no unit
    in_units = {"unit": unit, "unit_of": whose, "in_units": difference / unit} if unit > 0 else {}
    return {"difference": difference, **bounds, **in_units, "result": result}


def _number(n: float) -> float:
    """Of runs; where it is not told, one."""
    return 1.0 if math.isnan(n) else n


def _quantile(n: float) -> float:
    """Student's for n runs; the normal one where a spread is told and no number of runs."""
    return float(stats.t.ppf(TAIL, n - 1)) if n > 1 else float(stats.norm.ppf(TAIL))


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison for a reader: a row a published number, everything text; percent and percentage points.

    Args:
        table: as `compare` has it, or reports/reproduction.csv as pandas reads it.
    """
    shown = [
        {
            "Paper": PAPERS[row.paper][0],
            "Table": ", ".join(filter(None, [row.table, _text(row.version)])),
            "Request": f"{row.dataset}, {row.network}, {row.request}",
            "Method": row.our_method,
            "Metric": NAMES.get(row.metric, row.metric),
            "Published": theirs(row),
            "From": row.provenance,
            "Ours": "" if math.isnan(row.ours) else f"{100 * row.ours:.2f}{_interval(row.ci_low, row.ci_high)}",
            "Difference": ""
            if math.isnan(row.difference)
            else f"{100 * row.difference:+.2f}{_interval(row.difference_low, row.difference_high)}",
            "In spreads": "" if math.isnan(row.in_units) else f"{row.in_units:+.1f} ({row.unit_of})",
            "Result": row.result if row.result != NOT_RUN or row.why == NO_LEADERBOARD else f"{NOT_RUN}: {row.why}",
            "Benchmark": row.benchmark,
            "Source": row.source,
            "Remark": _text(row.remark),
        }
        for row in table.itertuples(index=False)
    ]
    return pd.DataFrame(shown, columns=SHOWN)


def theirs(row: Any) -> str:
    """'94.19 ± 0.50', '95.20 to 96.60', 'at most 1.00': a published number in percent."""
    if not math.isnan(row.published):
        spread = row.published_spread
        return f"{100 * row.published:.2f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.2f}")
    if math.isnan(row.published_low):
        return f"at most {100 * row.published_high:.2f}"
    if math.isnan(row.published_high):
        return f"at least {100 * row.published_low:.2f}"
    return f"{100 * row.published_low:.2f} to {100 * row.published_high:.2f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{100 * low:.2f}, {100 * high:.2f}]"


def _text(value: Any) -> str:
    """Pandas reads an empty cell as NaN."""
    return value if isinstance(value, str) else ""


def markdown(params: Params, table: pd.DataFrame, numbers: pd.DataFrame, hashes: Mapping[str, str]) -> str:
    """reports/reproduction.md.

    Args:
        table: of `compare`.
        numbers: of `published.read`.
        hashes: benchmark -> SHA-256 of the leaderboard that was read.
    """
    counts = table["result"].value_counts()
    meanings = [[result, str(counts.get(result, 0)), meaning] for result, meaning in RESULTS.items()]
    parts = [INTRODUCTION.format(compared=len(table), numbers=len(numbers))]
    parts += [*_table(["Result", "Numbers", "What it means"], meanings), "", EXPLANATION]
    parts += [f"- *{kind}*: {meaning}" for kind, meaning in SOURCED.items()]
    for paper, (name, reference, prefix) in PAPERS.items():
        parts += ["", f"## {name}", "", f"{reference}.", ""]
        here = table[table["paper"] == paper]
        if here.empty:
            known = ", ".join(f"`{benchmark}`" for benchmark in params.benchmarks if benchmark.startswith(prefix))
            sourced = "could be sourced" if paper not in set(numbers["paper"]) else "is measured by a benchmark"
            parts.append(f"No number of it {sourced}, so nothing is compared. Its benchmarks: {known or 'none'}.")
        groups = here.groupby("benchmark", sort=False)
        sections = [_section(params, str(benchmark), of_it, benchmark in hashes) for benchmark, of_it in groups]
        parts += ["\n\n".join(sections)] if sections else []
    rest = published.left_out(numbers)[["paper", "numbers", "why", "tables"]].astype(str)
    parts += ["", "## Not compared", "", *_table(["Paper", "Numbers", "Why", "Tables"], rest.to_numpy().tolist())]
    files = [[f"reports/{benchmark}/leaderboard.csv", hashed] for benchmark, hashed in hashes.items()]
    parts += ["", "## Leaderboards that were read", "", *(_table(["File", "SHA-256"], files) or ["None."])]
    return "\n".join(parts) + "\n"


def _section(params: Params, benchmark: str, table: pd.DataFrame, there: bool) -> str:
    """One benchmark: how it runs, what it shares with theirs and what not, the numbers, and what they say of them."""
    requests = ", ".join(f"`{request}`" for request in dict.fromkeys(table["row"]))
    parts = [f"### `{benchmark}`, request {requests}", ""]
    if there:
        parts += [f"Ours: [its leaderboard]({benchmark}/leaderboard.md)."]
    elif benchmark not in params.benchmarks:
        parts += ["**Not run**: params.yaml has no such benchmark."]
    else:
        parts += ["**Not run**; its cost stands beside it in params.yaml:", "", "```", command(benchmark), "```"]
    ours = [protocol for protocol in PROTOCOLS if protocol.benchmark == benchmark]
    parts += ["", *(f"- {', '.join(p.tables)}; request {p.request}: {p.why}." for p in ours)]
    for over, tables_ in table[table["spread_over"] != ""].groupby("spread_over", sort=False)["table"]:
        parts += [f"- ± of {', '.join(dict.fromkeys(tables_))}: {over}."]
    columns = ["Table", "Method", "Metric", "Published", "From", "Ours", "Difference", "In spreads", "Result"]
    parts += ["", *_table(columns, rows(table)[columns].to_numpy().tolist())]
    remarked = table[table["remark"] != ""]
    names = remarked["our_method"] + " " + remarked["metric"].map(lambda metric: NAMES.get(metric, metric))
    said = names.groupby([remarked["table"], remarked["remark"]], sort=False).agg(", ".join)
    if len(said):
        parts += ["", "Of the published numbers:", ""]
        parts += [f"- {where}, {what}: {remark}." for (where, remark), what in said.items()]
    return "\n".join(parts)


def command(benchmark: str) -> str:
    """What runs a benchmark."""
    return f"dvc exp run -S 'run=[{benchmark}]'"


def _table(head: list[str], cells: list[list[str]]) -> list[str]:
    """Lines of a Markdown table; none without cells."""
    rule = ["---:" if name in RIGHT else "---" for name in head]
    lines = [head, rule, *cells] if cells else []
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]

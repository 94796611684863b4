"""The headline metrics of one benchmark and request as CSV, JSON, LaTeX (booktabs) and BibTeX, in pieces.

A piece belongs to methods or, with none named, to the file as such; the page leaves out the pieces of methods that
its filter hides, so that any choice of pieces must make a valid file.
"""

import base64
import json
import math
import re
import unicodedata
from typing import Any

import pandas as pd

from bench.report import text
from bench.report.tables import COLUMNS, COSTS

Pieces = list[tuple[list[str], str]]  # methods, text
KINDS = {"csv": "text/csv", "json": "application/json", "tex": "text/x-tex", "bib": "text/x-bibtex"}
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {c: f"\\{c}" for c in "&%$#_{}"} | {"≈": r"$\approx$", "≠": r"$\neq$", "†": r"$\dagger$"}


def links(name: str, here: pd.DataFrame, papers: dict[str, dict[str, Any] | None]) -> list[dict[str, str]]:
    """A link a format: the file as a `data:` address, and how it is cut into pieces.

    Args:
        here: the leaderboard's rows of one benchmark and request.
        papers: of each method, as its card has it.
    """
    shown = here[here["metric"].isin(text.HEADLINE) | (here["metric"] == "flops") | (here["metric"] == "")]
    made = {"csv": csv(shown), "json": as_json(shown), "tex": latex(name, here), "bib": bibtex(papers, here)}
    return [
        {
            "file": f"{name}.{kind}",
            "label": {"tex": "LaTeX", "bib": "BibTeX"}.get(kind, kind.upper()),
            "href": f"data:{KINDS[kind]};base64,{base64.b64encode(''.join(t for _, t in pieces).encode()).decode()}",
            # in JavaScript's characters, which are units of UTF-16
            "cut": json.dumps([[" ".join(methods), len(t.encode("utf-16-le")) // 2] for methods, t in pieces]),
        }
        for kind, pieces in made.items()
    ]


def csv(here: pd.DataFrame) -> Pieces:
    parts: Pieces = [([], ",".join(COLUMNS) + "\n")]
    for method, rows in here.groupby("method", sort=False):
        lines = rows.to_csv(index=False, header=False, columns=COLUMNS, float_format="%.6g", lineterminator="\n")
        parts.append(([str(method)], lines))
    return parts


def as_json(here: pd.DataFrame) -> Pieces:
    """A list: what it is of, then an object a method."""
    of = {
        "benchmark": here["benchmark"].iloc[0],
        "request": here["request"].iloc[0],
        "unit": "fractions; see metrics.md",
    }
    parts: Pieces = [([], f"[{json.dumps(of)}")]
    for method, rows in here.groupby("method", sort=False):
        metrics = {
            row["metric"]: {k: _plain(v) for k, v in row.items() if k in COLUMNS[4:-1] and not pd.isna(v)}
            for row in rows.to_dict("records")
            if row["metric"]
        }
        entry = {"method": method, "status": rows["status"].iloc[0], "metrics": metrics}
        parts.append(([str(method)], f",\n{json.dumps(entry, allow_nan=False)}"))
    return [*parts, ([], "]\n")]


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return str(value) if math.isinf(value) else float(f"{value:.6g}")


def latex(name: str, here: pd.DataFrame) -> Pieces:
    """A table in booktabs' manner: mean, interval and verdict of each headline metric, and retrain's noise floor."""
    shown = [m for m in text.HEADLINE if m in set(here["metric"])]
    head = " & ".join(["Method", *(_latex(text.HEADLINE[m]) for m in shown)])
    seeds = int(here["n"].max())
    parts: Pieces = [
        (
            [],
            f"% {name}: mean and 95 % interval over {seeds} seeds, in percent, costs relative to retraining; needs "
            f"\\usepackage{{booktabs}}\n% {text.MARKS_MEANING}. {text.SHARED} {text.SHARED_MEANING}.\n"
            f"\\begin{{tabular}}{{l{'r' * len(shown)}}}\n\\toprule\n{head} \\\\\n\\midrule\n",
        )
    ]
    for method in text.ordered(here):
        rows = {r.metric: r for r in here[here["method"] == method].itertuples()}
        shared = "round_targets" in rows
        cells = [_cell(rows.get(m), seeds) + _latex(text.SHARED) * (shared and m == "samples") for m in shown]
        lines = [" & ".join([_latex(method), *cells])]
        if method == "retrain":
            floors = [text.number(m, rows[m].floor) if m in rows and m not in COSTS else "-" for m in shown]
            lines.append(" & ".join([r"\quad noise floor", *("--" if f == "-" else rf"$\pm$ {f}" for f in floors)]))
        parts.append(([method], "".join(f"{line} \\\\\n" for line in lines)))
    return [*parts, ([], "\\bottomrule\n\\end{tabular}\n")]


def _cell(row: Any, seeds: int) -> str:
    """Of one metric; n where it is smaller than the table's."""
    if row is None:
        return "--"
    parts = [_latex(text.number(row.metric, row.mean).replace("x", "×")).replace("×", r"$\times$")]
    if interval := text.interval(row):
        parts.append(rf"{{\scriptsize {interval}}}")
    few = [rf"{{\scriptsize ($n={row.n}$)}}"] if row.n < seeds else []
    return " ".join([*parts, *([_latex(text.mark(row))] if text.mark(row) else []), *few])


def _latex(plain: str) -> str:
    return "".join(LATEX.get(c, c) for c in " ".join(plain.split()))


def bibtex(papers: dict[str, dict[str, Any] | None], here: pd.DataFrame) -> Pieces:
    """An entry a paper, for all methods that it is the source of. Cards hold surnames; 'et al.' becomes 'others'."""
    of: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for method in dict.fromkeys(here["method"]):
        if paper := papers[str(method)]:
            of.setdefault(_key(paper), (paper, []))[1].append(str(method))
    return [
        (
            methods,
            f"@misc{{{key},\n  title = {{{{{_latex(paper['title'])}}}}},\n"
            f"  author = {{{_authors(paper['authors'])}}},\n"
            f"  howpublished = {{{_latex(paper['venue'])}}},\n  year = {{{paper['year']}}},\n"
            f"  url = {{{_bare(paper['url'])}}}\n}}\n\n",
        )
        for key, (paper, methods) in of.items()
    ] or [([], "")]


def _bare(url: str) -> str:
    return re.sub(r"[{}\\\s]", "", url)


def _authors(names: str) -> str:
    several = re.split(r",\s*(?:and\s+)?|\s+and\s+", re.sub(r",?\s+et al\.?", ", others", names))
    return " and ".join(_latex(name) for name in several if name)


def _key(paper: dict[str, Any]) -> str:
    """'kodge2024deep': first author's surname, year, first word of the title, in ASCII letters."""
    first = re.split(r",| and | et ", paper["authors"])[0].split()[-1:]
    parts = (*first, str(paper["year"]), *paper["title"].split()[:1])
    plain = unicodedata.normalize("NFKD", "".join(parts)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower()) or "paper"

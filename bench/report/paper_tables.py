"""Published tables in LaTeX (booktabs), rows and columns in the paper's order, our line below each of theirs."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.report.reproduction import DIFFERS, MATCH

MARKS = {MATCH: r"$\approx$", DIFFERS: r"$\neq$"}
ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
ESCAPED |= {character: f"\\{character}" for character in "&%$#_{}"}
NONE = "--"


@dataclass(frozen=True)
class Layout:
    """A published table.

    Attributes:
        name: of the file.
        tables: of published.csv; what the first has of a cell goes before what the second has.
        methods, metrics: our method and their metric -> what the paper calls them, rows and columns in its order.
        gaps: whether the distance to retrain stands behind each number, as SalUn prints it.
    """

    name: str
    title: str
    paper: str
    tables: tuple[str, ...]
    request: str
    benchmark: str
    methods: Mapping[str, str]
    metrics: Mapping[str, str]
    gaps: bool = False

    def cells(self, table: pd.DataFrame) -> dict[tuple[str, str], Any]:
        """(our method, their metric) -> row of the comparison; what a paper's newest version says."""
        here = table[(table["paper"] == self.paper) & (table["request"] == self.request)]
        here = here[here["table"].isin(self.tables) & (here["benchmark"] == self.benchmark)]
        order = sorted(here.itertuples(), key=lambda row: -self.tables.index(row.table))
        return {(row.our_method, row.metric): row for row in order}


LAYOUTS = (
    Layout(
        name="kodge-table-1",
        title="Kodge et al., Table 1, CIFAR-10, ResNet-18: forgetting one class, means over ten classes",
        paper="kodge",
        tables=("Table 1",),
        request="class",
        benchmark="kodge-cifar10-resnet18",
        methods={
            "original": "Original",
            "retrain": "Retraining",
            "gradient_ascent": "NegGrad",
            "neggrad_plus": "NegGrad+",
            "unsir": "Tarun et al.",
            "scrub": "SCRUB",
            "ssd": "SSD",
            "kodge": "Kodge et al.",
        },
        metrics={
            "ACC_r": r"$ACC_r$ ($\uparrow$)",
            "ACC_f": r"$ACC_f$ ($\downarrow$)",
            "mia_kodge": r"MIA ($\uparrow$)",
        },
    ),
    Layout(
        name="salun-table-1",
        title="SalUn, Table 1, CIFAR-10, ResNet-18: random data forgetting (10%)",
        paper="salun",
        tables=("Table 1",),
        request="random 10%",
        benchmark="salun-cifar10-resnet18",
        methods={
            "retrain": "Retrain",
            "finetune": "FT",
            "random_labels": "RL",
            "gradient_ascent": "GA",
            "influence": "IU",
            "boundary_expanding": "BE",
            "boundary_shrink": "BS",
            "l1_sparse": r"$\ell_1$-sparse",
            "salun": "SalUn",
        },
        metrics={"UA": "UA", "RA": "RA", "TA": "TA", "mia_salun": "MIA", "avg_gap": "Avg. Gap"},
        gaps=True,
    ),
    Layout(
        name="concept-poisoning-r-main",
        title="Chang et al., R-main of the revision, CIFAR-10, ResNet-50: forgetting deer",
        paper="concept_poison",
        tables=("R-main", "raw rows"),
        request="class deer",
        benchmark="concept-cifar10-resnet50",
        methods={
            "retrain": "Retrain",
            "concept_poison": "Concept poisoning",
            "label_only": "Targeted labels alone",
            "boundary_shrink": "Boundary shrink",
            "boundary_expanding": "Boundary expanding",
        },
        metrics={"ACC_f_train": r"$A_\mathrm{train}$", "ACC_f": r"$A_\mathrm{test}$", "ACC_r": r"$A_\mathrm{global}$"},
    ),
)


def render(layout: Layout, table: pd.DataFrame) -> str:
    """The file's text; `table` is that of `reproduction.compare`."""
    cells, head = layout.cells(table), ["Method", "", *layout.metrics.values()]
    caption = f"{escaped(layout.title)}. Published, with the spread that is printed, above ours "
    caption += rf"(\texttt{{{layout.benchmark}}}), with half of its 95\,\% interval. "
    caption += "In parentheses: distance to retraining. " if layout.gaps else ""
    if any(not math.isnan(row.ours) for row in cells.values()):
        caption += rf"{MARKS[MATCH]}: 0 is in the 95\,\% interval of the difference, {MARKS[DIFFERS]}: it is not."
    else:
        caption += "Ours has not run."
    lines = [
        "% Made by the stage `reproduction`. Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{caption}}}",
        rf"\begin{{tabular}}{{ll{'r' * len(layout.metrics)}}}",
        r"\toprule",
        f"{' & '.join(head)} \\\\",
        r"\midrule",
    ]
    for i, (method, name) in enumerate(layout.methods.items()):
        both = [_cells(layout, cells, method, metric) for metric in layout.metrics]
        lines += [r"\addlinespace"] * (i > 0)
        lines.append(f"{name} & published & {' & '.join(cell[0] for cell in both)} \\\\")
        lines.append(f" & ours & {' & '.join(cell[1] for cell in both)} \\\\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    said: dict[str, list[str]] = {}
    for (method, metric), row in cells.items():
        if row.remark and method in layout.methods and metric in layout.metrics:
            said.setdefault(escaped(row.remark), []).append(f"{layout.methods[method]} {layout.metrics[metric]}")
    lines += [rf"\\ {{\footnotesize {', '.join(where)}: {remark}.}}" for remark, where in said.items()]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _cells(layout: Layout, cells: Mapping[tuple[str, str], Any], method: str, metric: str) -> tuple[str, str]:
    """Their number and ours, in percent."""
    row, reference = cells.get((method, metric)), cells.get(("retrain", metric))
    if row is None:
        return NONE, NONE
    theirs, ours = number(row.published, row.published_spread), number(row.ours, (row.ci_high - row.ci_low) / 2)
    if layout.gaps and reference is not None:  # the average gap has none
        theirs += f" ({100 * abs(row.published - reference.published):.2f})"
        ours += "" if ours == NONE else f" ({100 * abs(row.ours - reference.ours):.2f})"
    return theirs, " ".join(filter(None, [ours, MARKS.get(row.result)]))


def number(value: float, spread: float) -> str:
    """'$94.19_{\\pm 0.50}$', from fractions."""
    if math.isnan(value):
        return NONE
    return f"${100 * value:.2f}$" if math.isnan(spread) else rf"${100 * value:.2f}_{{\pm {100 * spread:.2f}}}$"


def escaped(text: str) -> str:
    return re.sub(r"[\\&%$#_{}~^]", lambda match: ESCAPED[match[0]], text)

"""reports/published.csv: what papers, their code and others' re-runs report, and which of it a benchmark measures too.

`PROTOCOLS` is the whole mapping. Names of methods and metrics are ours in that file already, so a protocol lists the
metrics that mean the same there and here, and only what is called otherwise is translated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench import store
from bench.errors import BadInput

FILE = store.REPORTS / "published.csv"
SOURCED = {  # kinds of provenance that are printed, and what a reader is told of them; what has another is not read
    "official code": "the authors' repository",
    "paper text": "the paper's own text",
    "second-hand": "the paper's table as public repositories copied it",
    "independent re-run": "somebody else's run of the authors' code",
}
NUMBERS = ["mean", "low", "high", "spread", "n"]
COLUMNS = [
    *("paper", "arxiv", "version", "table", "dataset", "network", "request", "method", "metric"),
    *("mean", "low", "high", "spread", "spread_over", "n", "provenance", "source", "remark"),
]
PAPERS = {  # as published.csv calls them -> name, reference, and how the names of their benchmarks begin
    "kodge": ("Kodge", "Kodge, Saha and Roy, TMLR 2024, arXiv:2312.00761", "kodge-"),
    "salun": ("SalUn", "Fan et al., ICLR 2024, arXiv:2310.12508", "salun-"),
    "rum": ("RUM", "Zhao et al., NeurIPS 2024, arXiv:2406.01257", "rum-"),
    "wfnet": ("WF-Net", "Poppi et al., IEEE Intelligent Systems 2024, arXiv:2304.02049", "wfnet-"),
    "concept_poison": ("Concept poisoning", "Chang et al., arXiv:2405.15662", "concept-"),
    "deep_unlearn": ("Deep Unlearn", "Cadet et al., EuroS&P 2025, arXiv:2410.01276", "deepunlearn-"),
}
ZERO = ("retrain", "avg_gap")  # 0 by definition, there and here


@dataclass(frozen=True)
class Protocol:
    """Published tables and the request of a benchmark that measures the same.

    Attributes:
        row: of the benchmark's leaderboard, in its column `request`.
        methods, metrics: theirs -> ours, of those that are the same.
        why: what makes the two comparable, and what still differs.
    """

    paper: str
    tables: tuple[str, ...]
    dataset: str
    network: str
    request: str
    benchmark: str
    row: str
    why: str
    methods: Mapping[str, str]
    metrics: Mapping[str, str]

    def of_its_request(self, number: pd.Series) -> bool:
        own = (self.paper, self.dataset, self.network, self.request)
        return own == tuple(number[["paper", "dataset", "network", "request"]])

    def covers(self, number: pd.Series) -> bool:
        return number.table in self.tables and self.of_its_request(number)

    def place(self, number: pd.Series) -> tuple[int, int, int]:
        """Where a number that is compared stands among them: by table, method and metric."""
        names = (self.tables, number.table), (list(self.methods), number.method), (list(self.metrics), number.metric)
        table, method, metric = (known.index(name) for known, name in names)
        return table, method, metric

    def ours(self, number: pd.Series) -> tuple[str, str] | None:
        """Our names of a number's method and metric; None if they are not compared."""
        method, metric = self.methods.get(number.method), self.metrics.get(number.metric)
        return (method, metric) if method and metric and (method, metric) != ZERO else None


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


KODGE = (
    "ours holds out a tenth of the training images, lowers the learning rate by a cosine, and has three seeds for one"
)
SALUN = "ten seeds for their ten trials; ours splits all seeds alike and keeps the last epoch's weights"
CONCEPT = "ours normalises images, trains ten epochs, originals and retrains alike, and has three seeds for one"
PROTOCOLS = (
    Protocol(
        paper="kodge",
        tables=("Table 1", "re-measurement", "third-party cards"),
        dataset="cifar10",
        network="resnet18",
        request="class",
        benchmark="kodge-cifar10-resnet18",
        row="class",
        methods=_same("original", "retrain", "gradient_ascent", "neggrad_plus", "unsir", "ssd", "scrub", "kodge"),
        metrics=_same("ACC_r", "ACC_f", "mia_kodge"),
        why="means over the same ten classes: an interval from their spread over classes is too wide, if anything; "
        + KODGE,
    ),
    Protocol(
        paper="kodge",
        tables=("base network", "third-party cards"),
        dataset="cifar10",
        network="resnet18",
        request="none",
        benchmark="kodge-cifar10-resnet18",
        row="class",
        methods=_same("original"),
        metrics={"TA": "ACC_r"},
        why="accuracy on all test images is the mean over ten classes, equally large, of that on the other nine; "
        + KODGE,
    ),
    Protocol(
        paper="kodge",
        tables=("abstract",),
        dataset="imagenet",
        network="vit",
        request="class",
        benchmark="kodge-imagenet-vit",
        row="class",
        methods=_same("kodge"),
        metrics=_same("ACC_f"),
        why="every hundredth class of ImageNet; ours draws 556,000 training images and crops where theirs squash",
    ),
    Protocol(
        paper="salun",
        tables=("Table 1",),  # the issues' SalUn has other learning rates and masks than ours
        dataset="cifar10",
        network="resnet18",
        request="random 10%",
        benchmark="salun-cifar10-resnet18",
        row="random-10",
        methods=_same("retrain", "finetune", "random_labels", "gradient_ascent", "influence", "boundary_expanding")
        | _same("boundary_shrink", "l1_sparse", "salun"),
        metrics=_same("UA", "RA", "TA", "mia_salun", "avg_gap")
        | _same("mia_salun_correctness", "mia_salun_entropy", "mia_salun_prob")
        | {"mia_salun_m_entropy": "mia_salun_m_entropy_legacy"},  # computed wrongly there, and once more so here
        why=f"a random tenth; {SALUN}",
    ),
    Protocol(
        paper="salun",
        tables=("issue 7",),
        dataset="cifar10",
        network="resnet18",
        request="none",
        benchmark="salun-cifar10-resnet18",
        row="random-10",
        methods=_same("original"),
        metrics=_same("TA"),
        why=f"the original on all test images; {SALUN}",
    ),
    Protocol(
        paper="concept_poison",
        tables=("R-main", "Tables 1-2", "E2 seed 43", "E2 seed 44"),
        dataset="cifar10",
        network="resnet50",
        request="class deer",
        benchmark="concept-cifar10-resnet50",
        row="class",
        methods=_same("concept_poison", "retrain", "boundary_shrink", "boundary_expanding"),
        metrics=_same("ACC_f_train", "ACC_f", "ACC_r"),
        why=f"deer, ResNet-50 at 224 px; {CONCEPT}",
    ),
    Protocol(
        paper="concept_poison",
        tables=("raw rows",),  # its other rows stand in R-main too
        dataset="cifar10",
        network="resnet50",
        request="class deer",
        benchmark="concept-cifar10-resnet50",
        row="class",
        methods={"poison_none_targeted_full": "label_only"},
        metrics=_same("ACC_f_train", "ACC_f", "ACC_r"),
        why=f"new labels alone, no image changed; {CONCEPT}",
    ),
)
BENCHMARKS = tuple(dict.fromkeys(protocol.benchmark for protocol in PROTOCOLS))


def read(path: Path = FILE) -> pd.DataFrame:
    """The published numbers that have a source, with the columns `COLUMNS` and `rounding`.

    `rounding` is half a unit of the last digit that the number's table prints of its metric, at most 0.0005: the file
    has no trailing zeros, so a column of zeros and ones shows no digits.

    Raises:
        BadInput: the file is missing, damaged, or has other columns.
    """
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        table = text.assign(**{column: pd.to_numeric(text[column]) for column in NUMBERS})
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; it is committed: `git checkout {path}`") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); `git diff {path}` shows what was changed") from None
    if list(table) != COLUMNS:
        raise BadInput(f"{path}: has the columns {', '.join(table)}; there should be {', '.join(COLUMNS)}")
    sourced = text["provenance"].isin(SOURCED) & (text["source"] != "")
    decimals = text[["mean", "low", "high"]].apply(lambda column: column.str.partition(".")[2].str.len()).max(axis=1)
    places = decimals.groupby([text[column] for column in ("paper", "version", "table", "metric")]).transform("max")
    places = places.clip(lower=3)
    return table.assign(rounding=0.5 * 0.1**places)[sourced].reset_index(drop=True)


def pairs(numbers: pd.DataFrame) -> Iterator[tuple[pd.Series, Protocol, str, str]]:
    """Each number that is compared, its protocol, and our names of its method and metric; in the order of protocols."""
    for protocol in PROTOCOLS:
        covered = [number for _, number in numbers.iterrows() if protocol.covers(number) and protocol.ours(number)]
        for number in sorted(covered, key=protocol.place):
            method, metric = protocol.ours(number) or ("", "")
            yield number, protocol, method, metric


def left_out(numbers: pd.DataFrame) -> pd.DataFrame:
    """Why the other numbers are not compared: a row a paper and reason, with `tables` and how many `numbers`."""
    compared = {number.name for number, *_ in pairs(numbers)}
    rest = numbers[~numbers.index.isin(compared)]
    why = [_reason(number) for _, number in rest.iterrows()]
    tables = rest.assign(why=why).groupby(["paper", "why"], sort=False)["table"]
    return tables.agg(tables=lambda t: ", ".join(dict.fromkeys(t)), numbers="size").reset_index()


def _reason(number: pd.Series) -> str:
    covering = [protocol for protocol in PROTOCOLS if protocol.covers(number)]
    if (number.method, number.metric) == ZERO:
        return "0 by definition"
    if any(number.method in protocol.methods for protocol in covering):
        return "a metric that is not ours, or seconds on other hardware"
    if covering:
        return "a method that is not ours, or a run that a compared table has too"
    if any(protocol.of_its_request(number) for protocol in PROTOCOLS):
        return "another table of a request that is compared: ablations, and runs that a compared table has too"
    return "no benchmark of this data set, network and request"

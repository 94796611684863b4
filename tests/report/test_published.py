"""reports/published.csv: what papers, their code and others' re-runs report, each number with its source.

Nothing from memory is in it. Accuracies, shares and gaps are fractions, where the sources print percent. Names:
- UA = 1 - accuracy on the forgotten training samples, also where a source prints that accuracy;
- SalUn's MIA is `mia_salun`, from the feature 'confidence'; `mia_salun_entropy` and the like are its other features;
- Kodge's MIA is `mia_kodge`; NegGrad is `gradient_ascent`, Tarun's method `unsir`, CF-1 `cf_1`;
- concept poisoning's A_train is `ACC_f_train`, A_test `ACC_f`, and A_global `ACC_r`: despite its name, it leaves the
  forgotten class out; the simple gap is `mia_gap` = |accuracy - 0.5|, and the forgetting rate keeps its name, `Fr`;
- `concept_poison` is localized, targeted, full; `poison_<place>_<label>_<part>` are the other cells of that
  ablation, among them the paper's 'random labels', and `poison_any` is the range over cells;
- the request `none` is the base network, before anything is forgotten: its TA counts every class.
`low` and `high` are ranges, and either may stand alone; `remark` says what makes a number doubtful.
"""

import re
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = [
    *("paper", "arxiv", "version", "table", "dataset", "network", "request", "method", "metric"),
    *("mean", "low", "high", "spread", "spread_over", "n", "provenance", "source", "remark"),
]
KEY = ["paper", "version", "table", "dataset", "network", "request", "method", "metric"]
NUMBERS = ["mean", "low", "high", "spread"]
PROVENANCE = {"official code", "second-hand", "independent re-run", "paper text"}
WITHOUT_TABLES = {"wfnet", "rum", "deep_unlearn", "ruli"}  # no number of theirs could be sourced
OTHER_METHODS = {
    *("cf_1", "erm_ktp", "random_labels_forget_only", "salun_forget_only"),
    *("locator_clip", "locator_gradcam", "locator_pcbm", "poison_any", "poison_any_full", "poison_any_half"),
    *("concept_poison_then_finetune", "concept_poison_then_relearn", "concept_poison_m3_random"),
    *(f"concept_poison_m{windows}" for windows in (1, 3, 5, 10)),
    *(
        f"poison_{place}_{label}_{part}"
        for place, label, part in product(
            ("localized", "center", "random", "full", "none"), ("targeted", "random", "keep"), ("full", "half")
        )
        if (place, label, part) != ("localized", "targeted", "full")
    ),
}
OTHER_METRICS = {
    "ACC_r_drop",
    *("mia_gap", "mia_gap_controls", "Fr", "Fr_controls", "Fr_poison", "poison_confidence"),
    *("peak_distance", "peak_share"),
}
NO_FRACTIONS = {"seconds", "seconds_per_image", "similarity_gain"}


@pytest.fixture(scope="module")
def text() -> pd.DataFrame:
    """The file's cells as they stand there."""
    return pd.read_csv(ROOT / "reports/published.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def table(text) -> pd.DataFrame:
    return text.assign(**{c: pd.to_numeric(text[c]) for c in [*NUMBERS, "n"]})


def of(table: pd.DataFrame, /, **cells: str) -> pd.DataFrame:
    for column, value in cells.items():
        table = table[table[column] == value]
    return table


def means(table: pd.DataFrame, /, **cells: str) -> dict[tuple[str, str], float]:
    rows = of(table, **cells).dropna(subset="mean")
    return {(r.method, r.metric): r.mean for r in rows[["method", "metric", "mean"]].itertuples(index=False)}


def test_columns_and_order(text):
    assert list(text) == COLUMNS
    order = ["paper", "table", "request", "method", "metric"]
    assert text[order].equals(text[order].sort_values(order, kind="stable"))
    assert not (text != text.apply(lambda column: column.str.strip())).any(axis=None)


def test_every_number_has_a_source(text):
    assert set(text.provenance) <= PROVENANCE
    for column in ("paper", "table", "dataset", "network", "request", "method", "metric", "source"):
        assert (text[column] != "").all(), column
    assert not set(text.paper) & WITHOUT_TABLES
    assert text.arxiv.str.fullmatch(r"(\d{4}\.\d{5})?").all()
    assert (text.groupby("paper").arxiv.nunique() == 1).all()


def test_no_number_twice(text):
    assert not text.duplicated(KEY).any()


def test_plain_decimals(text):
    for column in NUMBERS:
        assert text[column].str.fullmatch(r"(\d+(\.\d+)?)?").all(), column
    assert text.n.str.fullmatch(r"([1-9]\d*)?").all()


def test_values_and_ranges(table):
    assert table[["mean", "low", "high"]].notna().any(axis=1).all()
    assert not (table["low"] > table["high"]).any()
    assert not (table["mean"] < table["low"]).any()
    assert not (table["mean"] > table["high"]).any()
    assert (table.spread.notna() == (table.spread_over != "")).all()
    assert table.spread.isna()[table["mean"].isna()].all()
    fractions = table[~table.metric.isin(NO_FRACTIONS)]
    assert not (fractions[NUMBERS] > 1).any(axis=None)
    assert not (of(table, metric="mia_gap")[NUMBERS] > 0.5).any(axis=None)


def test_names(text):
    files = {path.stem for path in (ROOT / "methods").glob("*.py")} - {"__init__", "base", "steps"}
    assert not OTHER_METHODS & files, "now a method of the suite: take it off the list"
    assert set(text.method) <= files | OTHER_METHODS
    ours = set(re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text()))
    assert not (OTHER_METRICS | NO_FRACTIONS) & ours, "now a metric of the suite: do they mean the same?"
    assert set(text.metric) <= ours | OTHER_METRICS | NO_FRACTIONS


@pytest.mark.parametrize("run", ["Table 1", "re-measurement"])
def test_the_original_forgets_and_retains_alike(table, run):
    """Mean over all ten classes of either accuracy of one network is its plain test accuracy."""
    found = means(table, paper="kodge", table=run, method="original")
    assert found["original", "ACC_r"] == found["original", "ACC_f"]
    if run == "Table 1":
        assert means(table, paper="kodge", table="base network") == {("original", "TA"): found["original", "ACC_r"]}


def test_retrain_forgets_all_of_a_class(table):
    rows = of(table, paper="kodge", method="retrain")
    assert len(rows) == 7
    assert (of(rows, metric="ACC_f")["mean"] == 0).all()
    assert (of(rows, metric="mia_kodge")["mean"] == 1).all()


def test_average_gaps_follow_from_the_means(table):
    published = means(table, paper="salun", table="Table 1")
    reference = [published["retrain", metric] for metric in ("UA", "RA", "TA", "mia_salun")]
    both = published | means(table, paper="negmerge")
    gaps = {method: value for (method, metric), value in both.items() if metric == "avg_gap"}
    assert len(gaps) == 9 + 2
    for method, printed in gaps.items():
        row = [both[method, metric] for metric in ("UA", "RA", "TA", "mia_salun")]
        computed = sum(abs(a - b) for a, b in zip(row, reference, strict=True)) / 4
        assert computed == pytest.approx(printed, abs=0.5e-4 + 1e-9), method


def test_misclassified_forgotten_samples_are_the_attack_on_correctness(table):
    """That attack calls non-member what the network gets wrong."""
    found = means(table, paper="salun", table="issue 7", request="random 10%")
    assert found["salun", "mia_salun_correctness"] == found["salun", "UA"]


def test_one_run_has_one_number(table):
    """Runs of seed 42 stand in several tables of concept poisoning, rounded to three decimals in most."""
    tables = ["R-main", "E2 seed 42", "raw rows", "E3b", "E3b seed 42", "MIA profile"]
    rows = of(table, paper="concept_poison", version="revision")
    rows = rows[rows.table.isin(tables) & rows["mean"].notna()]
    several = rows.groupby(["dataset", "network", "request", "method", "metric"])["mean"].agg(["size", "min", "max"])
    several = several[several["size"] > 1]
    assert len(several) == 26
    assert (several["max"] - several["min"] <= 0.5e-3 + 1e-9).all()


@pytest.mark.parametrize("request_", ["class deer", "class boy"])
def test_cells_lie_in_the_range_over_cells(table, request_):
    rows = of(table, paper="concept_poison", version="revision", request=request_, metric="ACC_r")
    (bounds,) = of(rows, method="poison_any").itertuples()
    cells = rows[rows.method.str.match("concept_poison$|poison_(?!any)") & rows.table.isin(["R-main", "raw rows"])]
    assert len(cells) == 7
    assert cells["mean"].between(bounds.low - 0.5e-3, bounds.high + 0.5e-3).all()


def test_the_class_comes_back_only_with_its_data(table):
    rows = of(table, table="E5", metric="ACC_f_train").groupby("method")["mean"]
    assert rows.max()["concept_poison_then_finetune"] < 0.01
    assert rows.min()["concept_poison_then_relearn"] > 0.99


def test_doubtful_numbers_are_marked(table):
    doubtful = [
        {"paper": "kodge", "table": "Table 1", "method": "scrub", "metric": "mia_kodge"},
        {"paper": "concept_poison", "table": "E3", "method": "retrain"},
        {"paper": "concept_poison", "table": "R-main", "method": "retrain", "metric": "ACC_r"},
        {"paper": "concept_poison", "metric": "peak_share"},
        {"paper": "salun", "metric": "mia_salun_m_entropy"},
        {"paper": "salun", "table": "Table 1", "method": "salun"},
        {"paper": "concept_poison", "version": "first submission", "method": "poison_any"},
    ]
    for cells in doubtful:
        rows = of(table, **cells)
        assert len(rows)
        assert (rows.remark != "").all(), cells
    retrained = of(table, table="E3b", method="retrain")
    assert ((retrained.remark != "") == (retrained.request != "class deer")).all()

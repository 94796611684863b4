"""Published numbers beside ours, from made-up leaderboards."""

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench import config, store
from bench.errors import BadInput
from bench.figures import reproduction as figure
from bench.report import paper_tables, published, reproduction, tables
from bench.report.reproduction import DIFFERS, MATCH, NOT_RUN, UNDECIDED
from bench.stages import leaderboard
from bench.stages import reproduction as stage
from tests.report.test_report import card, params, write_tables

ROOT = Path(__file__).resolve().parents[2]
NAN = math.nan
KODGE = ("kodge-cifar10-resnet18", "class")
SALUN = ("salun-cifar10-resnet18", "random-10")


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return published.read(ROOT / "reports/published.csv")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/published.csv").write_bytes((ROOT / "reports/published.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def theirs(mean=NAN, spread=NAN, n=NAN, low=NAN, high=NAN, rounding=0.0) -> dict[str, float]:
    return {"mean": mean, "spread": spread, "n": n, "low": low, "high": high, "rounding": rounding}


def ours(mean: float, half: float = NAN, n: float = 5) -> dict[str, float]:
    return {"mean": mean, "ci_low": mean - half, "ci_high": mean + half, "n": n}


def board(*cells: tuple[str, str, float, float], benchmark=KODGE, n=5) -> pd.DataFrame:
    """Rows of a leaderboard: method, metric, mean, half of the interval."""
    rows = [
        dict(zip(["benchmark", "request"], benchmark, strict=True))
        | {"method": method, "metric": metric, "status": "ok", **ours(mean, half, n)}
        for method, metric, mean, half in cells
    ]
    return pd.DataFrame(rows, columns=list(reproduction.OURS)).astype(reproduction.OURS)


def row(table: pd.DataFrame, /, **cells: str) -> pd.Series:
    for column, value in cells.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


# --- what is compared


def test_protocols_name_what_there_is(numbers):
    settings = config.load(ROOT / "params.yaml")
    metrics = set(re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text())) | {"avg_gap"}
    for protocol in published.PROTOCOLS:
        section = settings.benchmark(protocol.benchmark)
        assert protocol.row in [request for request, _, _ in tables.requests(section)]
        assert section.dataset.name in {protocol.dataset, "imagefolder"}
        assert set(protocol.methods.values()) <= set(settings.methods)
        assert not [method for method in protocol.methods.values() if section.left_out(method)]
        assert set(protocol.metrics.values()) <= metrics
        for table in protocol.tables:
            assert any(protocol.covers(n) and protocol.ours(n) for _, n in numbers[numbers.table == table].iterrows())


def test_no_number_is_compared_twice_and_each_is_accounted_for(numbers):
    compared = [number.name for number, *_ in published.pairs(numbers)]
    assert len(compared) == len(set(compared))
    assert published.left_out(numbers)["numbers"].sum() + len(compared) == len(numbers)


def test_one_run_is_compared_once(numbers):
    """Runs of seed 42 stand in several tables of concept poisoning."""
    table = reproduction.compare(numbers, board())
    single = table[(table["paper"] == "concept_poison") & (table["version"] == "revision")]
    seeds = single["table"].where(single["table"].str.contains("seed"), "seed 42")
    assert not single.assign(seed=seeds).duplicated(["seed", "our_method", "metric"]).any()


def test_what_is_from_memory_is_printed_nowhere(folder):
    path = folder / "reports/published.csv"
    lines = path.read_text().splitlines()
    whole = reproduction.compare(published.read(path), board())
    memory = [
        re.sub("second-hand", "memory", line) if line.startswith("salun,") and "Table 1" in line else line
        for line in lines
    ]
    assert memory != lines
    path.write_text("\n".join(memory) + "\n")
    table = reproduction.compare(published.read(path), board())
    assert len(table) == len(whole) - 45 + 1  # retrain's average gap, 0 by definition, is never compared
    stage.run(config.load(ROOT / "params.yaml"))
    page = (folder / "reports/reproduction.md").read_text()
    assert "37.36" not in page  # RL's MIA there
    assert "94.19" in page
    assert "37.36" not in (folder / "reports/latex/salun-table-1.tex").read_text()


def test_a_number_without_a_source_is_not_read(folder):
    path = folder / "reports/published.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    before = len(published.read(path))
    table.loc[0, "source"] = ""
    table.to_csv(path, index=False)
    assert len(published.read(path)) == before - 1


def test_bad_input_is_named(folder):
    path = folder / "reports/published.csv"
    with pytest.raises(BadInput, match=r"leaderboard\.csv: no leaderboard"):
        reproduction.read({"kodge-cifar10-resnet18": "a,b\n1,2\n"})
    path.write_text("paper,mean\nkodge,0.5\n")
    with pytest.raises(BadInput, match=r"reports/published\.csv"):
        published.read(path)
    path.unlink()
    with pytest.raises(BadInput, match="no such file"):
        published.read(path)


# --- what is a match


def test_a_single_published_run_is_held_against_a_prediction_interval():
    """For n values of standard deviation s, the next one lies within t s sqrt(1 + 1/n) of their mean."""
    values = np.array([0.91, 0.93, 0.92, 0.95, 0.9])
    deviation, quantile = values.std(ddof=1), stats.t.ppf(0.975, 4)
    mine = ours(values.mean(), quantile * deviation / math.sqrt(5))
    reach = quantile * deviation * math.sqrt(1 + 1 / 5)
    inside = reproduction.judge(theirs(values.mean() + 0.999 * reach, n=1), mine)
    outside = reproduction.judge(theirs(values.mean() + 1.001 * reach, n=1), mine)
    assert (inside["result"], outside["result"]) == (MATCH, DIFFERS)
    assert inside["unit"] == pytest.approx(deviation)
    assert inside["in_units"] == pytest.approx(-0.999 * reach / deviation)
    assert inside["unit_of"] == "ours"
    assert inside["difference_high"] - inside["difference"] == pytest.approx(reach)


def test_of_true_matches_some_five_in_a_hundred_are_called_different():
    rng = np.random.default_rng(0)
    called = {1: 0, 10: 0}
    for _ in range(1500):
        values = rng.normal(0.9, 0.01, 5)
        mine = ours(values.mean(), stats.t.ppf(0.975, 4) * values.std(ddof=1) / math.sqrt(5))
        for n in called:
            other = rng.normal(0.9, 0.01, n)
            spread = other.std(ddof=1) if n > 1 else NAN
            called[n] += reproduction.judge(theirs(other.mean(), spread, n), mine)["result"] == DIFFERS
    assert called[1] / 1500 == pytest.approx(0.05, abs=0.02)
    assert 0.02 < called[10] / 1500 < 0.07


def test_the_difference_is_in_units_of_their_spread():
    found = reproduction.judge(theirs(0.94, 0.005, 10), ours(0.95, 0.002))
    assert found["unit_of"] == "theirs"
    assert found["in_units"] == pytest.approx(2)
    reach = math.hypot(0.002, stats.t.ppf(0.975, 9) * 0.005 / math.sqrt(10))
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((0.01 - reach, 0.01 + reach))
    assert found["result"] == DIFFERS


def test_skewed_intervals_count_on_the_side_that_faces_the_other_number():
    mine = {"mean": 0.9, "ci_low": 0.8, "ci_high": 0.91, "n": 5}
    assert reproduction.judge(theirs(0.82, 0.0, 10), mine)["result"] == MATCH
    assert reproduction.judge(theirs(0.98, 0.0, 10), mine)["result"] == DIFFERS


def test_a_difference_below_the_printed_digits_is_none():
    for mean, result in ((0.9504, MATCH), (0.9506, DIFFERS)):
        assert reproduction.judge(theirs(0.95, 0.0, 10, rounding=0.0005), ours(mean, 0.0))["result"] == result


def test_rounding_follows_the_digits_of_a_table(numbers):
    digits = numbers.set_index(["paper", "table", "metric"])["rounding"]
    assert digits["kodge", "Table 1", "ACC_r"].unique() == pytest.approx(0.00005)
    assert digits["salun", "issue 10", "UA"] == pytest.approx(0.0005)
    assert digits.max() == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("mean", "difference", "result"),
    [(0.93, 0.0, MATCH), (0.949, 0.009, MATCH), (0.951, 0.011, DIFFERS), (0.89, -0.01, MATCH), (0.88, -0.02, DIFFERS)],
)
def test_a_range_is_met_or_missed(mean, difference, result):
    found = reproduction.judge(theirs(low=0.9, high=0.94), ours(mean, 0.0105))
    assert found["difference"] == pytest.approx(difference)
    assert found["result"] == result


def test_a_bound_is_a_range_with_one_end():
    for mean, result in ((0.0, MATCH), (0.009, MATCH), (0.02, DIFFERS)):
        assert reproduction.judge(theirs(high=0.01), ours(mean, 0.001))["result"] == result


def test_a_side_without_a_spread_is_given_the_others_and_two_decide_nothing():
    one = ours(0.93, NAN, 1)
    assert reproduction.judge(theirs(0.92), one)["result"] == UNDECIDED
    assert reproduction.judge(theirs(0.92, 0.01, 10), one)["result"] == MATCH
    assert reproduction.judge(theirs(0.88, 0.01, 10), one)["result"] == DIFFERS
    assert reproduction.judge(theirs(high=0.01), ours(0.005, NAN, 1))["result"] == MATCH  # a range needs none
    assert reproduction.judge(theirs(high=0.01), ours(0.4, NAN, 1))["result"] == DIFFERS


def test_a_published_spread_of_zero_is_no_unit():
    found = reproduction.judge(theirs(1.0, 0.0, 10), ours(0.99, 0.001))
    assert (found["unit_of"], found["result"]) == ("ours", DIFFERS)
    assert math.isfinite(found["in_units"])


# --- the table


def test_theirs_and_ours_side_by_side(numbers):
    table = reproduction.compare(numbers, board(("kodge", "ACC_r", 0.9400, 0.001), ("kodge", "ACC_f", 0.2, 0.001)))
    first = {"table": "Table 1", "method": "kodge"}
    near, far = (row(table, metric=metric, **first) for metric in ("ACC_r", "ACC_f"))
    assert (near.published, near.published_spread, near.ours) == (0.9419, 0.005, 0.94)
    assert near.difference == pytest.approx(-0.0019)
    assert (near.result, far.result) == (MATCH, DIFFERS)
    shown = row(reproduction.rows(table), Table="Table 1, v4", Method="kodge", Metric="ACC_r")
    assert (shown.Paper, shown.Published, shown.Ours) == ("Kodge", "94.19 ± 0.50", "94.00 [93.90, 94.10]")
    assert shown["In spreads"] == "-0.4 (theirs)"
    assert shown.Difference.startswith("-0.19 [")
    assert shown.Result == MATCH


def test_the_original_on_all_test_images_is_the_mean_of_its_retained_accuracies(numbers):
    """Whatever the accuracy of each class, if classes are equally large."""
    classes = np.random.default_rng(0).uniform(size=10)
    retained = np.mean([np.delete(classes, i).mean() for i in range(10)])
    assert retained == pytest.approx(classes.mean())
    table = reproduction.compare(numbers, board(("original", "ACC_r", retained, 0.01)))
    assert row(table, table="base network", paper="kodge").ours == pytest.approx(classes.mean())


def test_what_did_not_run_says_why(numbers):
    there = board(("kodge", "ACC_r", 0.94, 0.001), ("ssd", "", NAN, NAN))
    there.loc[1, ["status", "metric"]] = ["left out: too slow", None]
    table = reproduction.compare(numbers, there)
    first = table[table["table"] == "Table 1"]
    assert row(first, our_method="kodge", metric="mia_kodge").why == "no such metric"
    assert row(first, our_method="ssd", metric="ACC_r").why == "left out: too slow"
    assert row(first, our_method="scrub", metric="ACC_r").why == "no such row"
    assert row(first, our_method="finetune", metric="RA").why == "no leaderboard"
    assert set(table.loc[table["ours"].isna(), "result"]) == {NOT_RUN}
    shown = reproduction.rows(table)
    assert set(shown.loc[shown["Method"] == "ssd", "Result"]) == {"not run: left out: too slow"}


# --- the stage


def test_nothing_ran_yet(folder):
    settings = config.load(ROOT / "params.yaml")
    assert "97 not run" in stage.run(settings)
    page = (folder / "reports/reproduction.md").read_text()
    for benchmark in published.BENCHMARKS:
        assert f"dvc exp run -S 'run=[{benchmark}]'" in page
    for name, _, prefix in published.PAPERS.values():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        of_it = [benchmark for benchmark in settings.benchmarks if benchmark.startswith(prefix)]
        assert of_it
        if "could be sourced" in section:
            assert all(f"`{benchmark}`" in section for benchmark in of_it)
            assert "|" not in section
    assert page.count("could be sourced") == 3  # RUM, WF-Net, Deep Unlearn


def test_a_committed_leaderboard_is_read_and_named_by_its_hash(folder):
    path = folder / "reports" / KODGE[0] / "leaderboard.csv"
    path.parent.mkdir()
    cells = board(("kodge", "ACC_r", 0.94, 0.001), ("retrain", "ACC_r", 0.95, 0.001), n=3)
    cells.assign(gap=0.1).to_csv(path, index=False)
    settings = config.load(ROOT / "params.yaml")
    stage.run(settings)
    files = sorted(p for p in (folder / "reports").rglob("*") if p.is_file())
    first = [p.read_bytes() for p in files]
    assert {p.suffix for p in files} == {".csv", ".md", ".tex", ".pdf", ".svg", ".png"}
    page = (folder / "reports/reproduction.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in page
    assert f"[its leaderboard]({KODGE[0]}/leaderboard.md)" in page
    assert f"dvc exp run -S 'run=[{KODGE[0]}]'" not in page
    stage.run(settings)
    assert [p.read_bytes() for p in files] == first
    table = pd.read_csv(folder / "reports/reproduction.csv")
    assert list(table) == reproduction.COLUMNS
    assert row(reproduction.rows(table), Table="Table 1, v4", Method="kodge", Metric="ACC_r").Result == MATCH


def test_only_what_is_compared_makes_the_stage_run_again():
    pytest.importorskip("torch")
    from bench.stages import plan

    settings = config.load(ROOT / "params.yaml")

    def planned(*run: str) -> dict:
        contents = dict(plan.contents(settings.model_copy(update={"run": list(run)})))
        return contents[store.plan_file("reproduction")]["parameters"]

    assert planned("digits-resnet") == planned("digits-vit")
    assert planned("digits-vit", KODGE[0])[KODGE[0]]["seeds"] == [0, 1, 2]


def test_of_a_benchmark_that_runs_the_stage_reads_what_the_leaderboard_will_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "BENCHMARKS", ("bench-a", "bench-b"))
    for method in ("original", "retrain", "salun"):
        write_tables(method, card())
    settings = params(salun={})
    store.write_json(store.scores_file("bench-a").with_name("summary.json"), {})
    stale = store.report_folder("bench-a") / "leaderboard.csv"
    store.write_text(stale, "stale")
    found = reproduction.leaderboards(settings)
    assert list(found) == ["bench-a"]
    leaderboard.run(settings, "bench-a")
    assert found["bench-a"] == stale.read_text()
    assert set(reproduction.read(found)["metric"].dropna()) >= {"UA", "RA", "TA", "avg_gap"}


def test_committed_page_has_read_the_committed_leaderboards():
    page = ROOT / "reports/reproduction.md"
    if not page.exists():
        pytest.skip("the stage `reproduction` has not run here")
    read = dict(re.findall(r"\| reports/(\S+)/leaderboard\.csv \| ([0-9a-f]{64}) \|", page.read_text()))
    there = {name: ROOT / "reports" / name / "leaderboard.csv" for name in published.BENCHMARKS}
    hashes = {name: store.sha256(path) for name, path in there.items() if path.exists()}
    assert read == hashes, "run `dvc repro -f -s reproduction`"


# --- LaTeX and figure


def test_latex_has_the_papers_rows_and_columns_with_ours_below(numbers):
    cells = [("retrain", "UA", 0.05, 0.01), ("salun", "UA", 0.03, 0.01), ("finetune", "avg_gap", 0.04, NAN)]
    table = reproduction.compare(numbers, board(*cells, benchmark=SALUN))
    for layout in paper_tables.LAYOUTS:
        text = paper_tables.render(layout, table)
        body = re.search(r"\\midrule\n(.*)\\bottomrule", text, re.DOTALL)[1].replace("\\addlinespace\n", "")
        lines = body.splitlines()
        assert len(lines) == 2 * len(layout.methods)
        assert {line.count("&") for line in lines} == {1 + len(layout.metrics)}
        assert text.count("{") == text.count("}")
        assert "Ours has not run." in text or layout.name == "salun-table-1"
    body = paper_tables.render(row_of("salun-table-1"), table).splitlines()
    place = next(i for i, line in enumerate(body) if line.startswith("SalUn &"))
    assert body[place].startswith(r"SalUn & published & $2.85_{\pm 0.43}$ (2.39) & $99.62")  # 5.24 - 2.85
    assert body[place + 1] == r" & ours & $3.00_{\pm 1.00}$ (2.00) $\approx$ & -- & -- & -- & -- \\"
    assert any(line.endswith(r"& $4.00$ \\") for line in body)


def row_of(name: str) -> paper_tables.Layout:
    return next(layout for layout in paper_tables.LAYOUTS if layout.name == name)


def test_layouts_show_every_number_of_their_tables_that_is_compared(numbers):
    table = reproduction.compare(numbers, board())
    for layout in paper_tables.LAYOUTS:
        here = table[table["table"].isin(layout.tables) & (table["paper"] == layout.paper)]
        shown = {(m, k) for m in layout.methods for k in layout.metrics} & set(layout.cells(table))
        assert shown == set(zip(here["our_method"], here["metric"], strict=True))


def test_latex_escapes_what_is_special():
    assert paper_tables.escaped(r"50 % of a_b & {c} #1 \x") == r"50 \% of a\_b \& \{c\} \#1 \textbackslash{}x"


def test_figure_draws_theirs_with_spreads_and_ours_with_intervals(numbers):
    table = reproduction.compare(numbers, board(("kodge", "ACC_r", 0.8, 0.01)))
    drawn = figure.draw(table)
    axis = drawn.axes[0]
    assert axis.get_title() == "ACC_r (%)"
    place = list(row_of("kodge-table-1").methods).index("kodge")
    bars = {round(float(c.lines[0].get_ydata()[0]), 2): c for c in axis.containers}
    them, us = bars[round(place - 0.17, 2)], bars[round(place + 0.17, 2)]
    assert [c.lines[0].get_xdata()[0] for c in (them, us)] == pytest.approx([94.19, 80])
    for container, half in ((them, 0.5), (us, 1.0)):
        (first, last) = container.lines[2][0].get_segments()[0][:, 0]
        assert (last - first) / 2 == pytest.approx(half)
    assert us.lines[0].get_marker() == figure.OURS[DIFFERS]["marker"]
    assert len({style["marker"] for style in (figure.THEIRS, figure.RERUN, *figure.OURS.values())}) == 4
    titles = [text.get_text() for text in drawn.texts]
    assert [title.endswith("not run") for title in titles] == [False, True, True]

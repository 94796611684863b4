"""The leaderboard's tables from small run tables made by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench import store
from bench.config import Params
from bench.errors import BadInput
from bench.figures import suite
from bench.figures.style import save
from bench.metrics.comparisons import critical_difference, rank_stability
from bench.report import tables, text
from bench.report.timings import TIMING_COLUMNS, timings
from bench.stages import attack, figures

SEEDS = [0, 1, 2]
METRICS = {"UA": 0.9, "RA": 0.99, "TA": 0.95, "mia_salun": 0.8, "ACC_r": 0.95, "ACC_f": 0.1}


def params(**methods) -> Params:
    return Params.model_validate(
        {
            "run": ["bench-a"],
            "benchmarks": {
                "bench-a": {
                    "dataset": "digits",
                    "validation": 0.1,
                    "architecture": "resnet-small",
                    "training": {"epochs": 1, "batch_size": 2, "lr": 0.1},
                    "requests": {
                        "class": {"kind": "class", "targets": [0, 1]},
                        "random": {"kind": "random", "fraction": 0.1},
                    },
                    "seeds": SEEDS,
                }
            },
            "methods": {"original": {}, "retrain": {}, **methods},
        }
    )


def card(serves=("class", "random"), **paper) -> dict:
    return {
        "card": {
            "paper": paper or None,
            "serves": sorted(serves),
            "reads": ["forget"],
            "labels": True,
            "trains": True,
        },
        "hyperparameters": {"lr": 0.1},
    }


def value(method: str, target: str, seed: int, metric: str) -> float:
    shift = {"original": 0.1, "retrain": 0.0}.get(method, 0.02)
    return METRICS[metric] + shift + 0.01 * seed + (0.005 if target == "class-1" else 0)


def write_tables(method: str, card_: dict, failed: set = frozenset(), reason: str = "ValueError: boom") -> None:
    rows, classes = [], []
    for request, targets in {"class": ["class-0", "class-1"], "random": ["random"]}.items():
        if request not in card_["card"]["serves"]:
            continue
        for target in targets:
            for seed in SEEDS:
                run = {"benchmark": "bench-a", "request": request, "target": target, "method": method, "seed": seed}
                run |= {"unlearning_seed": 0, "judging_seed": 0}
                if (target, seed) in failed:
                    rows.append(run | {"status": f"failed: {reason}"})
                    continue
                named = {m: value(method, target, seed, m) for m in METRICS}
                named |= {
                    "samples_forward": 100 if method == "retrain" else 25,
                    "samples_backward": 100 if method == "retrain" else 25,
                }
                rows += [run | {"status": "ok", "metric": m, "value": v} for m, v in named.items()]
                classes += [run | {"class": c, "accuracy": 0.1 * c} for c in range(3)]
    folder = store.table_folder("bench-a", method)
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=attack.RUN_COLUMNS).to_csv(folder / "runs.csv", index=False)
    pd.DataFrame(classes, columns=attack.CLASS_COLUMNS).to_csv(folder / "classes.csv", index=False)
    store.write_json(folder / "method.json", card_)


def build(**methods):
    settings = params(**methods)
    judged = tables.read(settings)
    return settings, judged, tables.leaderboard(settings, judged)


def find(table, **where):
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    assert len(table) == 1
    return table.iloc[0]


def test_row_by_hand(folder):
    write_tables("salun", card())
    _, _, table = build(salun={})
    assert list(table.columns) == tables.COLUMNS
    row = find(table, request="class", method="salun", metric="UA")
    per_seed = [np.mean([value("salun", t, s, "UA") for t in ("class-0", "class-1")]) for s in SEEDS]
    assert row["mean"] == pytest.approx(np.mean(per_seed))
    # with two targets the quantiles are the extremes: seed 0, target 0 throughout, and seed 2, target 1
    extremes = value("salun", "class-0", 0, "UA"), value("salun", "class-1", 2, "UA")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(extremes)
    assert (row["gap_low"], row["gap_high"]) == pytest.approx((0.02, 0.02))  # the same in each run
    assert row["n"] == 3
    assert row["gap"] == pytest.approx(0.02)
    assert row["floor"] == pytest.approx(4.302652729911275 * 0.01 * math.sqrt(2 / 3))
    assert row["margin"] == pytest.approx(1.959963984540054 * 0.01)
    assert row["verdict"] == "undecided"  # a gap as wide as the margin, and three seeds
    assert row["status"] == "ok"


def test_verdicts_and_ranks(folder):
    """On each metric salun is 2 points from retrain, original 10: nearer in every draw."""
    write_tables("salun", card())
    _, _, table = build(salun={})
    for metric in (*METRICS, "avg_gap"):
        for method, rank in {"salun": 1, "original": 2}.items():
            row = find(table, request="class", method=method, metric=metric)
            assert (row["rank"], row["rank_low"], row["rank_high"]) == (rank, rank, rank)
    original = find(table, request="class", method="original", metric="UA")
    assert (original["verdict"], original["p_equivalence"] > 0.9) == ("different", True)
    retrain = find(table, request="class", method="retrain", metric="UA")
    assert retrain[["verdict", "p_equivalence", "rank"]].isna().all()


def test_paired_tests_and_ranks_without_a_seed_are_tables(folder):
    write_tables("salun", card())
    settings, judged, _ = build(salun={})
    tests = tables.tests(settings, judged, ["UA"])
    assert list(tests.columns) == tables.TEST_COLUMNS
    row = find(tests, request="class", metric="UA", method="salun", other="retrain")
    assert (row["difference"], row["n"], row["p"]) == (pytest.approx(0.02), 3, 0)  # without variance
    row = find(tests, request="class", metric="avg_gap", method="original", other="salun")
    assert row["difference"] == pytest.approx(0.08)
    ranks = tables.ranks(settings, judged)
    assert list(ranks.columns) == tables.RANK_COLUMNS
    of_class = ranks[ranks["request"] == "class"]
    assert of_class.groupby("method")["rank"].agg(["min", "max", "size"]).to_dict("index") == {
        "salun": {"min": 1, "max": 1, "size": 8},  # everything, four metrics, three seeds
        "original": {"min": 2, "max": 2, "size": 8},
    }


def test_a_method_with_a_failed_run_has_no_rank(folder):
    write_tables("salun", card(), failed={("class-1", 2)})
    _, _, table = build(salun={})
    assert math.isnan(find(table, request="class", method="salun", metric="UA")["rank"])
    assert find(table, request="class", method="original", metric="UA")["rank"] == 1


def test_a_metric_of_some_seeds_is_ranked_and_bounded_by_these_alone(folder):
    """On two of three seeds salun is nearer than original in either: rank 1 in every draw, and bounds of two seeds."""
    write_tables("salun", card())
    for method in ("original", "retrain", "salun"):
        path = store.table_folder("bench-a", method) / "runs.csv"
        runs = pd.read_csv(path, dtype=tables.RUN_TYPES)
        some = runs[(runs["metric"] == "UA") & (runs["seed"] < 2)].assign(metric="probed")
        pd.concat([runs, some]).to_csv(path, index=False)
    _, _, table = build(salun={})
    for method, rank in {"salun": 1, "original": 2}.items():
        row = find(table, request="random", method=method, metric="probed")
        assert (row["n"], row["rank"], row["rank_low"], row["rank_high"]) == (2, rank, rank, rank)
        assert row["verdict"] == "undecided"
    row = find(table, request="random", method="salun", metric="probed")
    extremes = [value("salun", "random", seed, "UA") for seed in (0, 1)]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((min(extremes), max(extremes)))


def test_of_two_retrains_a_distance_to_the_other_has_a_gap_and_no_floor(folder):
    """Asymmetric, as KL is, so that the two values differ."""
    for method in ("original", "retrain"):
        path = store.table_folder("bench-a", method) / "runs.csv"
        runs = pd.read_csv(path, dtype=tables.RUN_TYPES)
        kl = runs[(runs["metric"] == "UA") & (runs["seed"] < 2)].assign(metric="kl_run_retrain_test")
        pd.concat([runs, kl]).to_csv(path, index=False)
    _, _, table = build()
    where = {"request": "random", "metric": "kl_run_retrain_test"}
    assert find(table, **where, method="retrain")["gap"] == 0
    row = find(table, **where, method="original")
    assert row["gap"] == pytest.approx(0.1)
    assert math.isnan(row["floor"])


def test_numbers_beside_a_metric_have_no_target(folder):
    path = store.table_folder("bench-a", "original") / "runs.csv"
    for method in ("original", "retrain"):
        path = store.table_folder("bench-a", method) / "runs.csv"
        runs = pd.read_csv(path, dtype=tables.RUN_TYPES)
        exact = runs[runs["metric"] == "UA"].assign(metric="mia_salun_exact", value=1.0)
        pd.concat([runs, exact]).to_csv(path, index=False)
    row = find(build()[2], request="random", method="original", metric="mia_salun_exact")
    assert row["mean"] == 1
    assert row[["gap", "floor", "rank"]].isna().all()
    assert not isinstance(row["verdict"], str)


def test_judging_and_unlearning_seeds_are_averaged(folder):
    """A second unlearning seed, each judged twice: the mean over them, and still three seeds."""
    for method in ("original", "retrain"):
        path = store.table_folder("bench-a", method) / "runs.csv"
        runs = pd.read_csv(path)
        again = runs.assign(judging_seed=1, value=runs["value"] + 0.01)
        first = pd.concat([runs, again[again["metric"] == "mia_salun"]])
        second = first.assign(unlearning_seed=1, value=first["value"] + 0.02)
        pd.concat([first, second]).to_csv(path, index=False)
    settings = params()
    section = settings.benchmarks["bench-a"].model_copy(update={"unlearning_seeds": [0, 1], "judging_seeds": [0, 1]})
    settings = settings.model_copy(update={"benchmarks": {"bench-a": section}})
    table = tables.leaderboard(settings, tables.read(settings))
    for metric, shift in {"UA": 0.01, "mia_salun": 0.015}.items():
        row = find(table, request="random", method="original", metric=metric)
        assert row["mean"] == pytest.approx(METRICS[metric] + 0.1 + 0.01 + shift)
        assert row["n"] == 3


def test_average_gap_is_that_of_saluns_table(folder):
    _, _, table = build()
    assert find(table, request="class", method="original", metric="avg_gap")["mean"] == pytest.approx(0.1)
    assert find(table, request="class", method="retrain", metric="avg_gap")["mean"] == 0
    assert math.isnan(find(table, request="class", method="original", metric="avg_gap")["floor"])


def test_cost_is_relative_to_retrain_and_has_no_gap(folder):
    _, _, table = build()
    row = find(table, request="random", method="original", metric="samples")
    assert row["mean"] == pytest.approx(0.25)
    assert math.isnan(row["gap"])
    assert find(table, request="random", method="retrain", metric="samples")["mean"] == 1


def test_a_metric_that_a_target_lacks_has_no_mean_over_the_others(folder):
    path = store.table_folder("bench-a", "original") / "runs.csv"
    runs = pd.read_csv(path, dtype=tables.RUN_TYPES)
    lacking = (runs["target"] == "class-1") & (runs["seed"] == 2) & (runs["metric"] == "TA")
    runs[~lacking].to_csv(path, index=False)
    row = find(build()[2], request="class", method="original", metric="TA")
    assert row["n"] == 2
    assert row["mean"] == pytest.approx(METRICS["TA"] + 0.1 + 0.0025 + 0.005)  # seeds 0 and 1


def test_a_metric_of_all_seeds_together_has_no_interval_and_needs_every_target(folder):
    write_tables("salun", card())
    for method, values in {"salun": (0.7, 0.9), "retrain": (0.5, 0.5)}.items():
        path = store.table_folder("bench-a", method) / "runs.csv"
        runs = pd.read_csv(path, dtype=tables.RUN_TYPES)
        whole = runs[runs["metric"] == "UA"].drop_duplicates("target").assign(seed=pd.NA)
        of_class = whole[whole["request"] == "class"].assign(metric="ulira_auc", value=values)
        one = of_class.head(1)
        added = [of_class, one.assign(metric="klom"), of_class.assign(metric="ulira_auc_low")]
        added += [of_class.assign(metric="ulira_models_unlearned", value=3)]
        pd.concat([runs, *added]).to_csv(path, index=False)
    _, _, table = build(salun={})
    row = find(table, request="class", method="salun", metric="ulira_auc")
    assert row["mean"] == pytest.approx(0.8)
    assert row["gap"] == pytest.approx(0.3)
    assert math.isnan(row["ci_low"])
    assert row["n"] == len(SEEDS)
    assert row["status"] == "ok"
    assert not {"klom", "ulira_auc_low", "ulira_models_unlearned"} & set(table["metric"])


def test_a_shared_round_is_marked_and_explained(folder):
    write_tables("salun", card())
    runs = pd.read_csv(store.table_folder("bench-a", "salun") / "runs.csv")
    extra = runs[runs["metric"] == "UA"].assign(metric="round_targets", value=3)
    path = store.table_folder("bench-a", "salun") / "runs.csv"
    pd.concat([runs, extra]).to_csv(path, index=False)
    _, _, table = build(salun={})
    markdown = text.leaderboard(table)
    assert "0.25x† |" in next(line for line in markdown.splitlines() if line.startswith("| salun"))
    assert text.SHARED_MEANING in markdown
    _, _, plain = build()
    assert text.SHARED not in text.leaderboard(plain)


def test_failed_runs_take_their_seed_out_and_are_told(folder):
    write_tables("salun", card(), failed={("class-1", 2)})
    _, _, table = build(salun={})
    row = find(table, request="class", method="salun", metric="UA")
    assert row["n"] == 2
    assert row["status"] == "failed: 1 of 6 runs; ValueError: boom"
    assert row["mean"] == pytest.approx(METRICS["UA"] + 0.02 + 0.0025 + 0.005)  # seeds 0 and 1
    assert find(table, request="random", method="salun", metric="UA")["status"] == "ok"
    markdown = next(line for line in text.leaderboard(table).splitlines() if line.startswith("| salun (failed"))
    assert markdown.count("(n=2)") == len(METRICS) + 2  # and avg_gap and samples


def test_a_method_that_fails_throughout_has_a_row_without_numbers(folder):
    write_tables("salun", card(), failed={(t, s) for t in ("class-0", "class-1") for s in SEEDS})
    _, _, table = build(salun={})
    row = find(table, request="class", method="salun")
    assert row["status"].startswith("failed: 6 of 6 runs")
    assert row["n"] == 0
    assert math.isnan(row["mean"])
    assert "failed: 6 of 6 runs" in text.leaderboard(table)


def test_a_request_that_a_method_does_not_serve_is_shown_as_such(folder):
    write_tables("kodge", card(serves=["class"]))
    _, _, table = build(kodge={})
    assert find(table, request="random", method="kodge")["status"] == "not served"
    suite.gap_to_retrain(table[table["request"] == "random"], "t")  # draws without it


def test_files_of_removed_methods_are_not_read(folder):
    write_tables("salun", card())
    _, _, table = build()
    assert set(table["method"]) == {"original", "retrain"}


def test_a_missing_table_is_an_error(folder):
    with pytest.raises(BadInput, match="salun"):
        build(salun={})


def test_an_empty_table_file_is_an_error(folder):
    (store.table_folder("bench-a", "original") / "runs.csv").write_text("")
    with pytest.raises(BadInput, match="damaged"):
        build()


def test_markdown_has_a_line_a_method_and_marks_the_floor(folder):
    write_tables("salun", card())
    lines = text.leaderboard(build(salun={})[2]).splitlines()
    rows = [line for line in lines if line.startswith("| salun")]
    assert len(rows) == 2
    assert rows[0].startswith("| salun | 1 (1–1) |")
    assert "| 93.25 [92.00, 94.50] |" in rows[0]  # undecided
    original = next(line for line in lines if line.startswith("| original"))
    assert "| 101.25 [100.00, 102.50] ≠ |" in original  # gap 10 points
    floors = next(line for line in lines if line.startswith("| *its noise floor*"))
    assert floors.count("± 3.51") == len(METRICS)


@pytest.mark.parametrize(
    ("verdict", "mark"), [("indistinguishable", "≈"), ("different", "≠"), ("undecided", ""), (math.nan, "")]
)
def test_a_verdict_has_a_mark(verdict, mark):
    assert text.mark(SimpleNamespace(verdict=verdict)) == mark


def test_numbers_for_dvc_metrics(folder):
    nested = text.metrics(build()[2])
    assert nested["random"]["retrain"]["UA"] == pytest.approx(0.91)
    assert set(nested["random"]["retrain"]) <= {"avg_gap", "UA", "RA", "TA", "mia_salun", "samples"}
    json.dumps(nested, allow_nan=False)


def test_rows_for_dvc_plots_stand_in_percent_by_average_gap(folder):
    table = build()[2]
    rows = text.plotted(table)["random"]
    shown = rows.pivot(index="method", columns="metric", values="value")
    assert shown.loc["retrain", "UA"] == pytest.approx(91)
    assert list(rows["metric"].unique())[:2] == ["Avg. gap", "UA"]
    for _, of_metric in rows.groupby("metric"):
        assert list(of_metric["method"])[:2] == ["original", "retrain"]
    gaps = rows.loc[rows["metric"] == "Avg. gap", "value"].iloc[2:]
    assert gaps.is_monotonic_increasing


def write_costs(method, seconds, hardware="machine A"):
    runs = [
        {
            "request": r,
            "target": t,
            "seed": s,
            "status": "ok",
            "reason": "",
            "seconds": seconds + s,
            "seconds_prepare": 0.0,
            "targets": 0,
            "peak_device_bytes": None,
            "peak_growth_bytes": 1000,
            "flops": {"forward": 10, "backward": 20, "beside": 0},
            "stored_bytes": 0,
        }
        for r, t in (("class", "class-0"), ("class", "class-1"), ("random", "random"))
        for s in SEEDS
    ]
    stamp = {"commit": "abc", "hardware": hardware, "versions": {"torch": "2.15.0"}}
    store.write_json(store.cost_file("bench-a", method), {"stamp": stamp, "runs": runs})


def test_seconds_are_compared_on_equal_hardware_alone(folder):
    write_costs("original", 1.0, "machine B")
    write_costs("retrain", 3.0)
    write_costs("salun", 1.0)
    table = timings(params(salun={}))
    assert list(table.columns) == TIMING_COLUMNS
    assert find(table, request="class", method="salun", metric="seconds")["ratio"] == pytest.approx(2 / 4)
    assert math.isnan(find(table, request="class", method="original", metric="seconds")["ratio"])
    assert find(table, request="class", method="original", metric="flops")["ratio"] == 1
    assert "| original | 2.000 ± 2.484 | - | 3 | machine B | abc |" in text.timings(table)


GAPS = pd.DataFrame(
    np.random.default_rng(0).normal(size=(4, 6)) * [1, 2, 3, 1, 2, 3],
    index=pd.Index(range(4), name="seed"),
    columns=pd.MultiIndex.from_product([["UA", "RA"], list("abc")], names=["metric", "method"]),
)


def write_shared(method: str, prepare: float, request: float) -> None:
    """Runs of which two targets share a round: a cost file and a table, costs in FLOPs and seconds alike."""
    path = store.cost_file("bench-a", method)
    write_costs(method, 0.0)
    cost = store.read_json(path)
    for run in cost["runs"]:
        own = request + prepare / 2
        run |= {"seconds": own, "seconds_prepare": prepare, "targets": 2, "peak_growth_bytes": 3_000_000}
        run["flops"] = {"forward": own, "backward": 0, "beside": 0}
        run["flops"]["prepared"] = {"forward": prepare, "backward": 0, "beside": 0, "targets": 2}
    store.write_json(path, cost)
    table = store.table_folder("bench-a", method) / "runs.csv"
    runs = pd.read_csv(table)
    first = runs[runs["metric"] == "UA"]
    values = {"flops_forward": request + prepare / 2, "flops_backward": 0, "flops_beside": 0}
    values |= {"flops_prepare": prepare, "round_targets": 2, "stored_bytes": 8}
    pd.concat([runs, *(first.assign(metric=m, value=v) for m, v in values.items())]).to_csv(table, index=False)


def test_break_even_by_hand(folder):
    """35 once and 2 a request, against 10 for each retraining: 35 + 5 * 2 = 45 <= 50, and 35 + 4 * 2 = 43 > 40."""
    write_tables("salun", card())
    write_tables("finetune", card())
    write_shared("original", 0, 0)
    write_shared("retrain", 0, 10)
    write_shared("salun", 35, 2)
    write_shared("finetune", 1, 10)
    _, _, table = build(salun={}, finetune={})
    timed = timings(params(salun={}, finetune={}))
    expected = {"original": 1, "retrain": 1, "salun": 5, "finetune": math.inf}
    for method, value in expected.items():
        where = {"request": "class", "method": method}
        assert find(table, **where, metric="flops_break_even")["mean"] == value
        assert find(timed, **where, metric="flops_break_even")["mean"] == value
        assert find(timed, **where, metric="seconds_break_even")["mean"] == value
    row = find(table, request="class", method="salun", metric="flops")
    assert row["mean"] == pytest.approx((2 + 35 / 2) / 10)
    shown = text.timings(timed)
    line = "| salun | 19.500 ± 0.000 | 1.95x | 3 | machine A | abc | 2.15.0 | 1.95x | 3.0 | 1.00x | 0.0 | 5 | 5 |"
    assert line in shown
    assert "| 0.0 | never | never |" in shown


def test_figures_have_the_same_bytes_twice(folder, tmp_path):
    _, judged, table = build()
    here = table[table["request"] == "class"]
    for run in ("a", "b"):
        save(suite.gap_to_retrain(here, "t"), tmp_path / run / "gap")
        save(suite.forgetting_against_cost(here, "t"), tmp_path / run / "cost")
        save(suite.accuracy_per_class(judged.classes, ["original", "retrain"], "t"), tmp_path / run / "classes")
        save(suite.rank_stability(rank_stability(GAPS), "t"), tmp_path / run / "ranks")
        found = critical_difference(GAPS.abs().T.groupby(level="method").mean().T)
        save(suite.critical_difference(found, "t"), tmp_path / run / "difference")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_heat_map_shows_the_accuracies(folder):
    _, judged, _ = build()
    classes = judged.classes[judged.classes["request"] == "class"]
    figure = suite.accuracy_per_class(classes, ["original", "retrain"], "t")
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, [[0, 10, 20], [0, 10, 20]], atol=1e-9)


def test_what_is_left_out_says_why_and_is_no_failure(folder):
    write_tables("slow", card())
    settings = params(slow={})
    benchmark = settings.benchmarks["bench-a"].model_copy(update={"skip": {"slow": "hours of <it>"}})
    settings = settings.model_copy(update={"benchmarks": {"bench-a": benchmark}})
    for name in ("runs.csv", "classes.csv"):
        path = store.table_folder("bench-a", "slow") / name
        pd.read_csv(path).iloc[:0].to_csv(path, index=False)
    judged = tables.read(settings)
    table = tables.leaderboard(settings, judged)
    rows = table[table["method"] == "slow"]
    assert list(rows["status"].unique()) == ["left out: hours of <it>"]
    assert "| slow (left out: hours of <it>) | - |" in text.leaderboard(table)


def test_without_an_oracle_values_stand_without_gaps(folder):
    """Weights that were trained on the benchmark's own data leave nothing to retrain from."""
    write_tables("salun", card())
    settings = params(salun={})
    network = {"name": "torchvision/vgg11_bn", "pretrained": {"on": "digits", "tag": "IMAGENET1K_V1"}}
    raw = settings.model_dump(mode="json")
    raw["benchmarks"]["bench-a"]["architecture"] = network
    settings = Params.model_validate(raw)
    for name in ("runs.csv", "classes.csv"):
        path = store.table_folder("bench-a", "retrain") / name
        pd.read_csv(path).iloc[:0].to_csv(path, index=False)
    judged = tables.read(settings)
    table = tables.leaderboard(settings, judged)
    assert find(table, request="class", method="salun", metric="ACC_r")["mean"] > 0
    assert table["gap"].isna().all()
    assert list(table[table["method"] == "retrain"]["status"].unique()) == [
        "left out: the pretrained weights have seen the training set"
    ]
    assert "left out: the pretrained weights" in text.leaderboard(table)
    figures.run(settings, "bench-a")
    drawn = {path.stem for path in (folder / "reports/bench-a/figures").iterdir()}
    assert drawn == {"class-accuracy-per-class", "random-accuracy-per-class"}

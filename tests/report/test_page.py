"""The page from small tables made by hand: what it says, what it escapes, and what it does in headless Chromium."""

import base64
import csv
import io
import json
import math
import re
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from bench import store
from bench.errors import BadInput
from bench.report import charts, downloads, evidence, page, tables
from bench.report.evidence import Evidence
from bench.report.flags import FLAGS, access, advice, flags
from tests.report.test_report import SEEDS, build, card, params, write_costs, write_tables

EVIL = "<script>alert(1)</script>"
PAPER = {"title": "A & B_1", "authors": "Ø. Doe, Roe, et al.", "venue": "V", "year": 2024, "url": "https://example.org"}


def render(settings, judged, table, **more) -> str:
    return page.render(settings, table, judged, **more)


def without_data(html: str) -> str:
    """The page without its packed parts and its scripts."""
    return re.sub(r"<script.*?</script>", "", html, flags=re.S)


def unpacked(html: str, name: str):
    (packed,) = re.findall(rf'id="{name}">([^<]*)<', html)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def row(metric="UA", mean=0.5, **more) -> SimpleNamespace:
    values = {"ci_low": math.nan, "gap": math.nan, "gap_low": math.nan, "margin": 0.01, "verdict": math.nan, "n": 5}
    values |= {"rank": math.nan, "rank_low": math.nan, "rank_high": math.nan, "metric": metric, "mean": mean}
    return SimpleNamespace(**values | more)


# --- what it says -----------------------------------------------------------------------------------


def test_page_loads_nothing_is_small_and_is_the_same_twice(folder):
    write_tables("salun", card(**PAPER))
    built = build(salun={})
    html = render(*built)
    assert html == render(*built)
    assert len(html) < 5e6
    shown = without_data(html)
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)|url\(([^)]+)\)|@import""", shown)
    sources = {next(filter(None, found)) for found in loaded}
    assert {s for s in sources if not s.startswith(("#", "data:"))} == {
        "https://example.org",
        "bench-a/leaderboard.csv",
    }
    assert not re.search(r"<(img|iframe|object|embed|link[^>]+stylesheet|script[^>]+src)", shown)


def test_page_escapes_what_it_is_given(folder):
    given = card(**dict.fromkeys(("title", "authors", "venue"), EVIL), year=2024, url="javascript:alert(1)")
    given |= {"file": EVIL, "hyperparameters": {"lr": EVIL}}
    write_tables("salun", given, {("random", 0)}, EVIL)
    path = store.table_folder("bench-a", "salun") / "runs.csv"
    pd.read_csv(path, dtype=tables.RUN_TYPES).replace({"metric": {"ACC_r": EVIL}}).to_csv(path, index=False)
    found = Evidence(provenance={"bench-a": {"Commit": EVIL}})
    html = render(*build(salun={}), found=found, reproduction=pd.DataFrame({EVIL: [EVIL]}))
    assert EVIL not in html
    assert without_data(html).count("&lt;script&gt;alert(1)") == 7  # title, authors, venue, status, ...
    assert "javascript:" not in without_data(html)
    assert EVIL not in json.dumps(unpacked(html, "all-bench-a-random"))
    assert "&lt;script&gt;" in json.dumps(unpacked(html, "all-bench-a-random"))


def test_rows_read_without_javascript(folder):
    write_tables("salun", card())
    body = render(*build(salun={})).split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r'<a href="#method-([a-z_]+)">', body) == ["original", "retrain", "salun"]
    cell = re.search(r"93\.25.*?</td>", body, re.S)[0]  # UA, by hand in test_report.py
    assert re.sub(r"<[^>]+>", " ", cell).split() == [
        *("93.25", "[92.00,", "94.50]", "gap", "+2.00,", "n", "=", "3", "[+2.00,", "+2.00]")
    ]


def test_a_shared_round_is_marked_and_explained(folder):
    write_tables("salun", card())
    path = store.table_folder("bench-a", "salun") / "runs.csv"
    runs = pd.read_csv(path)
    pd.concat([runs, runs[runs["metric"] == "UA"].assign(metric="round_targets", value=3)]).to_csv(path, index=False)
    html = render(*build(salun={}))
    assert "0.25x†" in html
    assert "one round serves all targets of a seed" in html
    assert "†" not in without_data(render(*build()))


def test_failed_runs_are_told_and_flagged(folder):
    write_tables("salun", card(), failed={("class-1", 2)})
    write_tables("scrub", card(), failed={(t, s) for t in ("class-0", "class-1") for s in SEEDS}, reason="it diverged")
    body = render(*build(salun={}, scrub={})).split("<tbody>")[1].split("</tbody>")[0]
    rows = dict(re.findall(r'<tr data-method="(\w+)".*?>(.*?)</tr>', body, re.S))
    assert "<strong>n = 2</strong>" in rows["salun"]
    assert "ValueError: boom" in rows["salun"]
    assert re.findall(r'class="flag"[^>]*>([^<]+)', rows["salun"]) == ["failed", "too few seeds"]
    assert re.findall(r'class="flag"[^>]*>([^<]+)', rows["scrub"]) == ["diverged"]
    assert "nan" not in without_data(body)


def test_without_a_retrain_the_page_says_that_there_are_no_gaps(folder):
    shutil.rmtree(store.table_folder("bench-a", "retrain"))
    write_tables("retrain", card(), failed={(t, s) for t in ("class-0", "class-1", "random") for s in SEEDS})
    shown = without_data(render(*build()))
    assert shown.count("No retrain succeeded here, so nothing can be said of the gaps") == 2
    assert "nan" not in shown
    assert "Which method to use here</h3>" not in shown


def test_what_is_not_served_or_left_out_says_so_and_earns_no_flag(folder):
    write_tables("kodge", card(serves=["class"]))
    settings, judged, table = build(kodge={})
    body = render(settings, judged, table).split('id="bench-a-random"')[1].split("</tbody>")[0]
    last = body.split('data-method="kodge"')[1]
    assert "does not serve this request" in last
    assert "flag" not in last
    benchmark = settings.benchmarks["bench-a"].model_copy(update={"skip": {"kodge": "hours of <it>"}})
    settings = settings.model_copy(update={"benchmarks": {"bench-a": benchmark}})
    assert "left out: hours of &lt;it&gt;" in render(settings, judged, tables.leaderboard(settings, judged))


def test_every_metric_stands_in_the_packed_table(folder):
    write_tables("salun", card())
    settings, judged, table = build(salun={})
    rows = unpacked(render(settings, judged, table), "all-bench-a-class")
    here = table[table["request"] == "class"]
    assert sorted((r[1], r[2]) for r in rows) == sorted(zip(here["metric"], here["method"], strict=True))
    assert [r[0] for r in rows] == sorted((r[0] for r in rows), key=[*page.FAMILIES, page.REST].index)
    (found,) = (r for r in rows if r[1:3] == ["UA", "salun"])
    assert found[3:9] == ["0.9325", "[0.92, 0.945]", "0.02", "[0.02, 0.02]", "0.03513", "3"]


@pytest.mark.parametrize(
    ("metric", "family"),
    {
        "UA": "Accuracy",
        "mia_svc_prob_auc": "Membership attacks",
        "confusion_forget": "Distances of predictions",
        "confusion_error": "Manipulated data",
        "tow_mia": "Summaries",
        "flops_break_even": "Cost",
        "relearn_area": page.REST,
    }.items(),
)
def test_a_metric_has_a_family(metric, family):
    assert page.family(metric) == family


def test_a_reproduction_table_has_a_tab(folder):
    html = render(*build(), reproduction=pd.DataFrame({"ours": [1.5, None], "theirs": ["a", "b"]}))
    section = html.split('<section id="reproduction">')[1].split("</section>")[0]
    assert re.findall(r"<t[hd](?: [^>]*)?>([^<]*)", section) == ["ours", "theirs", "1.5", "a", "", "b"]
    assert 'href="#reproduction"' not in render(*build())


# --- cards, flags and advice ------------------------------------------------------------------------


def test_an_access_card_by_hand():
    kodge = {"reads": ["forget", "retain"], "labels": True, "trains": False, "shares": True}
    assert access(kodge) == ["training-free", "one-round"]
    assert access({"reads": ["forget"], "labels": False, "trains": True}) == ["retain-free", "label-free"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"UA": row(gap=0.02, verdict="different")}, ["over-forgotten"]),
        ({"UA": row(gap=0.02, verdict="undecided")}, []),
        ({"UA": row(gap=-0.5, verdict="different")}, []),
        ({"RA": row(gap=-0.06)}, ["utility collapse"]),
        ({"TA": row(gap=-0.06, margin=0.07)}, []),
        ({"TA": row(gap=-0.04, margin=0)}, []),
        ({"UA": row(n=4)}, ["too few seeds"]),
        ({}, []),
    ],
)
def test_flags_by_hand(rows, expected):
    assert flags("salun", "ok", rows, {}) == expected
    assert set(expected) <= set(FLAGS)


def test_what_is_tuned_on_the_oracle_is_flagged_and_references_are_not_judged():
    assert flags("salun", "ok", {}, {"tuned_on_oracle": True}) == ["tuned on oracle"]
    assert flags("original", "ok", {"RA": row(gap=-1)}, {}) == []


def method(gap, flops, verdict="undecided", ranks=(1, 1)) -> dict:
    of_gap = row("avg_gap", gap, rank=ranks[0], rank_low=ranks[0], rank_high=ranks[1])
    return {"avg_gap": of_gap, "flops": row("flops", flops), "UA": row(verdict=verdict)}


def test_advice_by_hand():
    """`dear` is nearest but dearer than retraining, `masked` a control, `broken` flagged: none is recommended."""
    rows = {"retrain": method(0, 1), "original": method(0.5, 0), "dear": method(0.001, 1.2), "masked": method(0.001, 0)}
    rows |= {"broken": method(0.001, 0.1), "near": method(0.01, 0.8, "different", (1, 2))}
    rows |= {"cheap": method(0.03, 0.1, ranks=(2, 3)), "free": method(0.2, 0.2, ranks=(3, 4))}
    plain = {"paper": PAPER, "reads": ["forget", "retain"], "labels": True, "trains": True}
    cards = dict.fromkeys(rows, plain) | {"masked": plain | {"paper": None}, "free": plain | {"trains": False}}
    bad = {name: [] for name in rows} | {"broken": ["utility collapse"]}
    found = {question: (name, why) for question, name, why in advice(rows, cards, bad, {"masked"})}
    assert found["Nearest to retrain"][0] == "near"
    assert found["Nearest to retrain"][1].startswith("1.00 points from retrain on average, at 0.80 times its FLOPs.")
    assert "it may as well be cheap." in found["Nearest to retrain"][1]
    assert found["Cheapest without a ≠ on UA, RA, TA and MIA (SalUn)"][0] == "cheap"
    assert found["Without training"][0] == "free"
    assert found["Without retained data"] == ("", "none.")
    only = {name: rows[name] for name in ("retrain", "dear")}
    assert advice(only, cards, bad)[0][0] == "Retrain"
    assert advice({"dear": rows["dear"]}, cards, bad) == []


# --- downloads --------------------------------------------------------------------------------------


def joined(pieces, shown) -> str:
    return "".join(text for methods, text in pieces if not methods or shown & set(methods))


@pytest.mark.parametrize("shown", [{"original", "retrain", "salun", "ssd"}, {"ssd"}, set()])
def test_any_choice_of_methods_makes_valid_files(folder, shown):
    write_tables("salun", card())
    write_tables("ssd", card(), failed={(t, s) for t in ("class-0", "class-1") for s in SEEDS}, reason='a "b", c')
    table = build(salun={}, ssd={})[2]
    here = table[table["request"] == "class"]
    rows = list(csv.DictReader(io.StringIO(joined(downloads.csv(here), shown))))
    assert {r["method"] for r in rows} == shown
    assert len(rows) == here["method"].isin(shown).sum()
    of, *entries = json.loads(joined(downloads.as_json(here), shown))
    assert of["request"] == "class"
    assert {entry["method"] for entry in entries} == shown
    for entry in entries:
        expected = here[(here["method"] == entry["method"]) & (here["metric"] == "UA")]["mean"]
        assert entry["metrics"].get("UA", {}).get("mean") == (
            pytest.approx(expected.iloc[0]) if len(expected) else None
        )
    latex = joined(downloads.latex("bench_a", here), shown)
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(shown) + ("retrain" in shown)
    columns = re.search(r"\\begin\{tabular\}\{l(r+)\}", latex)[1]
    assert all(line.count(" & ") == len(columns) and line.endswith(r" \\") for line in body)


def test_special_characters_are_escaped_in_latex():
    assert downloads._latex("a_b & 50 % {x} \\ ~") == r"a\_b \& 50 \% \{x\} \textbackslash{} \textasciitilde{}"


def test_a_paper_of_two_methods_has_one_entry(folder):
    here = pd.DataFrame({"method": ["a", "b", "c", "d"]})
    pieces = downloads.bibtex({"a": PAPER, "b": PAPER, "c": None, "d": PAPER | {"year": 2020}}, here)
    assert [methods for methods, _ in pieces] == [["a", "b"], ["d"]]
    entry = pieces[0][1]
    assert entry.startswith("@misc{doe2024a,\n  title = {{A \\& B\\_1}},\n  author = {Ø. Doe and Roe and others},\n")
    assert entry.count("{") == entry.count("}")


def test_links_hold_the_whole_file_and_where_to_cut_it(folder):
    write_tables("salun", card(**PAPER))
    table = build(salun={})[2]
    found = downloads.links(
        "b", table[table["request"] == "class"], {"original": None, "retrain": None, "salun": PAPER}
    )
    assert [link["file"] for link in found] == ["b.csv", "b.json", "b.tex", "b.bib"]
    for link in found:
        content = base64.b64decode(link["href"].split(",")[1]).decode()
        cut = json.loads(link["cut"])
        assert sum(length for _, length in cut) == len(content.encode("utf-16-le")) / 2
        assert "salun" in [methods for methods, _ in cut]


# --- evidence ---------------------------------------------------------------------------------------


def test_destinations_and_their_distance_by_hand():
    """Two seeds: the method sends class 0 to 1 and to 2 by half, retrain always to 2."""
    rows = [("a", 0, 1, 1.0), ("a", 1, 2, 1.0), ("retrain", 0, 2, 1.0), ("retrain", 1, 2, 1.0)]
    table = pd.DataFrame(rows, columns=["method", "seed", "predicted", "share"])
    table = table.assign(benchmark="b", target="t", unlearning_seed=0, set="forget", **{"class": 0})
    (found,) = evidence.destinations(table, "a")
    assert (found["ours"], found["retrain"], found["distance"]) == ("1 (50 %), 2 (50 %)", "2 (100 %)", "50 %")
    wide = pd.concat([table.assign(**{"class": c}) for c in range(10)])
    assert evidence.destinations(wide, "a") == []


def test_relearning_is_averaged_by_step(folder):
    write_tables("salun", card())
    rows = [
        (m, t, step, accuracy + 0.1 * (t == "class-1"))
        for m, start in {"salun": 0.1, "retrain": 0.0, "original": 0.9}.items()
        for t in ("class-0", "class-1")
        for step, accuracy in ((0, start), (5, 0.9))
    ]
    table = pd.DataFrame(rows, columns=["method", "target", "step", "accuracy"])
    table = table.assign(benchmark="bench-a", seed=0, unlearning_seed=0, data="retain", split="forget")
    (found,) = evidence.relearning(params(salun={}), table, "salun")
    expected = {"data": "retained data", "accuracies": ["15 → 95 %", "5 → 95 %", "95 → 95 %"]}
    assert found["ends"] == [expected]
    assert len(found["curves"]) == 6
    assert evidence.relearning(params(salun={}), table, "retrain") == []
    html = render(*build(salun={}), found=Evidence(curves=table))
    drawn = unpacked(html, "charts")["relearning-bench-a-class-salun"]
    assert drawn["datasets"]["curves"] == found["curves"]


def write_evidence(methods) -> None:
    """What `evidence.read` reads, beside the tables."""
    columns = [
        "benchmark",
        "request",
        "target",
        "method",
        "seed",
        "unlearning_seed",
        "set",
        "class",
        "predicted",
        "share",
    ]
    audit = {"splits": {"train": {"sha256": "a" * 64}, "test": {"sha256": "b" * 64}}}
    store.write_json(store.dataset_folder("bench-a") / "audit.json", audit)
    for name in methods:
        run = ["bench-a", "class", "class-0", name, 0, 0, "forget", 0, 1, 1.0]
        pd.DataFrame([run], columns=columns).to_csv(store.table_folder("bench-a", name) / "confusion.csv", index=False)
        write_costs(name, 1.0)
        cost = store.read_json(store.cost_file("bench-a", name))
        cost["runs"] = [run | {"hardware": "machine A"} for run in cost["runs"]]
        store.write_json(store.cost_file("bench-a", name), cost)


def test_provenance_names_what_made_the_results_and_no_time(folder):
    write_evidence(["original", "retrain"])
    settings, judged, table = build()
    found = evidence.read(settings, judged)
    facts = found.provenance["bench-a"]
    assert facts["Data"] == f"train {'a' * 16}; test {'b' * 16}"
    assert (facts["Commit"], facts["Hardware"], facts["Versions"]) == ("abc", "machine A", "torch 2.15.0")
    html = render(settings, judged, table, found=found)
    cost = store.read_json(store.cost_file("bench-a", "original"))
    cost["runs"] = [run | {"seconds": 99.0} for run in cost["runs"]]
    store.write_json(store.cost_file("bench-a", "original"), cost)
    assert render(settings, judged, table, found=evidence.read(settings, judged)) == html
    cost["stamp"]["commit"] = "def"
    store.write_json(store.cost_file("bench-a", "original"), cost)
    assert evidence.read(settings, judged).provenance["bench-a"]["Commit"] == "def (1 method); abc (1 method)"
    judged.cards["bench-a", "retrain"]["hyperparameters"]["lr"] = 0.2
    assert evidence.read(settings, judged).provenance["bench-a"]["Parameters"] != facts["Parameters"]
    (store.table_folder("bench-a", "retrain") / "confusion.csv").unlink()
    with pytest.raises(BadInput, match=r"confusion\.csv: no such file"):
        evidence.read(settings, judged)


# --- the chart --------------------------------------------------------------------------------------


def test_the_front_is_what_nothing_else_beats():
    rows = {"retrain": method(0, 1), "a": method(0.01, 0.5), "b": method(0.2, 0.1), "c": method(0.3, 0.2)}
    plain = {"paper": PAPER, "reads": ["retain"], "labels": True, "trains": True}
    cards = dict.fromkeys(rows, plain)
    spec = charts.pareto(rows, cards)
    (points,) = spec["datasets"].values()
    assert {p["method"] for p in points if p["front"]} == {"a", "b"}
    assert {p["method"]: (p["cost"], p["gap"]) for p in points}["c"] == (0.2, 30)
    drawn = charts.svg(spec)
    assert drawn == charts.svg(spec)
    assert "average gap to retrain, points" in drawn
    assert charts.pareto({"retrain": method(0, 1)}, cards) is None


# --- in a browser -----------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BOARD = "#table-bench-a-class"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A page with three methods, all that stands beside the leaderboard, and evil names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        given = {
            "salun": card(
                title=EVIL, authors=EVIL, venue="<img src=x onerror=alert(2)>", year=2024, url="https://e.org"
            ),
            "kodge": card(**PAPER),
            "ssd": card(),
        }
        given["kodge"]["card"] |= {"trains": False, "shares": True}
        given["ssd"]["card"] |= {"trains": False, "labels": False, "reads": ["retain"]}
        for name, of_method in {"original": card(), "retrain": card(), **given}.items():
            write_tables(name, of_method, {("random", 1)} if name == "ssd" else set(), "<img src=x onerror=alert(3)>")
        path = store.table_folder("bench-a", "salun") / "runs.csv"
        runs = pd.read_csv(path, dtype=tables.RUN_TYPES)
        evil = runs[runs["metric"] == "UA"].assign(metric="<img src=x onerror=alert(4)>")
        pd.concat([runs, evil]).to_csv(path, index=False)
        write_evidence(["original", "retrain", *given])
        settings, judged, table = build(**{name: {} for name in given})
        for name, gap in {"salun": 0.5, "kodge": -0.001, "ssd": 0.2}.items():
            table.loc[(table["method"] == name) & (table["metric"] == "UA"), "gap"] = gap
        curves = [
            {
                "benchmark": "bench-a",
                "target": "class-0",
                "method": m,
                "data": "all",
                "step": step,
                "accuracy": 0.1 * step,
            }
            for m in ("original", "retrain", "salun")
            for step in range(5)
        ]
        read = evidence.read(settings, judged)
        found = Evidence(read.confusion, pd.DataFrame(curves), read.provenance)
        ours = pd.DataFrame({"paper": [EVIL], "ours": [0.5]})
        target = Path("index.html").absolute()
        target.write_text(render(settings, judged, table, found=found, reproduction=ours), encoding="utf-8")
        return target


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine to open the page in (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def opened(built, browser):
    """The page when all is drawn; whatever goes wrong on it meanwhile fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    tab, wrong = context.new_page(), []
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
    tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    tab.goto(built.as_uri())
    tab.wait_for_function("document.body.dataset.ready && document.querySelector('[data-drawn=done]')")
    yield tab
    context.close()
    assert wrong == []


def order(tab) -> list[str]:
    return tab.eval_on_selector_all(f"{BOARD} tbody tr", "rows => rows.map(row => row.dataset.method)")


in_browser = pytest.mark.xdist_group("page")


@in_browser
def test_tables_sort_by_mouse_and_keyboard_with_references_on_top(opened):
    head = opened.locator(f"{BOARD} thead th", has_text=re.compile(r"^UA"))
    head.click()
    opened.wait_for_selector(f"{BOARD} th[aria-sort='ascending']")
    assert order(opened) == ["original", "retrain", "kodge", "ssd", "salun"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("[tabindex='0']").press("Enter")
    opened.wait_for_selector(f"{BOARD} th[aria-sort='descending']")
    assert order(opened) == ["original", "retrain", "salun", "ssd", "kodge"]


@in_browser
def test_tables_filter_by_access_card_and_search_and_downloads_follow(opened):
    def downloaded(kind: str) -> str:
        link = opened.locator(f"#bench-a-class a[download$='.{kind}']")
        return opened.evaluate("href => fetch(href).then(file => file.text())", link.get_attribute("href"))

    whole = downloaded("csv")
    assert {r["method"] for r in csv.DictReader(io.StringIO(whole))} == {"original", "retrain", "salun", "kodge", "ssd"}
    box = opened.locator("#bench-a-class fieldset input[value='training-free']")
    box.focus()
    box.press("Space")
    assert sorted(order(opened)) == ["kodge", "original", "retrain", "ssd"]
    opened.locator("#bench-a-class fieldset input[value='one-round']").check()
    assert order(opened) == ["original", "retrain", "kodge"]
    assert opened.locator("#bench-a-class .shown").inner_text() == "3 rows are shown"
    assert {r["method"] for r in csv.DictReader(io.StringIO(downloaded("csv")))} == {"original", "retrain", "kodge"}
    assert [e["method"] for e in json.loads(downloaded("json"))[1:]] == ["original", "retrain", "kodge"]
    assert "salun" not in downloaded("tex")
    assert downloaded("bib").count("@misc") == 1
    box.uncheck()
    opened.locator("#bench-a-class fieldset input[value='one-round']").uncheck()
    opened.locator("#bench-a-class .dt-search input").fill("salun")
    assert order(opened) == ["salun"]
    opened.locator("#bench-a-class .dt-search input").fill("")
    assert downloaded("csv") == whole


@in_browser
def test_tabs_switch_by_mouse_and_keyboard(opened):
    def visible() -> list[str]:
        return opened.eval_on_selector_all("[role=tabpanel]", "all => all.filter(p => !p.hidden).map(p => p.id)")

    assert visible() == ["bench-a-class"]
    opened.get_by_role("tab", name="random").click()
    assert visible() == ["bench-a-random"]
    opened.keyboard.press("ArrowRight")
    assert visible() == ["reproduction"]
    assert opened.evaluate("document.activeElement.ariaSelected") == "true"
    opened.keyboard.press("ArrowRight")  # around
    assert visible() == ["bench-a-class"]
    opened.keyboard.press("End")
    assert visible() == ["reproduction"]
    assert opened.locator("[role=tab][tabindex='0']").count() == 1


@in_browser
def test_charts_draw_and_answer_the_pointer(opened):
    chart = opened.locator("[data-chart='bench-a-class']")
    assert chart.locator("svg path[aria-roledescription='point']").count() == 5
    chart.locator("svg path[aria-roledescription='point']").last.hover()
    opened.wait_for_selector("#vg-tooltip-element.visible")
    assert "cost / retrain" in opened.locator("#vg-tooltip-element").inner_text()
    opened.locator(f"{BOARD} a", has_text="salun").click()  # opens the method's section
    opened.wait_for_selector("[data-chart='relearning-bench-a-class-salun'][data-drawn=done] svg")
    assert opened.locator("#method-salun").is_visible()


@in_browser
def test_all_metrics_are_there_and_names_are_escaped(opened):
    opened.locator("#bench-a-class details.every summary").click()
    opened.wait_for_selector("#bench-a-class table.every tbody td")
    assert opened.locator("#bench-a-class .dtrg-group").first.inner_text() == "Accuracy"
    opened.locator("#bench-a-class details.every .dt-search input").fill("onerror")
    cells = opened.locator("#bench-a-class table.every tbody td")
    assert cells.first.inner_text() == "<img src=x onerror=alert(4)>"
    assert opened.locator("img").count() == 0
    opened.get_by_role("tab", name="random").click()
    assert "onerror" in opened.locator("#table-bench-a-random .status").first.inner_text()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_without_javascript_and_fits_a_phone(built, browser, scheme):
    size = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, java_script_enabled=False, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(built.as_uri())
    for name in ("bench-a-class", "bench-a-random", "reproduction"):
        assert tab.locator(f"#{name} table").first.is_visible()
    assert tab.locator("#bench-a-class figure svg").is_visible()
    assert not tab.locator("fieldset").first.is_visible()
    assert tab.locator("body").bounding_box()["width"] <= 390
    assert tab.locator("#bench-a-class .scroll").first.bounding_box()["width"] <= 390
    context.close()

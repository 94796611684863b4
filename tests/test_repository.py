"""What must hold of the repository itself."""

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from bench import config
from bench.imports import file_of, hashes, imported
from bench.stages import plan

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(p for folder in ("bench", "methods", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
LOADERS = {("torch", "load"), ("joblib", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle")}


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_is_loaded(path):
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imported(path)} & PICKLING
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in LOADERS
        if isinstance(node, ast.ImportFrom):
            assert not {(node.module, alias.name) for alias in node.names} & LOADERS
        if isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "weights_only"}:
            raise AssertionError(f"{node.arg} in {path}")


STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"plan"}))
def test_stage_depends_on_its_plan(stage):
    axes = [f"${{item.{axis}}}" for axis in STAGES[stage].get("matrix", {})]
    assert STAGES[stage]["deps"][0] == "/".join(["data/plan", *axes, f"{stage}.json"])


MODULES = [f"bench.stages.{stage}" for stage in STAGES] + [
    f"methods.{path.stem}" for path in sorted((ROOT / "methods").glob("*.py")) if path.stem != "__init__"
]


@pytest.mark.parametrize("module", MODULES)
def test_plan_names_every_file_that_python_imports(module):
    """Else a change of that file would leave a stale result that calls itself fresh."""
    code = f"""import sys, {module}
print(*(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in {{"bench", "methods"}}), sep="\\n")"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {str(Path(line).relative_to(ROOT)) for line in found.split()} <= hashes(module).keys()


JUDGING = ["attack", "probe", "leaderboard", "timings", "figures", "reproduction", "page"]


@pytest.mark.parametrize("stage", JUDGING)
def test_judging_imports_no_torch(stage):
    code = f"import sys, bench.__main__, bench.stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


ALLOWED = {  # arrows of docs/architecture.md: what a part may import of bench and methods
    "bench/config.py": "corruption errors requests studies",
    "bench/corruption.py": "errors requests seeds",
    "bench/requests.py": "",
    "bench/store.py": "errors",
    "bench/seeds.py": "",
    "bench/datasets.py": "errors store",
    "bench/download.py": "errors store",
    "bench/images.py": "errors",
    "bench/sources.py": "download errors images requests store",
    "bench/audit.py": "store",
    "bench/prepare.py": "audit config errors sources store",
    "bench/forget.py": "config corruption datasets errors requests store seeds",
    "bench/models.py": "config errors",
    "bench/weights.py": "config download errors layers models store",
    "bench/layers.py": "",
    "bench/flops.py": "",
    "bench/memory.py": "",
    "bench/grams.py": "flops layers views",
    "bench/views.py": "config seeds",
    "bench/engine.py": "config",
    "bench/checkpoint.py": "errors store",
    "bench/distributed.py": "errors jobs store",
    "bench/training.py": "checkpoint config distributed engine models seeds views",
    "bench/problem.py": "checkpoint config flops models seeds training",
    "bench/memorization.py": "checkpoint config layers training",
    "bench/probes.py": "config layers seeds training",
    "bench/concepts.py": "errors layers store training",
    "bench/jobs.py": "errors jobs",
    "bench/imports.py": "store",
    "bench/scaffold/*.py": "config errors",
    "bench/resume.py": "checkpoint config datasets errors imports jobs provenance store",
    "bench/metrics/*.py": "config corruption errors store datasets forget metrics",
    "bench/report/*.py": "config errors requests store metrics report seeds",
    "bench/figures/*.py": "config datasets errors forget requests store metrics report figures",
}


@pytest.mark.parametrize("pattern", ALLOWED)
def test_arrows_go_one_way(pattern):
    for path in ROOT.glob(pattern):
        ours = {name.split(".")[1] for name in imported(path) if re.match(r"bench\.\w", name)}
        assert not ours - set(ALLOWED[pattern].split()), path.name
        assert not any(name.split(".")[0] == "methods" for name in imported(path)), path.name


def test_methods_see_only_the_contract_the_problem_and_training():
    allowed = {
        f"bench.{name}"
        for name in (
            "config",
            "errors",
            "problem",
            "requests",
            "training",
            "seeds",
            "flops",
            "layers",
            "grams",
            "concepts",
        )
    }
    for path in (ROOT / "methods").glob("*.py"):
        if path.stem == "__init__":
            continue
        ours = {name for name in imported(path) if name.split(".")[0] in {"bench", "methods"}}
        for name in ours:
            if name == "bench":
                continue
            module = next(m for m in (name, name.rpartition(".")[0]) if file_of(m))
            registry = {"methods"} if path.stem == "rum" else set()  # it calls methods by their names
            assert module in allowed | {"methods.base", "methods.steps"} | registry, f"{path.name} imports {name}"


def test_lock_files_name_no_registry():
    for lock in ("requirements.lock", "requirements-uv.lock"):
        text = (ROOT / lock).read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)


def test_committed_results_are_what_the_lock_says_and_those_in_run_are_in_step(tmp_path, monkeypatch):
    """Results that take an hour, or a GPU, are not made again at each change: they name the commit they are of."""
    lock = YAML(typ="safe", pure=True).load(ROOT / "dvc.lock")["stages"]
    reported = sorted(path.parent.name for path in ROOT.glob("reports/*/leaderboard.csv"))
    assert reported == sorted(name.split("@")[1] for name in lock if name.startswith("leaderboard@"))
    planned = config.load(ROOT / "params.yaml")
    assert set(planned.run) <= set(reported)
    readme = (ROOT / "README.md").read_text()
    for name in set(reported) - set(planned.run):
        commits = pd.read_csv(ROOT / f"reports/{name}/timings.csv")["commit"].unique()
        assert all(str(commit).removesuffix("-dirty") in readme for commit in commits), (
            f"{name}: the README must name its commit"
        )
    monkeypatch.chdir(tmp_path)
    plan.run(planned)
    current = {f"{stage}@{name}" for stage in STAGES for name in reported} | {"page", "reproduction"}
    current |= {
        f"{stage}@{b}-{m}" for stage in ("unlearn", "attack", "probe") for b in reported for m in planned.methods
    }
    for name in sorted(current & lock.keys()):
        if re.match(f"[a-z]+@({'|'.join(planned.run)})(-|$)", name):
            (dep,) = (dep for dep in lock[name]["deps"] if dep["path"].startswith("data/plan/"))
            made = hashlib.md5(Path(dep["path"]).read_bytes()).hexdigest()
            assert made == dep["md5"], f"{name}: run `dvc repro` ({dep['path']})"
        for out in lock[name]["outs"]:
            if out["path"].startswith("reports/") and (path := ROOT / out["path"]).is_file():
                assert hashlib.md5(path.read_bytes()).hexdigest() == out["md5"], f"{name}: {path} is not what it made"


def test_readme_shows_the_committed_leaderboard():
    """Each table between the markers of the README is that of its heading in a reports/*/leaderboard.md."""
    readme = (ROOT / "README.md").read_text()
    shown = tables(readme.split("<!-- leaderboard -->\n")[1].split("<!-- end -->")[0], r"\*\*(.+)\*\*")
    committed = {}
    for benchmark in ("digits-resnet",):
        committed |= tables((ROOT / f"reports/{benchmark}/leaderboard.md").read_text(), r"## (.+)")
    assert list(shown) == ["digits-resnet, request `class`", "digits-resnet, request `random`"]
    for heading, lines in shown.items():
        assert lines == committed[heading], "copy the table of reports/BENCHMARK/leaderboard.md into the README"


def test_readme_shows_the_committed_results_on_real_data():
    rows = (ROOT / "README.md").read_text().split("<!-- real -->\n")[1].split("<!-- end -->")[0].splitlines()[2:]
    shown = {cells[0]: cells[1:] for row in rows if (cells := [c.strip() for c in row.strip("|").split("|")])}
    for place, benchmark in enumerate(("fashion-small", "mnist-small", "cifar10-jpeg-small")):
        table = pd.read_csv(ROOT / f"reports/{benchmark}/leaderboard.csv")
        table = table[table["request"] == "class"].set_index(["method", "metric"])["mean"]
        for method, cells in shown.items():
            for cell, metric in zip(cells[2 * place :], ("ACC_f", "ACC_r"), strict=False):
                assert cell == f"{100 * table[method, metric]:.2f}", f"{benchmark}, {method}, {metric}"


def tables(markdown: str, heading: str) -> dict[str, list[str]]:
    """Lines of the tables under each heading."""
    found: dict[str, list[str]] = {}
    for line in markdown.splitlines():
        if match := re.fullmatch(heading, line):
            found[match[1]] = []
        elif line.startswith("|") and found:
            found[list(found)[-1]].append(line)
    return found


def test_readme_example_runs():
    """The ten lines of the README, as a reader would paste them."""
    block = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    completed = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    forgotten, kept = (float(share) for share in re.findall(r"([\d.]+)%", completed.stdout))
    assert forgotten < 10
    assert kept > 85
    assert len([line for line in block.splitlines() if line.strip()]) <= 13


def test_every_link_of_the_documentation_leads_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_on_the_committed_random_request_an_attack_tells_the_original_from_retrain():
    """docs/metrics.md says so: digits are not too easy to leak."""
    table = pd.read_csv(ROOT / "reports/digits-resnet/leaderboard.csv")
    original = table[(table["request"] == "random") & (table["method"] == "original")].set_index("metric")
    assert original.loc["mia_loss_auc", "verdict"] == "different"
    assert original.loc["mia_loss_auc", "gap"] > original.loc["mia_loss_auc", "floor"]


def test_among_the_planted_cases_chance_alone_sets_honest_retrains_apart():
    table = pd.read_csv(ROOT / "reports/meta.csv")
    for _, here in table[table["case"] == "another_seed"].groupby("request"):
        assert len(here) > 50
        assert (here["verdict"] == "fooled").mean() < 0.1  # one in twenty, and metrics go together

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

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(p for folder in ("bench", "methods", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
LOADERS = {("torch", "load"), ("joblib", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle")}


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere in it, `from package import module` as package.module too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_is_loaded(path):
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imports(path)} & PICKLING
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in LOADERS
        if isinstance(node, ast.ImportFrom):
            assert not {(node.module, alias.name) for alias in node.names} & LOADERS
        if isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "weights_only"}:
            raise AssertionError(f"{node.arg} in {path}")


def module_file(name: str) -> Path | None:
    base = ROOT / Path(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def closure(start: Path) -> set[str]:
    """Files of bench/ and methods/ that a module imports, directly or not, itself included."""
    seen: set[Path] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += [f for name in imports(path) if (f := module_file(name)) and f.suffix == ".py"]
    return {str(p.relative_to(ROOT)) for p in seen if p.read_text().strip() and p.parent.name != "tests"}


@pytest.mark.parametrize(
    "stage", ["methods", "data", "train", "memorize", "unlearn", "attack", "leaderboard", "timings", "figures", "page"]
)
def test_stage_depends_on_every_module_that_it_imports(stage):
    """Else a change of that module would leave a stale result that calls itself fresh."""
    definition = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]
    deps = {d for d in definition["deps"] if not d.startswith("data/")}
    needed = closure(ROOT / f"bench/stages/{stage}.py")
    if stage in {"methods", "unlearn"}:  # each method's own file is in data/methods, by its hash
        for method in (ROOT / "methods").glob("*.py"):
            needed |= closure(method) if method.stem not in {"__init__", "base", "steps"} else set()
        needed = {f for f in needed if f in deps or not re.fullmatch(r"methods/(?!base|steps|__init__)\w+\.py", f)}
    needed = {f for f in needed if not re.fullmatch(r"bench/(\w+/)?__init__\.py", f)}
    covered = {f for f in needed if f in deps or any(f.startswith(f"{d}/") for d in deps)}
    assert not needed - covered
    folders = {d for d in deps if (ROOT / d).is_dir()}
    assert not deps - needed - folders, "listed, but not imported"


@pytest.mark.parametrize("stage", ["attack", "leaderboard", "timings", "figures", "page"])
def test_judging_imports_no_torch(stage):
    code = f"import sys, bench.__main__, bench.stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


ALLOWED = {  # arrows of docs/architecture.md: what a part may import of bench and methods
    "bench/config.py": "errors requests",
    "bench/requests.py": "",
    "bench/store.py": "errors",
    "bench/seeds.py": "",
    "bench/datasets.py": "errors store",
    "bench/download.py": "errors store",
    "bench/images.py": "errors",
    "bench/sources.py": "download errors images requests store",
    "bench/audit.py": "store",
    "bench/prepare.py": "audit config errors sources store",
    "bench/forget.py": "config datasets errors requests store seeds",
    "bench/models.py": "config errors",
    "bench/weights.py": "config download errors layers models store",
    "bench/layers.py": "",
    "bench/grams.py": "layers views",
    "bench/views.py": "config seeds",
    "bench/engine.py": "config",
    "bench/checkpoint.py": "errors store",
    "bench/distributed.py": "errors store",
    "bench/training.py": "checkpoint config distributed engine models seeds views",
    "bench/problem.py": "checkpoint config models seeds training",
    "bench/memorization.py": "config layers training",
    "bench/concepts.py": "errors layers store training",
    "bench/jobs.py": "errors",
    "bench/resume.py": "checkpoint config datasets errors jobs provenance store",
    "bench/metrics/*.py": "config errors store datasets forget metrics",
    "bench/report/*.py": "config errors requests store metrics report",
    "bench/figures/*.py": "config errors requests store metrics report figures",
}


@pytest.mark.parametrize("pattern", ALLOWED)
def test_arrows_go_one_way(pattern):
    for path in ROOT.glob(pattern):
        ours = {name.split(".")[1] for name in imports(path) if re.match(r"bench\.\w", name)}
        assert not ours - set(ALLOWED[pattern].split()), path.name
        assert not any(name.split(".")[0] == "methods" for name in imports(path)), path.name


def test_methods_see_only_the_contract_the_problem_and_training():
    allowed = {
        f"bench.{name}"
        for name in ("config", "errors", "problem", "requests", "training", "seeds", "layers", "grams", "concepts")
    }
    for path in (ROOT / "methods").glob("*.py"):
        if path.stem == "__init__":
            continue
        ours = {name for name in imports(path) if name.split(".")[0] in {"bench", "methods"}}
        for name in ours:
            if name == "bench":
                continue
            module = next(m for m in (name, name.rpartition(".")[0]) if module_file(m))
            registry = {"methods"} if path.stem == "rum" else set()  # it calls methods by their names
            assert module in allowed | {"methods.base", "methods.steps"} | registry, f"{path.name} imports {name}"


def test_lock_files_name_no_registry():
    for lock in ("requirements.lock", "requirements-uv.lock"):
        text = (ROOT / lock).read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)


def test_committed_results_of_every_benchmark_are_in_step_with_the_code():
    """DVC itself looks at the benchmarks in `run` alone (tests/test_pipeline.py); dvc.lock holds the others' too."""
    yaml = YAML(typ="safe", pure=True)
    lock, params = yaml.load(ROOT / "dvc.lock")["stages"], yaml.load(ROOT / "params.yaml")
    reported = {path.parent.name for path in ROOT.glob("reports/*/leaderboard.csv")}
    assert reported == {name.split("@")[1] for name in lock if name.startswith("leaderboard@")}
    for name, stage in lock.items():
        of_benchmark = name.partition("@")[2]
        if of_benchmark and not any(of_benchmark in {b, f"{b}-{m}"} for b in reported for m in params["methods"]):
            continue  # of a method or a benchmark that is gone
        for dep in stage["deps"]:
            path = ROOT / dep["path"]
            if dep["path"].startswith(("bench/", "methods/")) and path.is_file():
                assert hashlib.md5(path.read_bytes()).hexdigest() == dep["md5"], f"{name}: run `dvc repro` ({path})"
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            found = params
            for part in key.split("."):
                found = found[part]
            assert found == value, f"{name}: run `dvc repro` ({key})"
        for out in stage["outs"]:
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

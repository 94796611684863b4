"""`python -m bench new-method`: what it writes runs as it is, and what it cannot write it says."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench import config, imports
from bench.__main__ import main
from bench.errors import BadInput
from bench.scaffold import new_method, with_entry
from tests.test_pipeline import copy_of_the_repository

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder methods/ with one method in it, beside the repository's params.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/kodge.py").touch()
    return tmp_path / "methods"


def test_a_new_method_passes_the_contract_of_methods(tmp_path):
    copy = copy_of_the_repository(tmp_path)
    made = subprocess.run(
        [sys.executable, "-m", "bench", "new-method", "my_method", "--paper", "2402.12345"],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    chosen = ["tests/methods/test_contract.py", "-k", "my_method or entry or paper", "-n0", "-p", "no:cacheprovider"]
    tested = subprocess.run([sys.executable, "-m", "pytest", *chosen], cwd=copy, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" not in tested.stdout  # as many as there would be without it
    written = (copy / "methods/my_method.py").read_text()
    assert "class MyMethod(Method)" in written
    assert 'url="https://arxiv.org/abs/2402.12345"' in written
    assert "year=2024" in written
    linted = [sys.executable, "-m", "ruff", "check", "methods/my_method.py"]
    formatted = [sys.executable, "-m", "ruff", "format", "--check", "methods/my_method.py"]
    assert subprocess.run(linted, cwd=copy).returncode == subprocess.run(formatted, cwd=copy).returncode == 0


def test_params_get_one_line_and_keep_every_other(folder):
    new_method("mine", folder=folder)
    before, after = (place.read_text().splitlines() for place in (ROOT / "params.yaml", Path("params.yaml")))
    added = after.index("  mine: {}")
    assert after[:added] + after[added + 1 :] == before
    assert YAML(typ="safe").load(Path("params.yaml"))["methods"].keys() == {*entries(), "mine"}


def entries() -> set[str]:
    return set(YAML(typ="safe").load(ROOT / "params.yaml")["methods"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("methods:\n  a: {}\n", "methods:\n  a: {}\n  b: {}\n"),
        ("methods:\n  a: {}", "methods:\n  a: {}\n  b: {}\n"),
        ("methods:\n    a: {}\n\n# of run\nrun: [x]\n", "methods:\n    a: {}\n    b: {}\n\n# of run\nrun: [x]\n"),
        ("methods:\n  a:\n    k: 1 # why\nrun: [x]\n", "methods:\n  a:\n    k: 1 # why\n  b: {}\nrun: [x]\n"),
    ],
)
def test_an_entry_stands_at_the_end_of_its_block(text, expected):
    assert with_entry(text, "b") == expected


def test_a_block_on_one_line_is_left_to_the_user():
    with pytest.raises(BadInput, match="by hand"):
        with_entry("methods: {a: {}}\nrun: [x]\n", "b")


@pytest.mark.parametrize("name", ["My", "my-method", "1st", "class", "base", "steps", "../up", "", "a.b"])
def test_a_bad_name_is_refused(folder, name):
    refused(folder, name, match="names no method")


def test_names_that_are_taken_are_refused(folder):
    refused(folder, "kodge", match=r"methods/kodge\.py is there already")
    refused(folder, "rum_shuffle", match=r"entry methods\.rum_shuffle already")


@pytest.mark.parametrize("paper", ["https://arxiv.org/abs/2402.12345", "12345", "2402.12345v1", '2402.12345"'])
def test_what_is_no_number_of_arxiv_is_refused(folder, paper):
    refused(folder, "mine", paper, match="number on arXiv")


def refused(folder: Path, name: str, *paper: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        new_method(name, *paper, folder=folder)
    assert [path.name for path in folder.iterdir()] == ["kodge.py"]
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_the_command_line_prints_what_is_wrong(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["new-method", "kodge"]) == 1
    assert "lethe: new-method: methods/kodge.py is there already" in capsys.readouterr().err


def test_no_stage_depends_on_the_template():
    stages = [f"bench.stages.{path.stem}" for path in (ROOT / "bench/stages").glob("*.py")]
    methods = [f"methods.{name}" for name in config.method_files()]
    assert not [file for file in imports.hashes(*stages, *methods) if file.startswith("bench/scaffold")]

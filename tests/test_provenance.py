import subprocess

import pytest

from bench import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # the folder may lie inside a clone
    provenance.commit.cache_clear()
    yield tmp_path
    provenance.commit.cache_clear()


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_outside_git_the_commit_is_unknown(repository):
    assert provenance.commit() == "unknown"


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [("reports/x.md", False), ("bench/x.py", True), ("methods/new.py", True), ("params.yaml", True)],
)
def test_dirty_means_that_what_computes_was_changed(repository, changed, dirty):
    git("init", "-q")
    (repository / "params.yaml").write_text("a: 1\n")
    git("add", "-A")
    git("commit", "-qm", "first")
    (repository / changed).parent.mkdir(exist_ok=True)
    (repository / changed).write_text("b: 2\n")
    assert provenance.commit() == git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")


def test_hardware_names_the_cores():
    assert provenance.hardware().endswith("cores") or "NVIDIA" in provenance.hardware()


def test_versions_are_those_installed():
    import numpy

    assert provenance.versions()["numpy"] == numpy.__version__

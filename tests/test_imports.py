"""Which files a module is made of, on small projects."""

import hashlib

import pytest

from bench import imports

FILES = {
    "bench/__init__.py": "",
    "bench/store.py": "import json",
    "bench/late.py": "",
    "bench/other.py": "",
    "bench/deep/__init__.py": "",
    "bench/deep/leaf.py": "from bench import top",
    "bench/top.py": "import bench.deep.leaf\nfrom bench import store\ndef f():\n    from bench.late import g",
    "bench/page/__init__.py": "",
    "bench/page/page.py": "",
    "bench/page/templates/page.html": "<p>",
    "methods/__init__.py": "",
    "methods/a.py": "from methods import b",
    "methods/b.py": "from bench.page.page import render",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("bench.store", "__init__ store"),
        ("bench.top", "__init__ deep/__init__ deep/leaf late store top"),  # within functions, in circles, by package
        ("bench.page.page", "__init__ page/__init__ page/page page/templates/page.html"),
        ("methods.a", "__init__ page/__init__ page/page page/templates/page.html methods/__init__ methods/a methods/b"),
    ],
)
def test_files_of_a_module(project, module, files):
    expected = [name if name.startswith("methods") else f"bench/{name}" for name in files.split()]
    expected = [name if "." in name else f"{name}.py" for name in expected]
    found = imports.hashes(module)
    assert sorted(found) == sorted(expected)
    assert all(digest == hashlib.sha256((project / name).read_bytes()).hexdigest() for name, digest in found.items())


def test_a_changed_file_changes_its_own_hash_alone(project):
    before = imports.hashes("bench.top")
    (project / "bench/late.py").write_text("# changed")
    after = imports.hashes("bench.top")
    assert {name for name in after if after[name] != before[name]} == {"bench/late.py"}

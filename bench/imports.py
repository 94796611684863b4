"""Which files of the project a module is made of: its own, and those that it imports."""

import ast
from functools import cache
from pathlib import Path

from bench import store

ROOT = Path(__file__).resolve().parent.parent  # of the code that runs
PACKAGES = ("bench", "methods")


def hashes(*modules: str) -> dict[str, str]:
    """SHA-256 of the files that the modules are made of, by their path in the project.

    That is each file of bench/ and methods/ that is imported, directly or not, anywhere in them (also within
    functions), and what lies in folders beside them (templates).

    Args:
        modules: names, as 'bench.stages.train'.
    """
    files: set[Path] = set()
    todo = [file for name in modules for file in with_packages(name)]
    while todo:
        file = todo.pop()
        if file not in files:
            files |= {file, *beside(file)}
            todo += [other for name in imported(file) for other in with_packages(name)]
    return {str(file.relative_to(ROOT)): store.sha256(file) for file in sorted(files)}


@cache
def imported(file: Path) -> set[str]:
    """Modules that a file imports anywhere in it; `from package import name` as package.name too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(), file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def file_of(module: str) -> Path | None:
    """The module's file; None if it is none of the project's."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    candidates = path.with_suffix(".py"), path / "__init__.py"
    return next((file for file in candidates if file.is_file()), None)


def with_packages(module: str) -> list[Path]:
    """The module's file and those of the packages that it is in; none if it is none of the project's."""
    parts = module.split(".")
    return [file for end in range(1, len(parts) + 1) if (file := file_of(".".join(parts[:end])))]


def beside(file: Path) -> set[Path]:
    """What a module may read: files in folders beside it that are no package."""
    folders = [folder for folder in file.parent.iterdir() if folder.is_dir() and not (folder / "__init__.py").exists()]
    return {path for folder in folders if folder.name != "__pycache__" for path in folder.rglob("*") if path.is_file()}

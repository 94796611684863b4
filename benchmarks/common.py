"""What the measuring scripts share: a stamped table, printed and kept in benchmarks/results/."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import provenance  # noqa: E402


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one that does not count."""
    function()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def report(name: str, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print the table as Markdown and write it to benchmarks/results/NAME.md."""
    versions = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
    lines = [f"# {title}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines.append("")
    lines += [f"Hardware: {provenance.hardware()}. Commit {provenance.commit()}. {versions}."]
    lines += [f"Made by `python benchmarks/{name}.py`."]
    text = "\n".join(lines) + "\n"
    print(text)
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.md").write_text(text)

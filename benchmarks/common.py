"""What the measuring scripts share: a stamped table, printed and kept in benchmarks/results/, and a device's limits."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import provenance  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def seconds(function: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of a call, after one that does not count; on a GPU, until it has done what was asked."""
    return statistics.median(each(function, repeats + 1, clock)[1:])


def each(function: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of each of so many calls."""
    taken = []
    for _ in range(repeats):
        synchronize()
        started = clock()
        function()
        synchronize()
        taken.append(clock() - started)
    return taken


def synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def report(
    name: str,
    title: str,
    columns: list[str],
    rows: list[list[str]],
    *,
    command: str = "",
    notes: list[str] | None = None,
    folder: Path = RESULTS,
) -> None:
    """Print the table as Markdown and write it to NAME.md and NAME.json in the folder.

    Args:
        command: what makes it, if not the script of that name alone.
        notes: lines under the table.
    """
    command = command or f"python benchmarks/{name}.py"
    hardware, commit, versions = provenance.hardware(), provenance.commit(), provenance.versions()
    lines = [f"# {title}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [""] + [f"{note}\n" for note in notes or []]
    lines += [f"Hardware: {hardware}. Commit {commit}. {', '.join(f'{k} {v}' for k, v in versions.items())}."]
    lines += [f"Made by `{command}`."]
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    stamp = {"hardware": hardware, "commit": commit, "versions": versions, "command": command}
    table = {"title": title, "columns": columns, "rows": rows, "notes": notes or []}
    (folder / f"{name}.json").write_text(json.dumps(table | stamp, indent=1) + "\n")

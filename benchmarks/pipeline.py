"""Wall time of a benchmark's whole pipeline from nothing, what of it is no work, and a run that has nothing to do.

In a temporary clone of the commit, so that no cache helps; installation is not counted. No work is: DVC's own time,
that outside of the stages' commands, and the start of their processes, which is measured apart: of `bench check`,
which imports what a stage that loads torch does, and of importing a stage that judges.

    python benchmarks/pipeline.py [benchmark: digits-resnet]
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, report, seconds

JUDGING = ("attack", "leaderboard", "timings", "figures", "page")


def timed(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of `dvc repro`, and of each stage's command by the stage's name."""
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"), "DVC_NO_ANALYTICS": "1"}
    environment["PYTHONUNBUFFERED"] = "1"
    started = time.perf_counter()
    commands: dict[str, float] = {}
    begun, name = started, ""
    with subprocess.Popen(["dvc", "repro"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("> python -m bench "):
                begun, name = time.perf_counter(), line.removeprefix("> python -m bench ").strip()
            elif name and line.startswith(f"{name}: "):  # its progress, and at last its end
                commands[name] = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit("`dvc repro` failed")
    return time.perf_counter() - started, commands


def start(*arguments: str) -> float:
    """Seconds of a Python process that only imports."""
    return seconds(lambda: subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True), 5)


def main(benchmark: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        (folder / "dvc.lock").unlink()
        params = folder / "params.yaml"
        params.write_text(re.sub(r"(?m)^run: .*$", f"run: [{benchmark}]", params.read_text()))
        whole, commands = timed(folder)
        nothing, again = timed(folder)
    if again:
        raise SystemExit(f"the second run was not a no-op: {', '.join(again)}")
    heavy, light = start("-m", "bench", "check"), start("-c", "import bench.stages.attack")
    judging = sum(name.split()[0] in JUDGING for name in commands)
    starts = judging * light + (len(commands) - judging) * heavy
    dvc = whole - sum(commands.values())
    rows = [
        ["everything", str(len(commands)), f"{whole:.0f}", ""],
        ["of which DVC", "", f"{dvc:.0f}", f"{dvc / whole:.0%}"],
        [
            f"of which starts ({heavy:.1f} s with torch, {light:.1f} s without)",
            "",
            f"{starts:.0f}",
            f"{starts / whole:.0%}",
        ],
        ["nothing to do", "0", f"{nothing:.1f}", ""],
    ]
    title = f"`dvc repro` of {benchmark}"
    report(
        "pipeline",
        title,
        ["run", "stages", "seconds", "share"],
        rows,
        command=f"python benchmarks/pipeline.py {benchmark}",
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits-resnet")

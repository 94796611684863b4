"""Wall time of the whole pipeline from nothing, and of a second run that has nothing to do.

In a temporary clone of the commit, so that no cache helps; installation is not counted.
"""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from common import ROOT, report


def timed(folder: Path) -> tuple[float, str]:
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"), "DVC_NO_ANALYTICS": "1"}
    started = time.perf_counter()
    done = subprocess.run(["dvc", "repro"], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        (folder / "dvc.lock").unlink()
        whole, output = timed(folder)
        nothing, second = timed(folder)
    stages = len(re.findall("Running stage", output))
    if "Running stage" in second:
        raise SystemExit("the second run was not a no-op:\n" + second)
    rows = [["everything", str(stages), f"{whole:.0f}"], ["nothing to do", "0", f"{nothing:.1f}"]]
    report("pipeline", "`dvc repro` as it ships", ["run", "stages", "seconds"], rows)


if __name__ == "__main__":
    main()

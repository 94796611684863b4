"""The command line: one sub-command a stage, and `check`, `verify`, `meta` and `new-method`.

Every sub-command reads and checks params.yaml first. A `BadInput` is printed as its message alone,
with exit status 1.
"""

import argparse
import importlib
import os
import signal
import sys
from typing import Any

from bench import config, jobs
from bench.config import Params
from bench.errors import BadInput

STAGES = {  # sub-command -> its positional arguments
    "plan": (),
    "data": ("benchmark",),
    "train": ("benchmark",),
    "memorize": ("benchmark",),
    "unlearn": ("benchmark", "method"),
    "attack": ("benchmark", "method"),
    "probe": ("benchmark", "method"),
    "study": ("benchmark",),
    "leaderboard": ("benchmark",),
    "timings": ("benchmark",),
    "figures": ("benchmark",),
    "reproduction": (),
    "page": (),
}
# They read what methods left; no method runs.
JUDGING = {"attack", "probe", "leaderboard", "timings", "figures", "reproduction", "page"}


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.workers is not None:
        os.environ[jobs.WORKERS] = str(options.workers)
    if options.dask is not None:
        os.environ[jobs.DASK] = options.dask
    try:
        print(run(options), flush=True)
    except BadInput as error:
        print(f"lethe: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print("lethe: stopped; jobs that had finished are kept, `dvc repro` goes on from there", file=sys.stderr)
        return 128 + (stopped.args[0] if stopped.args else signal.SIGINT)
    return 0


def run(options: argparse.Namespace) -> str:
    params = config.load()
    if options.command not in JUDGING:
        check_methods(params)
    if options.command == "check":
        return (
            f"{config.PARAMS}: {len(params.run)} of {len(params.benchmarks)} benchmarks to run, methods "
            + ", ".join(params.methods)
        )
    if options.command == "verify":
        from bench import verify

        return verify.run(params, options.runs)
    if options.command == "meta":
        from bench import meta

        return meta.run(params)
    if options.command == "new-method":
        from bench import scaffold

        return scaffold.new_method(options.name, options.paper)
    stage = importlib.import_module(f"bench.stages.{options.command}")
    names = [getattr(options, argument) for argument in STAGES[options.command]]
    return f"{' '.join([options.command, *names])}: {stage.run(params, *names)}"


def check_methods(params: Params) -> None:
    import methods

    if found := methods.check(params):
        raise BadInput("\n".join(found))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    root.add_argument("--workers", type=int, help=f"worker processes (default: {jobs.WORKERS}, else one a core)")
    root.add_argument("--dask", metavar="ADDRESS", help=f"a Dask scheduler to run jobs on (default: {jobs.DASK})")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, names in STAGES.items():
        sub = commands.add_parser(stage, help=f"run the stage `{stage}`")
        for name in names:
            sub.add_argument(name)
    commands.add_parser("check", help="say all that is wrong with params.yaml")
    commands.add_parser("meta", help="put planted cases through every metric, and say which it orders rightly")
    verify = commands.add_parser("verify", help="run a sample of finished runs again and compare hashes")
    verify.add_argument(
        "--runs", type=int, default=10, help="how many jobs, each of one run or several, to repeat (default: 10)"
    )
    new = commands.add_parser("new-method", help="write the file of a new method, and its entry in params.yaml")
    new.add_argument("name", help="of the file methods/NAME.py and of the row on the leaderboard")
    new.add_argument("--paper", metavar="ARXIV", help="number on arXiv of the paper that it comes from, as 2302.09880")
    return root


def stop(number: int, frame: Any) -> None:
    """SIGTERM stops as Ctrl-C does: workers are ended first."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    os.environ.update(dict.fromkeys(jobs.THREADS, "1"))
    if sys.platform == "linux":
        jobs.start_method = "fork"  # torch is imported once: this process starts neither threads nor CUDA before
    sys.exit(main())

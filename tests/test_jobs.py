import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import jobs
from bench.errors import BadInput
from bench.jobs import Progress, fan_out, worker_count

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120  # seconds: a machine may be busy with other things


def square(x: int) -> int:
    return x * x


def die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(x: int, folder: Path) -> int:
    """Job 3 costs its worker, once."""
    if x == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        die(x)
    return x * x


def die_if_odd(x: int) -> int:
    if x % 2:
        die(x)
    return x


def refuse(x: int) -> None:
    raise BadInput(f"job {x} is refused")


def fail(x: int) -> None:
    raise ZeroDivisionError(f"in job {x}")


def refuse_beside_a_long_job(x: int, folder: Path) -> None:
    if x == 0:
        (folder / str(os.getpid())).touch()
        time.sleep(10 * PATIENCE)
    wait_for(lambda: list(folder.iterdir()))
    raise BadInput("job 1 is refused")


def on_two_gpus(x: int) -> int:
    from bench import distributed

    return distributed.run(2, square, x)


def where(x: int, folder: Path) -> tuple[int, str | None, str]:
    """Process, GPU and threads of a job that waits until a second one runs beside it."""
    (folder / str(x)).touch()
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"]


@pytest.fixture(params=["fork", "spawn"])
def start_method(request, monkeypatch):
    if request.param == "fork" and sys.platform != "linux":
        pytest.skip("only Linux forks safely")
    monkeypatch.setattr(jobs, "start_method", request.param)
    monkeypatch.setenv("LETHE_WORKERS", "2")


def folder(x: int) -> str:
    return os.getcwd()


def test_workers_work_in_the_folder_of_their_parent(start_method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fan_out(folder, [(0,), (1,)], "folders") == [str(tmp_path)] * 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_results_are_in_the_order_of_the_jobs(monkeypatch, workers):
    monkeypatch.setenv("LETHE_WORKERS", workers)
    assert fan_out(square, [(i,) for i in range(7)], "squares") == [i * i for i in range(7)]


def test_no_jobs_no_workers():
    assert fan_out(square, [], "nothing") == []


def test_a_lost_workers_job_is_run_again(start_method, tmp_path, capsys):
    assert fan_out(die_once, [(i, tmp_path) for i in range(6)], "squares") == [i * i for i in range(6)]
    assert capsys.readouterr().out == "squares: a worker died (exit code -9); its job is run again\n"


def test_a_job_that_costs_three_workers_is_an_error_that_names_it(start_method):
    with pytest.raises(BadInput, match="doomed: 3 workers that ran the job 1 were killed"):
        fan_out(die_if_odd, [(0,), (1,), (2,)], "doomed")


def test_what_is_recorded_of_such_a_job_is_the_callers_choice(start_method):
    assert fan_out(die_if_odd, [(0,), (1,), (2,)], "doomed", lost=lambda x: f"{x} is lost") == [0, "1 is lost", 2]


def test_a_jobs_bad_input_reaches_the_caller(start_method):
    with pytest.raises(BadInput, match="job 1 is refused"):
        fan_out(refuse, [(1,)], "refused")


def test_an_error_ends_the_jobs_that_still_run(start_method, tmp_path):
    with pytest.raises(BadInput, match="job 1 is refused"):
        fan_out(refuse_beside_a_long_job, [(0, tmp_path), (1, tmp_path)], "refused")
    assert wait_for(lambda: not any(running(path.name) for path in tmp_path.iterdir()))


def test_what_else_a_job_raises_comes_with_its_traceback(start_method):
    with pytest.raises(RuntimeError, match=r"in fail\n    raise ZeroDivisionError(.|\n)*in job 1"):
        fan_out(fail, [(1,)], "failing")


def test_each_worker_has_a_gpu_of_its_own_and_one_thread(start_method, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "gpus", lambda: ["4", "MIG-5"])
    ran = fan_out(where, [(i, tmp_path) for i in range(2)], "where")
    assert {(gpu, threads) for _, gpu, threads in ran} == {("4", "1"), ("MIG-5", "1")}
    assert os.getpid() not in {pid for pid, _, _ in ran}


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_gpus_are_found_where_torch_is_imported(monkeypatch, visible, expected):
    monkeypatch.delenv("LETHE_WORKERS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 2)))
    assert jobs.gpus() == expected
    assert worker_count(len(jobs.gpus())) == 2
    monkeypatch.delitem(sys.modules, "torch")
    assert jobs.gpus() == []


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_worker_count_must_be_a_positive_whole_number(monkeypatch, value):
    monkeypatch.setenv("LETHE_WORKERS", value)
    with pytest.raises(BadInput, match="LETHE_WORKERS"):
        worker_count()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_end_with_their_killed_parent(tmp_path, start_method):
    """Else one could go on to write among the files of the next run."""
    (tmp_path / "sleepers.py").write_text(
        textwrap.dedent(f"""
        import os, time
        from pathlib import Path
        from bench import jobs

        def sleep(i):
            Path(str(os.getpid())).touch()
            time.sleep(600)

        if __name__ == "__main__":
            jobs.start_method = "{start_method}"
            jobs.fan_out(sleep, [(i,) for i in range(2)], "sleep")
        """)
    )
    environment = os.environ | {"LETHE_WORKERS": "2", "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "sleepers.py"], cwd=tmp_path, env=environment)
    workers = wait_for(
        lambda: found if len(found := [p.name for p in tmp_path.iterdir() if p.name.isdigit()]) == 2 else []
    )
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(running(pid) for pid in workers))


def running(pid: str) -> bool:
    """A process that has ended may stay in /proc as a zombie where nobody waits for it."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_gpus_are_dealt_out_to_workers():
    names = ["0", "1", "2", "3", "4"]
    assert jobs.shares(names, 1) == names
    assert jobs.shares(names, 2) == ["0,1", "2,3"]
    assert jobs.shares(["0"], 2) == ["0"]  # the job itself says that it wants more
    assert jobs.shares([], 2) == []


def test_progress_in_a_log_is_plain_lines_with_an_estimate(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("bench.jobs.time.monotonic", lambda: now[0])
    progress = Progress("train", 4)
    for _ in range(4):
        now[0] += 11
        progress.step()
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "train: 1 of 4 jobs, about 33 s left",
        "train: 2 of 4 jobs, about 22 s left",
        "train: 3 of 4 jobs, about 11 s left",
    ]


def test_a_scheduler_out_of_reach_is_an_error_before_anything_runs(monkeypatch, tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setenv("LETHE_DASK", "tcp://127.0.0.1:1")
    with pytest.raises(BadInput, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 (.|\n)*dask scheduler"):
        fan_out(die_once, [(3, tmp_path)], "nowhere")
    assert not list(tmp_path.iterdir())


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setenv("LETHE_DASK", "tcp://127.0.0.1:1")
    with pytest.raises(BadInput, match="uv pip install distributed"):
        fan_out(square, [(3,)], "squares")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes, which start elsewhere and know nothing of this project."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    path, here = list(sys.path), os.getcwd()
    sys.path[:] = [entry for entry in path if Path(entry or here).resolve() != ROOT]  # workers are given a copy of it
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        sys.path[:] = path
        yield cluster


@pytest.mark.xdist_group("dask")
class TestDask:
    @pytest.fixture(autouse=True)
    def _at(self, cluster, monkeypatch):
        monkeypatch.setenv("LETHE_DASK", cluster.scheduler_address)

    def test_results_are_in_the_order_of_the_jobs(self):
        assert fan_out(square, [(i,) for i in range(7)], "squares") == [i * i for i in range(7)]

    def test_a_lost_workers_job_is_run_again(self, tmp_path):
        assert fan_out(die_once, [(i, tmp_path) for i in range(6)], "squares") == [i * i for i in range(6)]

    def test_a_job_that_costs_too_many_workers_is_given_up(self):
        assert fan_out(die_if_odd, [(0,), (1,), (2,)], "doomed", lost=lambda x: f"{x} is lost") == [0, "1 is lost", 2]

    def test_a_jobs_bad_input_reaches_the_caller(self):
        with pytest.raises(BadInput, match="job 1 is refused"):
            fan_out(refuse, [(1,)], "refused")

    def test_an_error_ends_the_jobs_that_still_run(self, tmp_path):
        with pytest.raises(BadInput, match="job 1 is refused"):
            fan_out(refuse_beside_a_long_job, [(0, tmp_path), (1, tmp_path)], "refused")
        assert wait_for(lambda: not any(running(path.name) for path in tmp_path.iterdir()))

    def test_a_job_on_several_gpus_needs_workers_that_may_start_processes(self):
        with pytest.raises(BadInput, match="DASK_DISTRIBUTED__WORKER__DAEMON=False"):
            fan_out(on_two_gpus, [(3,)], "squares")

    @pytest.mark.parametrize("folder", ["absent", "a copy"])
    def test_a_worker_without_the_folder_is_an_error(self, folder, monkeypatch):
        mark = SimpleNamespace(NamedTemporaryFile=lambda **options: nullcontext(SimpleNamespace(name="/nowhere/.mark")))
        monkeypatch.setattr(jobs, "tempfile", mark)
        if folder == "absent":
            monkeypatch.setattr(os, "getcwd", lambda: "/nowhere")
        with pytest.raises(BadInput, match=r"a Dask worker .*/nowhere.*on a filesystem that they share"):
            fan_out(square, [(1,)], "squares")

    def test_workers_see_changed_code(self, tmp_path, monkeypatch):
        """A worker serves many stages; what it has imported in one must not make the results of the next."""
        package = tmp_path / "methods"
        package.mkdir()
        (package / "__init__.py").touch()
        (tmp_path / "bench").symlink_to(ROOT / "bench")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.split(".")[0] == "methods"]:
            monkeypatch.delitem(sys.modules, name)
        for answer in ("before", "after it"):  # of two lengths: Python tells files by second and size
            (package / "changing.py").write_text(f"def answer():\n    return {answer!r}\n")
            sys.modules.pop("methods.changing", None)
            from methods.changing import answer as function

            assert fan_out(function, [(), ()], "answers") == [answer] * 2


def test_a_scheduler_that_knows_nothing_of_the_project(tmp_path, monkeypatch):
    """As docs/cluster.md starts them: by Dask's own commands, in another folder."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    address = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    options = ["--scheduler-file", str(address), "--no-dashboard"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    commands = [[*dask, "scheduler", "--port", "0", *options], [*dask, "worker", "--nthreads", "1", *options]]
    started = [subprocess.Popen(c, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) for c in commands]
    try:
        assert wait_for(address.exists)
        monkeypatch.setenv("LETHE_DASK", json.loads(address.read_text())["address"])
        assert fan_out(square, [(2,), (3,)], "squares") == [4, 9]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def test_a_dask_worker_that_runs_jobs_in_threads_is_an_error(monkeypatch):
    """Jobs of one process would share torch's threads and generators."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster:
        monkeypatch.setenv("LETHE_DASK", cluster.scheduler_address)
        with pytest.raises(BadInput, match="--nthreads 1"):
            fan_out(square, [(1,)], "squares")

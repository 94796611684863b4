"""A stage that was stopped goes on with what was left, and ends in the bytes of an undisturbed one."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import imports, jobs, resume, store
from bench.config import Params
from bench.errors import BadInput
from tests.test_pipeline import call, copy_of_the_repository

PATIENCE = 300  # seconds: a machine may be busy with other things


def work(k: int, stop_at: int | None = None) -> dict | list:
    """Write a file, and one more for even numbers; job `stop_at` stops the stage."""
    with Path("log").open("a") as log:
        log.write(f"{k}\n")
    if k == stop_at:
        raise BadInput("stopped")
    store.write_text(Path(f"out/{k}.txt"), f"job {k}")
    if k % 2 == 0:
        store.write_text(Path(f"out/{k}.even"), "even")
    return {"squares": np.arange(k, dtype=np.float64) ** 2} if k == 3 else [k, {"seconds": 0.1 * k}]


def todo(n: int = 5, stop_at: int | None = None, **facts) -> list[resume.Job]:
    return [resume.Job((k, stop_at), {"k": k} | facts, (Path(f"out/{k}.txt"), Path(f"out/{k}.even"))) for k in range(n)]


def ran() -> list[int]:
    """The jobs that ran since the last call."""
    log = Path("log")
    found = sorted(map(int, log.read_text().split())) if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def contents() -> dict[str, str]:
    return {path.name: path.read_text() for path in Path("out").iterdir()}


@pytest.fixture
def stage(tmp_path, monkeypatch) -> resume.Unfinished:
    """A stage of which the first three jobs of five had finished when it was stopped; its outputs are gone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_WORKERS", "1")
    if sys.platform == "linux":
        monkeypatch.setattr(jobs, "start_method", "fork")
    stage = resume.Unfinished(Path("data/unfinished/stage"), {"code": "1"})
    with pytest.raises(BadInput, match="stopped"):
        stage.fan_out(work, todo(stop_at=3), "stage")
    assert ran() == [0, 1, 2, 3]
    shutil.rmtree("out")
    return stage


def test_only_what_was_left_runs_and_the_results_are_those_of_an_undisturbed_stage(stage, capsys):
    results = stage.fan_out(work, todo(), "stage")
    assert ran() == [3, 4]
    assert "stage: 3 of 5 jobs had finished before" in capsys.readouterr().out
    files = contents()
    np.testing.assert_array_equal(results.pop(3)["squares"], [0, 1, 4])
    shutil.rmtree("out")
    undisturbed = resume.Unfinished(Path("data/unfinished/other"), {}).fan_out(work, todo(), "stage")
    undisturbed.pop(3)
    assert (results, files) == (undisturbed, contents())
    assert ran() == [0, 1, 2, 3, 4]


def test_arrays_come_back_as_they_were(stage):
    first = stage.fan_out(work, todo(), "stage")[3]["squares"]
    again = stage.fan_out(work, todo(), "stage")[3]["squares"]
    assert ran() == [3, 4]
    assert again.dtype == first.dtype
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("change", ["common", "facts"])
def test_another_fingerprint_runs_everything_and_clears_what_was_kept(stage, change):
    other = resume.Unfinished(stage.folder, {"code": "2"}) if change == "common" else stage
    other.fan_out(work, todo(**({"lr": 0.1} if change == "facts" else {})), "stage")
    assert ran() == [0, 1, 2, 3, 4]
    stage.fan_out(work, todo(), "stage")
    assert ran() == [0, 1, 2, 3, 4]


def test_a_job_whose_record_or_file_is_damaged_runs_again(stage):
    record, file = [next(stage.folder.rglob(name)) for name in ("job.json", "2.even")]
    damaged = {int(next(record.parent.rglob("*.txt")).stem), 2}
    record.write_text(record.read_text()[:-5])
    file.write_text("odd")
    stage.fan_out(work, todo(), "stage")
    assert ran() == sorted(damaged | {3, 4})
    assert contents()["2.even"] == "even"


def test_what_a_killed_worker_left_does_not_stay_among_the_outputs(stage):
    for name in (".4.txt.abcdef", "1.even", "4.txt"):  # half-written; of other code; of the same job
        store.write_text(Path("out") / name, "left over")
    stage.fan_out(work, todo(), "stage")
    assert contents() == {f"{k}.txt": f"job {k}" for k in range(5)} | {f"{k}.even": "even" for k in (0, 2, 4)}


def test_without_hard_links_files_are_copied(stage, monkeypatch):
    def refused(*paths):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refused)
    stage.fan_out(work, todo(), "stage")
    assert ran() == [3, 4]
    assert contents()["2.txt"] == "job 2"


def half_trained(k: int) -> str:
    """Keep a state, and stop; the second time, go on from it."""
    state = resume.checkpoint("network")
    if (kept := state.load("ab")) is None:
        state.save("ab", {"half": torch.tensor([k])})
        raise BadInput("stopped")
    return kept["half"].tolist()


def test_a_checkpoint_is_found_again_by_its_job_alone(stage):
    assert resume.checkpoint("network") is None
    job = [resume.Job((1,), "a long training")]
    with pytest.raises(BadInput, match="stopped"):
        stage.fan_out(half_trained, job, "stage")
    assert stage.fan_out(half_trained, job, "stage") == [[1]]
    assert not list(stage.folder.rglob("network"))
    with pytest.raises(BadInput, match="stopped"):
        stage.fan_out(half_trained, [resume.Job((1,), "another")], "stage")


@dataclass(frozen=True)
class Thing:
    rows: np.ndarray
    kinds: frozenset[str]


def test_a_fingerprint_tells_what_differs_and_nothing_else():
    def thing(*rows: int, dtype: str = "int64", kinds: str = "ab") -> str:
        return resume.fingerprint({"k": 1, "thing": Thing(np.array(rows, dtype), frozenset(kinds))})

    different = [thing(1, 2), thing(2, 1), thing(1, 2, dtype="int32"), thing(1, 2, kinds="a"), thing(1, 2, 3)]
    assert len(set(different)) == len(different)
    assert thing(1, 2) == thing(1, 2, kinds="ba")
    assert resume.fingerprint({"a": 1, "b": 2}) == resume.fingerprint({"b": 2, "a": 1})
    assert resume.fingerprint([1]) != resume.fingerprint(["1"])


PARAMS = """
run: [small]
benchmarks:
  small:
    dataset: digits
    validation: 0.1
    architecture: resnet-tiny
    training: {epochs: 1, batch_size: 64, lr: 0.05}
    memorization: {models: 20, share: 0.5}
    requests:
      class: {kind: class, targets: [3]}
      random: {kind: random, fraction: 0.1}
    seeds: [0, 1]
methods:
  original: {}
  retrain: {}
  halting: {}
"""
HALTING = '''
"""Training that waits, where it is told to, so that its stage can be stopped there."""
import time
from pathlib import Path

from bench.training import cross_entropy, train
from methods.base import EVERY_REQUEST, Card, Method

HERE = Path(__file__).parent.parent / "halt"


class Halting(Method):
    card = Card(serves=EVERY_REQUEST, reads=frozenset({"retain"}), labels=True, trains=True)

    def unlearn(self, model, problem):
        while HERE.exists() and problem.key[-1] == 1:
            time.sleep(0.05)
        problem.artifacts["seed"] = problem.retain.rows[:1]
        return train(model, problem.retain, cross_entropy, problem.recipe)
'''
STAGE = "unlearn@small-halting"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """All that the stage needs, made; the stage itself not."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("resume"))
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "methods/halting.py").write_text(HALTING)
    done = call(folder, "dvc", "repro", "plan", "memorize@small", "train@small")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def stopped(folder: Path, stop: signal.Signals, command: list[str], kept: int) -> subprocess.CompletedProcess[str]:
    """Stop a command and all that it started when the stage has kept so many jobs."""
    log = folder / "log"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"LETHE_WORKERS": "2", "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"), "DVC_NO_ANALYTICS": "1"}
    (folder / "halt").touch()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.glob("data/unfinished/unlearn/small/halting/*/job.json"))) < kept:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (os.killpg if stop == signal.SIGKILL else os.kill)(process.pid, stop)
        process.wait()
    (folder / "halt").unlink()
    return subprocess.CompletedProcess(command, process.returncode, log.read_text())


def files(folder: Path) -> dict[str, str]:
    """Hashes of the stage's predictions."""
    found = sorted(path for path in (folder / "data/predictions/small/halting").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.xdist_group("resume")
class TestStoppedStage:
    def test_after_a_kill_dvc_repro_goes_on_and_ends_in_the_same_bytes(self, small):
        stopped(small, signal.SIGKILL, ["dvc", "repro", STAGE], kept=2)
        done = call(small, "dvc", "repro", STAGE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "unlearn small halting: 2 of 4 jobs had finished before" in done.stdout
        resumed = files(small)
        assert len(resumed) == 1 + 3 * 4  # method.json; logits, sidecar and artifacts of each run
        assert not (small / "data/unfinished/unlearn/small/halting").exists()
        costs = store.read_json(small / "data/costs/small/halting.json")
        assert [(run["target"], run["seed"]) for run in costs["runs"]] == [
            (target, seed) for target in ("class-3", "random") for seed in (0, 1)
        ]
        done = call(small, "dvc", "repro", "-f", "-s", STAGE)
        assert "had finished before" not in done.stdout
        assert files(small) == resumed

    def test_sigterm_ends_the_workers_and_runs_of_other_code_are_not_taken_up(self, small):
        unlearn = [sys.executable, "-m", "bench", "unlearn", "small", "halting"]
        ended = stopped(small, signal.SIGTERM, unlearn, kept=2)
        assert ended.returncode == 128 + signal.SIGTERM
        assert ended.stdout.splitlines()[-1].startswith("lethe: stopped; jobs that had finished are kept")
        assert "Traceback" not in ended.stdout
        (small / "methods/halting.py").write_text(HALTING.replace("[:1]", "[:2]"))
        done = call(small, *unlearn)
        (small / "methods/halting.py").write_text(HALTING)
        assert done.returncode == 0, done.stderr
        assert "had finished before" not in done.stdout
        kept = small.glob("data/predictions/small/halting/*/seed-*.artifacts.safetensors")
        assert [len(store.read_tensors(path)["seed"]) for path in kept] == [2] * 4

    def test_what_a_run_depends_on(self, small, monkeypatch):
        from bench import config
        from bench.stages import unlearn

        monkeypatch.chdir(small)
        monkeypatch.setattr(imports, "ROOT", small)

        def fingerprints(edit=lambda text: text, of_method=None) -> list[str]:
            Path("without.yaml").write_text(edit(PARAMS).replace("  halting: {}", ""))
            params = config.load(Path("without.yaml"))
            with resume.unfinished(params, "unlearn", "small", "retrain") as stage:
                jobs = unlearn.resumable(unlearn.jobs(params, "small", "retrain"), {"files": of_method})
                return [resume.fingerprint(stage.common | {"job": job.facts}) for job in jobs]

        before = fingerprints()
        assert len(set(before)) == 4
        assert fingerprints(lambda text: text.replace("seeds: [0, 1]", "seeds: [0]")) == before[::2]
        assert not set(before) & set(fingerprints(lambda text: text.replace("lr: 0.05", "lr: 0.04")))
        assert not set(before) & set(fingerprints(of_method="changed"))
        model = Path("data/models/small/seed-1.safetensors")
        kept = model.read_bytes()
        model.unlink()
        model.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert [a == b for a, b in zip(fingerprints(), before, strict=True)] == [True, False, True, False]
        model.write_bytes(kept)
        code = Path("bench/training.py")
        code.write_text(code.read_text() + "# changed\n")
        assert not set(before) & set(fingerprints())
        code.write_text(code.read_text().removesuffix("# changed\n"))
        assert fingerprints() == before

    def test_the_same_bytes_on_one_worker_two_workers_and_a_dask_cluster(self, small):
        distributed = pytest.importorskip("distributed", reason="Dask is not installed")
        made = [small / f"data/{name}/small" for name in ("models", "scores", "predictions")]

        def everything(*options: str, workers: int = 1) -> dict[str, str]:
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
            for stage in ("train small", "memorize small", "unlearn small halting"):
                done = call(small, sys.executable, "-m", "bench", *options, *stage.split(), workers=workers)
                assert done.returncode == 0, done.stdout + done.stderr
            found = [path for folder in made for path in folder.rglob("*") if path.is_file()]
            return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

        one = everything(workers=1)
        assert len(one) == 2 + 2 + 1 + 3 * 4
        assert everything(workers=2) == one
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            assert everything("--dask", cluster.scheduler_address) == one

    def test_jobs_of_several_processes(self, small):
        """As on two GPUs; each run writes its files once; what is trained differs by rounding, and by BatchNorm."""
        made = []
        for gpus in (1, 2, 2):
            (small / "params.yaml").write_text(PARAMS.replace("lr: 0.05}", f"lr: 0.05, gpus: {gpus}}}"))
            for stage in ("train small", "unlearn small retrain", "unlearn small original"):
                done = call(small, sys.executable, "-m", "bench", *stage.split())
                assert done.returncode == 0, done.stdout + done.stderr
                assert "4 of 4 runs" in done.stdout or stage.startswith("train")
            paths = [*(small / "data/models").rglob("*.*"), *small.glob("data/predictions/small/[ro]*/*/*.*")]
            made.append({path: path.read_bytes() for path in paths})
        (small / "params.yaml").write_text(PARAMS)
        one, two, again = made
        assert len(one) == 2 + 2 * 4 * 2
        assert two == again
        assert one.keys() == two.keys()
        sidecars = {path for path in one if path.suffix == ".json"}
        assert {path for path in one if one[path] == two[path]} == sidecars  # the same samples went through


def writes_and_dies(k: int) -> None:
    Path(f"{k}.txt").write_text("half")
    os._exit(1)


def test_nothing_is_left_of_a_job_that_costs_three_workers(stage):
    job = resume.Job((7,), "a deadly job", (Path("7.txt"),))
    assert stage.fan_out(writes_and_dies, [job], "stage", lost=lambda k: f"{k} was lost") == ["7 was lost"]
    assert not Path("7.txt").exists()


def test_a_job_that_costs_three_workers_is_recorded_as_a_failed_run(tmp_path, monkeypatch):
    """Its sidecar says so, and nothing that its workers had begun is left."""
    pytest.importorskip("torch")
    from bench import forget
    from bench.stages import unlearn

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.datasets.content_hash", lambda folder: "0" * 64)
    params = Params.model_validate({"run": ["small"], "benchmarks": {}, "methods": {"original": {}, "retrain": {}}})
    target = forget.Target("class", "class-3", frozenset({"class"}), (3,), np.array([4, 7]))
    (record,) = unlearn.lost_job(params, "small", "retrain", [[target]], 1)
    sidecar = store.read_json(Path("data/predictions/small/retrain/class-3/seed-1.json"))
    assert (record["status"], sidecar["status"]) == ("failed", "failed")
    assert sidecar["reason"] == "3 workers that ran it were killed, most often because memory ran out"
    assert sidecar["forget_set"] == 2

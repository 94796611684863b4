"""The real pipeline in a temporary copy of the repository, at small scale."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from bench import datasets, store

ROOT = Path(__file__).resolve().parent.parent
REPORTING = ["figures@small", "leaderboard@small", "page", "reproduction", "timings@small"]
PARAMS = """
run: [small]
benchmarks:
  small:
    dataset: digits
    validation: 0.1
    architecture: resnet-small
    training: {epochs: 1, batch_size: 64, lr: 0.05}
    memorization: {models: 30}
    requests:
      class: {kind: class, targets: [3]}
      random: {kind: random, fraction: 0.1}
      memorized: {kind: memorized, level: high, size: 30}
      steps: {kind: sequential, steps: [{kind: class, targets: [3]}, {kind: classes, targets: [[3, 8]]}]}
    seeds: [0, 1]
    probe: {seeds: [0], lr: 0.02, steps: 4, every: 3, shots: 2}
methods:
  original: {}
  retrain: {}
  salun: {epochs: 1}
  kodge: {alpha_r: 100, alpha_f: 3}
  wfnet: {epochs: 1}
  rum: {parts: [{method: original}, {method: salun, hyperparameters: {epochs: 1}}]}
  salun_soft: {method: salun, epochs: 1, variant: soft}
  broken: {}
  diverging: {}
  no_network: {}
"""
BROKEN = '''
"""A method that raises for one seed of two."""
from methods.base import EVERY_REQUEST, Card, Method


class Broken(Method):
    card = Card(serves=EVERY_REQUEST, reads=frozenset({"forget"}), labels=False, trains=False)

    def unlearn(self, model, problem):
        if problem.key[-1] == 1:
            raise RuntimeError("it was not to be")
        return model
'''
NO_NETWORK = '''
"""A method that gives nothing back."""
from methods.base import CLASS_REQUESTS, Card, Method


class NoNetwork(Method):
    card = Card(serves=CLASS_REQUESTS, reads=frozenset({"forget"}), labels=False, trains=False)

    def unlearn(self, model, problem):
        problem.notes["share"] = float("nan")
'''
DIVERGING = '''
"""A method whose outputs are not finite."""
from methods.base import CLASS_REQUESTS, Card, Method


class Diverging(Method):
    card = Card(serves=CLASS_REQUESTS, reads=frozenset({"forget"}), labels=False, trains=False)

    def unlearn(self, model, problem):
        model.head.weight.data.fill_(float("nan"))
        return model
'''


def copy_of_the_repository(to: Path) -> Path:
    """The files that git knows or would take, as a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    subprocess.run(["git", "init", "-q"], cwd=to, check=True)
    return to


def call(folder: Path, *command: str, workers: int = 2) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "LETHE_WORKERS": str(workers),
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"),
        "DVC_NO_ANALYTICS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def repro(folder: Path, workers: int = 2) -> list[str]:
    """Run the pipeline; the stages that ran."""
    done = call(folder, "dvc", "repro", workers=workers)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"Running stage '([^']+)'", done.stdout)


def hashes(folder: Path) -> dict[str, str]:
    lock = YAML(typ="safe").load(folder / "dvc.lock")
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The pipeline run once with one worker; old results of the repository are taken away first."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("one"))
    (folder / "dvc.lock").unlink(missing_ok=True)
    published = (folder / "reports/published.csv").read_bytes()
    shutil.rmtree(folder / "reports")
    (folder / "reports").mkdir()
    (folder / "reports/published.csv").write_bytes(published)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "methods/broken.py").write_text(BROKEN)
    (folder / "methods/diverging.py").write_text(DIVERGING)
    (folder / "methods/no_network.py").write_text(NO_NETWORK)
    repro(folder, workers=1)
    return folder


@pytest.mark.xdist_group("pipeline")
class TestPipeline:
    def test_leaderboard_has_numbers_and_tells_failures(self, small):
        table = pd.read_csv(small / "reports/small/leaderboard.csv", keep_default_na=True)
        status = table.drop_duplicates(["request", "method"]).set_index(["request", "method"])["status"]
        assert status["class", "kodge"] == "ok"
        assert status["random", "kodge"] == "not served"
        assert status["class", "broken"] == "failed: 1 of 2 runs; RuntimeError: it was not to be"
        assert status["class", "diverging"].startswith("failed: 2 of 2 runs; outputs are not finite on train")
        assert (
            status["class", "no_network"] == "failed: 2 of 2 runs; TypeError: unlearn returned NoneType, not a network"
        )
        retrain = table[(table["request"] == "class") & (table["method"] == "retrain")].set_index("metric")
        assert retrain["mean"]["ACC_f"] == 0
        assert retrain["mean"]["ACC_r"] > 0.5
        assert retrain["gap"].dropna().eq(0).all()
        shown = table["metric"].isin(["UA", "RA", "TA", "mia_salun", "js_forget"])
        assert (table.loc[shown & table["method"].isin(["original", "retrain"]), "n"] == 2).all()

    def test_every_kind_of_request_is_judged(self, small):
        table = pd.read_csv(small / "reports/small/leaderboard.csv", keep_default_na=True)
        assert list(table["request"].unique()) == ["class", "random", "memorized", "steps-1", "steps-2"]
        status = table.drop_duplicates(["request", "method"]).set_index(["request", "method"])["status"]
        assert (status.xs("rum", level="method") == "ok").all()
        assert (status.xs("salun_soft", level="method") == "ok").all()
        assert status["memorized", "wfnet"] == "not served"
        assert status["steps-2", "wfnet"] == "ok"
        assert status["steps-2", "broken"].startswith("failed: 1 of 2 runs; an earlier step of the sequence failed")
        tow = table[(table["metric"] == "tow") & (table["request"] == "random")].set_index("method")["mean"]
        assert ((tow > 0) & (tow <= 1)).all()

    def test_a_step_of_a_sequence_starts_from_the_network_before_it(self, small):
        """The first step is the class request: same retain set for retrain, and step 2 holds both classes."""
        folder = small / "data/predictions/small"
        sizes = [store.read_json(folder / f"retrain/steps-{k}/seed-0.json")["forget_set"] for k in (1, 2)]
        labels = datasets.load(small / "data/datasets/small").train.labels
        assert sizes == [(labels == 3).sum(), ((labels == 3) | (labels == 8)).sum()]
        read = store.read_json(folder / "retrain/steps-2/seed-0.json")["samples"]["read"]
        assert read == {"retain": len(labels) - sizes[1]}  # of one epoch: what step 1 forgot is gone
        read = store.read_json(folder / "salun/steps-2/seed-0.json")["samples"]["read"]
        assert read["forget"] == 2 * (labels == 8).sum()  # once for the mask, once for the epoch

    def test_a_shared_round_is_made_once_a_seed_and_split(self, small):
        folder = small / "data/predictions/small/wfnet"
        sidecars = [store.read_json(folder / t / "seed-0.json")["samples"] for t in ("class-3", "steps-1")]
        assert [s["prepared"]["targets"] for s in sidecars] == [2, 2]
        whole = sidecars[0]["prepared"]
        assert all(s["forward"] - whole["forward"] / 2 == int(s["forward"] - whole["forward"] / 2) for s in sidecars)
        assert "prepared" not in store.read_json(folder / "steps-2" / "seed-0.json")["samples"]  # a round of its own
        gates = store.read_tensors(folder / "prepared" / "seed-0.artifacts.safetensors")
        assert all(alpha.shape[0] == 10 for alpha in gates.values())

    def test_memorization_is_reported(self, small):
        text = (small / "reports/small/leaderboard.md").read_text().split("## Memorization")[1]
        assert "| confidence |" in text
        assert "| memorized |" in text

    def test_networks_are_kept_of_the_probed_seeds_and_probed(self, small):
        index = store.read_json(small / "data/networks/small/broken/index.json")
        assert {(entry["target"], entry["seed"]) for entry in index} == {
            (target, 0) for target in ("class-3", "random", "memorized", "steps-1", "steps-2")
        }
        assert {path.name for path in (small / "data/networks/small").rglob("*.safetensors")} == {"seed-0.safetensors"}
        table = pd.read_csv(small / "reports/small/leaderboard.csv", keep_default_na=True)
        probed = table[table["metric"] == "relearn_area"].set_index(["request", "method"])
        assert (probed["n"] == 1).all()
        assert ("steps-2", "salun") in probed.index
        diverged = pd.read_csv(small / "data/probes/small/diverging/probes.csv")
        assert list(diverged["status"].unique()) == ["failed: the run left no network"]

    def test_a_changed_relearning_runs_the_probes_and_the_reports_alone(self, small):
        (small / "params.yaml").write_text(PARAMS.replace("shots: 2", "shots: 3"))
        ran = repro(small)
        (small / "params.yaml").write_text(PARAMS)
        repro(small)
        methods = list(YAML(typ="safe").load(PARAMS)["methods"])
        assert sorted(ran) == sorted(["plan", *(f"probe@small-{method}" for method in methods), *REPORTING])

    def test_every_output_is_there(self, small):
        for name in ("leaderboard.md", "metrics.json", "timings.csv", "timings.md", "../index.html"):
            assert (small / "reports/small" / name).stat().st_size > 0
        figures = {p.suffix for p in (small / "reports/small/figures").iterdir()}
        assert figures == {".pdf", ".png", ".svg"}
        logits = store.read_tensors(small / "data/predictions/small/kodge/class-3/seed-1.safetensors")
        assert {k: v.shape for k, v in logits.items()} == {
            "train": (1293, 10),
            "validation": (144, 10),
            "test": (360, 10),
        }
        assert all(v.dtype == "float32" for v in logits.values())
        assert not (small / "data/predictions/small/diverging/class-3/seed-0.safetensors").exists()

    def test_dvc_metrics_show(self, small):
        shown = call(small, "dvc", "metrics", "show")
        assert shown.returncode == 0, shown.stderr
        assert "class.retrain.UA" in shown.stdout

    def test_dvc_plots_show(self, small):
        shown = call(small, "dvc", "plots", "show", "--json")
        assert shown.returncode == 0, shown.stderr
        drawn = json.loads(shown.stdout)["data"]
        requests = {"class", "random", "memorized", "steps-1", "steps-2"}
        assert drawn.keys() == {f"reports/small/plots/{request}.csv" for request in requests}

    def test_unchanged_nothing_runs(self, small):
        assert repro(small) == []

    def test_two_workers_from_scratch_give_the_same_bytes(self, small, tmp_path):
        other = copy_of_the_repository(tmp_path)
        for name in ("params.yaml", *(f"methods/{name}.py" for name in ("broken", "diverging", "no_network"))):
            shutil.copy2(small / name, other / name)
        (other / "dvc.lock").unlink(missing_ok=True)
        assert "train@small" in repro(other, workers=2)
        a, b = hashes(small), hashes(other)
        assert a.keys() == b.keys()
        different = {path for path in a if a[path] != b[path]}
        assert not {path for path in different if not path.startswith(("data/costs/", "reports/small/timings."))}

    def test_verify_agrees_and_finds_a_changed_file(self, small):
        assert "same bytes" in call(small, sys.executable, "-m", "bench", "verify", "--runs", "99").stdout
        path = small / "data/predictions/small/retrain/random/seed-0.safetensors"
        kept = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        found = call(small, sys.executable, "-m", "bench", "verify", "--runs", "99")
        path.write_bytes(kept)
        assert found.returncode == 1
        assert "DIFFERENT" in found.stdout
        assert "retrain/random/seed-0" in found.stdout

    def test_a_missing_run_is_an_error_not_a_smaller_sample(self, small):
        path = small / "data/predictions/small/retrain/random/seed-0.json"
        kept = path.read_bytes()
        path.unlink()
        judged = call(small, sys.executable, "-m", "bench", "attack", "small", "retrain")
        path.write_bytes(kept.replace(b'"data": "', b'"data": "0'))
        other_data = call(small, sys.executable, "-m", "bench", "attack", "small", "retrain")
        path.write_bytes(kept)
        assert judged.returncode == 1
        assert "retrain/random/seed-0.json: no such file" in judged.stderr
        assert other_data.returncode == 1
        assert "made on other data" in other_data.stderr

    def test_a_deleted_output_comes_back_from_the_cache(self, small):
        path = small / "data/predictions/small/kodge/class-3/seed-0.safetensors"
        before = path.read_bytes()
        shutil.rmtree(path.parent)
        assert repro(small) == []
        assert path.read_bytes() == before

    def test_a_changed_hyperparameter_runs_that_methods_stages_and_the_reports(self, small):
        (small / "params.yaml").write_text(PARAMS.replace("alpha_r: 100", "alpha_r: 10"))
        ran = repro(small)
        assert ran[:2] == ["plan", "unlearn@small-kodge"]  # `plan` takes seconds
        assert sorted(ran[2:]) == sorted(["attack@small-kodge", "probe@small-kodge", *REPORTING])
        (small / "params.yaml").write_text(PARAMS)
        assert set(repro(small)) <= {"plan", *REPORTING}  # the runs come from DVC's cache

    def test_a_changed_method_runs_its_own_stages_and_those_of_methods_that_call_it(self, small):
        path = small / "methods/salun.py"
        kept = path.read_text()
        path.write_text(kept + "\n# changed\n")
        ran = repro(small)
        path.write_text(kept)
        repro(small)
        assert {name for name in ran if name.startswith("unlearn")} == {
            "unlearn@small-salun",
            "unlearn@small-salun_soft",
            "unlearn@small-rum",
        }

    def test_a_typo_stops_before_anything_runs(self, small):
        (small / "params.yaml").write_text(PARAMS.replace("alpha_r: 100", "alpha_q: 100"))
        done = call(small, "dvc", "repro")
        (small / "params.yaml").write_text(PARAMS)
        assert done.returncode != 0
        assert "methods.kodge.alpha_q: unknown key 'alpha_q'" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr

    def test_an_original_that_diverges_stops_with_its_key(self, small, tmp_path):
        other = copy_of_the_repository(tmp_path)
        (other / "params.yaml").write_text(PARAMS.replace("lr: 0.05", "lr: 1e30").split("  broken")[0])
        call(other, sys.executable, "-m", "bench", "data", "small")
        done = call(other, sys.executable, "-m", "bench", "train", "small")
        assert done.returncode == 1
        assert re.search(r"benchmarks\.small\.training: the original of seed [01] diverged", done.stderr)
        assert "Traceback" not in done.stderr


def test_the_committed_lock_is_up_to_date(tmp_path):
    """On a copy without any data, DVC finds nothing that would have to run."""
    done = call(copy_of_the_repository(tmp_path), "dvc", "repro", "--dry", "--allow-missing")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage" not in done.stdout, f"run `dvc repro` and commit dvc.lock:\n{done.stdout}"

"""`unlearn@BENCHMARK-METHOD`: one run a target and seed, each ending in its predictions.

A run that raises, or whose outputs are not finite, is recorded as failed with its reason in the
sidecar, without predictions; the others go on.
"""

import time
import traceback
from typing import Any

import torch

import methods
from bench import datasets, forget, provenance, store
from bench.config import Benchmark, Params
from bench.errors import BadInput
from bench.forget import Target
from bench.jobs import fan_out
from bench.problem import Problem, problem
from bench.stages import setting
from bench.training import Samples, cross_entropy, set_determinism, train


def run(params: Params, benchmark: str, method: str) -> str:
    jobs = [(params, benchmark, method, target, seed) for target, seed in runs(params, benchmark, method)]
    records = fan_out(one_run, jobs, f"unlearn {benchmark} {method}")
    stamp = {"commit": provenance.commit(), "hardware": provenance.hardware(), "versions": provenance.versions()}
    card = methods.find(method).card.model_dump(mode="json")
    card |= {"serves": sorted(card["serves"]), "reads": sorted(card["reads"])}
    hyperparameters = methods.create(method, params.hyperparameters(method, benchmark), method).model_dump(mode="json")
    store.write_json(
        store.predictions_folder(benchmark, method) / "method.json",
        {"card": card, "hyperparameters": hyperparameters},
    )
    store.write_json(store.cost_file(benchmark, method), {"stamp": stamp, "runs": records})
    failed = [r for r in records if r["status"] == "failed"]
    line = f"{len(records) - len(failed)} of {len(records)} runs"
    if failed:
        first = failed[0]
        line += f"; {len(failed)} failed, first {first['target']} seed {first['seed']}: {first['reason']}"
    return line


def runs(params: Params, benchmark: str, method: str) -> list[tuple[Target, int]]:
    """The targets that the method serves, times the seeds."""
    cls = methods.find(method)
    section = params.benchmark(benchmark)
    labels = datasets.load(store.dataset_folder(benchmark)).train.labels
    served = [t for t in forget.targets(benchmark, section, labels) if t.kind in cls.card.serves]
    return [(target, seed) for target in served for seed in section.seeds]


def one_run(params: Params, name: str, method: str, target: Target, seed: int) -> dict[str, Any]:
    """Unlearn, store predictions and sidecar; return status, seconds and peak memory."""
    set_determinism()
    path = store.run_file(name, method, target.name, seed)
    hyperparameters = params.hyperparameters(method, name)
    algorithm = methods.create(method, hyperparameters, f"methods.{method}")
    folder = store.dataset_folder(name)
    splits = setting.samples(folder)
    original = setting.load_original(name, params.benchmark(name), seed, splits["train"])
    task = run_problem(params, name, method, target, seed).only(algorithm.card.reads)
    warm_up(name, params.benchmark(name), splits["train"])

    reason, model = "", original
    with task.meter.running():
        task.meter.attach(original)
        synchronize()
        started = time.perf_counter()
        try:
            model = algorithm.unlearn(original, task)
        except (BadInput, KeyboardInterrupt):
            raise
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        synchronize()
        seconds = time.perf_counter() - started
    if not reason:
        logits = setting.all_logits(model, splits)
        if bad := [split for split, z in logits.items() if not torch.isfinite(z).all()]:
            reason = f"outputs are not finite on {', '.join(bad)}: the method diverged"
        else:
            store.write_tensors(path, setting.to_numpy({k: z.float() for k, z in logits.items()}))
    sidecar = {
        "benchmark": name,
        "request": target.request,
        "target": target.name,
        "method": method,
        "seed": seed,
        "status": "failed" if reason else "ok",
        "reason": reason,
        "notes": task.notes,
        "samples": task.meter.counts(),
        "forget_set": len(target.indices),
        "data": datasets.content_hash(folder),
    }
    store.write_json(path.with_suffix(".json"), sidecar)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    record = {key: sidecar[key] for key in ("request", "target", "seed", "status", "reason")}
    return record | {"seconds": seconds, "peak_device_bytes": peak}


def run_problem(params: Params, name: str, method: str, target: Target, seed: int) -> Problem:
    """The problem of one run."""
    benchmark, splits = params.benchmark(name), setting.samples(store.dataset_folder(name))
    samples = splits["train"]
    return problem(
        samples,
        torch.from_numpy(target.indices),
        validation=splits["validation"],
        classes=int(samples.labels.max()) + 1,
        key=(name, target.name, method, seed),
        base_order=setting.base_order(name, seed, len(samples)),
        recipe=benchmark.training,
        build=setting.builder(benchmark, samples),
    )


_warm: set[str] = set()  # benchmarks whose kernels this process has started


def warm_up(name: str, benchmark: Benchmark, data: Samples) -> None:
    """Two untimed steps, once a process, so that no run's seconds hold the start-up of the kernels."""
    if name in _warm:
        return
    view = setting.everything(data)
    view = view.select(view.rows[: 2 * benchmark.training.batch_size])
    recipe = benchmark.training.model_copy(update={"epochs": 1})
    train(setting.fresh(name, benchmark, 0, data), view, cross_entropy, recipe)
    _warm.add(name)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

"""`unlearn@BENCHMARK-METHOD`: one run a target and seed, each ending in its predictions.

A run that raises, or whose outputs are not finite, is recorded as failed with its reason in the
sidecar, without predictions; the others go on.
"""

import json
import time
import traceback
from typing import Any

import numpy as np
import torch
from torch import nn

import methods
from bench import datasets, forget, provenance, store
from bench.config import Benchmark, Params
from bench.errors import BadInput
from bench.forget import Target
from bench.jobs import fan_out, worker_count
from bench.problem import Problem, problem
from bench.stages import setting
from bench.training import Samples, cross_entropy, set_determinism, train


def run(params: Params, benchmark: str, method: str) -> str:
    jobs = [(params, benchmark, method, target, seed) for target, seed in runs(params, benchmark, method)]
    records = fan_out(one_run, jobs, f"unlearn {benchmark} {method}")
    stamp = {
        "commit": provenance.commit(),
        "hardware": f"{provenance.hardware()}, {worker_count()} workers",
        "versions": provenance.versions(),
    }
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
    path.unlink(missing_ok=True)  # logits of an earlier run must not stand beside a failure
    algorithm = methods.create(method, params.hyperparameters(method, name), f"methods.{method}")
    splits = setting.samples(store.dataset_folder(name))
    original = setting.load_original(name, params.benchmark(name), seed, splits["train"])
    task = run_problem(params, name, method, target, seed).only(algorithm.card.reads)
    warm_up(name, params.benchmark(name), splits["train"])
    synchronize()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # else the peak would be that of the process's largest run so far
    started, seconds, reason = time.perf_counter(), 0.0, ""
    try:
        with task.meter.running():
            model = algorithm.unlearn(task.meter.attach(original), task)
            synchronize()
            seconds = time.perf_counter() - started
        store.write_tensors(path, checked_logits(model, splits, task.classes))
        json.dumps(task.notes, allow_nan=False)
    except BadInput:
        raise
    except Exception as error:
        traceback.print_exc()
        path.unlink(missing_ok=True)
        task.notes.clear()
        reason = str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}"
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
        "data": datasets.content_hash(store.dataset_folder(name)),
    }
    store.write_json(path.with_suffix(".json"), sidecar)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    record = {key: sidecar[key] for key in ("request", "target", "seed", "status", "reason")}
    return record | {"seconds": seconds, "peak_device_bytes": peak}


class Diverged(Exception):
    """A method's network does not give finite outputs."""


def checked_logits(model: nn.Module, splits: dict[str, Samples], classes: int) -> dict[str, np.ndarray]:
    """Predictions of a method's network, float32.

    Raises:
        Diverged: some are not finite.
        TypeError, ValueError: it is no network, or has another number of outputs.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"unlearn returned {type(model).__name__}, not a network")
    logits = setting.all_logits(model, splits)
    for split, z in logits.items():
        if z.shape != (len(splits[split]), classes):
            raise ValueError(f"outputs on {split} have the shape {tuple(z.shape)}, not {(len(splits[split]), classes)}")
    if bad := [split for split, z in logits.items() if not torch.isfinite(z).all()]:
        raise Diverged(f"outputs are not finite on {', '.join(bad)}: the method diverged")
    return setting.to_numpy({split: z.float() for split, z in logits.items()})


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

"""`unlearn@BENCHMARK-METHOD`: one run a target and seed, each ending in its predictions.

Targets of a sequence follow each other on one network. What the targets of a seed share is prepared once,
and its cost split evenly over them.

A run that raises, or whose outputs are not finite, is recorded as failed with its reason in the
sidecar, without predictions; the others go on.
"""

import copy
import itertools
import json
import time
import traceback
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import methods
from bench import datasets, distributed, forget, provenance, resume, store
from bench.checkpoint import Checkpoint
from bench.config import Benchmark, Params
from bench.errors import BadInput
from bench.flops import Pass, of_pass
from bench.forget import Target
from bench.jobs import TRIES, engine, lose
from bench.memory import larger, peaks, reset_peak, tensor_bytes
from bench.problem import Meter, Problem, problem
from bench.stages import setting
from bench.training import Samples, cross_entropy, set_determinism, train
from methods.base import Method


def run(params: Params, benchmark: str, method: str) -> str:
    file, made_of = params.file(method), methods.consists_of(params, method, benchmark)
    todo = resumable(jobs(params, benchmark, method), made_of)
    card = methods.find(file).card.model_dump(mode="json")
    card |= {"serves": sorted(card["serves"]), "reads": sorted(card["reads"])}
    with resume.unfinished(params, "unlearn", benchmark, method) as unfinished:
        gpus = params.benchmark(benchmark).training.gpus
        made = unfinished.fan_out(one, todo, f"unlearn {benchmark} {method}", lost=lost_job, gpus=gpus)
        records = [record for of_job in made for record in of_job]
        places = sorted({record["hardware"] for record in records}) or [provenance.hardware()]
        stamp = {
            "commit": provenance.commit(),
            "hardware": f"{' and '.join(places)}, {engine(gpus)}",
            "versions": provenance.versions(),
        }
        store.write_json(
            store.predictions_folder(benchmark, method) / "method.json",
            {"file": f"methods/{file}.py", "card": card, "hyperparameters": made_of["hyperparameters"]},
        )
        store.write_json(store.cost_file(benchmark, method), {"stamp": stamp, "runs": records})
        store.write_json(store.networks_index(benchmark, method), kept_networks(params, benchmark, method, records))
    failed = [r for r in records if r["status"] == "failed"]
    line = f"{len(records) - len(failed)} of {len(records)} runs"
    if failed:
        first = failed[0]
        line += f"; {len(failed)} failed, first {first['target']} seed {first['seed']}: {first['reason']}"
    return line


def kept_networks(params: Params, name: str, method: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each run whose network the benchmark probes: target, seeds, and the file's SHA-256, none if the run failed."""
    found = []
    for record in records:
        run = {key: record[key] for key in ("target", "seed", "unlearning_seed")}
        if run["seed"] in params.benchmark(name).probed_seeds:
            file = store.network_file(name, method, *run.values())
            found.append(run | {"sha256": store.sha256(file) if record["status"] == "ok" else None})
    return found


# params, benchmark, method, chains of targets, training seed, unlearning seed
Job = tuple[Params, str, str, list[list[Target]], int, int]


def jobs(params: Params, benchmark: str, method: str) -> list[Job]:
    """A job a chain of targets, seed and unlearning seed; for methods whose targets share work, one for all chains."""
    card, section = methods.find(params.file(method)).card, params.benchmark(benchmark)
    found = [] if section.left_out(method) else forget.of_benchmark(benchmark, section)
    served = [t for t in found if t.kinds <= card.serves]
    chains = forget.chains(served)
    groups = [chains] if card.shares and chains else [[chain] for chain in chains]
    seeds = list(itertools.product(section.seeds, section.unlearning_seeds))
    return [(params, benchmark, method, group, *pair) for group in groups for pair in seeds]


def resumable(jobs: list[Job], made_of: dict[str, Any]) -> list[resume.Job]:
    """The jobs with what their runs depend on, and the files that they may write."""
    found, digest = [], cache(store.sha256)
    for job in jobs:
        params, name, method, chains, *seeds = job
        read = [store.model_file(name, seeds[0])]
        if params.benchmark(name).memorization is not None:
            read.append(store.scores_file(name))
        files = [store.artifacts_file(name, method, "prepared", *seeds)]
        for target in itertools.chain.from_iterable(chains):
            path = store.run_file(name, method, target.name, *seeds)
            files += [path, path.with_suffix(".json"), store.artifacts_file(name, method, target.name, *seeds)]
            files.append(store.network_file(name, method, target.name, *seeds))
        facts: dict[str, Any] = {"method": made_of, "read": list(map(digest, read)), "targets": chains, "seeds": seeds}
        facts["kept"] = seeds[0] in params.benchmark(name).probed_seeds
        found.append(resume.Job(job, facts, tuple(files)))
    return found


def one(
    params: Params, name: str, method: str, chains: list[list[Target]], seed: int, unlearning_seed: int = 0
) -> list[dict[str, Any]]:
    """A job: `one_job`, on as many GPUs as the benchmark's recipe says."""
    gpus, kept = params.benchmark(name).training.gpus, resume.checkpoint("run")
    reads = "datasets", "models", "scores"
    return distributed.run(gpus, one_job, params, name, method, chains, seed, unlearning_seed, kept, reads=reads)


def one_job(
    params: Params,
    name: str,
    method: str,
    chains: list[list[Target]],
    seed: int,
    unlearning_seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, Any]]:
    """Unlearn each chain of targets, store what is kept of each run; return status, cost and hardware of each."""
    set_determinism()
    benchmark = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), benchmark)
    algorithm = methods.create(params.file(method), params.hyperparameters(method, name), f"methods.{method}")
    warm_up(name, benchmark, splits["train"])
    original = setting.load_original(name, benchmark, seed, splits["train"])
    seeds, prepared = (seed, unlearning_seed), Prepared()
    if algorithm.card.shares:
        prepared = prepare(algorithm, original, params, name, method, chains, *seeds)
    keep_artifacts(prepared.artifacts, store.artifacts_file(name, method, "prepared", *seeds))
    records = []
    for chain in chains:
        model: nn.Module | None = original
        for step, target in enumerate(chain):
            task = replace(
                target_problem(params, name, method, target, *seeds),
                allowed=algorithm.card.reads,
                prepared=prepared.state if step == 0 else None,  # later steps start from another network
                checkpoint=checkpoint and replace(checkpoint),
            )
            record, model = one_run(
                algorithm, model, task, prepared if step == 0 else Prepared(), params, name, method, target, *seeds
            )
            records.append(record)
    return records


@dataclass
class Prepared:
    """What the targets of a seed share, and what it cost, of which each of `targets` bears an equal part."""

    state: Any = None
    seconds: float = 0.0
    samples: dict[str, Any] = field(default_factory=dict)
    flops: dict[str, Any] = field(default_factory=dict)
    targets: int = 0
    reason: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, np.ndarray] = field(default_factory=dict)
    stored: int = 0
    peak: dict[str, int | None] = field(default_factory=dict)


def prepare(
    algorithm: Method,
    original: nn.Module,
    params: Params,
    name: str,
    method: str,
    chains: list[list[Target]],
    seed: int,
    unlearning_seed: int = 0,
) -> Prepared:
    """The method's one round for all chains, measured; a failure is kept as its reason."""
    firsts = [chain[0] for chain in chains]
    everything = replace(
        firsts[0],
        name="all targets",
        indices=np.unique(np.concatenate([t.indices for t in firsts])),
        earlier=forget.NONE,
    )
    task = target_problem(params, name, method, everything, seed, unlearning_seed)
    classes = tuple(sorted({c for target in firsts for c in target.classes}))
    task = replace(task.pool(), allowed=algorithm.card.reads, forgotten_classes=classes)
    prepared = Prepared(targets=len(firsts))
    before = reset_peak()
    started = time.perf_counter()
    try:
        with task.meter.running():
            prepared.state = algorithm.prepare(task.meter.attach(copy.deepcopy(original)), task)
            synchronize()
        prepared.artifacts = setting.to_numpy(task.artifacts)
    except BadInput:
        raise
    except Exception as error:
        traceback.print_exc()
        give_up_if_it_may_pass(error)
        prepared.reason = f"in prepare: {type(error).__name__}: {error}"
    prepared.seconds = time.perf_counter() - started
    prepared.samples, prepared.notes, prepared.peak = task.meter.counts(), task.notes, peaks(before)
    prepared.flops = flops(task.meter, name, original, task.views["train"].samples)
    prepared.stored = tensor_bytes(prepared.state, task.artifacts)
    return prepared


def one_run(
    algorithm: Method,
    model: nn.Module | None,
    task: Problem,
    prepared: Prepared,
    params: Params,
    name: str,
    method: str,
    target: Target,
    seed: int,
    unlearning_seed: int = 0,
) -> tuple[dict[str, Any], nn.Module | None]:
    """One run: its record, and the network that it left, none if it failed."""
    splits = setting.samples(store.dataset_folder(name), params.benchmark(name))
    seeds = seed, unlearning_seed
    path = store.run_file(name, method, target.name, *seeds)
    artifacts = store.artifacts_file(name, method, target.name, *seeds)
    network = store.network_file(name, method, target.name, *seeds)
    for old in (path, artifacts, network):
        old.unlink(missing_ok=True)  # what an earlier run left must not stand beside a failure
    synchronize()
    before, peak = reset_peak(), dict[str, int | None]()
    started, seconds, reason, left = time.perf_counter(), 0.0, prepared.reason, None
    if model is None:
        reason = "an earlier step of the sequence failed"
    elif not reason:
        try:
            with task.meter.running():
                left = algorithm.unlearn(task.meter.attach(copy.deepcopy(model)), task)
                synchronize()
                seconds = time.perf_counter() - started + (task.checkpoint.earlier if task.checkpoint else 0.0)
            peak = peaks(before)
            store.write_tensors(path, checked_logits(left, splits, task.classes))
            json.dumps(task.notes, allow_nan=False)
            keep_artifacts(setting.to_numpy(task.artifacts), artifacts)
            if seed in params.benchmark(name).probed_seeds:
                store.write_tensors(network, setting.to_numpy(left.state_dict()))
        except BadInput:
            raise
        except Exception as error:
            traceback.print_exc()
            give_up_if_it_may_pass(error)
            path.unlink(missing_ok=True)
            left, reason = None, str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}"
    notes = {} if reason else prepared.notes | task.notes
    counts: dict[str, Any] = {
        "samples": with_share(task.meter.counts(), prepared.samples, prepared.targets),
        "flops": with_share(flops(task.meter, name, model, splits["train"]), prepared.flops, prepared.targets),
        "stored_bytes": prepared.stored + tensor_bytes(task.artifacts),
    }
    write_sidecar(name, method, target, seeds, reason, counts, notes)
    spent: dict[str, Any] = {key: larger(value, prepared.peak.get(key)) for key, value in peak.items()}
    spent |= {"seconds_prepare": prepared.seconds, "targets": prepared.targets}
    spent |= {key: counts[key] for key in ("flops", "stored_bytes")}
    return cost(target, seeds, reason, seconds + prepared.seconds / max(prepared.targets, 1), spent), left


def give_up_if_it_may_pass(error: Exception) -> None:
    """Raise what is no failure of the method, or end the worker, so that the job is run again."""
    if distributed.place()[1] > 1:  # the other processes of the job would wait for this one
        raise error
    if isinstance(error, (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))):
        lose(error)  # another job on the same GPU may have been the reason


def lost_job(
    params: Params, name: str, method: str, chains: list[list[Target]], seed: int, unlearning_seed: int = 0
) -> list[dict[str, Any]]:
    """All runs of a job as failed, since several workers were killed that ran it."""
    reason = f"{TRIES} workers that ran it were killed, most often because memory ran out"
    none = {"forward": 0, "backward": 0}
    nothing = {"samples": none | {"read": {}}, "flops": none | {"beside": 0}, "stored_bytes": 0}
    records = []
    for target in itertools.chain.from_iterable(chains):
        write_sidecar(name, method, target, (seed, unlearning_seed), reason, nothing, {})
        records.append(cost(target, (seed, unlearning_seed), reason, 0.0, {}, "unknown"))
    return records


def write_sidecar(
    name: str,
    method: str,
    target: Target,
    seeds: tuple[int, int],
    reason: str,
    counts: dict[str, Any],
    notes: dict[str, Any],
) -> None:
    """What is said of a run beside its predictions; one with a reason has failed."""
    sidecar = {
        "benchmark": name,
        "request": target.request,
        "target": target.name,
        "method": method,
        "seed": seeds[0],
        "status": "failed" if reason else "ok",
        "reason": reason,
        "notes": notes,
        **counts,
        "forget_set": len(target.indices),
        "data": datasets.content_hash(store.dataset_folder(name)),
    }
    if seeds[1]:
        sidecar["unlearning_seed"] = seeds[1]
    store.write_json(store.run_file(name, method, target.name, *seeds).with_suffix(".json"), sidecar)


def cost(
    target: Target, seeds: tuple[int, int], reason: str, seconds: float, spent: dict[str, Any], hardware: str = ""
) -> dict[str, Any]:
    """What a run took and where: a line of the cost file."""
    run = {"request": target.request, "target": target.name, "seed": seeds[0], "unlearning_seed": seeds[1]}
    run |= {"status": "failed" if reason else "ok", "reason": reason, "peak_device_bytes": None}
    return run | {"seconds": seconds, "hardware": hardware or provenance.hardware()} | spent


def keep_artifacts(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write them, or nothing where there are none; what an earlier run left goes."""
    path.unlink(missing_ok=True)
    if tensors:
        store.write_tensors(path, tensors)


_flops: dict[tuple[str, Pass], int] = {}  # of a sample on a benchmark, counted once a process


def flops(meter: Meter, name: str, model: nn.Module | None, data: Samples) -> dict[str, Any]:
    """What a meter saw in FLOPs: of the network's passes, forward and backward, and of algebra beside them."""
    total = {"forward": 0, "backward": 0, "beside": meter.beside}
    for kind, samples in meter.passes.items():
        kind = kind._replace(shape=kind.shape or tuple(data.images.shape[1:]))
        if (name, kind) not in _flops:
            assert model is not None
            _flops[name, kind] = of_pass(model, kind)
        total[kind.way] += samples * _flops[name, kind]
    return total


def with_share(counts: dict[str, Any], prepared: dict[str, Any], targets: int) -> dict[str, Any]:
    """A run's own counts and its equal part of what preparing cost, which stands beside them whole."""
    if not targets:
        return counts
    shared = {way: own + prepared[way] / targets for way, own in counts.items() if way != "read"}
    return counts | shared | {"prepared": prepared | {"targets": targets}}


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


def target_problem(
    params: Params, name: str, method: str, target: Target, seed: int, unlearning_seed: int = 0
) -> Problem:
    """The problem of one target, seed and unlearning seed; unlearning seed 0 adds nothing to the key of the draws."""
    benchmark = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), benchmark)
    samples = splits["train"]
    return problem(
        samples,
        torch.from_numpy(target.new),
        gone=torch.from_numpy(target.earlier),
        validation=splits["validation"],
        classes=int(samples.labels.max()) + 1,
        key=(name, target.name, method, seed, *(("unlearning", unlearning_seed) if unlearning_seed else ())),
        base_order=setting.base_order(name, seed, len(samples)),
        recipe=benchmark.training,
        build=setting.builder(benchmark, samples),
        scores=setting.scores(name) if benchmark.memorization else {},
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

"""`meta`: planted cases, of which it is known how near they are to retraining, through every metric of the suite.

    perfect           the retrain itself, trained once more: the same bytes
    another_seed      an honest retrain with the initialisation and the order of another seed
    half              a retrain that has seen half of the forget set
    original          untouched
    head_masked       never predicts the class, and knows all that it did (`methods.head_mask`)
    logit_suppressed  the class's logit lowered by a constant, so that no forget sample is predicted so; it still orders
    over_forgotten    the original, taught wrong labels of the forget set
    random_weights    an untrained network

They run on digits with the network and the recipe of `digits-resnet`, in a temporary project of the ordinary layout:
the stages train the originals and the retrains, and judge. So whatever `attack` and `probe` compute is checked.

It is no stage of the pipeline. What it finds is a property of the code, whatever benchmarks `run` names; and its table
stands amid the text of docs/metrics.md, which DVC, were it an output, would delete before each run.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import forget, imports, store
from bench.config import Params, Probe
from bench.errors import BadInput
from bench.forget import Target
from bench.jobs import DASK, fan_out
from bench.layers import head
from bench.problem import Problem
from bench.report import meta, tables
from bench.requests import ClassRequest, RandomRequest
from bench.stages import attack, data, memorize, probe, setting, train, unlearn
from bench.training import Batch, Paired, predict, set_determinism
from bench.training import train as fit
from methods.base import CLASS_REQUESTS, EVERY_REQUEST, Card, Method
from methods.head_mask import HeadMask
from methods.retrain import Retrain

NAME = "meta"  # of the planted benchmark
LIKE = "digits-resnet"  # whose data, network and recipe it has
CLASS, FRACTION = 8, 0.1  # what its requests forget
SEEDS = list(range(8))
PROBED, RELEARN = 4, 0.02  # of so many seeds the networks are probed, at this learning rate
ANOTHER = 1000  # from a seed to that of `another_seed`
TABLE, STAMP, PAGE = store.REPORTS / "meta.csv", store.REPORTS / "meta.json", Path("docs/metrics.md")


def half(model: nn.Module, problem: Problem) -> nn.Module:
    """Retrained on the retain set and half of the forget set."""
    return Retrain().unlearn(model, half_kept(problem))


def half_kept(problem: Problem) -> Problem:
    """The problem with half of its forget set, drawn for the run, in the retain set as well."""
    rows = problem.forget.rows
    drawn = torch.randperm(len(rows), generator=problem.generator("half"))[: len(rows) // 2]
    kept = problem.forget.select(rows[drawn.to(rows.device)])
    return replace(problem, views=problem.views | {"retain": problem.retain | kept})


def suppressed(model: nn.Module, problem: Problem) -> nn.Module:
    """The original, each forgotten class's bias lowered until its logit is 1 below the best other on all of D_f."""
    changed, gone = copy.deepcopy(model).eval(), list(problem.forgotten_classes)
    logits = predict(changed, problem.forget)
    others = logits.index_fill(1, torch.tensor(gone, device=logits.device), -torch.inf).amax(1, keepdim=True)
    with torch.no_grad():
        bias = head(changed, problem.classes).bias
        bias[gone] -= (logits[:, gone] - others).amax(0) + 1
    return changed


def over_forgotten(model: nn.Module, problem: Problem) -> nn.Module:
    """The original, trained on with a batch of D_f, each label the next class's, in every step beside one of D_r.

    Unlike gradient ascent it has a minimum, so that what was to be kept stays.
    """
    assert problem.recipe is not None
    wrong = (problem.forget.samples.labels + 1) % problem.classes

    def loss(model: nn.Module, pair: tuple[Batch, Batch]) -> Tensor:
        outputs = model(torch.cat([batch.images for batch in pair]))
        return F.cross_entropy(outputs, torch.cat([batch.labels for batch in pair]))

    return fit(model, Paired(problem.retain, problem.forget.relabelled(lambda epoch: wrong)), loss, problem.recipe)


def random_weights(model: nn.Module, problem: Problem) -> nn.Module:
    return problem.fresh_model().eval()


class Case(Method):
    """A planted case: like a method, but on no leaderboard."""

    card = Card(serves=EVERY_REQUEST, reads=frozenset({"forget", "retain"}), labels=True, trains=True)

    make: Callable[[nn.Module, Problem], nn.Module]  # of the original and the problem, a network
    whole_classes: bool = False  # for requests that forget whole classes alone
    draws: str = ""  # the method whose draws it makes; by default its own
    seed: int = 0  # from the original's seed to that of its draws

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        return self.make(model, problem)

    @property
    def description(self) -> dict[str, Any]:
        """What the stage `unlearn` says of a method."""
        card = self.card.model_dump(mode="json")
        card |= {"serves": sorted(self.serves), "reads": sorted(self.card.reads)}
        return {"file": "bench/meta.py", "card": card, "hyperparameters": {}}

    @property
    def serves(self) -> frozenset[str]:
        return frozenset(CLASS_REQUESTS if self.whole_classes else EVERY_REQUEST)


PLANTED = {
    "perfect": Case(make=Retrain().unlearn, draws="retrain"),
    "another_seed": Case(make=Retrain().unlearn, draws="retrain", seed=ANOTHER),
    "half": Case(make=half),
    "head_masked": Case(make=HeadMask().unlearn, whole_classes=True),
    "logit_suppressed": Case(make=suppressed, whole_classes=True),
    "over_forgotten": Case(make=over_forgotten),
    "random_weights": Case(make=random_weights),
}


def run(params: Params) -> str:
    """Write reports/meta.csv, what it was made of beside it, and the table in docs/metrics.md.

    Raises:
        BadInput: params.yaml has no `digits-resnet`, docs/metrics.md no place for the table, or a case failed.
    """
    planned = planted(params)
    meta.inserted(PAGE.read_text(), pd.DataFrame(columns=meta.COLUMNS))  # before anything is trained
    os.environ.pop(DASK, None)  # small jobs, in a folder that other machines don't see
    with store.elsewhere():
        runs = judged(planned)
    table = meta.verdicts(runs)
    store.write_text(TABLE, table.to_csv(index=False, float_format="%.6g"))
    store.write_json(STAMP, made_of(planned))
    store.write_text(PAGE, meta.inserted(PAGE.read_text(), table))
    counts = table["verdict"].value_counts()
    said = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in meta.SHOWN)
    return f"meta: {table['metric'].nunique()} metrics, {table['case'].nunique()} cases: {said}; in {TABLE} and {PAGE}"


def planted(params: Params) -> Params:
    """Parameters with the planted benchmark alone."""
    requests = {
        "class": ClassRequest(kind="class", targets=[CLASS]),
        "random": RandomRequest(kind="random", fraction=FRACTION),
    }
    update = {"requests": requests, "seeds": SEEDS, "probe": Probe(seeds=SEEDS[:PROBED], lr=RELEARN)}
    section = params.benchmark(LIKE).model_copy(update=update | {"memorization": None, "skip": {}})
    methods: dict[str, dict[str, Any]] = {name: {} for name in ("original", "retrain", *PLANTED)}
    return params.model_copy(update={"run": [NAME], "benchmarks": {NAME: section}, "methods": methods})


def made_of(planned: Params) -> dict[str, Any]:
    """All that the result depends on: hashes of the code, parameters."""
    return {"code": imports.hashes("bench.meta"), "parameters": planned.model_dump(mode="json")}


def judged(planned: Params) -> pd.DataFrame:
    """Make the planted benchmark's files in this folder; the runs as the stage `attack` judges them."""
    section = planned.benchmark(NAME)
    data.run(planned, NAME)
    train.run(planned, NAME)
    memorize.run(planned, NAME)
    for reference in ("original", "retrain"):
        unlearn.run(planned, NAME, reference)
    found = forget.of_benchmark(NAME, section)
    todo = [
        (planned, name, target, seed)
        for name, case in PLANTED.items()
        for target in found
        if target.kinds <= case.serves
        for seed in section.seeds
    ]
    records = fan_out(plant, todo, "meta")
    for name, case in PLANTED.items():
        store.write_json(store.predictions_folder(NAME, name) / "method.json", case.description)
        own = [record for job, record in zip(todo, records, strict=True) if job[1] == name]
        store.write_json(store.networks_index(NAME, name), unlearn.kept_networks(planned, NAME, name, own))
    for name in planned.methods:
        attack.run(planned, NAME, name)
        probe.run(planned, NAME, name)
    return tables.read(planned).runs


def plant(planned: Params, name: str, target: Target, seed: int) -> dict[str, Any]:
    """A job: make a case of a target and seed, store what is kept of it; return the line of its cost file.

    Raises:
        BadInput: it has none.
    """
    set_determinism()
    section, case = planned.benchmark(NAME), PLANTED[name]
    splits = setting.samples(store.dataset_folder(NAME), section)
    original = setting.load_original(NAME, section, seed, splits["train"])
    task = unlearn.target_problem(planned, NAME, case.draws or name, target, seed + case.seed)
    record, _ = unlearn.one_run(case, original, task, unlearn.Prepared(), planned, NAME, name, target, seed)
    if record["reason"]:
        raise BadInput(f"meta: {name}, {target.name}, seed {seed}: {record['reason']}")
    return record

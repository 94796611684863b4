"""SalUn's sweeps on random forget sets: their size, hyperparameters, the share of its mask, its mask on other losses.

Source: Fan et al. (arXiv:2310.12508), figure 1 and the appendix. Its methods are those of figure 1 that take gradient
steps, and SalUn, which with a mask of everything is random labels; influence unlearning is left out for its time, and
random labels at a learning rate of their own. The figures share runs, so one study makes them all, each once. Learning
rates and epochs vary about the benchmark's own by factors, since the published ranges are of other networks.

A run at the fraction of the benchmark's own request `random` is the leaderboard's, to the bit.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import methods
from bench import forget, store
from bench.config import PARAMS, Params
from bench.errors import BadInput
from bench.metrics.battery import basics
from bench.metrics.judged import Judged
from bench.requests import RandomRequest
from bench.stages import attack, setting, unlearn
from bench.studies import Study
from bench.training import set_determinism
from methods.base import Method
from methods.salun import SalUn

NAME = "salun-random"
SEEDS = 2  # the benchmark's first ones
METHODS = ("finetune", "gradient_ascent", "l1_sparse", "salun")
FRACTIONS = (0.1, 0.3, 0.5)
SETTINGS = ((0.25, 0.5), (4, 0.5))  # learning rate and epochs, beside (1, 1)
SHARES = (0.1, 1.0)  # beside SalUn's own
MASKED = {"finetune": "finetune", "gradient_ascent": "gradient_ascent"}  # entry -> SalUn's `objective`
MEASURES = ("UA", "RA", "TA", "mia_salun")


@dataclass(frozen=True)
class Run:
    """A row but for its measures.

    Attributes:
        fraction: of the training set that is forgotten.
        method: an entry of params.yaml.
        lr, epochs: as multiples of the entry's own.
        mask: share of the weights that are trained; 0: the entry as it is.
    """

    fraction: float
    seed: int
    method: str
    lr: float = 1.0
    epochs: float = 1.0
    mask: float = 0.0


def jobs(params: Params, benchmark: str) -> list[tuple[Params, str, Run]]:
    """A job a run.

    Raises:
        BadInput: there is nothing to retrain from, so that no run has a gap.
    """
    section = params.benchmark(benchmark)
    if section.left_out("retrain"):
        raise BadInput(f"{PARAMS}: benchmarks.{benchmark}.studies: {NAME} needs retraining; leave it out")
    there = [m for m in METHODS if m in params.methods and not section.left_out(m)]
    seeds, small, large = section.seeds[:SEEDS], min(FRACTIONS), max(FRACTIONS)
    runs = [Run(f, s, m) for f in FRACTIONS for s in seeds for m in ("original", "retrain", *there)]
    runs += [Run(f, seeds[0], m, *at) for f in (small, large) for m in there for at in SETTINGS]
    if "salun" in there:
        runs += [Run(small, s, "salun", mask=share) for share in SHARES for s in seeds]
        own = entry(params, benchmark, Run(small, 0, "salun")).model_dump()["mask_share"]
        runs += [Run(small, s, m, mask=own) for m in MASKED if m in there for s in seeds]
    return [(params, benchmark, run) for run in runs]


def entry(params: Params, benchmark: str, run: Run) -> Method:
    """The method of a run; under a mask that of SalUn, with the entry's loss and the entry's other hyperparameters."""
    file, chosen = params.file(run.method), dict(params.hyperparameters(run.method, benchmark))
    method = methods.create(file, chosen, f"methods.{run.method}")
    if run.method in ("original", "retrain"):
        return method
    own = method.model_dump()
    changes = {"lr": run.lr * own["lr"], "epochs": max(1, round(run.epochs * own["epochs"]))}
    if run.mask and run.method in MASKED:
        kept = {name: own[name] for name in ("lr", "epochs", "batch_size")}
        return SalUn.model_validate(kept | {"objective": MASKED[run.method], "mask_share": run.mask})
    return type(method).model_validate(own | changes | ({"mask_share": run.mask} if run.mask else {}))


def one(params: Params, benchmark: str, run: Run) -> list[dict[str, Any]]:
    """A run and its `MEASURES`, as the leaderboard has them; NaN where it diverged."""
    set_determinism()
    section = params.benchmark(benchmark)
    request = {"random": RandomRequest(kind="random", fraction=run.fraction)}
    (target,) = forget.of_benchmark(benchmark, section.model_copy(update={"requests": request}))
    splits = setting.samples(store.dataset_folder(benchmark), section)
    original = setting.load_original(benchmark, section, run.seed, splits["train"])
    task = unlearn.target_problem(params, benchmark, run.method, target, run.seed)
    model = entry(params, benchmark, run).unlearn(original, task)
    try:
        logits = unlearn.checked_logits(model, {split: splits[split] for split in store.SPLITS}, task.classes)
    except unlearn.Diverged:
        return [asdict(run) | dict.fromkeys(MEASURES, np.nan)]
    judged = Judged.of(logits, attack.trained_on(benchmark, section.corruption), target)
    return [asdict(run) | basics(judged)]


STUDIES = {NAME: Study(jobs, one)}

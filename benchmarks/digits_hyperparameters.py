"""How recipe and hyperparameters of the digits benchmarks in params.yaml were chosen: small grids, on validation data.

The score of digits-resnet's recipe is the validation accuracy, mean over 30 seeds.

A method's score on a class request is ACC_r (1 - ACC_f), with ACC_r on the retained classes' validation samples and
ACC_f on the forget set and the forgotten class's validation samples together; on the random request it is
ACC_r (1 - |forget set's accuracy - validation accuracy|), since what was never trained on is classified like other
unseen data. It is averaged over targets and three seeds, then over the requests `class` and `random`. Neither the test
split nor retrained networks are looked at. Kodge chooses among its 25 settings itself, in each run; RUM takes the
settings of its parts. Some grids end at their best value: what is chosen is the best of what is listed. Needs data and
originals: run `dvc repro` first.
"""

import itertools
import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from common import ROOT, report

import methods
from bench import config, datasets, forget, store
from bench.jobs import fan_out
from bench.metrics.judged import Judged
from bench.stages import setting, unlearn
from bench.training import cross_entropy, predict, set_determinism, train

BENCHMARKS = ("digits-resnet", "digits-vit")
RECIPE_OF = "digits-resnet"
SEEDS = (0, 1, 2)
GRIDS: dict[str, dict[str, list[Any]]] = {
    "finetune": {"epochs": [5], "lr": [0.03, 0.06, 0.1, 0.2, 0.3, 0.5], "batch_size": [64]},
    "gradient_ascent": {"epochs": [5], "lr": [0.001, 0.002, 0.004, 0.01, 0.02], "batch_size": [64]},
    "random_labels": {
        "epochs": [3, 10],
        "lr": [0.005, 0.013, 0.03, 0.06],
        "batch_size": [64],
        "exclude_true_label": [False, True],
    },
    "neggrad_plus": {"epochs": [5], "alpha": [0.8, 0.95, 0.99], "lr": [0.003, 0.01, 0.03, 0.06], "batch_size": [64]},
    "l1_sparse": {"epochs": [5], "alpha": [1e-4, 1e-3], "lr": [0.03, 0.1, 0.2, 0.3], "batch_size": [64]},
    "influence": {"alpha": [1, 3, 10, 30, 100]},
    "boundary_shrink": {"epsilon": [0.1, 0.3], "lr": [0.001, 0.003, 0.01, 0.03], "batch_size": [64]},
    "boundary_expanding": {"lr": [0.0003, 0.001, 0.003, 0.01, 0.03], "batch_size": [64]},
    "scrub": {
        "epochs": [5],
        "msteps": [2, 4],
        "lr": [0.001, 0.003, 0.01, 0.02, 0.03],
        "batch_size": [64],
        "forget_batch_size": [64],
    },
    "ssd": {"alpha": [1.5, 2, 3, 5], "dampening": [0.5, 1]},
    "unsir": {"batch_size": [64], "noise_batches": [2, 4], "impair_lr": [0.002, 0.02], "repair_lr": [0.002, 0.01]},
    "salun": {
        "epochs": [3, 10],
        "lr": [0.005, 0.013, 0.03, 0.06],
        "batch_size": [64],
        "exclude_true_label": [False, True],
    },
    "wfnet": {"sparsity_weight": [0.1, 1], "forget_weight": [0.1, 1], "batch_size": [64]},
    "concept_poison": {"epochs": [5], "lr": [0.01, 0.03, 0.06], "batch_size": [64]},
}


RECIPES = {"batch_size": [32, 48], "lr": [0.05, 0.1, 0.2], "nesterov": [True]}


def recipe_score(params: config.Params, changes: dict) -> float:
    """Mean validation accuracy of originals trained with the recipe changed."""
    set_determinism()
    benchmark = params.benchmark(RECIPE_OF)
    splits = setting.samples(store.dataset_folder(RECIPE_OF), benchmark)
    recipe = benchmark.training.model_copy(update={"epochs": 6} | changes)
    held_out, accuracies = setting.everything(splits["validation"]), []
    for seed in range(30):
        view = setting.everything(splits["train"], key=("recipe", seed))
        model = train(setting.fresh("recipe", benchmark, seed, splits["train"]), view, cross_entropy, recipe)
        accuracies.append(float((predict(model, held_out).argmax(1) == held_out.labels).double().mean()))
    return float(np.mean(accuracies))


def score(params: config.Params, name: str, method: str, hyperparameters: dict) -> float:
    """The validation score of one setting, 0 where its network diverges."""
    set_determinism()
    folder, benchmark = store.dataset_folder(name), params.benchmark(name)
    dataset, splits = datasets.load(folder), setting.samples(folder, benchmark)
    algorithm = methods.create(method, hyperparameters, method)
    targets = [t for t in forget.of_benchmark(name, benchmark) if t.request in ("class", "random")]
    targets = [t for t in targets if t.kinds <= algorithm.card.serves]
    scores: dict[str, list[float]] = {}
    for seed in SEEDS:
        original = setting.load_original(name, benchmark, seed, splits["train"])
        shared = None
        if algorithm.card.shares:
            shared = unlearn.prepare(algorithm, original, params, name, method, [[t] for t in targets], seed).state
        for target in targets:
            task = unlearn.target_problem(params, name, method, target, seed)
            model = algorithm.unlearn(original, replace(task, allowed=algorithm.card.reads, prepared=shared))
            logits = setting.all_logits(model, splits)
            if not all(bool(z.isfinite().all()) for z in logits.values()):
                return 0.0
            scores.setdefault(target.request, []).append(judge(Judged.of(setting.to_numpy(logits), dataset, target)))
    return float(np.mean([np.mean(values) for values in scores.values()]))


def judge(run: Judged) -> float:
    kept, forgotten = run.retain_validation.correct, run.forget_train.correct
    if run.whole_classes:
        return kept.mean() * (1 - np.concatenate([forgotten, run.forget_validation.correct]).mean())
    return kept.mean() * (1 - abs(forgotten.mean() - kept.mean()))


def _row(name: str, setting: dict, score: float, best: float) -> list[str]:
    return [name, ", ".join(f"{k} {v}" for k, v in setting.items()), f"{score:.4f}", "best" if score == best else ""]


def main(only: list[str]) -> None:
    """All grids; or, named on the command line, some methods', printed and not kept."""
    os.chdir(ROOT)
    params = config.load()
    rows = []
    if not only:
        recipes = [dict(zip(RECIPES, values, strict=True)) for values in itertools.product(*RECIPES.values())]
        found = fan_out(recipe_score, [(params, recipe) for recipe in recipes], "recipes")
        rows += [_row(f"{RECIPE_OF} training", r, s, max(found)) for r, s in zip(recipes, found, strict=True)]
    jobs = [
        (params, benchmark, method, dict(zip(grid, values, strict=True)))
        for benchmark in BENCHMARKS
        for method, grid in GRIDS.items()
        if not only or method in only
        for values in itertools.product(*grid.values())
    ]
    scores = fan_out(score, jobs, "grid")
    best: dict[tuple[str, str], float] = {}
    for s, (_, benchmark, method, _) in zip(scores, jobs, strict=True):
        best[benchmark, method] = max(s, best.get((benchmark, method), 0.0))
    rows += [_row(f"{b} {m}", values, s, best[b, m]) for s, (_, b, m, values) in zip(scores, jobs, strict=True)]
    if only:
        print("\n".join(" | ".join(row) for row in rows))
        return
    report("digits_hyperparameters", "Hyperparameters on digits", ["of", "setting", "validation score", ""], rows)


if __name__ == "__main__":
    main(sys.argv[1:])

"""How recipe and hyperparameters of `digits-resnet` in params.yaml were chosen: small grids, on validation data alone.

The recipe's score is the validation accuracy, mean over 30 seeds; settings of six epochs, about a second each.

A method's score: mean over the two requests of ACC_r (1 - ACC_f) on the validation split (ACC_r alone for the random
request, which has no forgotten class, so that this half only asks that nothing else is lost), over three seeds and
all targets. Neither the test split nor retrained networks are looked at. Kodge chooses among its 25 settings itself, in
each run. Needs the data set and the originals: run `dvc repro` first.
"""

import itertools
import os

import numpy as np
from common import ROOT, report

import methods
from bench import config, datasets, store
from bench.jobs import fan_out
from bench.metrics.judged import Judged
from bench.stages import setting, unlearn
from bench.training import cross_entropy, predict, set_determinism, train

BENCHMARK = "digits-resnet"
SEEDS = (0, 1, 2)
GRIDS = {
    "finetune": {"epochs": [5], "lr": [0.05, 0.1, 0.2, 0.3, 0.4, 0.6], "batch_size": [64]},
    "gradient_ascent": {"epochs": [5], "lr": [0.0005, 0.001, 0.002, 0.004], "batch_size": [64]},
    "random_labels": {"epochs": [3], "lr": [0.005, 0.013, 0.03, 0.06, 0.1], "batch_size": [64]},
    "salun": {"epochs": [3], "lr": [0.005, 0.013, 0.03, 0.06, 0.1], "batch_size": [64]},
}


RECIPES = {"batch_size": [32, 48], "lr": [0.05, 0.1, 0.2], "nesterov": [True]}


def recipe_score(params: config.Params, changes: dict) -> float:
    """Mean validation accuracy of originals trained with the recipe changed."""
    set_determinism()
    benchmark, splits = params.benchmark(BENCHMARK), setting.samples(store.dataset_folder(BENCHMARK))
    recipe = benchmark.training.model_copy(update={"epochs": 6} | changes)
    held_out, accuracies = setting.everything(splits["validation"]), []
    for seed in range(30):
        view = setting.everything(splits["train"], key=("recipe", seed))
        model = train(setting.fresh("recipe", benchmark, seed, splits["train"]), view, cross_entropy, recipe)
        accuracies.append(float((predict(model, held_out).argmax(1) == held_out.labels).double().mean()))
    return float(np.mean(accuracies))


def score(params: config.Params, method: str, hyperparameters: dict) -> float:
    """The validation score of one setting."""
    set_determinism()
    folder = store.dataset_folder(BENCHMARK)
    dataset, splits = datasets.load(folder), setting.samples(folder)
    scores: dict[str, list[float]] = {}
    for target, seed in unlearn.runs(params, BENCHMARK, method):
        if seed in SEEDS:
            original = setting.load_original(BENCHMARK, params.benchmark(BENCHMARK), seed, splits["train"])
            problem = unlearn.run_problem(params, BENCHMARK, method, target, seed)
            model = methods.create(method, hyperparameters, method).unlearn(original, problem)
            run = Judged.of(setting.to_numpy(setting.all_logits(model, splits)), dataset, target)
            kept, gone = run.retain_validation.correct.mean(), run.forget_validation.correct
            scores.setdefault(target.request, []).append(kept * (1 - gone.mean()) if len(gone) else kept)
    return float(np.mean([np.mean(values) for values in scores.values()]))


def _row(name: str, setting: dict, score: float, best: float) -> list[str]:
    return [name, ", ".join(f"{k} {v}" for k, v in setting.items()), f"{score:.4f}", "best" if score == best else ""]


def main() -> None:
    os.chdir(ROOT)
    params = config.load()
    recipes = [dict(zip(RECIPES, values, strict=True)) for values in itertools.product(*RECIPES.values())]
    recipe_scores = fan_out(recipe_score, [(params, recipe) for recipe in recipes], "recipes")
    rows = [_row("training", recipe, s, max(recipe_scores)) for recipe, s in zip(recipes, recipe_scores, strict=True)]
    jobs = [
        (params, method, dict(zip(grid, values, strict=True)))
        for method, grid in GRIDS.items()
        for values in itertools.product(*grid.values())
    ]
    scores = fan_out(score, jobs, "grid")
    best = {m: max(s for s, job in zip(scores, jobs, strict=True) if job[1] == m) for m in GRIDS}
    rows += [_row(method, values, s, best[method]) for s, (_, method, values) in zip(scores, jobs, strict=True)]
    report("digits_hyperparameters", "Hyperparameters on digits", ["of", "setting", "validation score", ""], rows)


if __name__ == "__main__":
    main()

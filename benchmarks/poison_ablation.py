"""What forgets in concept poisoning: every way to change the images with every way to change the labels, on digits.

Each row is one setting of `methods/concept_poison.py`; accuracies are means over three classes, each
forgotten on its own, and five seeds, with the smallest and the largest seed in brackets. 'none' is the label-only
control: the images are those of the training set to the bit, and only the labels differ. `HEAD` and `FULL`
were chosen on validation data for 'localized, targeted' (head: lr 0.001 to 0.3, 5 to 20 epochs; all
layers: lr 0.001 to 0.01, 5 epochs), and every row uses one of them. Needs the data set
and the originals: run `dvc repro` first.
"""

import os
from dataclasses import replace

import numpy as np
from common import ROOT, report

import methods
from bench import config, store
from bench.jobs import fan_out
from bench.problem import Problem, problem
from bench.stages import setting
from bench.training import predict, set_determinism

BENCHMARK, TARGETS, SEEDS = "digits-resnet", (0, 3, 8), (0, 1, 2, 3, 4)
HEAD = {"epochs": 5, "lr": 0.03, "batch_size": 64}
FULL = {"epochs": 5, "lr": 0.003, "batch_size": 64, "layers": "all"}
PLACES, LABELS = ("localized", "center", "random", "full", "none"), ("targeted", "random", "keep")
GRID = [({"poison": place, "relabel": label}, HEAD) for place in PLACES for label in LABELS]
GRID += [({"poison": place, "relabel": "targeted"}, FULL) for place in ("localized", "none")]
GRID += [({"poison": "localized", "relabel": label, "locator": "gradcam"}, HEAD) for label in LABELS]
GRID += [({"poison": "localized", "relabel": label, "locator": "integrated_gradients"}, HEAD) for label in LABELS]


def task(seed: int, target: int) -> Problem:
    """The problem of forgetting one class."""
    splits = setting.samples(store.dataset_folder(BENCHMARK), config.load().benchmark(BENCHMARK))
    train = splits["train"]
    return problem(
        train,
        (train.labels == target).nonzero().flatten(),
        validation=splits["validation"],
        classes=10,
        key=(BENCHMARK, "poison ablation", target, seed),
        base_order=setting.base_order(BENCHMARK, seed, len(train)),
    )


def of_seed(params: config.Params, seed: int) -> np.ndarray:
    """Accuracies of a seed, mean over targets: the original's, then each setting's, [1 + settings, 3]."""
    set_determinism()
    splits = setting.samples(store.dataset_folder(BENCHMARK), params.benchmark(BENCHMARK))
    original = setting.load_original(BENCHMARK, params.benchmark(BENCHMARK), seed, splits["train"])
    prepared = methods.create("concept_poison", {}, "").prepare(original, task(seed, TARGETS[0]).pool())
    test, results = setting.everything(splits["test"]), []
    for target in TARGETS:
        models = [original]
        for images_and_labels, training in GRID:
            method = methods.create("concept_poison", images_and_labels | training, "")
            models.append(method.unlearn(original, replace(task(seed, target), prepared=prepared)))
        gone = test.labels == target
        for model in models:
            correct = predict(model, test).argmax(1) == test.labels
            forget = task(seed, target).forget
            forget_correct = predict(model, forget).argmax(1) == forget.labels
            results.append([float(part.double().mean()) for part in (forget_correct, correct[gone], correct[~gone])])
    return np.array(results).reshape(len(TARGETS), 1 + len(GRID), 3).mean(0)


def main() -> None:
    os.chdir(ROOT)
    params = config.load()
    values = np.stack(fan_out(of_seed, [(params, seed) for seed in SEEDS], "poison ablation"))
    names = [["original", "", "", ""]]
    for images_and_labels, training in GRID:
        layers, locator = training.get("layers", "head"), images_and_labels.get("locator", "similarity")
        place, label = images_and_labels["poison"], images_and_labels["relabel"]
        shown = {"localized": f"localized by {locator}", "none": "none: label-only control"}.get(place, place)
        names.append(["concept_poison", shown, label, layers])
    rows = []
    for name, of_setting in zip(names, values.transpose(1, 2, 0), strict=True):
        cells = [f"{100 * v.mean():.1f} ({100 * v.min():.1f} to {100 * v.max():.1f})" for v in of_setting]
        rows.append(name + cells)
    columns = ["", "images", "labels", "layers", "forget-train %", "forget-test %", "retained test %"]
    report("poison_ablation", "Concept poisoning: images against labels", columns, rows)


if __name__ == "__main__":
    main()

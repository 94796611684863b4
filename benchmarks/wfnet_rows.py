"""WF-Net's round on the digits benchmarks: every row, what it stores, and what its gates explain.

    rows: accuracy on test images of the forgotten class under its row, and on the others, for all ten rows
    storage: numbers in the gates of all rows, against those of the network and of one network a class
    explanation: insertion and deletion (RISE) of the map that a row's gates give, against Grad-CAM and chance

Hyperparameters are those of params.yaml, seeds those of each benchmark. Needs data and originals: `dvc repro`.
"""

import os

import numpy as np
import torch
from common import ROOT, report

import methods
from bench import config, store
from bench.concepts import grad_cam
from bench.config import Params
from bench.explanations import gate_map, scores
from bench.forget import NONE, Target
from bench.jobs import fan_out
from bench.seeds import torch_generator
from bench.stages import setting, unlearn
from bench.training import predict, set_determinism
from methods.wfnet import folded

BENCHMARKS = ("digits-resnet", "digits-vit")
METHOD = "wfnet"


def measure(params: Params, name: str, seed: int) -> dict[str, float]:
    """One round, all rows."""
    set_determinism()
    benchmark = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), benchmark)
    original = setting.load_original(name, benchmark, seed, splits["train"])
    algorithm = methods.create(METHOD, params.hyperparameters(METHOD, name), METHOD)
    everything = Target("all", "all", frozenset({"class"}), (), NONE)
    round_ = unlearn.prepare(algorithm, original, params, name, METHOD, [[everything]], seed)
    if round_.reason:
        raise RuntimeError(round_.reason)
    gates, test = round_.state, setting.everything(splits["test"])
    first, classes = splits["train"].input(torch.arange(1)), int(test.labels.max()) + 1
    forgotten, kept, chosen, off = [], [], [], []
    explained: dict[str, list[float]] = {}
    before = predict(original, test).argmax(1) == test.labels
    for c in range(classes):
        row = {layer: alpha[c] for layer, alpha in gates.items()}
        right = predict(folded(original, row, first), test).argmax(1) == test.labels
        forgotten.append(float(right[test.labels == c].double().mean()))
        kept.append(float(right[test.labels != c].double().mean()))
        chosen.append(float(before[test.labels != c].double().mean()))
        off.append(float(torch.cat(list(row.values())).lt(0.5).double().mean()))
        images = splits["test"].input(test.rows[test.labels == c])
        shuffled = torch.rand(len(images), *images.shape[-2:], generator=torch_generator(name, "chance", c, seed))
        makers = {
            "gates": lambda x, row=row: gate_map(original, row, x),
            "Grad-CAM": lambda x, c=c: grad_cam(original, x, torch.full((len(x),), c)),
            "chance": lambda x, maps=shuffled: maps,
        }
        for maker, maps in makers.items():
            for score, value in scores(original, images, maps, pixels=1).items():
                explained.setdefault(f"{maker} {score}", []).append(value)
    stored = sum(alpha.numel() for alpha in gates.values())
    return {
        "ACC_f, mean of rows": float(np.mean(forgotten)),
        "ACC_f, worst row": max(forgotten),
        "ACC_r, mean of rows": float(np.mean(kept)),
        "ACC_r, worst row": min(kept),
        "ACC_r of the original": float(np.mean(chosen)),
        "gates below 0.5": float(np.mean(off)),
        "numbers stored for all rows": stored,
        "against the network's parameters": stored / sum(p.numel() for p in original.parameters()),
        "seconds of the round, divided by its classes": round_.seconds / classes,
    } | {key: float(np.mean(values)) for key, values in explained.items()}


def main() -> None:
    os.chdir(ROOT)
    params = config.load()
    jobs = [(params, name, seed) for name in BENCHMARKS for seed in params.benchmark(name).seeds]
    found = fan_out(measure, jobs, "rows")
    rows = []
    for key in found[0]:
        cells = []
        for name in BENCHMARKS:
            values = [f[key] for f, (_, of, _) in zip(found, jobs, strict=True) if of == name]
            cells += [f"{np.mean(values):.4g}", f"{min(values):.4g}", f"{max(values):.4g}"]
        rows.append([key, *cells])
    columns = [f"{name} {what}" for name in BENCHMARKS for what in ("mean", "least", "most")]
    report("wfnet_rows", "WF-Net's rows on digits, over five seeds", ["", *columns], rows)


if __name__ == "__main__":
    main()

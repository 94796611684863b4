"""`train@BENCHMARK`: the originals, one a seed."""

import statistics

import torch

from bench import distributed, resume, store
from bench.checkpoint import Checkpoint
from bench.config import Params
from bench.errors import BadInput
from bench.stages import setting
from bench.training import classification, predict, set_determinism, train


def run(params: Params, benchmark: str) -> str:
    seeds = params.benchmark(benchmark).seeds
    jobs = [resume.Job((params, benchmark, seed), seed, (store.model_file(benchmark, seed),)) for seed in seeds]
    with resume.unfinished(params, "train", benchmark) as unfinished:
        gpus = params.benchmark(benchmark).training.gpus
        accuracies = unfinished.fan_out(one, jobs, f"train {benchmark}", gpus=gpus)
    worst, median = min(accuracies), statistics.median(accuracies)
    return f"{len(seeds)} originals; test accuracy {median:.2%} (median), {worst:.2%} (worst)"


def one(params: Params, name: str, seed: int) -> float:
    """A job: `train_original`, on as many GPUs as the recipe says."""
    gpus, kept = params.benchmark(name).training.gpus, resume.checkpoint("original")
    return distributed.run(gpus, train_original, params, name, seed, kept, reads=("datasets",))


def train_original(params: Params, name: str, seed: int, checkpoint: Checkpoint | None = None) -> float:
    """Train, store the weights, return test accuracy.

    Raises:
        BadInput: the training diverged; nothing is stored.
    """
    set_determinism()
    benchmark = params.benchmark(name)
    splits = setting.samples(store.dataset_folder(name), benchmark)
    key, data, recipe = setting.base_key(name, seed), splits["train"], benchmark.training
    view = setting.everything(data, setting.base_order(name, seed, len(data)), key, recipe.augmentation)
    start = setting.fresh(name, benchmark, seed, data)
    model = train(start, view, classification(recipe), recipe, checkpoint=checkpoint)
    test = setting.everything(splits["test"])
    logits = predict(model, test)
    if not all(torch.isfinite(t).all() for t in (logits, *model.state_dict().values())):
        raise BadInput(
            f"params.yaml: benchmarks.{name}.training: the original of seed {seed} diverged (weights or "
            f"outputs are not finite); try a smaller lr than {recipe.lr}"
        )
    store.write_tensors(store.model_file(name, seed), setting.to_numpy(model.state_dict()))
    return float((logits.argmax(1) == test.labels).float().mean())

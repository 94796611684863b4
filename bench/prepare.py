"""A benchmark's data set, from its source to the prepared folder that `bench.datasets` reads.

Images pass by in batches, on their way from the source into the file, so no data set need fit in memory.
"""

from pathlib import Path
from typing import Any

import numpy as np

from bench import store
from bench.audit import Tally, audit
from bench.config import PARAMS, Benchmark
from bench.errors import BadInput
from bench.sources import SOURCES, SPLIT_SEED, NoFolder, Part


def build(name: str, benchmark: Benchmark, folder: Path, jobs: int = 1) -> dict:
    """Prepare the data set of the benchmark of that name in a folder, and return its audit.

    Raises:
        BadInput: as `splits` has it, or a file is no image, or the disk is full.
    """
    parts = splits(name, benchmark, jobs)
    channels = parts["train"].shape[1:2]
    layout = {"mean": ("F32", channels), "std": ("F32", channels)}
    for split, part in parts.items():
        layout |= {f"{split}_images": ("U8", part.shape), f"{split}_labels": ("I64", part.labels.shape)}
        if part.sublabels is not None:
            layout[f"{split}_sublabels"] = ("I64", part.sublabels.shape)
    tallies = {split: Tally(part.labels, part.sublabels) for split, part in parts.items()}
    with store.writing_tensors(folder / "samples.safetensors", layout) as append:
        for split, part in parts.items():
            append(f"{split}_labels", part.labels)
            if part.sublabels is not None:
                append(f"{split}_sublabels", part.sublabels)
            for images in part.images():
                append(f"{split}_images", images)
                tallies[split].count(images)
        for moment, values in zip(("mean", "std"), tallies["train"].moments(), strict=True):
            append(moment, values)
    report = audit(tallies, jobs)
    store.write_json(folder / "audit.json", report)
    return report


def splits(name: str, benchmark: Benchmark, jobs: int = 1) -> dict[str, Part]:
    """The three splits of the data set of the benchmark of that name, images not yet read.

    Of the training part `train_images` are drawn, or all are taken; of these the share `validation` is held out. Both
    draws are stratified by class, by subclass where there are some. The test part is taken whole. Images that are not
    drawn are never decoded. `jobs` threads decode.

    Raises:
        BadInput: as `Source.load` has it, or a draw leaves no image of some class on one side.
    """
    data, where = benchmark.dataset, f"{PARAMS}: benchmarks.{name}"
    folder = None if data.folder is None else store.data_folder() / data.folder.expanduser()
    try:
        train, test = SOURCES[data.name].load(folder, size=data.size, jobs=jobs)
    except NoFolder as error:
        raise BadInput(f"{where}.dataset.folder: {error}") from None
    if data.train_images not in {None, len(train.labels)}:
        train, _ = stratified(train, f"{where}.dataset.train_images: {data.train_images}", train_size=data.train_images)
    train, validation = stratified(train, f"{where}.validation: {benchmark.validation}", test_size=benchmark.validation)
    return {"train": train, "validation": validation, "test": test}


def stratified(part: Part, key: str, **size: Any) -> tuple[Part, Part]:
    """A part split in two, each in the order that it had; `size` as scikit-learn's `train_test_split` takes it."""
    from sklearn.model_selection import train_test_split

    strata = part.labels if part.sublabels is None else part.sublabels
    try:
        one, other = train_test_split(np.arange(len(strata)), stratify=strata, random_state=SPLIT_SEED, **size)
    except ValueError as error:
        raise BadInput(f"{key} does not split {len(strata)} images: {error}") from None
    for side in (one,) if "train_size" in size else (one, other):  # what `train_images` leaves out may lack some
        if lost := sorted(set(strata.tolist()) - set(strata[side].tolist())):
            there = int((strata == lost[0]).sum())
            raise BadInput(f"{key} leaves no image of class {lost[0]}, of which there are {there}, on one side")
    return part[np.sort(one)], part[np.sort(other)]

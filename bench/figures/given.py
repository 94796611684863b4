"""What figures of a benchmark are drawn from: tables, predictions, artifacts, scores; read when they are asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import datasets, forget, store
from bench.config import Benchmark, Params
from bench.forget import Target
from bench.report import tables


@dataclass(frozen=True)
class Given:
    """One benchmark's results.

    Attributes:
        params: with this benchmark alone in `run`.
    """

    params: Params
    benchmark: str

    @property
    def section(self) -> Benchmark:
        return self.params.benchmark(self.benchmark)

    @cached_property
    def judged(self) -> tables.Judged:
        return tables.read(self.params)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The leaderboard."""
        return tables.leaderboard(self.params, self.judged)

    @cached_property
    def targets(self) -> list[Target]:
        return forget.of_benchmark(self.benchmark, self.section)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        return datasets.load(store.dataset_folder(self.benchmark))

    def study(self, name: str) -> pd.DataFrame | None:
        """The table of a study; None if the benchmark's `studies` don't name it."""
        return pd.read_csv(store.study_file(self.benchmark, name)) if name in self.section.studies else None

    def confusion(self, method: str) -> pd.DataFrame:
        """`attack`'s confusion.csv; without rows if the method has no runs."""
        return pd.read_csv(store.table_folder(self.benchmark, method) / "confusion.csv")

    def logits(self, method: str, target: str, seed: int) -> dict[str, np.ndarray] | None:
        """A run's predictions by split, float32 [n, classes]; None if there is none, or it failed."""
        return _tensors(store.run_file(self.benchmark, method, target, seed))

    def artifacts(self, method: str, target: str, seed: int) -> dict[str, np.ndarray] | None:
        """What a method kept of a run, or of what its targets share (target 'prepared'); None if nothing."""
        return _tensors(store.artifacts_file(self.benchmark, method, target, seed))

    def sidecar(self, method: str, target: str, seed: int) -> dict[str, Any]:
        """What is said of a run beside its predictions: notes, samples, FLOPs."""
        found: dict[str, Any] = store.read_json(
            store.run_file(self.benchmark, method, target, seed).with_suffix(".json")
        )
        return found

    def scores(self) -> dict[str, np.ndarray] | None:
        """Memorization and its proxies of each training sample, float64 [n] by name; None without `memorization`."""
        return _tensors(store.scores_file(self.benchmark))


def _tensors(path: Path) -> dict[str, np.ndarray] | None:
    return store.read_tensors(path) if path.exists() else None

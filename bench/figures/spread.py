"""What an error bar over seeds spans, in numbers and in words."""

import numpy as np

from bench.metrics.statistics import over_seeds


def spread(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and Student-t 95 % interval of it; of fewer than three seeds, where that says nothing, their range.

    Args:
        values: float64 [n], one a seed.
    """
    mean, low, high = over_seeds(values)
    return (mean, low, high) if len(values) > 2 else (mean, float(values.min()), float(values.max()))


def bars_of(seeds: int) -> str:
    """What the bars of so many seeds are."""
    return f"95 % interval, {seeds} seeds" if seeds > 2 else f"range of {seeds} seeds" if seeds == 2 else "1 seed"


def lengths(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Of Matplotlib's error bars: below and above the mean, [2, n]; 0 where there are no bounds."""
    return np.nan_to_num(np.stack([mean - low, high - mean])).clip(0)

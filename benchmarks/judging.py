"""Judging one method on a benchmark of CIFAR-10's size: seconds of each metric that compares models.

Synthetic logits of 60,000 samples and 10 classes (50,000 trained on, 10,000 unseen), 10 seeds, 3 targets of a tenth
of the training set; the method, its retrains and its originals. One thread. `60,000` is the same with every sample in
the forget set, the most that there can be. Peak memory is of the whole process.
"""

import resource

import numpy as np
from common import report, seconds
from threadpoolctl import threadpool_limits

from bench.metrics.likelihood import margin, rmia, ruli, ruli_privacy, ulira
from bench.metrics.quality import epsilon, klom

TRAINED, UNSEEN, CLASSES, SEEDS, TARGETS, FORGET = 50_000, 10_000, 10, 10, 3, 5_000


def logits(shift: float, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of one network, float32 [n, classes]: the true class's stands out by about 8, and by `shift` more."""
    z = rng.normal(0, 2, (len(labels), CLASSES))
    z[np.arange(len(labels)), labels] += rng.normal(8 + shift, 2, len(labels))
    return z.astype(np.float32)


def main() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(TRAINED + UNSEEN) % CLASSES
    bank = {side: [logits(s, labels, rng) for _ in range(SEEDS)] for side, s in (("u", 0.5), ("r", 0.0), ("o", 2.0))}
    margins = {side: np.stack([margin(z, labels) for z in networks]) for side, networks in bank.items()}
    z = {side: m[:, TRAINED:] for side, m in margins.items()}
    metrics = {
        "margin": lambda f: np.stack([margin(network, labels) for network in bank["u"]]),
        "ulira": lambda f: ulira(margins["u"][:, f], margins["r"][:, f]),
        "ruli": lambda f: ruli(*(margins[side][:, f] for side in "uro")),
        "ruli_privacy": lambda f: ruli_privacy(margins["u"][:, f], z["u"], labels[f], labels[TRAINED:]),
        "rmia": lambda f: rmia(margins["u"][:, f], margins["r"][:, f], z["u"], z["r"], margins["o"][:, f], z["o"]),
        "klom": lambda f: klom(margins["u"][:, f], margins["r"][:, f]),
        "epsilon": lambda f: epsilon(margins["u"][:, f], margins["r"][:, f]),
    }
    rows, total = [], np.zeros(2)
    with threadpool_limits(1):
        for name, metric in metrics.items():
            taken = [seconds(lambda f=f, metric=metric: metric(f), 1) for f in (slice(0, FORGET), slice(None))]
            total += taken
            rows.append([name, f"{taken[0]:.2f}", f"{TARGETS * taken[0]:.2f}", f"{taken[1]:.2f}"])
    rows.append(["all", f"{total[0]:.2f}", f"{TARGETS * total[0]:.2f}", f"{total[1]:.2f}"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    columns = [
        "metric",
        f"seconds, {FORGET:,} samples",
        f"seconds, {TARGETS} targets",
        f"seconds, {len(labels):,} samples",
    ]
    report("judging", f"Judging one method, {SEEDS} seeds; peak memory {peak:.2f} GiB", columns, rows)


if __name__ == "__main__":
    main()

"""The published SVC attack fitted exactly and as `fitted_svc` does by default, and all attacks of one run.

Synthetic logits of the size of CIFAR-10: 50,000 training and 10,000 test samples, 10 classes; 5,000 are forgotten, at
random or all of a class. The SVC's sets are those of SalUn's code: 10,000 members, 10,000 non-members, 5,000 that are
asked. `share` is what the attack reports, `decisions` the part of those asked that the two fits call differently. The
last rows compare ways to fit the vector `prob` on 4,000 + 4,000 + 4,000 samples. CPU seconds on one thread, each
measured once: other work on the machine does not count.
"""

import math
import os
import time
from collections.abc import Callable
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
from common import report
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from bench.metrics.accuracy import accuracies
from bench.metrics.attacks import attacks, salun, unseen
from bench.metrics.classifiers import CLASSIFIERS, classifier_attacks, fitted_svc
from bench.metrics.features import PUBLISHED, published
from bench.metrics.judged import Judged, Part

CLASSES = 10
TRAIN, TEST, FORGET = (0.999, 12.0), (0.94, 10.0), (0.97, 11.0)  # share of right answers, how sure they are


def logits(labels: np.ndarray, seed: int, right: float, sure: float) -> Part:
    """Logits of a network that is right with that probability and then by a margin of about `sure`."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    values = rng.normal(0, 1.5, (n, CLASSES))
    values[np.arange(n), labels] += np.where(rng.random(n) < right, rng.normal(sure, 3, n), rng.normal(-0.5, 2.5, n))
    return Part(values.astype(np.float32).astype(np.float64), labels)


def request(whole: bool, forget: tuple[float, float], test: tuple[float, float]) -> Judged:
    classes = np.arange(CLASSES)
    forgotten, rest = (np.zeros(1, int), classes[1:]) if whole else (classes, classes)
    forget_test = logits(np.tile(forgotten, 1_000 if whole else 0), 3, *test)
    retain_test = logits(np.tile(rest, 1_000), 4, *test)
    return Judged(
        forget_train=logits(np.tile(forgotten, 5_000 // len(forgotten)), 1, *forget),
        retain_train=logits(np.tile(rest, 45_000 // len(rest)), 2, *TRAIN),
        forget_test=forget_test,
        retain_test=retain_test,
        forget_validation=forget_test[:0],
        retain_validation=retain_test[:0],
        whole_classes=whole,
    )


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = function()
    return time.process_time() - started, found


def svc_rows(name: str, run: Judged) -> list[list[str]]:
    rows = []
    members = run.retain_train[: len(run.retain_test)]
    labels = np.repeat([1, 0], [len(members), len(run.retain_test)])
    for feature in PUBLISHED:
        known = np.concatenate([published(part, feature) for part in (members, run.retain_test)])
        asked = published(run.forget_train, feature)

        def decisions(exact_up_to: float, known: np.ndarray = known, asked: np.ndarray = asked) -> np.ndarray:
            return np.asarray(fitted_svc(known, labels, exact_up_to).predict(asked))

        binned, ours = cpu_seconds(lambda decisions=decisions: decisions(0))
        exact, theirs = cpu_seconds(lambda decisions=decisions: decisions(math.inf))
        share = abs(np.mean(ours) - np.mean(theirs))
        differ = np.mean(ours != theirs)
        rows.append([name, feature, f"{exact:.1f}", f"{binned:.2f}", f"{share:.4f}", f"{differ:.4f}"])
    return rows


def vector_rows() -> list[list[str]]:
    """Other ways than boxes to fit `prob`, on a network that is seldom sure."""
    n, labels = 4_000, np.repeat([1, 0], 4_000)
    all_classes = np.tile(np.arange(CLASSES), n // CLASSES)
    parts = [logits(all_classes, seed, *how) for seed, how in enumerate([(0.8, 4.0), (0.6, 3.0), (0.7, 3.5)])]
    members, others, asked = (published(part, "prob") for part in parts)
    known = np.concatenate([members, others])
    exact, theirs = cpu_seconds(lambda: fitted_svc(known, labels, math.inf).predict(asked))
    drawn = np.random.default_rng(0).permutation(n)[:1_000]
    some = np.concatenate([drawn, n + drawn])
    smooth = make_pipeline(Nystroem(gamma=1 / CLASSES, n_components=100, random_state=0), LinearSVC(C=3, loss="hinge"))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "2 x 1,024 boxes (default)": lambda: fitted_svc(known, labels, 0).predict(asked),
        "2 x 256 boxes": lambda: fitted_svc(known, labels, 0, bins=128).predict(asked),
        "2,000 of the samples": lambda: fitted_svc(known[some], labels[some], math.inf).predict(asked),
        "Nystroem 100, linear SVC": lambda: smooth.fit(known, labels).predict(asked),
    }
    rows = []
    for way, decisions in ways.items():
        seconds, ours = cpu_seconds(decisions)
        share, differ = abs(np.mean(ours) - np.mean(theirs)), np.mean(ours != theirs)
        rows.append(
            ["prob, 4,000 + 4,000 + 4,000", way, f"{exact:.1f}", f"{seconds:.2f}", f"{share:.4f}", f"{differ:.4f}"]
        )
    return rows


def run_rows(name: str, run: Judged) -> list[list[str]]:
    parts: dict[str, Callable[[], object]] = {
        "accuracies": lambda: accuracies(run),
        "mia_salun, mia_kodge, mia_loss": lambda: attacks(run),
        "mia_salun on its other features": lambda: salun(run),
    }
    for classifier in CLASSIFIERS:
        parts[f"{classifier} on all features"] = lambda classifier=classifier: classifier_attacks(
            run.forget_train, unseen(run), (classifier,)
        )
    taken = {part: cpu_seconds(function)[0] for part, function in parts.items()}
    taken["all of one run"] = sum(taken.values())
    return [[name, part, "–", f"{seconds:.2f}", "–", "–"] for part, seconds in taken.items()]


def main() -> None:
    random, whole = request(False, FORGET, TEST), request(True, FORGET, TEST)
    rows = run_rows("random", random) + run_rows("class", whole)
    for name, run in (("leaks", random), ("does not leak", request(False, TEST, TEST))):
        rows += svc_rows(f"SVC, network that {name}", run)
    rows += vector_rows()
    columns = ["run", "what", "published fit, s", "default, s", "share differs", "decisions differ"]
    report("attacks_svc", "Attacks at the size of CIFAR-10", columns, rows)


if __name__ == "__main__":
    main()

"""Every metric there is, of a run (`of_run`) and of all seeds of a request together (`of_models`).

A run is compared with retrains of other seeds, as a retrain itself is, so that its distances and those of the row
`retrain`, the noise floor, are of one kind: no seed is on both sides, whose networks share the order of their data.
What is not defined for a request is left out; what could not be estimated is NaN here, with a reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bench.metrics import classifiers
from bench.metrics.accuracy import accuracies
from bench.metrics.attacks import FOLDS, attacks, exact, learned, mia_loss, mia_salun, salun, unseen
from bench.metrics.confusion import confusion_distances
from bench.metrics.distances import (
    AVERAGED,
    REFERENCES,
    aus,
    average_gap,
    churn,
    indiscernibility,
    nomus,
    retention_deviation,
    to_retrain,
    zrf,
)
from bench.metrics.judged import Judged, Part
from bench.metrics.likelihood import margin, rmia, ruli, ruli_privacy, ulira
from bench.metrics.quality import challenge_score, epsilon, klom
from bench.metrics.roc import Estimates, without

NO_RETRAIN = "no retrain to compare with"
TOW = {"tow": ("UA", "RA", "TA"), "tow_mia": ("mia_salun", "RA", "TA")}
PAIRED = ("klom", "epsilon")  # of two numbers of models, on which they depend: retrains have halves alone
REASONS = {  # what a metric's name begins with -> why it is NaN; the first that fits
    **{
        f"mia_{name}": f"fewer than {2 * classifiers.FOLDS} samples of a class on a side, or too few non-members"
        for name in classifiers.CLASSIFIERS
    },
    "mia_loss": f"fewer than {FOLDS} samples on a side",
    "nomus": "needs mia_loss_accuracy",
    "indiscernibility": "needs mia_loss_accuracy",
    "retention_deviation": "an accuracy of retrain is 0, and its ratio has no value",
    "ACC_": "no such sample in this split",
}

Runs = Mapping[int, Judged]  # by seed, those that succeeded


# --- one run ---------------------------------------------------------------------------------------


def of_run(run: Judged, original: Judged | None, retrains: Sequence[Judged], seed: int = 0) -> Estimates:
    """Every metric of one run but `scores`.

    Args:
        original: the network of the same seed before unlearning; None if there is none.
        retrains: those that it is compared with (`references`), none of which is the run itself; may be empty.
        seed: of judging: what `drawn` draws.
    """
    found = accuracies(run) | attacks(run) | salun(run) | exact(run)
    found["mia_salun_m_entropy_legacy"] = mia_salun(run, "m_entropy", legacy=True)
    found |= zrf(run.forget_train.logits, np.zeros_like(run.forget_train.logits))
    lacking = Estimates()
    if original is None:
        lacking |= without(["churn"], "no original of this seed")
    else:
        found |= churn(run, original)
    if retrains:
        each = [to_retrain(run, retrain) | confusion_distances(run, retrain) for retrain in retrains]
        found |= {name: float(np.mean([of[name] for of in each])) for name in each[0]}
    else:
        lacking |= without(("activation", "js", "kl", "disagreement", "completeness", "confusion"), NO_RETRAIN)
    return with_reasons(found) | drawn(run, seed) | lacking


def drawn(run: Judged, seed: int) -> Estimates:
    """The metrics that depend on the seed of judging: attacks that deal folds, and what is made of them."""
    found = mia_loss(run.forget_train, unseen(run), seed) | learned(run, seed)
    mia = found["mia_loss_accuracy"]
    return with_reasons(found | {"nomus": nomus(accuracies(run)["TA"], mia), "indiscernibility": indiscernibility(mia)})


def references(seed: int, seeds: Sequence[int]) -> list[int]:
    """Seeds of the retrains that a run is compared with, of those there are: the next `REFERENCES` other ones.

    Seeds are taken in order and in a circle. Where the only retrain is of the run's own seed, it is that one.
    """
    others = [s for s in sorted(seeds) if s > seed] + [s for s in sorted(seeds) if s < seed]
    return (others or [s for s in seeds if s == seed])[:REFERENCES]


def basics(run: Judged) -> dict[str, float]:
    """What `scores` reads of a retrain or an original: `UA`, `RA`, `TA`, `mia_salun`."""
    found = accuracies(run) | {"mia_salun": mia_salun(run)}
    return {name: found[name] for name in AVERAGED}


def scores(
    run: Mapping[str, float],
    original: Mapping[str, float] | None,
    retrains: Sequence[Mapping[str, float]],
    whole_classes: bool,
) -> Estimates:
    """The published scores of a run, from its metrics, the original's, and the mean over retrains.

    `aus`, `retention_deviation`: bench/metrics/distances.py. `avg_gap_run` is
    `average_gap` of this run alone. `tow` and `tow_mia` are the tug of war, the product of 1 - |a - b| over the
    accuracies (or the attack) on forget set, retain set and test set, of run and retrain: Zhao et al., RUM
    (arXiv:2406.01257), section 3.

    Args:
        original: `basics` of the original of the same seed; None if there is none.
        retrains: `basics` of the target's retrains, of a retrain the others; may be empty.
        whole_classes: see `Judged`.
    """
    found: dict[str, float] = {}
    lacking = Estimates()
    if original is None:
        lacking |= without(("aus", "aus_legacy"), "no original of this seed")
    else:
        forget = run["ACC_f"] if whole_classes else 1 - run["UA"]
        found["aus"] = aus(run["TA"], original["TA"], forget, whole_classes)
        found["aus_legacy"] = aus(run["TA"], original["TA"], 1 - run["UA"], whole_classes, legacy=True)
    if retrains:
        mean = {name: float(np.mean([retrain[name] for retrain in retrains])) for name in AVERAGED}
        found |= {name: math.prod(1 - abs(run[part] - mean[part]) for part in parts) for name, parts in TOW.items()}
        found["avg_gap_run"] = average_gap(run, mean)
        kept, wanted = ({"forget": 1 - of["UA"], "retain": of["RA"], "test": of["TA"]} for of in (run, mean))
        found["retention_deviation"] = retention_deviation(kept, wanted)
    else:
        lacking |= without((*TOW, "avg_gap_run", "retention_deviation"), NO_RETRAIN)
    return with_reasons(found) | lacking


def with_reasons(found: Mapping[str, float]) -> Estimates:
    """The values, with a reason for each that is NaN."""
    lacking = [name for name, value in found.items() if math.isnan(value)]
    why = {name: next((r for start, r in REASONS.items() if name.startswith(start)), "not defined") for name in lacking}
    return Estimates(dict(found), why)


# --- all seeds of a request ------------------------------------------------------------------------


def of_models(runs: Runs, retrains: Runs, originals: Runs, honest: bool) -> Estimates:
    """The metrics that compare models, from the shadow bank of a request: of the seeds that all three sides have.

    Args:
        runs: of the method.
        honest: whether the method is `retrain`. Then the retrains of every other seed stand in the method's place,
            against those between: what an honest retrain scores.
    """
    needed = (runs,) if not retrains else (runs, retrains, originals) if originals else (runs, retrains)
    seeds = sorted(set.intersection(*map(set, needed)))
    if not seeds:
        return without(("ulira", "ruli", "rmia", *PAIRED), "no seed of which run and retrain succeeded")
    first = runs[seeds[0]]
    asked = unseen(first)

    def margins(side: Runs, part: Callable[[Judged], Part]) -> np.ndarray:
        parts = [part(side[seed]) for seed in seeds]
        return np.stack([margin(p.logits, p.labels) for p in parts])

    sides = [(margins(side, lambda j: j.forget_train), margins(side, unseen)) for side in needed]
    made = ruli_privacy(*sides[0], first.forget_train.labels, asked.labels)
    if len(sides) == 1:
        return made | without(("ulira", "ruli", "rmia", *PAIRED), NO_RETRAIN)
    if honest:
        made |= _halves(sides[1][0])
        if len(seeds) < 2:
            return made | without(("ulira", "ruli", "rmia"), "one retrain: there is no other")
        # seeds 0, 2, ... in the method's place; the originals of seeds 1, 3, ... as those of the other side
        sides = [(m[start::2], z[start::2]) for start, (m, z) in zip((0, 1, 1), sides, strict=False)]
    else:
        made |= _quality(sides[0][0], sides[1][0], [runs[s] for s in seeds], [retrains[s] for s in seeds])
    (u, zu), (r, zr), *rest = sides
    o, zo = rest[0] if rest else (None, None)
    flags = [_correct(side, seeds) for side in (runs, retrains)]
    flags = [flags[1][::2], flags[1][1::2]] if honest else flags
    legacy = ulira(flags[0], flags[1], legacy=True)
    return made | ulira(u, r) | _only(legacy, "ulira_legacy") | ruli(u, r, o) | rmia(u, r, zu, zr, o, zo)


def _quality(u: np.ndarray, r: np.ndarray, runs: Sequence[Judged], retrains: Sequence[Judged]) -> Estimates:
    """KLoM, ε, and the challenge's final score `epsilon_challenge`."""
    made = klom(u, r, legacy=True) | epsilon(u, r)
    if "epsilon_score" in made.missing:
        return made | without(["epsilon_challenge"], made.missing["epsilon_score"])
    (retain, test), (of_retain, of_test) = (
        np.mean([[j.retain_train.correct.mean(), j.retain_test.correct.mean()] for j in side], axis=0)
        for side in (runs, retrains)
    )
    score = challenge_score(made.values["epsilon_score"], retain, test, of_retain, of_test)
    return made | Estimates({"epsilon_challenge": float(score)})


def _halves(r: np.ndarray) -> Estimates:
    """KLoM and ε of every other retrain against those between, under the names that a method's halves have."""
    made = klom(r, r) | epsilon(r, r)
    ends = ("_halves", "_floor", "_models_retrained")
    why = f"depends on the number of models; of retrains there is {' and '.join(f'{n}_..._halves' for n in PAIRED)}"
    found = [name for name in made.values if name.endswith(ends)]
    rest = [name for name in made.values if not name.endswith(("_halves", "_floor")) and "_models_" not in name]
    kept = Estimates({n: made.values[n] for n in found}, {n: made.missing[n] for n in found if n in made.missing})
    return kept | without(rest, why)


def _correct(side: Runs, seeds: Sequence[int]) -> np.ndarray:
    return np.stack([side[seed].forget_train.correct for seed in seeds]).astype(np.float64)


def _only(made: Estimates, start: str) -> Estimates:
    names = [name for name in made.values if name.startswith(start)]
    return Estimates({n: made.values[n] for n in names}, {n: made.missing[n] for n in names if n in made.missing})

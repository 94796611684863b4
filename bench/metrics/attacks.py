"""Membership-inference attacks on a run's predictions, with scikit-learn's classifiers.

Three attacks that the literature calls by one name are kept apart here:

    mia_salun      SVC fitted on retain-train (member) against test (non-member); share of the forget
                   set called non-member
    mia_kodge      SVC fitted on retain-train (1) against forget-train (0); share of the forgotten
                   class's test samples called 0
    mia_loss_auc   logistic regression of the loss on forget-train (member) against unseen data of the
                   same classes, cross-fitted

For none is higher, or lower, better: the target is what the attack gives on retrained networks. The attacks of
bench/metrics/classifiers.py, which no paper defines, are asked of a run by `learned`.
"""

import math

import numpy as np
from sklearn.model_selection import StratifiedKFold

from bench.metrics.classifiers import EXACT_SVC, classifier_attacks, fitted_logistic, fitted_svc
from bench.metrics.features import PUBLISHED, published
from bench.metrics.intervals import auc
from bench.metrics.judged import Judged, Part

FOLDS = 5


def attacks(run: Judged) -> dict[str, float]:
    """The published attacks that draw nothing; one that the request does not admit is left out."""
    found = {"mia_salun": mia_salun(run)}
    if run.whole_classes:
        found["mia_kodge"] = mia_kodge(run)
    return found


def unseen(run: Judged) -> Part:
    """Samples that no network was trained on and that differ from the forget set in nothing else."""
    return run.forget_test if run.whole_classes else run.retain_test


def learned(run: Judged, seed: int = 0) -> dict[str, float]:
    """The attacks of bench/metrics/classifiers.py, the forget set against unseen samples of its classes."""
    return classifier_attacks(run.forget_train, unseen(run), seed=seed)


def salun(run: Judged, exact_up_to: float = EXACT_SVC) -> dict[str, float]:
    """`mia_salun_FEATURE` for the features of the authors' code but confidence, which is `mia_salun` itself."""
    others = [feature for feature in PUBLISHED if feature != "confidence"]
    return {f"mia_salun_{feature}": mia_salun(run, feature, exact_up_to=exact_up_to) for feature in others}


def exact(run: Judged, exact_up_to: float = EXACT_SVC) -> dict[str, float]:
    """`mia_salun_exact` and `mia_kodge_exact`: 1 where the published SVC was fitted as it stands, 0 where binned."""
    sizes = {"mia_salun": len(run.retain_train[: len(run.retain_test)]) + len(run.retain_test)}
    if run.whole_classes:
        sizes["mia_kodge"] = len(run.retain_train) + len(run.forget_train)
    return {f"{attack}_exact": float(n <= exact_up_to) for attack, n in sizes.items()}


def mia_salun(run: Judged, feature: str = "confidence", legacy: bool = False, exact_up_to: float = EXACT_SVC) -> float:
    """SalUn's 'MIA-efficacy': share of the forget set that is called non-member.

    Members are the first samples of the retain set in the data's order, as many as there are test
    samples; non-members are the test samples, without the forgotten classes where a request forgets
    whole ones. Source: arXiv:2310.12508, appendix C.3, and evaluation/SVC_MIA.py of the authors' code,
    whose table reports the feature 'confidence'.

    Args:
        feature, legacy: see `features.published`.
        exact_up_to: samples up to which the SVC is fitted as published; see `classifiers.fitted_svc`.
    """
    members = run.retain_train[: len(run.retain_test)]
    known = np.concatenate([published(part, feature, legacy) for part in (members, run.retain_test)])
    member = np.repeat([1, 0], [len(members), len(run.retain_test)])
    asked = published(run.forget_train, feature, legacy)
    return float(1 - fitted_svc(known, member, exact_up_to).predict(asked).mean())


def mia_kodge(run: Judged, exact_up_to: float = EXACT_SVC) -> float:
    """Kodge et al.'s attack: share of the forgotten class's test samples that look like the forget set.

    The feature is confidence. Fitted on all of the retain set (1) against the forget set (0), unbalanced as
    published: where more retain samples than forget samples have a confidence near zero it flips to 0. Source:
    arXiv:2312.00761, section 5, and utils.py of the authors' code; there the training images are
    augmented, here they are not.
    """
    known = np.concatenate([published(part, "confidence") for part in (run.retain_train, run.forget_train)])
    retained = np.repeat([1, 0], [len(run.retain_train), len(run.forget_train)])
    asked = published(run.forget_test, "confidence")
    return float((fitted_svc(known, retained, exact_up_to).predict(asked) == 0).mean())


def mia_loss(members: Part, unseen: Part, seed: int = 0) -> dict[str, float]:
    """Logistic regression on the cross-entropy loss, balanced, judged on folds that it was not fitted on.

    Classes are weighted to count alike, the loss is standardised on the fitting folds, and area under
    the ROC curve and balanced accuracy are averaged over the folds. Samples are sorted by loss before
    they are dealt into folds, so that their order in the data does not matter. 0.5 is chance; below
    0.5 the loss does not tell members, it does not mean the opposite.
    Source: the population attack of Deep Unlearn (arXiv:2410.01276), section 4.

    Returns:
        `mia_loss_auc` and `mia_loss_accuracy`; NaN with fewer than FOLDS samples on a side.
    """
    members_loss, unseen_loss = np.sort(-members.log_confidence), np.sort(-unseen.log_confidence)
    if min(len(members_loss), len(unseen_loss)) < FOLDS:
        return {"mia_loss_auc": math.nan, "mia_loss_accuracy": math.nan}
    losses = np.concatenate([members_loss, unseen_loss])[:, None]
    member = np.repeat([1, 0], [len(members_loss), len(unseen_loss)])
    areas, shares = [], []
    for rest, judged in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(losses, member):
        fitted = fitted_logistic(losses[rest], member[rest], class_weight="balanced")
        scores, truth = fitted(losses[judged]), member[judged] == 1
        areas.append(auc(scores[truth], scores[~truth])[0])
        shares.append(((scores[truth] > 0).mean() + (scores[~truth] <= 0).mean()) / 2)
    return {"mia_loss_auc": float(np.mean(areas)), "mia_loss_accuracy": float(np.mean(shares))}

"""Membership-inference attacks on a run's predictions, with scikit-learn's classifiers.

Three attacks that the literature calls by one name are kept apart here:

    mia_salun      SVC fitted on retain-train (member) against test (non-member); share of the forget
                   set called non-member
    mia_kodge      SVC fitted on retain-train (1) against forget-train (0); share of the forgotten
                   class's test samples called 0
    mia_loss_auc   logistic regression of the loss on forget-train (member) against unseen data of the
                   same classes, cross-fitted

For none is higher, or lower, better: the target is what the attack gives on retrained networks.
"""

import math

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bench.metrics.judged import Judged, Part

FOLDS = 5
EXACT_SVC = 5_000  # samples up to which the published classifier is fitted as it stands
BINS = 512


def attacks(run: Judged, seed: int = 0) -> dict[str, float]:
    """Every attack by name; one that the request does not admit is left out. `seed` deals folds."""
    found = {"mia_salun": mia_salun(run)}
    if run.whole_classes:
        found["mia_kodge"] = mia_kodge(run)
    unseen = run.forget_test if run.whole_classes else run.retain_test
    return found | mia_loss(run.forget_train, unseen, seed)


def confidence(part: Part) -> np.ndarray:
    """Softmax probability of the true class as the one feature of a classifier, float64 [n, 1]."""
    return np.exp(part.log_confidence)[:, None]


def fitted_svc(features: np.ndarray, labels: np.ndarray) -> SVC:
    """The classifier of both published attacks: RBF kernel, C = 3, gamma 'auto' (1 / features).

    Fitting takes time with the square of the samples. Above `EXACT_SVC` of them, samples of one class that share
    one of `BINS` equal intervals of confidence, and one of as many quantiles, enter as one point: at their mean,
    with their number as its weight. For equal samples that is the same problem; the intervals are so narrow
    beside the kernel's width of 1 that hardly a decision changes.

    Args:
        features: float64 [n, 1], from 0 to 1.
        labels: 0 or 1, [n].
    """
    svc = SVC(kernel="rbf", C=3, gamma="auto")
    if len(features) <= EXACT_SVC:
        return svc.fit(features, labels)
    edges = np.union1d(np.linspace(0, 1, BINS + 1), np.quantile(features, np.linspace(0, 1, BINS + 1)))
    place = 2 * np.searchsorted(edges, features[:, 0]) + labels
    _, point, count = np.unique(place, return_inverse=True, return_counts=True)
    mean = np.bincount(point, features[:, 0]) / count
    return svc.fit(mean[:, None], np.bincount(point, labels) > count / 2, sample_weight=count)


def mia_salun(run: Judged) -> float:
    """SalUn's 'MIA-efficacy' on confidence: share of the forget set that is called non-member.

    Members are the first samples of the retain set in the data's order, as many as there are test
    samples; non-members are the test samples, without the forgotten classes where a request forgets
    whole ones. Source: arXiv:2310.12508, appendix C.3, and evaluation/SVC_MIA.py of the authors' code,
    whose table reports the feature 'confidence'.
    """
    members = run.retain_train[: len(run.retain_test)]
    features = np.concatenate([confidence(members), confidence(run.retain_test)])
    member = np.repeat([1, 0], [len(members), len(run.retain_test)])
    return float(1 - fitted_svc(features, member).predict(confidence(run.forget_train)).mean())


def mia_kodge(run: Judged) -> float:
    """Kodge et al.'s attack: share of the forgotten class's test samples that look like the forget set.

    Fitted on all of the retain set (1) against the forget set (0), unbalanced as published: where more
    retain samples than forget samples have a confidence near zero it flips to 0. Source:
    arXiv:2312.00761, section 5, and utils.py of the authors' code; there the training images are
    augmented, here they are not.
    """
    features = np.concatenate([confidence(run.retain_train), confidence(run.forget_train)])
    retained = np.repeat([1, 0], [len(run.retain_train), len(run.forget_train)])
    return float((fitted_svc(features, retained).predict(confidence(run.forget_test)) == 0).mean())


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
    scores = cross_validate(
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced")),
        losses,
        member,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        scoring={"auc": "roc_auc", "accuracy": "balanced_accuracy"},
    )
    return {
        "mia_loss_auc": float(scores["test_auc"].mean()),
        "mia_loss_accuracy": float(scores["test_accuracy"].mean()),
    }

"""Features against exact arithmetic, intervals against definitions and coverage, attacks against planted members."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bench.metrics.attacks import exact, learned, mia_kodge, mia_loss, mia_salun, salun
from bench.metrics.classifiers import FOLDS, classifier_attacks, cross_fitted, dealt, fitted_svc, measured
from bench.metrics.features import FEATURES, PUBLISHED, Features, published
from bench.metrics.intervals import auc, auc_interval, binomial_interval, tpr_at
from bench.metrics.judged import Judged, Part

FEW = settings(max_examples=25, deadline=None, derandomize=True)
FEWER = settings(max_examples=4, deadline=None, derandomize=True)
CLASSES = 4


def sample(n: int, seed: int, hit: float = 0.9, margin: float = 6.0, width: float = 2.0) -> Part:
    """Logits of a network that is right with the probability `hit` and then sure by about `margin`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    logits = rng.normal(0, 1, (n, CLASSES))
    logits[np.arange(n), labels] += np.where(rng.random(n) < hit, rng.normal(margin, width, n), -2)
    return Part(logits, labels)


def judged(whole: bool = True, seed: int = 0) -> Judged:
    forget, retain, forget_test, retain_test = (
        sample(n, seed + k, hit, margin)
        for k, (n, hit, margin) in enumerate([(60, 0.6, 3), (240, 0.98, 6), (50, 0.5, 3), (120, 0.85, 5)])
    )
    empty = forget_test[:0]
    return Judged(forget, retain, forget_test if whole else empty, retain_test, empty, retain_test, whole)


@st.composite
def predictions(draw):
    classes = draw(st.integers(2, 5))
    n = draw(st.integers(1, 6))
    values = st.floats(-120, 120, allow_subnormal=False)
    logits = draw(arrays(np.float64, (n, classes), elements=values))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    return Part(logits, labels)


# --- features ------------------------------------------------------------------------------------


def by_hand(logits: np.ndarray, label: int) -> dict[str, list[float]]:
    """The formulas as they are written, in 250 digits."""
    with localcontext() as context:
        context.prec = 250
        powers = [Decimal(z).exp() for z in logits.tolist()]
        p = [power / sum(powers) for power in powers]
        others = [q for j, q in enumerate(p) if j != label]
        values = {
            "loss": -p[label].ln(),
            "confidence": p[label],
            "entropy": -sum(q * q.ln() for q in p),
            "m_entropy": -(1 - p[label]) * p[label].ln() - sum(q * (1 - q).ln() for q in others),
            "margin": Decimal(logits[label]) - max(Decimal(z) for j, z in enumerate(logits.tolist()) if j != label),
        }
        found = {name: [float(value)] for name, value in values.items()}
        found["prob"] = [float(p[label]), *sorted(map(float, others), reverse=True)]
        return found


@FEW
@given(predictions())
def test_features_are_their_formulas_also_of_saturated_logits(part):
    features = Features(part)
    for i, label in enumerate(part.labels):
        for name, expected in by_hand(part.logits[i], label).items():
            assert features[name][i] == pytest.approx(expected, rel=1e-9, abs=1e-250), name


@FEW
@given(predictions(), st.randoms(use_true_random=False))
def test_a_feature_does_not_depend_on_the_batch(part, random):
    chosen = np.array(random.choices(range(len(part)), k=random.randint(1, len(part))))
    whole, few = Features(part), Features(part[chosen])
    for name in FEATURES:
        np.testing.assert_array_equal(few[name], whole[name][chosen])
    for name in PUBLISHED:
        np.testing.assert_array_equal(published(part[chosen], name), published(part, name)[chosen])


@FEW
@given(predictions(), st.randoms(use_true_random=False))
def test_renumbering_the_classes_leaves_every_bit_of_a_feature(part, random):
    order = np.array(random.sample(range(part.logits.shape[1]), part.logits.shape[1]))
    renumbered = Part(part.logits[:, order], np.argsort(order)[part.labels])
    for name in FEATURES:
        if name != "correctness":  # of equal logits the first class is the prediction, by definition
            np.testing.assert_array_equal(Features(renumbered)[name], Features(part)[name], err_msg=name)


def test_saturated_losses_keep_their_order():
    sure = Part(np.array([[50.0, 0], [100.0, 0], [400.0, 0], [-400.0, 0]]), np.zeros(4, dtype=int))
    features = Features(sure)
    assert np.all(np.diff(features.loss[:3]) < 0)
    assert features.loss[2] > 0
    for name in FEATURES:
        assert np.isfinite(features[name]).all()


def m_entropy_of_the_code(p: np.ndarray, labels: list[int]) -> list[float]:
    """SVC_MIA.py, m_entropy, written out: columns of all labels of the batch, log p instead of log(1 - p)."""
    return [
        -sum((1 - q if column in labels else q) * math.log(q if q > 0 else 1e-30) for column, q in enumerate(row))
        for row in p
    ]


def test_legacy_m_entropy_is_that_of_the_authors_code_and_depends_on_the_batch():
    part = sample(12, 0)
    part = part[part.labels != 1]
    p = np.exp(part.logits) / np.exp(part.logits).sum(axis=1, keepdims=True)
    theirs = published(part, "m_entropy", legacy=True)[:, 0]
    assert theirs == pytest.approx(m_entropy_of_the_code(p, part.labels.tolist()), rel=1e-4)
    alone = published(part[:1], "m_entropy", legacy=True)[0, 0]
    assert abs(alone - theirs[0]) > 0.1
    assert published(part[:1], "m_entropy")[0, 0] == published(part, "m_entropy")[0, 0]


# --- intervals -----------------------------------------------------------------------------------


@FEW
@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.lists(st.integers(0, 5), min_size=2, max_size=9))
def test_area_and_its_variance_are_delongs_by_double_loop(members, others):
    wins = np.array([[(a > b) + (a == b) / 2 for b in others] for a in members])
    value, variance = auc(np.array(members, dtype=float), np.array(others, dtype=float))
    assert value == pytest.approx(wins.mean())
    assert variance == pytest.approx(
        wins.mean(axis=1).var(ddof=1) / len(members) + wins.mean(axis=0).var(ddof=1) / len(others), abs=1e-12
    )
    truth = np.repeat([1, 0], [len(members), len(others)])
    assert value == pytest.approx(roc_auc_score(truth, members + others))
    low, high = auc_interval(value, variance, len(members), len(others))
    assert 0 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0, 5.0])
def test_interval_of_the_area_covers_also_where_samples_hardly_overlap(shift):
    rng = np.random.default_rng(0)
    truth, trials, covered = stats.norm.cdf(shift / math.sqrt(2)), 500, 0
    for _ in range(trials):
        value, variance = auc(rng.normal(shift, 1, 30), rng.normal(0, 1, 40))
        low, high = auc_interval(value, variance, 30, 40)
        covered += low <= truth <= high
    assert covered / trials > 0.93


def test_all_equal_scores_say_nothing():
    value, variance = auc(np.ones(30), np.ones(30))
    low, high = auc_interval(value, variance, 30, 30)
    assert value == 0.5
    assert low < 0.4 < 0.6 < high


@FEW
@given(st.integers(1, 200), st.floats(0, 1))
def test_binomial_interval_is_scipys_exact_one(n, share):
    k = round(share * n)
    expected = stats.binomtest(k, n).proportion_ci(method="exact")
    assert binomial_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("n", "rate"), [(1000, 0.01), (1000, 0.001), (400, 0.01)])
def test_true_positives_at_a_rate_are_those_of_scikit_learns_curve(n, rate):
    rng = np.random.default_rng(n)
    members, others = rng.normal(1, 1, n // 2), rng.normal(0, 1, n)
    fpr, tpr, _ = roc_curve(np.repeat([1, 0], [n // 2, n]), np.r_[members, others], drop_intermediate=False)
    share, low, high = tpr_at(members, others, rate)
    assert share == tpr[fpr < rate].max()
    assert (low, high) == binomial_interval(round(share * len(members)), len(members))


def test_the_rate_of_false_positives_holds_beyond_the_samples():
    """Mean rate, of all possible non-members, at thresholds that were taken from few: uniform scores, rate 5 %."""
    rng = np.random.default_rng(0)
    beyond = [tpr_at(rng.random(2_000), rng.random(30), 0.05)[0] for _ in range(800)]
    assert np.mean(beyond) == pytest.approx(1 / 31, abs=0.004)
    assert np.mean(beyond) < 0.05


def test_a_rate_that_needs_more_non_members_is_a_dash():
    rng = np.random.default_rng(0)
    assert all(map(math.isnan, tpr_at(rng.random(500), rng.random(98), 0.01)))
    assert not math.isnan(tpr_at(rng.random(500), rng.random(99), 0.01)[0])


# --- attacks -------------------------------------------------------------------------------------


def assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@FEWER
@given(st.integers(0, 2**32 - 1))
def test_learned_attacks_depend_neither_on_the_order_of_samples_nor_on_the_numbers_of_classes(seed):
    rng = np.random.default_rng(seed)
    members, unseen = sample(45, seed), sample(60, seed + 1, 0.7)
    order = rng.permutation(CLASSES)

    def other(part: Part) -> Part:
        shuffled = part[rng.permutation(len(part))]
        return Part(shuffled.logits[:, order], np.argsort(order)[shuffled.labels])

    assert_same(classifier_attacks(other(members), other(unseen)), classifier_attacks(members, unseen))


@FEWER
@given(st.integers(0, 2**32 - 1))
def test_published_attacks_depend_neither_on_the_order_of_samples_nor_on_the_numbers_of_classes(seed):
    """But for the choice of members, the first of the retain set, and for the solver's tolerance."""
    rng, run = np.random.default_rng(seed), judged(seed=seed)
    order, first = rng.permutation(CLASSES), len(run.retain_test)

    def other(part: Part, keep: int = 0) -> Part:
        place = np.r_[rng.permutation(keep), keep + rng.permutation(len(part) - keep)]
        return Part(part.logits[place][:, order], np.argsort(order)[part.labels[place]])

    parts = {
        name: other(part, first if name == "retain_train" else 0)
        for name, part in vars(run).items()
        if name != "whole_classes"
    }
    moved = Judged(**parts, whole_classes=True)
    for attack in (mia_salun, mia_kodge):
        assert attack(moved) == pytest.approx(attack(run), abs=0.02)
    assert salun(moved) == pytest.approx(salun(run), abs=0.02)
    assert mia_loss(moved.forget_train, moved.forget_test) == pytest.approx(mia_loss(run.forget_train, run.forget_test))


def test_planted_members_are_found_by_every_classifier():
    found = classifier_attacks(sample(150, 1, 1.0, 9), sample(150, 2, 0.2, 2))
    for classifier in ("threshold", "logistic", "boosting", "svc"):
        for feature in FEATURES:
            if (classifier, feature) != ("threshold", "prob"):
                assert found[f"mia_{classifier}_{feature}_auc_low"] > 0.6, (classifier, feature)
    assert found["mia_logistic_loss_accuracy"] > 0.85
    assert found["mia_logistic_loss_tpr1"] > 0.5


def test_members_that_were_forgotten_too_well_leak_too():
    """Their loss is above that of unseen samples: an area near 0 is no better than one near 1."""
    found = classifier_attacks(sample(150, 1, 0.0), sample(150, 2, 1.0))
    assert found["mia_threshold_loss_auc_high"] < 0.2
    assert found["mia_threshold_loss_leak"] > 0.8
    for classifier in ("logistic", "boosting", "svc"):
        assert found[f"mia_{classifier}_loss_auc_low"] > 0.8


def test_members_in_the_middle_are_found_by_what_is_not_monotone():
    """Unseen samples are either surer or less sure: no threshold on the loss tells them."""
    middle = sample(200, 1, 1.0, 3.0, 0.3)
    ends = [sample(100, 2, 1.0, 9.0, 0.3), sample(100, 3, 1.0, -3.0, 0.3)]
    unseen = Part(*(np.concatenate([getattr(part, name) for part in ends]) for name in ("logits", "labels")))
    found = classifier_attacks(middle, unseen, features=("margin",))
    assert found["mia_boosting_margin_auc_low"] > 0.8
    assert found["mia_svc_margin_auc_low"] > 0.8
    assert found["mia_threshold_margin_auc"] == pytest.approx(0.5, abs=0.15)


def test_identical_distributions_are_within_the_interval_of_a_half():
    trials, inside = 50, {"threshold": 0, "logistic": 0}
    for seed in range(trials):
        found = classifier_attacks(sample(60, 2 * seed), sample(60, 2 * seed + 1), tuple(inside), ("loss",))
        for classifier in inside:
            low, high = (found[f"mia_{classifier}_loss_auc_{end}"] for end in ("low", "high"))
            inside[classifier] += low <= 0.5 <= high
    assert min(inside.values()) >= 0.88 * trials  # 95 % of 50, less 2.3 standard deviations


def test_cross_fitted_areas_of_identical_distributions_vary_more_than_those_of_independent_folds():
    """Why the variance is doubled; the classifier is the difference of the means of ten features."""
    rng, n, trials = np.random.default_rng(0), 40, 250
    member, fold = np.repeat([True, False], n), np.tile(np.arange(n) % FOLDS, 2)
    inside, without, areas = 0, 0, []
    for _ in range(trials):
        x = rng.normal(size=(2 * n, 10))
        scores = np.empty(2 * n)
        for k in range(FOLDS):
            direction = x[member & (fold != k)].mean(axis=0) - x[~member & (fold != k)].mean(axis=0)
            scores[fold == k] = x[fold == k] @ direction
        found = measured(scores, member, fold)
        inside += found["auc_low"] <= 0.5 <= found["auc_high"]
        areas.append(found["auc"])
        by_fold = [auc(scores[member & (fold == k)], scores[~member & (fold == k)]) for k in range(FOLDS)]
        without += abs(found["auc"] - 0.5) < 1.96 * math.sqrt(np.mean([v for _, v in by_fold]) / FOLDS)
    assert np.mean(areas) == pytest.approx(0.5, abs=0.015)
    assert inside / trials > 0.93
    assert without / trials < 0.9


def test_cross_fitting_is_scikit_learns_used_by_hand():
    read, member, fold = dealt(sample(80, 1), sample(120, 2, 0.7))
    scores = cross_fitted("logistic", "entropy", read, member, fold)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    by_hand = cross_val_predict(
        model, read.entropy[:, None], member, cv=PredefinedSplit(fold), method="decision_function"
    )
    assert scores == pytest.approx(by_hand)
    found = measured(scores, member, fold)
    folds = [roc_auc_score(member[fold == k], by_hand[fold == k]) for k in range(FOLDS)]
    assert found["auc"] == pytest.approx(np.mean(folds))
    assert found["accuracy"] == pytest.approx(balanced_accuracy_score(member, by_hand > 0))


def test_a_sample_is_scored_by_a_classifier_that_did_not_see_it():
    """Labels without any relation to noise: a tree that saw a sample's label would tell it."""
    rng = np.random.default_rng(0)
    noise = [Part(rng.normal(size=(200, CLASSES)), np.zeros(200, dtype=int)) for _ in range(2)]
    assert classifier_attacks(*noise, ("boosting",), ("prob",))["mia_boosting_prob_auc"] < 0.65


def test_members_and_non_members_are_equally_many_of_each_class():
    members, unseen = sample(90, 1), sample(300, 2)
    read, member, fold = dealt(members, unseen)
    kept = {
        loss: label for part in (members, unseen) for loss, label in zip(Features(part).loss, part.labels, strict=True)
    }
    labels = np.array([kept[loss] for loss in read.loss])
    assert member.sum() == (~member).sum() == 90
    for c in range(CLASSES):
        assert (labels[member] == c).sum() == (labels[~member] == c).sum() == (members.labels == c).sum()
    assert np.ptp(np.bincount(fold[member])) <= 1


def test_unseen_samples_of_other_classes_play_no_part():
    members, unseen = sample(120, 1), sample(120, 2)
    of_class = members[members.labels == 1], unseen[unseen.labels == 1]
    apart = classifier_attacks(*of_class, ("logistic",), ("loss",))
    other = unseen[unseen.labels != 1]
    read, _, _ = dealt(of_class[0], unseen)
    assert not set(read.loss) & set(Features(other).loss)
    assert 0 < apart["mia_logistic_loss_auc"] < 1


def test_a_class_request_is_attacked_with_its_own_test_samples():
    run = judged()
    assert_same(learned(run), classifier_attacks(run.forget_train, run.forget_test))
    other = judged(whole=False)
    assert_same(learned(other), classifier_attacks(other.forget_train, other.retain_test))


def test_too_few_samples_are_dashes_and_no_errors():
    none = classifier_attacks(sample(5, 1), sample(80, 2))
    assert none
    assert all(map(math.isnan, none.values()))
    few = classifier_attacks(sample(150, 1), sample(150, 2), ("threshold",), ("loss",))
    assert math.isnan(few["mia_threshold_loss_tpr01"])
    assert few["mia_threshold_loss_tpr1_low"] <= few["mia_threshold_loss_tpr1"] <= few["mia_threshold_loss_tpr1_high"]


# --- the published SVC ---------------------------------------------------------------------------


@pytest.mark.parametrize("feature", PUBLISHED)
def test_mia_salun_is_the_published_procedure_on_every_feature(feature):
    run = judged()
    first = run.retain_train[: len(run.retain_test)]
    p = {
        name: np.exp(part.logits) / np.exp(part.logits).sum(axis=1, keepdims=True)
        for name, part in (("in", first), ("out", run.retain_test), ("asked", run.forget_train))
    }
    labels = {"in": first.labels, "out": run.retain_test.labels, "asked": run.forget_train.labels}

    def read(name: str) -> np.ndarray:
        true = p[name][np.arange(len(p[name])), labels[name]]
        rest = p[name].copy()
        rest[np.arange(len(rest)), labels[name]] = 0
        return {
            "correctness": (p[name].argmax(axis=1) == labels[name]).astype(float),
            "confidence": true,
            "entropy": -(p[name] * np.log(p[name])).sum(axis=1),
            "m_entropy": -(1 - true) * np.log(true) - (rest * np.log(1 - rest)).sum(axis=1),
            "prob": p[name],
        }[feature].reshape(len(true), -1)

    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(np.r_[read("in"), read("out")], np.repeat([1, 0], len(first)))
    assert mia_salun(run, feature) == pytest.approx(1 - svc.predict(read("asked")).mean(), abs=1e-9)


def test_published_fit_stays_at_any_size_and_tables_say_which_it_was():
    rng = np.random.default_rng(0)
    features, labels = rng.beta(5, 1, size=(400, 1)), np.repeat([1, 0], 200)
    published_fit = SVC(C=3, gamma="auto", kernel="rbf").fit(features, labels)
    np.testing.assert_array_equal(fitted_svc(features, labels, math.inf).support_, published_fit.support_)
    assert len(fitted_svc(features, labels, 100, bins=16).support_) < len(published_fit.support_) / 3
    run = judged()
    assert exact(run) == {"mia_salun_exact": 1.0, "mia_kodge_exact": 1.0}
    assert exact(run, 250) == {"mia_salun_exact": 1.0, "mia_kodge_exact": 0.0}
    assert exact(judged(whole=False), 10) == {"mia_salun_exact": 0.0}


@pytest.mark.parametrize(("hits", "margins"), [((1.0, 0.94), (9, 8)), ((0.94, 0.94), (8, 8)), ((0.8, 0.6), (3, 2))])
def test_probabilities_in_boxes_decide_as_all_of_them_do(hits, margins):
    parts = [sample(1_500, seed, hit, margin) for seed, (hit, margin) in enumerate(zip(hits, margins, strict=True))]
    known = np.concatenate([published(part, "prob") for part in parts])
    asked = published(sample(3_000, 5, sum(hits) / 2, sum(margins) / 2), "prob")
    labels = np.repeat([1, 0], 1_500)
    expected = SVC(C=3, gamma="auto").fit(known, labels).predict(asked)
    found = fitted_svc(known, labels, exact_up_to=100)
    assert abs(found.predict(asked).mean() - expected.mean()) < 0.002
    assert len(found.support_) <= 2_048


def test_equal_vectors_weigh_as_many_as_they_are():
    """Vectors that take few values: the weighted problem is the same one."""
    rng = np.random.default_rng(1)
    kinds = rng.dirichlet(np.ones(CLASSES), size=12)
    drawn = rng.integers(0, 12, 600)
    labels = (rng.random(600) < 0.1 + 0.8 * drawn / 12).astype(int)
    expected = SVC(C=3, gamma="auto", tol=1e-6).fit(kinds[drawn], labels)
    found = fitted_svc(kinds[drawn], labels, exact_up_to=10)
    assert found.decision_function(kinds) == pytest.approx(expected.decision_function(kinds), abs=5e-3)

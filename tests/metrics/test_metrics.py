"""Accuracies against loops, attacks against planted members and scikit-learn used by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from bench.datasets import Dataset, Split
from bench.forget import Target
from bench.metrics.accuracy import accuracies, per_class
from bench.metrics.attacks import attacks, mia_kodge, mia_loss, mia_salun
from bench.metrics.battery import drawn
from bench.metrics.classifiers import fitted_svc
from bench.metrics.judged import Judged, Part
from bench.metrics.statistics import noise_floor, over_seeds

CLASSES = 3


def part(confidences: np.ndarray, classes: int = CLASSES, label: int = 0) -> Part:
    """Samples of one class whose softmax probability of that class is given."""
    logits = np.zeros((len(confidences), classes))
    logits[:, label] = np.log(confidences) - np.log((1 - confidences) / (classes - 1))
    return Part(logits, np.full(len(confidences), label))


def around(centre: float, n: int, seed: int, width: float = 0.02) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(centre, width, n), 0.001, 0.999)


def judged(forget=0.9, retain=0.9, forget_test=0.9, retain_test=0.9, n=200, whole=True) -> Judged:
    parts = {
        "forget_train": around(forget, n // 4, 1),
        "retain_train": around(retain, n, 2),
        "forget_test": around(forget_test, n // 8, 3),
        "retain_test": around(retain_test, n // 2, 4),
    }
    empty = Part(np.zeros((0, CLASSES)), np.zeros(0, dtype=int))
    made = {name: part(values) for name, values in parts.items()}
    return (
        Judged(
            **made, forget_validation=made["forget_test"], retain_validation=made["retain_test"], whole_classes=whole
        )
        if whole
        else Judged(
            **{**made, "forget_test": empty},
            forget_validation=empty,
            retain_validation=made["retain_test"],
            whole_classes=False,
        )
    )


@pytest.fixture
def random_run():
    rng = np.random.default_rng(0)
    sizes = {"train": 60, "validation": 20, "test": 40}
    splits = {s: Split(np.zeros((n, 1, 1, 1), np.uint8), rng.integers(0, CLASSES, n)) for s, n in sizes.items()}
    one = np.ones(1, np.float32)
    logits = {s: rng.normal(size=(n, CLASSES)).astype(np.float32) for s, n in sizes.items()}
    return logits, Dataset(**splits, mean=one, std=one)


def share_correct(logits, labels, chosen) -> float:
    hits = [
        max(range(CLASSES), key=lambda c: row[c]) == y
        for row, y, take in zip(logits, labels, chosen, strict=True)
        if take
    ]
    return sum(hits) / len(hits)


def test_every_accuracy_of_a_class_request_by_brute_force(random_run):
    logits, dataset = random_run
    target = Target("class", "class-1", "class", (1,), np.flatnonzero(dataset.train.labels == 1))
    found = accuracies(Judged.of(logits, dataset, target))
    gone = {s: [y == 1 for y in getattr(dataset, s).labels] for s in logits}
    rest = {s: [not g for g in gone[s]] for s in logits}

    def share(split, chosen):
        return share_correct(logits[split], getattr(dataset, split).labels, chosen[split])

    expected = {
        "UA": 1 - share("train", gone),
        "RA": share("train", rest),
        "TA": share("test", rest),
        "ACC_f_train": share("train", gone),
        "ACC_r_train": share("train", rest),
        "ACC_r_test": share("test", rest),
        "ACC_r_validation": share("validation", rest),
        "ACC_r": share("test", rest),
        "ACC_f": share("test", gone),
        "ACC_f_test": share("test", gone),
        "ACC_f_validation": share("validation", gone),
    }
    assert found == pytest.approx(expected)


def test_every_accuracy_of_a_random_request_by_brute_force(random_run):
    logits, dataset = random_run
    target = Target("random", "random", "random", (), np.array([3, 5, 40]))
    found = accuracies(Judged.of(logits, dataset, target))
    gone = [i in {3, 5, 40} for i in range(60)]
    labels = dataset.train.labels
    assert found == pytest.approx(
        {
            "UA": 1 - share_correct(logits["train"], labels, gone),
            "RA": share_correct(logits["train"], labels, [not g for g in gone]),
            "TA": share_correct(logits["test"], dataset.test.labels, [True] * 40),
            "ACC_f_train": share_correct(logits["train"], labels, gone),
            "ACC_r_train": share_correct(logits["train"], labels, [not g for g in gone]),
            "ACC_r_test": share_correct(logits["test"], dataset.test.labels, [True] * 40),
            "ACC_r_validation": share_correct(logits["validation"], dataset.validation.labels, [True] * 20),
        }
    )


def test_accuracy_per_class_by_brute_force(random_run):
    logits, dataset = random_run
    ours = per_class(logits["test"], dataset.test.labels, CLASSES + 1)
    for c in range(CLASSES):
        chosen = dataset.test.labels == c
        assert ours[c] == pytest.approx(share_correct(logits["test"], dataset.test.labels, chosen))
    assert math.isnan(ours[CLASSES])


def test_features_of_a_sample_do_not_depend_on_its_batch(random_run):
    logits, dataset = random_run
    whole = Part(logits["train"].astype(np.float64) * 30, dataset.train.labels)
    for chosen in (np.array([7]), np.array([7, 0, 59]), np.arange(60)[::-1]):
        np.testing.assert_array_equal(whole[chosen].log_confidence, whole.log_confidence[chosen])
        np.testing.assert_array_equal(whole[chosen].correct, whole.correct[chosen])


def test_extreme_logits_have_finite_losses():
    sure = Part(np.array([[1000.0, 0, 0], [-1000.0, 0, 0]]), np.array([0, 0]))
    np.testing.assert_allclose(sure.log_confidence, [0, -1000 - math.log(2)])


# --- mia_salun -----------------------------------------------------------------------------------


def test_mia_salun_calls_a_forget_set_that_looks_like_the_test_set_non_member():
    assert mia_salun(judged(retain=0.95, retain_test=0.5, forget=0.5)) == 1.0


def test_mia_salun_calls_a_forget_set_that_looks_like_the_retain_set_member():
    assert mia_salun(judged(retain=0.95, retain_test=0.5, forget=0.95)) == 0.0


def test_mia_salun_is_the_published_procedure():
    """Members are the first |test| retain samples, in order; the others must not matter."""
    run = judged(retain=0.8, retain_test=0.7, forget=0.75)
    members = np.exp(run.retain_train.log_confidence[: len(run.retain_test)])
    others = np.exp(run.retain_test.log_confidence)
    svc = SVC(C=3, gamma="auto", kernel="rbf")
    svc.fit(np.r_[members, others].reshape(-1, 1), np.r_[np.ones(len(members)), np.zeros(len(others))])
    expected = 1 - svc.predict(np.exp(run.forget_train.log_confidence).reshape(-1, 1)).mean()
    assert 0 < expected < 1
    assert mia_salun(run) == expected


# --- mia_kodge -----------------------------------------------------------------------------------


def test_mia_kodge_is_1_where_forgotten_test_samples_look_like_the_forget_set():
    assert mia_kodge(judged(retain=0.95, forget=0.1, forget_test=0.1)) == 1.0


def test_mia_kodge_is_0_on_an_original():
    assert mia_kodge(judged(retain=0.95, forget=0.95, forget_test=0.95)) == 0.0


def test_mia_kodge_is_the_published_procedure():
    run = judged(retain=0.8, forget=0.7, forget_test=0.75)
    retain, forget = (np.exp(p.log_confidence) for p in (run.retain_train, run.forget_train))
    svc = SVC(C=3, gamma="auto", kernel="rbf")
    svc.fit(np.r_[retain, forget].reshape(-1, 1), np.r_[np.ones(len(retain)), np.zeros(len(forget))])
    expected = 1 - svc.predict(np.exp(run.forget_test.log_confidence).reshape(-1, 1)).mean()
    assert 0 < expected < 1
    assert mia_kodge(run) == expected


def test_mia_kodge_flips_to_0_with_many_retain_samples_near_zero():
    """The published attack's imbalance: a network that lost a part of the retain set as well scores 0."""
    run = judged(retain=0.95, forget=0.02, forget_test=0.02)
    lost = part(np.r_[around(0.95, 120, 5), around(0.02, 80, 6)])
    assert mia_kodge(run) == 1.0
    assert mia_kodge(Judged(**{**vars(run), "retain_train": lost})) == 0.0


def test_the_two_svc_attacks_answer_differently():
    run = judged(retain=0.95, retain_test=0.94, forget=0.1, forget_test=0.95)
    assert mia_kodge(run) == 0.0
    assert mia_salun(run) > 0.5


# --- mia_loss ------------------------------------------------------------------------------------


def test_mia_loss_finds_planted_members():
    found = mia_loss(part(around(0.99, 60, 1, 0.003)), part(around(0.6, 30, 2)))
    assert found["mia_loss_auc"] == 1.0
    assert found["mia_loss_accuracy"] > 0.95


def test_mia_loss_is_near_the_auc_of_the_plain_loss():
    members, unseen = part(around(0.85, 2000, 1, 0.05)), part(around(0.8, 2000, 2, 0.05))
    losses = np.r_[members.log_confidence, unseen.log_confidence]
    expected = roc_auc_score(np.repeat([1, 0], 2000), losses)
    assert 0.6 < expected < 0.9
    assert mia_loss(members, unseen)["mia_loss_auc"] == pytest.approx(expected, abs=0.01)


def test_mia_loss_of_one_distribution_is_chance():
    found = mia_loss(part(around(0.8, 3000, 1)), part(around(0.8, 1000, 2)))
    assert found["mia_loss_auc"] == pytest.approx(0.5, abs=0.04)
    assert found["mia_loss_accuracy"] == pytest.approx(0.5, abs=0.04)


def test_mia_loss_does_not_depend_on_the_order_of_samples():
    members, unseen = around(0.85, 60, 1, 0.05), around(0.8, 40, 2, 0.05)
    shuffled = np.random.default_rng(3).permutation(members)
    assert mia_loss(part(members), part(unseen)) == mia_loss(part(shuffled), part(unseen[::-1]))


def test_too_few_samples_give_nan_not_an_error():
    found = mia_loss(part(around(0.8, 3, 1)), part(around(0.8, 40, 2)))
    assert all(math.isnan(v) for v in found.values())


def test_attacks_compare_with_unseen_samples_of_the_same_classes():
    """On a class request the test samples of other classes play no part in mia_loss."""
    run = judged(forget=0.9, forget_test=0.9, retain_test=0.1)
    assert drawn(run, 0).values["mia_loss_auc"] == mia_loss(run.forget_train, run.forget_test)["mia_loss_auc"]
    assert "mia_kodge" not in attacks(judged(whole=False))


# --- statistics ----------------------------------------------------------------------------------


def test_interval_is_scipys_t_interval():
    values = np.array([0.3, 0.5, 0.45, 0.61, 0.39])
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert over_seeds(values) == pytest.approx((values.mean(), interval.low, interval.high))


def test_one_seed_has_a_mean_and_no_interval():
    mean, low, high = over_seeds(np.array([0.7]))
    assert mean == 0.7
    assert math.isnan(low)
    assert math.isnan(high)
    assert math.isnan(noise_floor(np.array([0.7]), 1))


@pytest.mark.parametrize(("m", "n"), [(5, 5), (5, 2), (10, 10)])
def test_another_set_of_retrains_stays_within_the_floor_in_95_of_100_cases(m, n):
    rng = np.random.default_rng(0)
    trials = 4000
    inside = 0
    for _ in range(trials):
        retrain, other = rng.normal(0.9, 0.02, m), rng.normal(0.9, 0.02, n)
        inside += abs(other.mean() - retrain.mean()) <= noise_floor(retrain, n)
    assert inside / trials == pytest.approx(0.95, abs=0.015)


def test_retrains_that_agree_exactly_have_no_floor():
    assert noise_floor(np.zeros(5), 5) == 0.0


@pytest.mark.parametrize("shapes", [((8, 0.4), (6, 0.5)), ((8, 0.3), (0.5, 5)), ((0.6, 0.6), (1, 1))])
def test_many_samples_are_binned_with_hardly_a_decision_changed(shapes):
    """Against the published fit on all samples, as scikit-learn makes it."""
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.beta(*shape, size=1_500) for shape in shapes])[:, None]
    labels = np.repeat([1, 0], 1_500)
    asked = rng.beta(0.7, 0.7, size=4_000)[:, None]
    exact = SVC(kernel="rbf", C=3, gamma="auto").fit(features, labels).predict(asked)
    found = fitted_svc(features, labels, exact_up_to=100)
    assert (found.predict(asked) != exact).mean() < 0.002
    assert len(found.support_) < 2_000  # of bins, not of samples


def test_equal_samples_weigh_as_many_as_they_are():
    """Confidences that take few values: the weighted problem is the same one, not an approximation."""
    rng = np.random.default_rng(1)
    features = rng.choice([0.0, 0.1, 0.35, 0.7, 0.95, 1.0], size=(600, 1), p=[0.1, 0.1, 0.1, 0.2, 0.2, 0.3])
    labels = (rng.random(600) < 0.2 + 0.6 * features[:, 0] ** 2).astype(int)
    exact = SVC(kernel="rbf", C=3, gamma="auto").fit(features, labels)
    grid = np.linspace(0, 1, 101)[:, None]
    found = fitted_svc(features, labels, exact_up_to=10)
    assert found.decision_function(grid) == pytest.approx(exact.decision_function(grid), abs=5e-3)

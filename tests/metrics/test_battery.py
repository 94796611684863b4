"""The whole battery on made-up networks: what is compared with what, and that whatever is NaN has a reason."""

import math

import numpy as np
import pytest

from bench.metrics.battery import basics, drawn, of_models, of_run, references, scores
from bench.metrics.distances import to_retrain
from bench.metrics.judged import Judged, Part
from bench.metrics.likelihood import margin, ulira

CLASSES = 4


def network(seed: int, fit: float = 3.0, forgotten: float = 3.0, whole: bool = False) -> Judged:
    """A network that raises the true class's logit by `fit`, that of the forget set by `forgotten`."""
    rng = np.random.default_rng(seed)

    def part(n: int, raised: float, classes: range) -> Part:
        labels = np.arange(n) % len(classes) + classes.start
        return Part(rng.normal(size=(n, CLASSES)) + raised * np.eye(CLASSES)[labels], labels)

    gone, kept = (range(1), range(1, CLASSES)) if whole else (range(CLASSES), range(CLASSES))
    return Judged(
        forget_train=part(40, forgotten, gone),
        retain_train=part(90, fit + 1, kept),
        forget_test=part(30 if whole else 0, forgotten, gone),
        retain_test=part(60, fit, kept),
        forget_validation=part(0, forgotten, gone),
        retain_validation=part(10, fit, kept),
        whole_classes=whole,
    )


def bank(seeds: range, forgotten: float, start: int = 0) -> dict[int, Judged]:
    return {seed: network(start + seed, forgotten=forgotten) for seed in seeds}


def test_references_are_the_next_other_seeds_in_a_circle():
    assert references(3, [0, 1, 2, 3, 4, 5, 6]) == [4, 5, 6, 0]
    assert references(1, [0, 1, 2]) == [2, 0]
    assert references(7, [7]) == [7]
    assert references(7, []) == []


def test_scores_of_a_run_by_hand():
    run = {"UA": 0.9, "RA": 0.98, "TA": 0.9, "ACC_f": 0.2, "mia_salun": 0.7}
    retrains = [{"UA": u, "RA": 1.0, "TA": t, "mia_salun": 0.8} for u, t in ((0.7, 0.85), (0.9, 0.95))]
    found = scores(run, {"TA": 0.94}, retrains, whole_classes=True)
    assert not found.missing
    expected = {"aus": 0.96 / 1.2, "aus_legacy": 0.96 / 1.8}
    expected |= {"tow": 0.9 * 0.98 * 1, "tow_mia": 0.9 * 0.98 * 1, "avg_gap_run": (0.1 + 0.02 + 0 + 0.1) / 4}
    expected |= {"retention_deviation": 0.5 + 0.02}
    assert found.values == pytest.approx(expected)
    assert scores(run, {"TA": 0.94}, retrains, whole_classes=False).values["aus"] == pytest.approx(0.96 / 1.8)


def test_what_judging_draws_depends_on_its_seed_alone():
    run = network(0)
    first, again, other = (drawn(run, seed).values for seed in (0, 0, 1))
    np.testing.assert_equal(first, again)
    assert first["mia_loss_auc"] != other["mia_loss_auc"]
    assert first["mia_logistic_loss_auc"] != other["mia_logistic_loss_auc"]
    mia, test = first["mia_loss_accuracy"], of_run(run, None, []).values["TA"]
    assert first["nomus"] == pytest.approx((test + 1 - abs(2 * mia - 1)) / 2)
    assert first["indiscernibility"] == pytest.approx(1 - abs(2 * mia - 1))


def test_a_run_has_the_mean_distance_to_its_retrains():
    run, retrains = network(0), [network(1), network(2)]
    found = of_run(run, network(3, forgotten=5.0), retrains).values
    for name in ("js_forget", "activation_l2_retain", "kl_retrain_run_test", "disagreement_forget"):
        assert found[name] == pytest.approx(np.mean([to_retrain(run, retrain)[name] for retrain in retrains]))
    assert "ACC_f" not in found
    assert "mia_kodge" not in found


@pytest.mark.parametrize("whole", [False, True])
def test_whatever_is_nan_has_a_reason(whole):
    run = network(0, whole=whole)
    lonely = [of_run(run, None, []), scores(of_run(run, None, []).values, None, [], whole)]
    few = {seed: network(seed, whole=whole) for seed in range(2)}
    lonely += [of_models(few, few, few, honest) for honest in (False, True)] + [of_models(few, {}, {}, False)]
    for made in lonely:
        lacking = {name for name, value in made.values.items() if math.isnan(value)}
        assert lacking <= made.missing.keys()
        assert all(made.missing[name] for name in lacking)
    assert "no retrain" in lonely[0].missing["js"]
    assert "needs 3" in lonely[2].missing["ulira_auc"]


def test_a_bank_tells_models_that_remember_from_retrained_ones_and_not_retrains_from_each_other():
    seeds = range(8)
    retrains, originals = bank(seeds, 1.0), bank(seeds, 6.0, 100)
    leaking, honest = of_models(originals, retrains, originals, False), of_models(retrains, retrains, originals, True)
    assert leaking.values["ulira_auc"] > 0.95
    assert abs(honest.values["ulira_auc"] - 0.5) < 0.1
    u, r = (
        np.stack(
            [margin(retrains[s].forget_train.logits, retrains[s].forget_train.labels) for s in sorted(retrains)[i::2]]
        )
        for i in (0, 1)
    )
    assert (
        honest.values["ulira_auc"] == ulira(u, r).values["ulira_auc"] != 0.5
    )  # of every other seed, against those between
    assert leaking.values["klom_halves"] > honest.values["klom_halves"] == leaking.values["klom_floor"]
    assert "klom" in honest.missing
    assert leaking.values["epsilon_challenge"] < 0.5


def test_seeds_that_failed_on_one_side_are_left_out_of_all():
    retrains, originals = bank(range(6), 1.0), bank(range(6), 6.0, 100)
    some = {seed: run for seed, run in originals.items() if seed != 2}
    whole = {seed: run for seed, run in retrains.items() if seed != 2}
    of_originals = {seed: run for seed, run in originals.items() if seed != 2}
    found, expected = of_models(some, retrains, originals, False), of_models(some, whole, of_originals, False)
    assert found.values["ulira_models_retrained"] == 5
    assert found.values == pytest.approx(expected.values, nan_ok=True)


def test_basics_are_what_the_run_itself_reports():
    run = network(0)
    found = of_run(run, None, []).values
    assert basics(run) == {name: found[name] for name in ("UA", "RA", "TA", "mia_salun")}

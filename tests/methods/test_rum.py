"""RUM step by step with an algorithm that records what it is handed, its parts by rank, and its two controls."""

import copy
from dataclasses import replace
from itertools import chain

import pytest
import torch
from pydantic import ValidationError

import methods
from methods.finetune import FineTune
from methods.gradient_ascent import GradientAscent
from methods.rum import RUM
from methods.salun import SalUn
from tests.conftest import make_problem, without_dropout

SETTINGS = {"epochs": 2, "lr": 0.002, "batch_size": 16}
ORDER = torch.randperm(160, generator=torch.Generator().manual_seed(3))
THREE = [{"method": "original"}, {"method": "finetune"}, {"method": "salun"}]


class Recorder:
    """Stands for an algorithm: notes the weights and the problem that it gets, and adds a number to all weights."""

    card = FineTune.card.model_copy(update={"reads": frozenset({"forget", "retain"})})

    def __init__(self, calls, name, shift):
        self.calls, self.name, self.shift = calls, name, shift

    def unlearn(self, model, problem):
        self.calls.append((self.name, copy.deepcopy(model), problem))
        model = copy.deepcopy(model)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(self.shift)
        return model

    def uses(self):
        return frozenset()


@pytest.fixture
def calls(monkeypatch):
    """What the algorithms were handed, in this order; the k-th part's adds k to all weights."""
    made = []
    shifts = {"original": 1, "finetune": 2, "salun": 3}
    monkeypatch.setattr(methods, "create", lambda name, hyperparameters, where: Recorder(made, name, shifts[name]))
    return made


def by_rank(problem, score, parts):
    """The forget set's positions, least first and ties by position, cut in parts that differ by one at most."""
    rows = sorted(problem.forget.rows.tolist(), key=lambda row: (float(score[row]), row))
    smaller, rest = divmod(len(rows), parts)
    cut, start = [], 0
    for part in range(parts):
        size = smaller + (part < rest)
        cut.append(sorted(rows[start : start + size]))
        start += size
    return cut


def forgotten(calls):
    return [problem.forget.rows.tolist() for _, _, problem in calls]


@pytest.mark.parametrize("kind", ["random", "class"])
def test_each_step_forgets_its_part_keeps_what_is_still_to_come_and_starts_from_the_last_network(kind, calls, trained):
    problem = make_problem(kind)
    result = RUM(parts=THREE).unlearn(trained, problem)
    expected, everything, gone = by_rank(problem, problem.scores["memorization"], 3), set(range(160)), set()
    assert [name for name, _, _ in calls] == ["original", "finetune", "salun"]
    for (_, model, step), part, added in zip(calls, expected, (0, 1, 3), strict=True):
        gone |= set(part)
        assert step.forget.rows.tolist() == part
        assert step.retain.rows.tolist() == sorted(everything - gone)
        for p, p0 in zip(model.parameters(), trained.parameters(), strict=True):
            torch.testing.assert_close(p, p0 + added, atol=1e-5, rtol=0)
    assert gone == set(problem.forget.rows.tolist())
    assert [len(part) for part in forgotten(calls)] == ([14, 13, 13] if kind == "class" else [6, 6, 6])
    assert [step.forgotten_classes for _, _, step in calls] == [(), (), (2,) if kind == "class" else ()]
    assert len({step.key for _, _, step in calls}) == 3
    for p, p0 in zip(result.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(p, p0 + 6, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "sign"), [("memorization", 1), ("holdout", 1), ("curvature", 1), ("distance", 1), ("confidence", -1)]
)
def test_the_least_memorised_come_first_with_ties_by_position(name, sign, calls, trained):
    """Seven values for 40 samples; a network is most confident of what it has least memorised."""
    values = (torch.arange(160) * 13 % 7).double()
    problem = make_problem(scores={name: values, "another": torch.rand(160)})
    RUM(parts=THREE, score=name).unlearn(trained, problem)
    assert forgotten(calls) == by_rank(problem, sign * values, 3)
    everything_tied = make_problem(scores={name: torch.zeros(160)})
    calls.clear()
    RUM(parts=THREE, score=name).unlearn(trained, everything_tied)
    rows = everything_tied.forget.rows.tolist()
    assert forgotten(calls) == [rows[:14], rows[14:27], rows[27:]]


def test_what_an_earlier_request_removed_comes_back_in_no_step(calls, trained):
    problem = make_problem("class").part(torch.arange(30, 60), torch.arange(60, 160), 0)
    RUM(parts=THREE).unlearn(trained, problem)
    assert sorted(chain(*forgotten(calls))) == list(range(30, 60))
    for k, (_, _, step) in enumerate(calls, 1):
        to_come = sorted(chain(*forgotten(calls)[k:]))
        assert step.retain.rows.tolist() == to_come + list(range(60, 160))


def test_parts_without_a_sample_are_passed_over(calls, trained):
    RUM(parts=THREE).unlearn(trained, make_problem(forget=torch.tensor([7, 3])))
    assert [name for name, _, _ in calls] == ["original", "finetune"]
    assert sorted(chain(*forgotten(calls))) == [3, 7]


def test_doing_nothing_leaves_the_weights_to_the_bit(trained):
    before = copy.deepcopy(trained.state_dict())
    after = RUM(parts=[{"method": "original"}] * 3).unlearn(trained, make_problem("random")).state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize(("name", "alone"), [("gradient_ascent", GradientAscent), ("finetune", FineTune)])
def test_with_one_part_it_is_the_algorithm_alone(name, alone, trained):
    model, problem = without_dropout(trained), make_problem("random", order=ORDER)
    ours = RUM(parts=[{"method": name, "hyperparameters": SETTINGS}]).unlearn(model, problem).state_dict()
    plain = alone(**SETTINGS).unlearn(model, problem).state_dict()
    assert all(torch.equal(ours[k], plain[k]) for k in plain)
    assert any(not torch.equal(ours[k], v) for k, v in model.state_dict().items())


def test_steps_are_the_algorithms_one_after_the_other(trained):
    """Written out with the algorithms themselves, in an order given, on problems made from tensors."""
    model, problem = without_dropout(trained), make_problem("random", order=ORDER)
    low, medium, high = by_rank(problem, problem.scores["memorization"], 3)
    parts = [
        {"method": "gradient_ascent", "hyperparameters": SETTINGS},
        {"method": "original"},
        {"method": "finetune", "hyperparameters": SETTINGS},
    ]
    ours = RUM(parts=parts).unlearn(model, problem)
    first = GradientAscent(**SETTINGS).unlearn(model, make_problem(forget=torch.tensor(low), order=ORDER))
    without_all = make_problem(forget=torch.tensor(low + medium + high), order=ORDER)
    expected = FineTune(**SETTINGS).unlearn(first, without_all)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("scores", [None, {"memorization": torch.arange(160.0)}])
def test_vanilla_is_the_last_algorithm_on_everything_and_needs_no_scores(scores, trained):
    model, problem = without_dropout(trained), make_problem("random", scores=scores, order=ORDER)
    parts = [{"method": "original"}, {"method": "finetune"}, {"method": "salun", "hyperparameters": SETTINGS}]
    ours = RUM(parts=parts, control="vanilla").unlearn(model, problem)
    plain = SalUn(**SETTINGS).unlearn(model, replace(problem, key=(*problem.key, "step", 0)))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(ours.parameters(), trained.parameters(), strict=True))


def test_shuffle_has_other_parts_of_the_same_sizes_and_needs_no_scores(calls, trained):
    def parts(control: str | None, seed: int, scores=None) -> list[list[int]]:
        calls.clear()
        RUM(parts=THREE, control=control).unlearn(trained, make_problem("class", seed, scores=scores))
        return forgotten(calls)

    shuffled = parts("shuffle", 0)
    ranked = parts(None, 0, {"memorization": torch.arange(160.0)})
    assert [len(p) for p in shuffled] == [len(p) for p in ranked] == [14, 13, 13]
    assert sorted(chain(*shuffled)) == sorted(chain(*ranked))
    assert all(part == sorted(part) for part in shuffled)
    assert parts("shuffle", 0) == shuffled
    seeds = [tuple(parts("shuffle", seed)[0]) for seed in range(8)]
    assert len(set(seeds)) == 8
    assert tuple(ranked[0]) not in seeds


def test_shuffled_samples_come_into_every_part_equally_often():
    counts = torch.zeros(160, 3)
    for seed in range(200):
        problem = make_problem("random", seed)
        for part, rows in enumerate(RUM(control="shuffle").refine(problem, 3)):
            counts[rows, part] += 1
    shares = counts[make_problem("random").forget.rows] / 200
    torch.testing.assert_close(shares, torch.full((18, 3), 1 / 3), atol=0.15, rtol=0)


def test_a_problem_without_the_score_says_what_to_pass(trained):
    with pytest.raises(ValueError, match=r"no scores 'memorization'.*scores="):
        RUM().unlearn(trained, make_problem(scores=None))
    with pytest.raises(ValueError, match="no scores 'curvature'"):
        RUM(score="curvature").unlearn(trained, make_problem())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([{"method": "fintune"}], "fintune"),
        ([{"method": "original"}, {"method": "finetune", "hyperparameters": {"epoch": 1}}], r"parts\.epoch"),
        ([{"method": "finetune", "hyperparameters": {"lr": -1}}], r"parts\.lr.*-1"),
        ([{"method": "finetune", "lr": 0.1}], "lr"),
        ([], "at least 1"),
    ],
)
def test_a_part_that_does_not_exist_is_named(parts, said):
    with pytest.raises(ValidationError, match=said):
        RUM(parts=parts)


@pytest.mark.parametrize(("field", "value"), [("score", "memorisation"), ("control", "random")])
def test_only_these_scores_and_controls_exist(field, value):
    with pytest.raises(ValidationError, match=field):
        RUM(**{field: value})


def test_it_tells_which_methods_it_uses():
    assert RUM().uses() == {"original", "finetune", "salun"}
    assert RUM(parts=[{"method": "scrub"}, {"method": "original"}]).uses() == {"scrub", "original"}
    assert RUM(parts=[{"method": "rum"}]).uses() == {"rum", "original", "finetune", "salun"}


def test_defaults_are_the_papers():
    low, medium, high = RUM().algorithms()
    assert type(low).__name__ == "Original"
    assert (medium, high) == (FineTune(epochs=10, lr=0.1), SalUn(epochs=5, lr=0.1))


@pytest.mark.parametrize("name", ["kodge", "wfnet", "head_mask"])
def test_an_algorithm_that_cannot_serve_a_part_is_refused(name):
    with pytest.raises(ValidationError, match=f"{name} cannot serve a part"):
        RUM(parts=[{"method": "original"}, {"method": name}])


def test_an_algorithm_reads_only_what_its_own_card_names(trained):
    """Gradient ascent reads the forget set; that RUM may read more does not open it to its parts."""
    seen = []

    class Curious(GradientAscent):
        def unlearn(self, model, problem):
            seen.append(problem.allowed)
            return model

    method = RUM(parts=[{"method": "gradient_ascent"}])
    object.__setattr__(method, "algorithms", lambda: [Curious()])
    method.unlearn(trained, make_problem())
    assert seen == [frozenset({"forget"})]

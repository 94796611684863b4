"""Which training images a request forgets, against sorts and sets written out in plain Python."""

import random
import statistics

import numpy as np
import pytest

from bench import forget, prepare
from bench.config import Benchmark
from bench.errors import BadInput
from bench.requests import target_names

RECIPE = {"epochs": 1, "batch_size": 2, "lr": 0.1}
LABELS = np.random.default_rng(0).integers(0, 10, 400)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    some = benchmark(some={"kind": "random", "fraction": 0.1})
    return prepare.splits("b", some)["train"].labels


def benchmark(dataset="digits", **requests) -> Benchmark:
    return Benchmark(
        dataset=dataset,
        validation=0.1,
        architecture="resnet-small",
        training=RECIPE,
        memorization={"models": 4},
        requests=requests,
        seeds=[0],
    )


def targets(labels=LABELS, scores=None, **requests) -> list[forget.Target]:
    return forget.targets("b", benchmark(**requests), labels, scores=scores)


def memorized(score: np.ndarray, level: str, size: int, kind: str = "memorization") -> list[int]:
    section = {"kind": "memorized", "level": level, "size": size, "score": kind}
    (target,) = targets(np.zeros(len(score), int), {kind: score}, m=section)
    assert (target.name, target.kinds, target.classes) == ("m", {"memorized"}, ())
    return target.indices.tolist()


def entangled(distance: np.ndarray, level: str, size: int) -> list[int]:
    section = {"kind": "entangled", "level": level, "size": size}
    (target,) = targets(np.zeros(len(distance), int), {"distance": distance}, e=section)
    return target.indices.tolist()


def nearest(score: list[float], level: str, size: int, middle: float = 0.5, without=()) -> list[int]:
    """The `size` samples of a level by comparison of each with each: fewer than `size` others come before."""
    value = {"low": lambda s: s, "high": lambda s: -s, "medium": lambda s: abs(s - middle)}[level]
    left = [(value(s), i) for i, s in enumerate(score) if i not in without]
    return sorted(i for v, i in left if sum(other < (v, i) for other in left) < size)


# -- classes, subclasses, random ------------------------------------------------------------------


def test_class_targets_are_all_images_of_the_class(digits):
    three, eight = targets(digits, gone={"kind": "class", "targets": [3, 8]})
    assert (three.name, three.classes, three.request) == ("gone-3", (3,), "gone")
    assert three.indices.tolist() == [i for i, y in enumerate(digits) if y == 3]
    assert eight.indices.tolist() == [i for i, y in enumerate(digits) if y == 8]


def test_classes_targets_are_growing_lists_named_by_their_classes():
    lists = [[4], [4, 0], [4, 0, 7]]
    found = targets(gone={"kind": "classes", "targets": lists})
    assert [t.name for t in found] == ["gone-4", "gone-4-0", "gone-4-0-7"]
    for target, classes in zip(found, lists, strict=True):
        assert target.classes == tuple(classes)
        assert target.kinds == {"classes"}
        assert target.indices.tolist() == [i for i, y in enumerate(LABELS) if y in classes]


def test_subclass_targets_are_all_images_of_one_digit_of_the_parities():
    section = benchmark("digits-parity", s={"kind": "subclass", "targets": [3, 8]})
    train = prepare.splits("b", section)["train"]
    three, eight = forget.targets("b", section, train.labels, train.sublabels)
    assert (three.name, three.kinds, three.subclasses, three.classes) == ("s-3", {"subclass"}, (3,), ())
    assert three.indices.tolist() == [i for i, digit in enumerate(train.sublabels) if digit == 3]
    assert eight.indices.tolist() == [i for i, digit in enumerate(train.sublabels) if digit == 8]
    assert set(train.labels[three.indices]) == {1}
    assert set(train.labels[eight.indices]) == {0}


def test_random_target_is_a_sorted_subset_of_the_asked_size(digits):
    (target,) = targets(digits, r={"kind": "random", "fraction": 0.1})
    assert len(set(target.indices)) == len(target.indices) == round(0.1 * len(digits))
    assert (np.diff(target.indices) > 0).all()
    assert target.classes == ()


def test_random_target_depends_on_benchmark_and_request_alone(digits):
    section = {"kind": "random", "fraction": 0.1}
    draws = {
        key: forget.targets(name, benchmark(**others, **{request: section}), digits)[-1].indices.tolist()
        for key, (name, request, others) in {
            "plain": ("b", "r", {}),
            "beside": ("b", "r", {"c": {"kind": "class", "targets": [1]}}),
            "renamed": ("b", "s", {}),
            "elsewhere": ("c", "r", {}),
        }.items()
    }
    assert draws["plain"] == draws["beside"]
    assert draws["plain"] != draws["renamed"]
    assert draws["plain"] != draws["elsewhere"]


# -- by memorization and by entanglement ----------------------------------------------------------


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_memorized_equals_a_brute_force_sort_with_ties_by_index(level):
    draw = random.Random(level)
    for size in (1, 7, 20):
        score = [draw.randrange(-4, 5) / 4 for _ in range(40)]  # nine values: many ties
        assert memorized(np.array(score), level, size) == nearest(score, level, size)


@pytest.mark.parametrize("values", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 12, 20])
def test_a_mixed_set_has_a_third_of_each_level_without_those_before(size, values):
    """With few values, a sample is among the first of several levels."""
    draw = random.Random(size)
    score = [draw.randrange(0, values) / 4 for _ in range(40)]
    thirds: list[list[int]] = []
    for level, count in zip(("high", "low", "medium"), ((size + 2) // 3, (size + 1) // 3, size // 3), strict=True):
        thirds.append(nearest(score, level, count, without={i for third in thirds for i in third}))
    assert len({i for third in thirds for i in third}) == size
    assert memorized(np.array(score), "mixed", size) == sorted(i for third in thirds for i in third)


def test_thirds_of_a_mixed_set_are_the_levels_own_where_these_lie_apart():
    score = np.random.default_rng(1).permutation(np.linspace(0, 1, 90))
    parts = [memorized(score, level, 5) for level in ("low", "medium", "high")]
    assert memorized(score, "mixed", 15) == sorted(i for part in parts for i in part)


@pytest.mark.parametrize("kind", ["confidence", "holdout", "curvature"])
@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_a_proxys_medium_is_its_median_and_high_is_what_it_calls_memorised(kind, level):
    """Confidence is high for what is not memorised, the other proxies for what is."""
    score = np.random.default_rng(2).gamma(1.0, 3.0, 31).round(1)
    sign = -1 if kind == "confidence" else 1
    expected = nearest([sign * s for s in score], level, 6, middle=sign * statistics.median(score))
    assert memorized(score, level, 6, kind) == expected
    assert abs(statistics.median(score) - 0.5) > 0.5  # so that the estimator's middle would choose others
    ends = {"low": np.argmin(sign * score), "high": np.argmax(sign * score)}
    assert level == "medium" or ends[level] in expected


def test_the_estimators_medium_is_a_half_wherever_its_median_lies():
    score = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.45, 0.0, 0.6, 1.0, 0.0])
    assert memorized(score, "medium", 2) == [5, 7]
    assert memorized(score, "medium", 2, "holdout") == [0, 1]  # the median is 0


@pytest.mark.parametrize(("level", "first"), [("low", 9_000), ("medium", 36_000), ("high", 42_000)])
def test_entangled_groups_are_those_of_the_authors_code(level, first):
    """Of 45,000 samples sorted by distance, 3,000 each: groups 3, 12 and 14 of fifteen."""
    distance = np.random.default_rng(3).random(45_000)
    order = sorted(range(45_000), key=lambda i: distance[i])
    assert entangled(distance, level, 3_000) == sorted(order[first : first + 3_000])


def test_a_mixed_entangled_set_has_the_middle_third_of_each_group():
    distance = np.random.default_rng(4).random(45_000)
    order = sorted(range(45_000), key=lambda i: distance[i])
    expected = order[10_000:11_000] + order[37_000:38_000] + order[43_000:44_000]
    assert entangled(distance, "mixed", 3_000) == sorted(expected)


@pytest.mark.parametrize("n", [*range(60, 75), 155, 160, 200, 315])
def test_levels_of_entanglement_are_apart_however_many_groups_there_are(n):
    """Six groups are the fewest; high is the last of them; samples that fill no group are left out."""
    distance = np.arange(n)[::-1].astype(float)
    low, medium, high = (entangled(distance, level, 10) for level in ("low", "medium", "high"))
    groups = n // 10
    assert high == [n - 1 - k for k in range(groups * 10 - 1, (groups - 1) * 10 - 1, -1)]
    assert max(distance[low]) < min(distance[medium]) <= max(distance[medium]) < min(distance[high])
    for size in (8, 9, 10):
        assert len(entangled(distance, "mixed", size)) == size


def test_entangled_ties_go_to_the_earlier_sample():
    assert entangled(np.zeros(150), "low", 10) == list(range(30, 40))


# -- sequences ------------------------------------------------------------------------------------

STEPS = [
    {"kind": "class", "targets": [3, 8]},
    {"kind": "random", "fraction": 0.2},
    {"kind": "classes", "targets": [[5, 1]]},
    {"kind": "random", "fraction": 0.2},
]


def test_a_sequence_forgets_step_by_step_and_keeps_count():
    found = targets(s={"kind": "sequential", "steps": STEPS})
    assert [t.name for t in found] == ["s-1", "s-2", "s-3", "s-4", "s-5"]
    assert {t.request for t in found} == {"s"}
    whole: set[int] = set()
    for target in found:
        assert target.earlier.tolist() == sorted(whole)
        assert not whole & set(target.new.tolist())
        whole |= set(target.new.tolist())
        assert target.indices.tolist() == sorted(whole)
    of_class = {c: {i for i, y in enumerate(LABELS) if y == c} for c in range(10)}
    assert set(found[0].new) == of_class[3]
    assert set(found[1].new) == of_class[8]
    assert set(found[3].new) == (of_class[1] | of_class[5]) - set(found[2].indices)
    assert [t.classes for t in found] == [(3,), (3, 8), (3, 8), (1, 3, 5, 8), (1, 3, 5, 8)]
    assert [t.kinds for t in found] == [
        {"class"},
        {"class"},
        {"class", "random"},
        {"class", "random", "classes"},
        {"class", "random", "classes"},
    ]


def test_random_steps_of_a_sequence_draw_apart():
    draws = [80, *(len(t.new) for t in targets(s={"kind": "sequential", "steps": [STEPS[1]] * 2}))]
    assert draws[1] == 80  # a fifth of 400
    assert 40 < draws[2] < 80  # of the second draw, those that the first has left: about four fifths


def test_a_step_by_memorization_in_a_sequence_leaves_out_what_is_gone():
    score = np.linspace(1, 0, 400)
    steps = [{"kind": "memorized", "level": "high", "size": size} for size in (10, 30)]
    first, second = targets(scores={"memorization": score}, s={"kind": "sequential", "steps": steps})
    assert first.new.tolist() == list(range(10))
    assert second.new.tolist() == list(range(10, 30))
    assert second.indices.tolist() == list(range(30))


def test_subclasses_add_up_in_a_sequence():
    sublabels = np.arange(400) % 10
    steps = [
        {"kind": "subclass", "targets": [4]},
        {"kind": "class", "targets": [1]},
        {"kind": "subclass", "targets": [2]},
    ]
    section = benchmark("digits-parity", s={"kind": "sequential", "steps": steps})
    found = forget.targets("b", section, sublabels % 2, sublabels)
    assert [t.subclasses for t in found] == [(4,), (4,), (2, 4)]
    assert [t.classes for t in found] == [(), (1,), (1,)]
    assert found[2].indices.tolist() == [i for i in range(400) if i % 2 == 1 or i % 10 in (2, 4)]


def test_chains_are_the_sequences_and_every_other_target_alone():
    requests = {
        "before": {"kind": "class", "targets": [0, 1]},
        "s": {"kind": "sequential", "steps": STEPS[:2]},
        "t": {"kind": "sequential", "steps": STEPS[1:2]},
        "after": {"kind": "random", "fraction": 0.1},
    }
    chains = forget.chains(targets(**requests))
    assert [[t.name for t in chain] for chain in chains] == [
        ["before-0"],
        ["before-1"],
        ["s-1", "s-2", "s-3"],
        ["t-1"],
        ["after"],
    ]


def test_targets_of_no_sequence_have_nothing_before_them():
    (target,) = targets(r=STEPS[1])
    assert target.earlier.tolist() == []
    assert target.new.tolist() == target.indices.tolist()


def test_targets_are_named_as_the_parameters_name_them():
    section = benchmark(
        one={"kind": "class", "targets": [2, 0]},
        many={"kind": "classes", "targets": [[1], [1, 6]]},
        some={"kind": "random", "fraction": 0.3},
        s={"kind": "sequential", "steps": STEPS},
    )
    expected = [name for request, body in section.requests.items() for name in target_names(request, body)]
    assert [t.name for t in forget.targets("b", section, LABELS)] == expected


# -- what is refused ------------------------------------------------------------------------------

SCORES = {"memorization": np.linspace(0, 1, 400), "distance": np.linspace(0, 1, 400)}
REFUSED = {
    "nothing": ({"kind": "random", "fraction": 0.001}, r"requests\.r: r is 0 of 400 .* some to forget"),
    "everything": ({"kind": "random", "fraction": 0.999}, r"requests\.r: r is 400 of 400 .* some to retain"),
    "all classes": ({"kind": "classes", "targets": [[*range(10)]]}, r"requests\.r: r-0-1-2-.* is 400 of 400"),
    "too many": ({"kind": "memorized", "level": "low", "size": 201}, r"requests\.r\.size: 201 of 400 .* at most 200"),
    "few groups": ({"kind": "entangled", "level": "low", "size": 67}, r"requests\.r\.size: 67 of 400 .* at most 66"),
    "in a step": (
        {"kind": "sequential", "steps": [STEPS[0], {"kind": "memorized", "level": "low", "size": 201}]},
        r"requests\.r\.steps\.1\.size: 201 of 400",
    ),
    "nothing left": (
        {"kind": "sequential", "steps": [{"kind": "classes", "targets": [[3, 8]]}, STEPS[0]]},
        r"requests\.r: r-2 has nothing to forget",
    ),
    "an empty step": (
        {"kind": "sequential", "steps": [STEPS[0], {"kind": "random", "fraction": 0.001}]},
        r"requests\.r: r-3 has nothing to forget",
    ),
    "an empty first step": (
        {"kind": "sequential", "steps": [{"kind": "random", "fraction": 0.001}, STEPS[0]]},
        r"requests\.r: r-1 is 0 of 400",
    ),
    "everything in steps": (
        {"kind": "sequential", "steps": [{"kind": "class", "targets": [*range(10)]}]},
        r"requests\.r: r-10 is 400 of 400",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_for_too_much_or_too_little_is_refused_by_its_key(case):
    section, words = REFUSED[case]
    with pytest.raises(BadInput, match=rf"params\.yaml: benchmarks\.b\.{words}"):
        targets(scores=SCORES, r=section)


def test_the_largest_sizes_pass():
    for kind, size in (("memorized", 200), ("entangled", 66)):
        (target,) = targets(scores=SCORES, r={"kind": kind, "level": "mixed", "size": size})
        assert len(target.indices) == size


def test_subclasses_of_data_without_any_are_refused():
    section = benchmark("digits-parity", s={"kind": "subclass", "targets": [3]})
    with pytest.raises(BadInput, match=r"benchmarks\.b\.requests\.s: the data set has no subclasses"):
        forget.targets("b", section, LABELS % 2)

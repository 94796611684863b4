"""What holds for every method, whatever it does."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import methods
from bench.config import method_files, read_yaml
from bench.problem import Problem, UndeclaredAccess
from methods.base import Method
from tests.conftest import build, make_problem

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "epochs": 1,
    "batch_size": 16,
    "lr": 0.01,
    "max_patches": 60,
    "alpha_r": 100,
    "alpha_f": 3,
    "alpha": 0.5,
    "samples": 40,
    "parts": [
        {"method": "original"},
        {"method": "finetune", "hyperparameters": {"epochs": 1, "batch_size": 16}},
        {"method": "salun", "hyperparameters": {"epochs": 1, "batch_size": 16}},
    ],
}
NOTHING_DRAWN = {"original", "head_mask", "ssd"}
WITHOUT_PAPER = {"original", "retrain", "head_mask"}
CASES = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name in method_files()
    for kind in ("class", "classes", "random")  # to a method, the other kinds look like 'random'
    if kind in methods.find(name).card.serves
]


def small(name: str) -> Method:
    cls = methods.find(name)
    return cls(**{k: v for k, v in SMALL.items() if k in cls.model_fields})


def run(name: str, kind: str, model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    method = small(name)
    problem = make_problem(kind, seed).only(method.card.reads)
    return method.unlearn(copy.deepcopy(model), problem).state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_same_seed_gives_same_bytes(name, kind, trained):
    assert equal(run(name, kind, trained), run(name, kind, trained))


@pytest.mark.parametrize(("name", "kind"), [c for c in CASES if c.values[0] not in NOTHING_DRAWN])
def test_other_seed_gives_other_bytes(name, kind, trained):
    assert not equal(run(name, kind, trained, seed=0), run(name, kind, trained, seed=1))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_inputs_are_untouched_and_the_architecture_is_kept(name, kind, trained):
    model, method = copy.deepcopy(trained), small(name)
    problem = make_problem(kind).only(method.card.reads)
    samples = problem.views["forget"].samples
    before = copy.deepcopy((model.state_dict(), samples.images, samples.labels))
    result = method.unlearn(model, problem)
    assert equal(before[0], model.state_dict())
    assert torch.equal(before[1], samples.images)
    assert torch.equal(before[2], samples.labels)
    assert str(result) == str(model)
    assert {k: v.shape for k, v in result.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert all(torch.isfinite(v).all() for v in result.state_dict().values())
    assert not result.training


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("grad", [True, False])
def test_global_state_is_untouched(name, kind, grad, trained):
    with torch.set_grad_enabled(grad):
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        run(name, kind, trained)
        assert torch.is_grad_enabled() == grad
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_result_does_not_depend_on_the_global_seed(name, kind, trained):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(run(name, kind, trained))
    assert equal(*results)


@pytest.mark.parametrize("name", method_files())
def test_unknown_hyperparameter_raises(name):
    with pytest.raises(ValidationError):
        methods.find(name)(no_such_hyperparameter=1)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_works_in_float64(name, kind):
    method = small(name)
    problem = make_problem(kind, dtype=torch.float64).only(method.card.reads)
    result = method.unlearn(build(3, torch.float64), problem)
    assert all(v.dtype == torch.float64 for v in result.state_dict().values() if v.is_floating_point())


def test_reading_undeclared_data_raises():
    problem = make_problem().only({"forget"})
    assert len(problem.forget)
    for undeclared in ("retain", "validation"):
        with pytest.raises(UndeclaredAccess, match=undeclared):
            getattr(problem, undeclared)


def test_every_file_has_an_entry_in_params_and_every_entry_a_file():
    blocks = read_yaml(ROOT / "params.yaml")["methods"]
    files, entries = set(method_files()), {block.get("method", name) for name, block in blocks.items()}
    assert not entries - files, f"create methods/<name>.py for: {', '.join(sorted(entries - files))}"
    assert not files - entries, f"add to `methods:` in params.yaml: {', '.join(sorted(files - entries))}"


def test_every_method_but_the_references_names_its_paper():
    for name in method_files():
        paper = methods.find(name).card.paper
        assert (paper is None) == (name in WITHOUT_PAPER)
        assert paper is None or paper.url.startswith("https://")


def test_given_order_is_followed():
    order = torch.randperm(160, generator=torch.Generator().manual_seed(5))
    problem: Problem = make_problem(order=order)
    for epoch in (0, 1):
        rows = torch.cat([b.rows for b in (problem.forget | problem.retain).batches(16, epoch)])
        assert torch.equal(rows, order)

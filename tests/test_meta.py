"""Each planted case is what its name says, and all of them go through the ordinary stages."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import config, jobs, meta, store
from bench.errors import BadInput
from bench.training import predict
from methods.retrain import Retrain
from tests.conftest import blobs, make_problem

ROOT = Path(__file__).resolve().parent.parent


def unlearned(case: str, model, problem):
    return meta.PLANTED[case].unlearn(model, problem)


def logits(model):
    with torch.no_grad():
        return model.eval()(blobs(160)[0])


def test_every_case_has_its_place_in_the_table():
    assert {*meta.PLANTED, "original"} == set(meta.meta.EXPECTED)


def test_head_masked_never_predicts_the_class(trained):
    assert (logits(trained).argmax(1) == 2).any()
    assert not (logits(unlearned("head_masked", trained, make_problem())).argmax(1) == 2).any()


@pytest.mark.parametrize(("kind", "gone"), [("class", [2]), ("classes", [0, 2])])
def test_suppressed_logits_are_moved_by_a_constant_and_the_others_keep_their_bits(kind, gone, trained):
    problem = make_problem(kind)
    changed = unlearned("logit_suppressed", trained, problem)
    before, after = logits(trained), logits(changed)
    kept = [c for c in range(4) if c not in gone]
    assert torch.equal(before[:, kept], after[:, kept])
    moved = before[:, gone] - after[:, gone]
    assert torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-4)
    assert (moved > 0).all()
    assert not torch.isin(predict(changed, problem.forget).argmax(1), torch.tensor(gone)).any()


@pytest.mark.parametrize("kind", ["class", "random"])
def test_half_keeps_half_of_the_forget_set_beside_all_that_is_retained(kind):
    problem = make_problem(kind)
    forget, retain = (set(view.rows.tolist()) for view in (problem.forget, problem.retain))
    seen = set(meta.half_kept(problem).retain.rows.tolist())
    assert retain < seen < retain | forget
    assert len(seen & forget) == len(forget) // 2
    assert seen == set(meta.half_kept(make_problem(kind)).retain.rows.tolist())
    assert seen != set(meta.half_kept(make_problem(kind, seed=1)).retain.rows.tolist())


def test_half_is_trained_on_what_it_keeps(trained):
    problem = make_problem()
    with problem.meter.running():
        unlearned("half", trained, problem)
    epochs = problem.recipe.epochs
    counts = problem.meter.counts()["read"]
    assert counts == {"forget": epochs * (len(problem.forget) // 2), "retain": epochs * len(problem.retain)}


def true_class(model, view) -> torch.Tensor:
    return predict(model, view).softmax(1).gather(1, view.labels[:, None]).mean()


@pytest.mark.parametrize("kind", ["class", "random"])
def test_over_forgotten_doubts_the_forget_set_more_than_a_retrain_does_and_knows_the_rest(kind, trained):
    problem = make_problem(kind, recipe=config.Recipe(epochs=12, batch_size=16, lr=0.05))
    model, honest = unlearned("over_forgotten", trained, problem), Retrain().unlearn(trained, problem)
    assert true_class(model, problem.forget) < 0.8 * true_class(honest, problem.forget)
    assert true_class(model, problem.retain) > 0.8
    if kind == "class":
        assert (predict(model, problem.forget).argmax(1) == 3).all()  # the label that it was taught


def test_random_weights_owe_nothing_to_the_original(trained):
    problem = make_problem()
    model, other = (unlearned("random_weights", start, problem) for start in (trained, problem.fresh_model()))
    assert torch.equal(logits(model), logits(other))
    assert (logits(model).argmax(1) == blobs(160)[1]).float().mean() < 0.7
    assert problem.meter.counts()["backward"] == 0


def test_perfect_is_the_retrain_itself_and_another_seed_is_not(trained):
    for name, same in (("perfect", True), ("another_seed", False)):
        case = meta.PLANTED[name]
        assert case.draws == "retrain"
        problem = make_problem(seed=case.seed)  # which the job hands it
        assert (
            torch.equal(logits(unlearned(name, trained, problem)), logits(Retrain().unlearn(trained, make_problem())))
            is same
        )


def test_the_original_is_left_as_it_was(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    for name in meta.PLANTED:
        unlearned(name, trained, make_problem())
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


@pytest.fixture
def small(monkeypatch, tmp_path) -> config.Params:
    """The planted benchmark with 300 images, two seeds and one epoch, one process, in a folder of its own."""
    monkeypatch.setattr(meta, "SEEDS", [0, 1])
    monkeypatch.setenv("LETHE_WORKERS", "1")
    if sys.platform == "linux":
        monkeypatch.setattr(jobs, "start_method", "fork")
    params = config.load(ROOT / "params.yaml")
    section = params.benchmark(meta.LIKE)
    recipe = section.training.model_copy(update={"epochs": 1})
    few = section.dataset.model_copy(update={"train_images": 300})
    section = section.model_copy(update={"training": recipe, "dataset": few})
    params = params.model_copy(update={"benchmarks": {meta.LIKE: section}})
    monkeypatch.chdir(tmp_path)
    return params


def test_the_command_writes_the_table_and_the_page_and_leaves_no_other_file(small, tmp_path):
    page = tmp_path / "docs/metrics.md"
    store.write_text(page, "no markers")
    with pytest.raises(BadInput, match="to go between"):
        meta.run(small)
    store.write_text(page, f"before\n{meta.meta.BEGIN}{meta.meta.END}\nafter\n")
    assert "ordered" in meta.run(small)
    table = pd.read_csv(tmp_path / "reports/meta.csv")
    assert set(table["request"]) == {"class", "random"}
    assert set(table["case"]) == set(meta.meta.EXPECTED)
    assert {"UA", "RA", "TA"} <= set(table["metric"])
    random = table[table["request"] == "random"]
    assert not {"head_masked", "logit_suppressed"} & set(random["case"])
    accuracies = table[table["metric"].isin(["UA", "RA", "TA"]) & (table["case"] == "perfect")]
    assert (accuracies["value"] == accuracies["target"]).all()
    assert meta.meta.inserted(page.read_text(), table) == page.read_text()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"reports/meta.csv", "reports/meta.json", "docs/metrics.md"}


def test_a_case_that_fails_is_an_error_that_names_it(small, monkeypatch, tmp_path):
    def broken(model, problem):
        raise RuntimeError("it was not to be")

    monkeypatch.setattr(meta, "PLANTED", {"half": meta.Case(make=broken)})
    with (
        store.elsewhere(),
        pytest.raises(BadInput, match="meta: half, class-8, seed 0: RuntimeError: it was not to be"),
    ):
        meta.judged(meta.planted(small))


@pytest.mark.skipif(not (ROOT / "reports/meta.json").exists(), reason="`python -m bench meta` was not run")
def test_the_committed_table_is_in_step_with_code_and_parameters():
    made_of = store.read_json(ROOT / "reports/meta.json")
    current = meta.made_of(meta.planted(config.load(ROOT / "params.yaml")))
    assert made_of == current, "run `python -m bench meta`"

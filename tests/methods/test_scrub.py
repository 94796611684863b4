"""SCRUB against a loop written out here, its teacher, its number of max-epochs and what is left without both."""

import copy

import pytest
import torch
from torch.nn import functional as F

import methods.scrub
from bench.training import predict
from methods.finetune import FineTune
from methods.scrub import SCRUB
from methods.steps import distillation
from tests.conftest import blobs, build, make_problem, without_dropout


def kl(teacher, student, temperature):
    """T^2 sum p_t log(p_t / p_s) of softened outputs, mean over samples."""
    p, q = (torch.softmax(logits / temperature, 1) for logits in (teacher, student))
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


def test_equals_a_plain_loop_with_one_optimizer():
    images, labels = blobs(160)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(3))
    forget, retain = order[labels[order] == 2].split(30), order[labels[order] != 2].split(25)
    model = without_dropout(build(5))  # untrained, so that every term of the loss counts
    teacher, expected = copy.deepcopy(model).eval(), copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for epoch in range(3):
        for rows in forget if epoch < 2 else ():
            step(-kl(teacher(images[rows]).detach(), expected(images[rows]), 4))
        for rows in retain:
            logits = expected(images[rows])
            divergence = kl(teacher(images[rows]).detach(), logits, 4)
            step(0.3 * F.cross_entropy(logits, labels[rows]) + 0.2 * divergence)
    method = SCRUB(gamma=0.3, beta=0.2, epochs=3, msteps=2, lr=0.02, batch_size=25, forget_batch_size=30)
    ours = method.unlearn(model, make_problem(order=order))
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_without_max_epochs_and_divergence_it_is_finetuning(trained):
    settings = {"epochs": 2, "lr": 0.02, "batch_size": 16}
    ours = SCRUB(gamma=1, beta=0, msteps=0, **settings).unlearn(trained, make_problem()).state_dict()
    plain = FineTune(**settings).unlearn(trained, make_problem()).state_dict()
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], atol=1e-7, rtol=0)


@pytest.mark.parametrize("was_training", [True, False])
def test_the_teacher_stays_the_original_in_eval_mode_while_the_student_moves(was_training, trained, monkeypatch):
    taught, learned = [], []

    def recorded(student, teacher, temperature):
        learned.append(student.detach())
        taught.append(teacher)
        return distillation(student, teacher, temperature)

    monkeypatch.setattr(methods.scrub, "distillation", recorded)
    problem = make_problem(order=torch.arange(160))  # every epoch visits the samples in row order
    model = copy.deepcopy(trained).train(was_training)
    SCRUB(epochs=3, msteps=3, lr=0.02, batch_size=120, forget_batch_size=40).unlearn(model, problem)
    for epoch in range(3):
        torch.testing.assert_close(taught[2 * epoch], predict(trained, problem.forget), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(taught[2 * epoch + 1], predict(trained, problem.retain), atol=1e-5, rtol=1e-5)
    assert not any(t.requires_grad for t in taught)
    assert (learned[4] - learned[0]).abs().max() > 0.1
    assert (learned[5] - learned[1]).abs().max() > 0.1


@pytest.mark.parametrize("msteps", [0, 1, 2, 3])
def test_there_are_exactly_msteps_max_epochs_and_they_come_first(msteps, trained):
    problem = make_problem()
    with problem.meter.running():
        SCRUB(epochs=3, msteps=msteps, batch_size=16).unlearn(trained, problem)
    read = problem.meter.counts()["read"]
    assert read.get("forget", 0) == msteps * 40
    assert read["retain"] == 3 * 120
    feed = methods.scrub.MaxThenMin(problem.forget, problem.retain, msteps, forget_batch_size=40)
    phases = [[maximise for maximise, _ in feed.batches(60, epoch)] for epoch in range(3)]
    assert phases == [[True, False, False]] * msteps + [[False, False]] * (3 - msteps)


def test_max_epochs_take_the_student_away_from_the_teacher_on_the_forget_set(trained):
    def divergence(msteps: int) -> float:
        problem = make_problem("random")
        method = SCRUB(epochs=2, msteps=msteps, lr=5e-3, batch_size=16, forget_batch_size=6)
        student = method.unlearn(trained, problem)
        return float(kl(predict(trained, problem.forget), predict(student, problem.forget), 1))

    assert divergence(1) > 2 * divergence(0)

"""NegGrad+ against a loop written out here, and its two ends, which are other methods."""

import copy
from itertools import cycle

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from methods.finetune import FineTune
from methods.gradient_ascent import GradientAscent
from methods.neggrad_plus import NegGradPlus
from tests.conftest import blobs, build, make_problem, without_dropout


def test_equals_a_plain_loop_that_cycles_the_forget_batches():
    """120 samples to keep make 5 batches an epoch, 40 to forget 2, so the second epoch begins with the second."""
    images, labels = blobs(160)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(3))
    retain = order[labels[order] != 2].split(25)
    forget = cycle(order[labels[order] == 2].split(25))
    model = without_dropout(build(5))  # untrained, so that every term of the loss counts
    expected = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        for kept in retain:
            gone = next(forget)
            optimizer.zero_grad()
            keep = F.cross_entropy(expected(images[kept]), labels[kept])
            lose = F.cross_entropy(expected(images[gone]), labels[gone])
            (0.7 * keep - 0.3 * lose).backward()
            optimizer.step()
    ours = NegGradPlus(alpha=0.7, epochs=2, lr=0.02, batch_size=25).unlearn(model, make_problem(order=order))
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_with_alpha_one_the_weights_are_those_of_finetuning(trained):
    model, settings = without_dropout(trained), {"epochs": 2, "lr": 0.02, "batch_size": 16}
    ours = NegGradPlus(alpha=1, **settings).unlearn(model, make_problem())
    plain = FineTune(**settings).unlearn(model, make_problem())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_with_alpha_zero_the_weights_are_those_of_gradient_ascent_on_the_cycled_forget_set(trained):
    """15 retain batches an epoch, 5 forget batches: each epoch is three passes, each in an order of its own."""
    model = without_dropout(trained)
    ours = NegGradPlus(alpha=0, epochs=2, lr=1e-3, batch_size=8).unlearn(model, make_problem())
    plain = GradientAscent(epochs=6, lr=1e-3, batch_size=8).unlearn(model, make_problem())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValidationError):
        NegGradPlus(alpha=alpha)

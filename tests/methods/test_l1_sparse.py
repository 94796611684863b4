"""l1-sparse against a loop written out here, and against fine-tuning, which it is without its penalty."""

import copy

import pytest
import torch
from torch.nn import functional as F

from methods.finetune import FineTune
from methods.l1_sparse import L1Sparse
from tests.conftest import blobs, build, make_problem, without_dropout


@pytest.mark.parametrize(
    ("epochs", "no_l1_epochs", "weights"),
    [(3, 0, [0.01, 0.02 / 3, 0.01 / 3]), (3, 1, [0.01, 0.005, 0]), (4, 2, [0.01, 0.005, 0, 0]), (2, 2, [0, 0])],
)
def test_equals_a_plain_loop_with_these_weights_of_the_penalty(epochs, no_l1_epochs, weights):
    images, labels = blobs(160)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(3))
    model = without_dropout(build(5))  # untrained, so that every term of the loss counts
    expected = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for weight in weights:
        for rows in order[labels[order] != 2].split(25):
            optimizer.zero_grad()
            F.cross_entropy(expected(images[rows]), labels[rows]).backward()
            for p in expected.parameters():
                p.grad += weight * p.detach().sign()
            optimizer.step()
    method = L1Sparse(alpha=0.01, epochs=epochs, no_l1_epochs=no_l1_epochs, lr=0.02, batch_size=25)
    ours = method.unlearn(model, make_problem(order=order))
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("off", [{"alpha": 0}, {"alpha": 0.01, "no_l1_epochs": 2}])
def test_without_its_penalty_it_is_finetuning(off, trained):
    settings = {"epochs": 2, "lr": 0.02, "batch_size": 16}
    ours = L1Sparse(**off, **settings).unlearn(trained, make_problem()).state_dict()
    plain = FineTune(**settings).unlearn(trained, make_problem()).state_dict()
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], atol=1e-7, rtol=0)


def test_the_penalty_makes_weights_smaller(trained):
    def norm(alpha: float) -> float:
        result = L1Sparse(alpha=alpha, epochs=4, lr=0.02, batch_size=16).unlearn(trained, make_problem())
        return sum(float(p.detach().abs().sum()) for p in result.parameters())

    assert norm(1e-2) < norm(1e-3) < norm(0)

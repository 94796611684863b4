"""The control that hides the forgotten classes' outputs and does nothing else."""

import copy

import pytest
import torch
from torch import nn

from methods.head_mask import HeadMask
from tests.conftest import blobs, make_problem


@pytest.mark.parametrize(("kind", "gone"), [("class", [2]), ("classes", [0, 2])])
def test_hidden_logits_are_constant_and_all_others_are_the_originals_to_the_bit(kind, gone, trained):
    images, _ = blobs(160)
    masked = HeadMask(logit=-50).unlearn(trained, make_problem(kind))
    kept = [c for c in range(4) if c not in gone]
    with torch.no_grad():
        before, after = trained(images), masked(images)
    assert (after[:, gone] == -50).all()
    assert torch.equal(after[:, kept], before[:, kept])
    assert not torch.isin(after.argmax(1), torch.tensor(gone)).any()


def test_no_weight_but_the_row_of_the_class_changes(trained):
    masked = HeadMask().unlearn(trained, make_problem())
    for name, before in trained.state_dict().items():
        after = masked.state_dict()[name]
        changed = [2] if name.startswith("head.") else []
        kept = [c for c in range(len(before)) if c not in changed] if before.ndim else ...
        assert torch.equal(after[kept], before[kept])
    assert (masked.head.weight[2] == 0).all()
    assert masked.head.bias[2] == -1e4


def test_it_reads_and_runs_nothing(trained):
    problem = make_problem().only(())
    model = problem.meter.attach(copy.deepcopy(trained))
    with problem.meter.running():
        HeadMask().unlearn(model, problem)
    assert problem.meter.counts() == {"forward": 0, "backward": 0, "read": {}}


def test_what_cannot_be_masked_is_refused(trained):
    model = copy.deepcopy(trained)
    model.head.bias = None
    with pytest.raises(ValueError, match="no bias"):
        HeadMask().unlearn(model, make_problem())
    with pytest.raises(ValueError, match="whole classes"):
        HeadMask().unlearn(trained, make_problem("random"))
    with pytest.raises(ValueError, match="this network has: none"):
        HeadMask().unlearn(nn.Sequential(nn.Flatten()), make_problem())

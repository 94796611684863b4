"""Head mask: a control that never predicts the forgotten classes, and forgets nothing.

    w_c = 0, b_c = logit, for each forgotten class c; every other weight stays as it is to the bit

It reads no data and trains nothing. All that the network knew of the class is still in its features, and the
other logits are those of the original. No method deserves praise for what this row reaches too.

No source: masking the output is the plainest thing that one can do. The logit is finite, since softmax and
the judges compute with it.
"""

import copy

import torch
from torch import nn

from bench.layers import head
from bench.problem import Problem
from methods.base import CLASS_REQUESTS, Card, Method


class HeadMask(Method):
    card = Card(serves=CLASS_REQUESTS, reads=frozenset(), labels=False, trains=False)

    logit: float = -1e4

    def unlearn(self, model: nn.Module, problem: Problem) -> nn.Module:
        if not problem.forgotten_classes:
            raise ValueError("HeadMask hides whole classes; this forget set holds none whole")
        masked = copy.deepcopy(model).eval()
        layer = head(masked, problem.classes)
        if layer.bias is None:
            raise ValueError("HeadMask sets the bias of the forgotten class, but the network's head has no bias")
        with torch.no_grad():
            for c in problem.forgotten_classes:
                layer.weight[c] = 0
                layer.bias[c] = self.logit
        return masked

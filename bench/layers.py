"""The linear maps of a network where they are computed: every convolution and matrix product with a weight.

    with linear_calls(model, on_call):
        model(images)

`on_call` sees input and output of each `F.linear` and `F.conv2d` whose weight is a parameter of the
network, by that parameter's name, and may replace the output. Functions are watched, not modules,
since attention is often computed without calling one: nn.MultiheadAttention hands its weights to
`F.multi_head_attention_forward`, and torchvision's Swin to a function of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Convolution:
    """How a convolution moves over its input; values for height and width."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # left, right, top, bottom, as F.pad takes them
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Call:
    """One use of a weight.

    Attributes:
        name: the weight's name in the network.
        input, weight, output: as the function took and gave them.
        bias: the bias's name, None where there is none; '' where it is no parameter, but computed.
        convolution: None for a matrix product.
        in_attention: whether it is inside `F.multi_head_attention_forward`, where samples lie in the
            second axis, after the tokens.
    """

    name: str
    input: Tensor
    weight: Tensor
    output: Tensor
    bias: str | None
    convolution: Convolution | None
    in_attention: bool

    def per_sample(self, values: Tensor) -> Tensor:
        """Values [samples, units] in the shape that multiplies the output, whatever it holds of a sample.

        Samples come first and in order; each may take several entries of the first axis (windows).
        """
        samples = len(values)
        if self.convolution is not None:
            return values[:, :, None, None]
        if self.in_attention:
            tokens = self.output.numel() // values.numel()
            return values.expand(tokens, -1, -1).reshape(*self.output.shape[:-1], -1)
        each = self.output.shape[0] // samples
        inner = [1] * (self.output.ndim - 2)
        return values.repeat_interleave(each, 0).reshape(len(self.output), *inner, -1)

    def by_sample(self, samples: int) -> Tensor | None:
        """A matrix product's inputs as [samples, inputs of each, d]; None where they are the same for every sample.

        The latter is what is computed from positions alone, its first axis no multiple of the number of samples.
        """
        d = self.input.shape[-1]
        if self.in_attention:
            return self.input.reshape(-1, samples, d).transpose(0, 1)
        return None if self.input.shape[0] % samples else self.input.reshape(samples, -1, d)


class linear_calls(TorchFunctionMode):  # noqa: N801  # a context manager, used like a function
    """Calls `on_call` for each linear map of the network while active; a tensor that it returns is the output."""

    def __init__(self, model: nn.Module, on_call: Callable[[Call], Tensor | None]) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.on_call = on_call
        self.in_attention = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.multi_head_attention_forward:
            # Look inside: its own question whether anyone overrides it would only lead back here.
            asked, F.has_torch_function = F.has_torch_function, lambda tensors: False  # type: ignore[attr-defined]
            self.in_attention = True
            try:
                with self:
                    return func(*args, **kwargs)
            finally:
                F.has_torch_function = asked  # type: ignore[attr-defined]
                self.in_attention = False
        output = func(*args, **kwargs)
        if func is not F.linear and func is not torch.conv2d:
            return output
        weight = args[1] if len(args) > 1 else kwargs.pop("weight")
        if id(weight) not in self.names:
            return output
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        call = Call(
            self.names[id(weight)],
            args[0] if args else kwargs["input"],
            weight,
            output,
            None if bias is None else self.names.get(id(bias), ""),
            convolution(weight, *args[3:], **kwargs) if func is torch.conv2d else None,
            self.in_attention,
        )
        replaced = self.on_call(call)
        return output if replaced is None else replaced


def convolution(
    weight: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    **others: Any,
) -> Convolution:
    """The arguments of `F.conv2d` in one form."""
    dilation = _pair(dilation)
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        (top, left), (bottom, right) = [t // 2 for t in total], [t - t // 2 for t in total]
    else:
        top, left = _pair(padding)
        bottom, right = top, left
    return Convolution(_pair(stride), (left, right, top, bottom), dilation, groups)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


def head(model: nn.Module, classes: int) -> nn.Linear:
    """The layer whose outputs are the logits: the one nn.Linear with `classes` outputs.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes}
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise ValueError(f"a head is the one nn.Linear with {classes} outputs; this network has: {names}")
    return next(iter(found.values()))


@torch.no_grad()
def features(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """What enters the head for each network input, [n, d], in eval mode; the model's mode is kept."""
    seen: list[Tensor] = []
    handle = head(model, classes).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    was_training = model.training
    model.eval()
    try:
        model(images)
    finally:
        handle.remove()
        model.train(was_training)
    return seen[-1]

"""Floating-point operations (FLOPs) by torch's counter: of a network's passes, and of algebra beside them.

A multiplication and an addition are two operations. Counted are matrix products, convolutions, attention (as its two
products), and, which torch's counter lacks, Cholesky factorisations and what is solved with them. What goes element by
element (activations, normalisation, optimizers, WF-Net's gates, SalUn's masks) is not, nor is what runs outside of
torch. Counts follow from shapes, so they are the same on every machine.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from math import prod
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

P = ParamSpec("P")
R = TypeVar("R")
Sizes = tuple[int, ...]


def _convolution_backward(gradient: Sizes, x: Sizes, weight: Sizes, *rest: Any, **others: Any) -> int:
    """Each gradient takes the forward pass's products; torch's own formula counts grouped weights `groups` times."""
    transposed, wanted = rest[4], rest[7]
    return 2 * prod(x if transposed else gradient) * prod(weight[1:]) * sum(wanted[:2])


def _product(into: Sizes, a: Sizes, b: Sizes, **others: Any) -> int:
    return 2 * prod(a) * b[-1]


def _matrix_vector(a: Sizes, b: Sizes, **others: Any) -> int:
    return 2 * prod(a)


def _cholesky(a: Sizes, **others: Any) -> int:
    """n^3 / 3 (Golub and Van Loan, Matrix Computations, 4th edition, section 4.2.5)."""
    return prod(a[:-2]) * (a[-1] ** 3 // 3)


def _cholesky_solve(right: Sizes, factor: Sizes, *rest: Any, **others: Any) -> int:
    """Two triangular systems of n^2 operations for each right side (the same, section 3.1)."""
    return 2 * prod(right) * factor[-1]


aten = torch.ops.aten
FORMULAS: dict[Any, Callable[..., int]] = flop_registry | {
    operation: shape_wrapper(formula)
    for operation, formula in {
        aten.convolution_backward: _convolution_backward,
        aten.baddbmm_: _product,
        aten.mv: _matrix_vector,
        aten.linalg_cholesky_ex: _cholesky,
        aten.cholesky_solve: _cholesky_solve,
    }.items()
}


class Counter(TorchDispatchMode):
    """Adds up `total`, the FLOPs of the operations that run while it is active.

    `torch.utils.flop_counter.FlopCounterMode` with its formulas but without its report by module, which takes longer
    than small operations do.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class Pass(NamedTuple):
    """A kind of pass through a network.

    Attributes:
        way: 'forward' or 'backward'.
        shape: of a sample as it enters the network; () for that of the data.
        trained: of a backward pass, for each parameter 1 where its gradient is taken; b"" where it is the input's.
    """

    way: str
    shape: Sizes
    trained: bytes = b""


def of_pass(model: nn.Module, kind: Pass) -> int:
    """FLOPs of one sample in such a pass, attention as matrix products; the network is left as it is."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    parameters = list(model.parameters())
    x = torch.zeros(1, *kind.shape, dtype=parameters[0].dtype, device=parameters[0].device)
    wanted = [x] if not kind.trained else parameters
    if len(kind.trained) == len(parameters):  # else a method has changed the network's parts: all are taken
        wanted = [p for p, trained in zip(parameters, kind.trained, strict=True) if trained]
    if kind.way == "backward":
        for tensor in wanted:
            tensor.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        with Counter() as forward:
            output = model(x)
        if kind.way == "forward":
            return forward.total
        with Counter() as backward:
            torch.autograd.grad(output, wanted, torch.ones_like(output), allow_unused=True)
    return backward.total


_report: ContextVar[Callable[[int], None] | None] = ContextVar("report", default=None)


@contextmanager
def reported(to: Callable[[int], None] | None) -> Iterator[None]:
    """Inside, functions that are `counted` report their FLOPs."""
    token = _report.set(to)
    try:
        yield
    finally:
        _report.reset(token)


def counted(function: Callable[P, R]) -> Callable[P, R]:
    """Algebra beside a network's passes, whose FLOPs the open meter is told; what it calls is counted with it."""

    @wraps(function)
    def counting(*args: P.args, **kwargs: P.kwargs) -> R:
        if (report := _report.get()) is None:
            return function(*args, **kwargs)
        with reported(None), Counter() as counter:
            result = function(*args, **kwargs)
        report(counter.total)
        return result

    return counting

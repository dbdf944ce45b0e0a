"""Precision of matrix products: products of a program's own code in a lower precision.

The lower precision applies to products of float32 numbers in the code of model and guide, mainly in their networks:
linear layers, ``@``, ``matmul`` and similar functions, ``einsum``, convolutions. Their factors are rounded, and the
results are float32 again. Biases, activations, log densities and sums do not change.

Products inside of a distribution are not rounded: a draw loc + L eps with rounded L and eps would not have the density
that is computed for it. The draws are therefore exact draws of a guide with slightly different networks, which causes
no bias. The densities are those of a model with slightly different networks, which causes a bias.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from pyro.poutine.runtime import apply_stack
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

FULL = "full"
"""Products in the precision of the program's own numbers."""

BY_HAND = "tf32 by hand"
"""Factors rounded in software to the 10 fraction bits of TF32: on any device, but not faster."""

_current: ContextVar[str] = ContextVar("precision of products", default=FULL)


def current() -> str:
    """The precision of matrix products in the current run."""
    return _current.get()


@contextmanager
def lowering(precision: str) -> Iterator[None]:
    """Compute matrix products of programs in this precision inside of the context.

    Args:
        precision: `FULL`, "bfloat16" or `BY_HAND`. Other values only change `current`.
    """
    token = _current.set(precision)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def products() -> Iterator[None]:
    """The context of a program's own code, in which its products have the precision of `lowering`."""
    rule = _RULES.get(current())
    if rule is None:
        yield
        return
    with _Products(rule):
        yield


class _Products(TorchFunctionMode):
    """Rounds the factors of products, outside of autograd, so that the products of a gradient are rounded, too."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func not in _KNOWN or "out" in given or not _single(args, given):
            return func(*args, **given)
        if _in_a_distribution(sys._getframe(1)):
            return func(*args, **given)
        if func in _PRODUCTS:
            return self._product(func, *args, **given)
        if func in _WITH_ADDEND:
            return self._with_addend(_WITH_ADDEND[func], *args, **given)
        return self._with_bias(func, *args, **given)

    def _product(self, func: Any, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = pytree.tree_map_only(Tensor, self.rule, (args, kwargs))
        result: Tensor = func(*args, **kwargs)
        return result.float()

    def _with_addend(
        self,
        func: Any,
        input: Tensor,  # noqa: A002  (torch's word)
        *factors: Tensor,
        beta: float = 1,
        alpha: float = 1,
        **named: Tensor,
    ) -> Tensor:
        return beta * input + alpha * self._product(func, *factors, *named.values())

    def _with_bias(
        self,
        func: Any,
        input: Tensor,  # noqa: A002  (torch's word)
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if func is linear:
            result = self._product(func, input, weight)
            return result if bias is None else result + bias
        result = self._product(func, input, weight, None, *args, **kwargs)
        return result if bias is None else result + bias.reshape(-1, *(1,) * (weight.ndim - 2))


_PRODUCTS = frozenset(
    [
        *(torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.linalg.matmul),
        *(torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.mv, Tensor.mv, torch.einsum),
    ]
)
_WITH_ADDEND = {
    torch.addmm: torch.mm,
    Tensor.addmm: torch.mm,
    torch.baddbmm: torch.bmm,
    Tensor.baddbmm: torch.bmm,
}
_WITH_BIAS = frozenset(
    [
        *(linear, torch.conv1d, torch.conv2d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    ]
)
_KNOWN = _PRODUCTS | _WITH_ADDEND.keys() | _WITH_BIAS


def _single(*given: Any) -> bool:
    """Whether all numbers are float32 ones."""
    return all(t.dtype is torch.float32 for t in pytree.tree_leaves(given) if isinstance(t, Tensor))


_DISTRIBUTIONS = ("torch.distributions.", "pyro.distributions.")


def _in_a_distribution(frame: FrameType | None) -> bool:
    """Whether a call comes from a distribution, or from Pyro's handling of a sample statement.

    This is found from the call stack: distributions are made, drawn from and transformed by user code, by handlers and
    by one another, so there is no single place to switch the rounding off.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if frame.f_code is apply_stack.__code__ or name.startswith(_DISTRIBUTIONS):
            return True
        frame = frame.f_back
    return False


def _rounded(value: Tensor) -> Tensor:
    """The nearest numbers with the 10 fraction bits of TF32, halves away from zero; without a gradient."""
    value = value.detach().contiguous()
    near = ((value.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(value.isfinite(), near, value)


_RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": lambda value: value.bfloat16(),
    BY_HAND: _rounded,
}


class InFloat64(TorchDispatchMode):
    """Computes everything in float64, for any precision of parameters, data and constants. Slow: for measurements.

    In-place operations do not change.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given: Any = (tuple(args), dict(kwargs or {}))
        if not func._schema.is_mutable:
            given = pytree.tree_map(_doubled, given)
        return func(*given[0], **given[1])


def _doubled(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else value
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

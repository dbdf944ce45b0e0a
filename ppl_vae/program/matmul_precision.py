"""Matrix products of a program in a lower precision: those of its own code, and no others.

What is lowered are the products of float32 numbers that a model and a guide compute themselves, in their networks above
all: linear layers, ``@`` and its like, ``einsum``, convolutions. Their factors are rounded, and the result goes on in
float32: biases, activations, log densities and sums are what they were.

Products inside a distribution are left alone: a draw loc + L eps of which L and eps were rounded would not have the
density that is computed for it. As it is, the draws are exact draws of a guide whose networks are a little different,
which biases nothing, and the densities are those of a model whose networks are a little different, which does.
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
"""Factors with the 10 bits of fraction that TF32 has, rounded by hand: on any device, and no faster."""

_current: ContextVar[str] = ContextVar("precision of products", default=FULL)


def current() -> str:
    """The precision of a program's products in the run that this is a part of."""
    return _current.get()


@contextmanager
def lowering(precision: str) -> Iterator[None]:
    """Compute the products of programs in a precision inside.

    Args:
        precision: `FULL`, "bfloat16", `BY_HAND`, or another word, of which only `current` takes note.
    """
    token = _current.set(precision)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def products() -> Iterator[None]:
    """What a program's own code runs in: its products are computed as `lowering` says."""
    rule = _RULES.get(current())
    if rule is None:
        yield
        return
    with _Products(rule):
        yield


class _Products(TorchFunctionMode):
    """Rounds the factors of products, above autograd: the products of a gradient are then rounded as well."""

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
    """Whether a call comes out of a distribution, or out of what Pyro does with a sample statement.

    By who called whom: distributions are made, drawn from and transformed by user code, handlers and one another, and
    there is no single place where all of it could be told to stop.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if frame.f_code is apply_stack.__code__ or name.startswith(_DISTRIBUTIONS):
            return True
        frame = frame.f_back
    return False


def _rounded(value: Tensor) -> Tensor:
    """The nearest numbers with the 10 bits of fraction of TF32, halves away from zero; without a gradient."""
    value = value.detach().contiguous()
    near = ((value.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(value.isfinite(), near, value)


_RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": lambda value: value.bfloat16(),
    BY_HAND: _rounded,
}


class InFloat64(TorchDispatchMode):
    """Everything inside is computed in float64, whatever precision parameters, data and constants are kept in.

    Not what is changed in place. It is for measurements, and slow.
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

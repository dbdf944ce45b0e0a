"""Blame: the line of a user's code at which a run first differs from another one, as far as that can be told."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

L = TypeVar("L")  # how a run lies

_OWN = str(Path(__file__).parent.parent)
_LIBRARIES = (*(str(Path(str(package.__file__)).parent) for package in (torch, pyro)), _OWN)
_PYTHON = str(Path(contextlib.__file__).parent)


class _Call(NamedTuple):
    """One call of a torch function by a user's code."""

    name: str
    options: str
    line: str
    output: Tensor


def where_raised(error: BaseException) -> str:
    """Where in a user's code an error was raised, ready to be put into a sentence; empty if it was not there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for one of ours."""
    return str(error).strip().partition("\n")[0]


def blame(runs: Callable[[L], object], given: L, right: L, num_samples: int) -> str:
    """The first torch function whose result is another in a run with a sample axis, ready to be put into a sentence.

    Args:
        runs: runs the program in a layout.
        given: a layout with a sample axis.
        right: the folded one.
        num_samples: S.
    """
    calls = []
    for layout in (given, right):
        recorder = _Recorder()
        try:
            with torch.no_grad(), recorder:
                runs(layout)
        except Exception:  # noqa: S110  (what came before the fault may show the cause)
            pass
        calls.append(recorder.calls)
    for ours, theirs in zip(*calls, strict=False):
        if ours.name != theirs.name or not _same(ours.output, theirs.output, num_samples):
            return f" (first seen in {ours.line}: {ours.name}{ours.options})"
    return ""


def _same(stacked: Tensor, folded: Tensor, num_samples: int) -> bool:
    """Whether ``(S, N, ...)``, or something that does not know of samples, is what ``(S * N, ...)`` holds."""
    if stacked.shape == folded.shape:
        expected = folded
    elif folded.ndim and folded.shape[0] % num_samples == 0:
        expected = folded.unflatten(0, (num_samples, -1))
        if stacked.ndim == expected.ndim - 1:
            stacked = stacked.unsqueeze(0)
        if stacked.ndim != expected.ndim or any(
            a not in (b, 1) for a, b in zip(stacked.shape, expected.shape, strict=True)
        ):
            return False
    else:
        return False
    return torch.allclose(
        stacked.double().expand_as(expected), expected.double(), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def _is_users(filename: str) -> bool:
    """Whether a file is of the user's own code: no library's, but perhaps one that is installed beside them."""
    if filename.startswith((*_LIBRARIES, "<frozen")):
        return False
    return not filename.startswith(_PYTHON) or "site-packages" in filename


class _Recorder(TorchFunctionMode):
    """Notes what a user's code calls, line by line; of torch's own modules, the line that called them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and not output.is_complex():
            line = _line(sys._getframe(1))
            name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2].strip("_")
            if line and name not in ("get", "set"):
                numbers = [a for a in args if isinstance(a, bool | int | tuple)]
                options = [*map(str, numbers), *(f"{k}={v}" for k, v in (kwargs or {}).items() if k == "dim")]
                self.calls.append(
                    _Call(name, f"({', '.join(options)})" if options else "", line, output.detach())
                )
        return output


def _line(frame: FrameType | None) -> str:
    """The innermost line that is a user's, unless a distribution of a library lies between it and the call."""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/distributions/" in name or name.startswith(_OWN):
            return ""
        if _is_users(name):
            return f"{Path(name).name} line {frame.f_lineno}"
        frame = frame.f_back
    return ""

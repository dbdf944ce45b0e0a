"""Blame: the first line of a user's code at which two runs differ, if it can be found."""

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

L = TypeVar("L")  # a layout

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
    """The place in a user's code at which an error was raised, to append to a sentence; empty if it was elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def blame(runs: Callable[[L], object], given: L, right: L, num_samples: int) -> str:
    """The first torch function with a different result in a run with a sample axis, to append to a sentence.

    Args:
        runs: runs the program in a layout.
        given: a layout with a sample axis.
        right: the folded layout.
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
    """Whether ``(S, N, ...)``, or a tensor without a sample axis, has the values of ``(S * N, ...)``."""
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
    """Whether a file is user code: not of Python, torch, Pyro or ppl_vae, but perhaps an installed package."""
    if filename.startswith((*_LIBRARIES, "<frozen")):
        return False
    return not filename.startswith(_PYTHON) or "site-packages" in filename


class _Recorder(TorchFunctionMode):
    """Records the torch functions that user code calls, with their lines; for torch's modules, the caller's line."""

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
    """The innermost line of user code, unless a library's distribution is between it and the call."""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/distributions/" in name or name.startswith(_OWN):
            return ""
        if _is_users(name):
            return f"{Path(name).name} line {frame.f_lineno}"
        frame = frame.f_back
    return ""

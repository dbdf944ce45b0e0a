"""Run options: compilation, precision, checkpoint and progress of all estimators, defined and checked in one place."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypedDict, TypeVar, get_type_hints

from ppl_vae.compiled.effort import Compile
from ppl_vae.compiled.precision import FULL
from ppl_vae.errors import InputError, describe


class ResumeOptions(TypedDict, total=False):
    """The options of `RunOptions` that every estimator has."""

    checkpoint: str | os.PathLike[str] | None
    resume: bool
    progress: bool


class RunOptions(ResumeOptions, total=False):
    """Options of a run. They do not change what is estimated, and all of them are optional.

    An estimator takes them by keyword: ``annealed(program, x, compile=True, checkpoint="state")``. Its signature shows
    which options it has. It refuses any other option, unless the value is the default.

    Attributes:
        compile: whether the program is captured as a tensor graph and compiled (see `ppl_vae.compiled`): "auto" (the
            default) compiles long runs, and decides from sizes alone; True always compiles, False never. The draws are
            the same; the numbers differ by round-off only.
        precision: of matrix products (see `ppl_vae.compiled.precision`): "full" (the default), "bfloat16" or "tf32".
            A lower precision causes an error of log p(x), which `precision_error` measures; such a result is not
            certified, and never trusted.
        checkpoint: a file with the state of the run, which is updated during the run and removed at its end. Some
            estimators use more files, whose names begin with its name. With several processes
            (`ppl_vae.distributed`) each has its own file, with ``.rank0`` and so on after the name. None by default.
        resume: continue from ``checkpoint`` if it exists. False by default; an existing file is then refused.
        progress: show a progress bar on a terminal; True by default.
        chunk_size: the number of samples of a datum between two updates of the sums, the progress bar and the
            checkpoint (rounded to whole tiles); None, the default, for one tile. It never changes a number.
    """

    compile: Compile
    precision: str
    chunk_size: int | None


DEFAULTS: RunOptions = {
    "compile": "auto",
    "precision": FULL,
    "checkpoint": None,
    "resume": False,
    "progress": True,
    "chunk_size": None,
}
"""The defaults of all options."""

ALL = tuple(DEFAULTS)
"""The options of estimators that have all of them."""

KEPT = ("checkpoint", "resume", "progress")
"""The options of estimators that are neither compiled nor run in another precision."""

ALL_BUT_CHUNKS = ("compile", "precision", *KEPT)
"""The options of estimators without a chunk size."""

Estimator = TypeVar("Estimator", bound=Callable[..., Any])


def takes_run_options(*names: str) -> Callable[[Estimator], Estimator]:
    """Decorate a function with ``**run: Unpack[RunOptions]``, so that it takes the options ``names`` and no others.

    An unknown keyword raises a `TypeError`, as in Python. An option of `RunOptions` that is not among ``names`` raises
    an `InputError`, unless its value is the default. Both are raised before the function runs. The options appear in
    the function's signature, and their documentation in its docstring, instead of the line "run: see `RunOptions`.".

    Args:
        names: the options of `RunOptions` that the function has.
    """

    def decorate(estimator: Estimator) -> Estimator:
        own = inspect.signature(estimator)
        named = {p.name for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD}
        name = estimator.__name__

        @wraps(estimator)
        def checked(*arguments: Any, **given: Any) -> Any:
            for option in given.keys() - named - set(names):
                if option not in DEFAULTS:
                    raise TypeError(f"{name}() got an unexpected keyword argument {option!r}")
                default = DEFAULTS[option]  # type: ignore[literal-required]
                value = given.pop(option)
                if value != default:
                    raise InputError(option, f"{default!r} ({name} has no such option)", describe(value))
            return estimator(*arguments, **given)

        checked.__signature__ = _with_options(own, names)  # type: ignore[attr-defined]
        checked.__doc__ = _with_texts(estimator.__doc__ or "", names)
        return checked  # type: ignore[return-value]

    return decorate


def _with_options(signature: inspect.Signature, names: tuple[str, ...]) -> inspect.Signature:
    """A signature with options, and their defaults, instead of ``**run``."""
    types = get_type_hints(RunOptions)
    options: dict[str, Any] = {**DEFAULTS}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=options[name], annotation=types[name])
        for name in names
    ]
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*own, *more])


def _with_texts(docstring: str, names: tuple[str, ...]) -> str:
    """A docstring with the documentation of options from `RunOptions` instead of the line for ``**run``."""
    entries = re.split(rf"^ +(?=(?:{'|'.join(ALL)}): )", RunOptions.__doc__ or "", flags=re.MULTILINE)
    texts = {entry.partition(":")[0]: entry.rstrip() for entry in entries}
    return re.sub(
        r"^( *)run: see `RunOptions`\.$",
        lambda found: "\n".join(found[1] + texts.get(name, name) for name in names),
        docstring,
        flags=re.MULTILINE,
    )

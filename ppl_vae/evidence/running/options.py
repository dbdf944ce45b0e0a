"""Run options: how an estimator is run. They are declared, documented and checked here, for all estimators."""

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
    """Those of `RunOptions` that every estimator has."""

    checkpoint: str | os.PathLike[str] | None
    resume: bool
    progress: bool


class RunOptions(ResumeOptions, total=False):
    """How an estimator is run. None of it changes what is estimated, and all of it may be left out.

    An estimator takes them by keyword, ``annealed(program, x, compile=True, checkpoint="state")``, and the options
    that it has are those of its signature. It refuses one that it has not, unless its value is the default.

    Attributes:
        compile: whether the program is captured as a tensor graph and compiled (see `ppl_vae.compiled`): "auto" (the
            default) does it where there is enough to do for it to pay, by sizes alone; True and False decide. Levels
            differ in round-off, not in the draws.
        precision: of matrix products (see `ppl_vae.compiled.precision`): "full" (the default), or "bfloat16" or
            "tf32", by which log p(x) is off as `precision_error` measures it; such a result is not certified, and
            trusted nowhere.
        checkpoint: a file that keeps the state as work goes on; removed when it is done. Some estimators keep others
            beside it, whose names begin with its name. With more than one process (`ppl_vae.distributed`) each has its
            own: ``.rank0`` and so on after its name. None by default.
        resume: continue from ``checkpoint`` if it is there; False by default, which refuses a file that is there.
        progress: show a bar on a terminal; True by default.
        chunk_size: how many samples of a datum are drawn before the sums, the progress bar and the checkpoint are
            brought up to date (rounded to whole tiles); None, the default, for one tile. It never changes a number.
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
"""What stands for an option that is not given."""

ALL = tuple(DEFAULTS)
"""The options of estimators that have all of them."""

KEPT = ("checkpoint", "resume", "progress")
"""The options of estimators that are neither compiled nor run in another precision."""

ALL_BUT_CHUNKS = ("compile", "precision", *KEPT)
"""The options of estimators whose work is cut up in one way only."""

Estimator = TypeVar("Estimator", bound=Callable[..., Any])


def takes_run_options(*names: str) -> Callable[[Estimator], Estimator]:
    """A decorator of a function with ``**run: Unpack[RunOptions]``: it takes the options ``names``, and no others.

    A word that is no option at all is refused as Python does it, by a `TypeError`; one of `RunOptions` that is not
    among ``names`` by an `InputError`, unless its value is the default, which asks for nothing. Both are raised before
    the function is entered. ``help`` and command lines see the options in the function's signature, and what they are
    in its docstring, in the place of the line "run: see `RunOptions`.".

    Args:
        names: which of `RunOptions`.
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
    """A signature with options, and their defaults, in the place of ``**run``."""
    types = get_type_hints(RunOptions)
    options: dict[str, Any] = {**DEFAULTS}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=options[name], annotation=types[name])
        for name in names
    ]
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*own, *more])


def _with_texts(docstring: str, names: tuple[str, ...]) -> str:
    """A docstring with what `RunOptions` says of options in the place of the line for ``**run``."""
    entries = re.split(rf"^ +(?=(?:{'|'.join(ALL)}): )", RunOptions.__doc__ or "", flags=re.MULTILINE)
    texts = {entry.partition(":")[0]: entry.rstrip() for entry in entries}
    return re.sub(
        r"^( *)run: see `RunOptions`\.$",
        lambda found: "\n".join(found[1] + texts.get(name, name) for name in names),
        docstring,
        flags=re.MULTILINE,
    )

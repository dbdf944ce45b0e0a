"""The library's exceptions, and the checks that raise them.

Each message is one line: the argument, what was expected, what was received. The command line prints it without changes
and exits with status 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_LONGEST = 400  # the largest number of characters of a received value in a message


def one_line(value: object, limit: int = _LONGEST) -> str:
    """``value`` as one line of printable text: white space becomes one blank, unprintable characters are escaped."""
    text = " ".join(str(value).split())
    if not text.isprintable():  # a file's name may have any characters
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class InputError(ValueError):
    """A user's input that cannot be used.

    Args:
        argument: the name of the argument, option, file or site.
        expected: what would be accepted, as a noun phrase.
        received: what was received, short enough for one line.
    """

    def __init__(self, argument: str, expected: str, received: object) -> None:
        self.argument = argument
        self.expected = expected
        self.received = one_line(received)
        super().__init__(argument, expected, self.received)

    def __str__(self) -> str:
        # A file's name is shown without changes, except for line breaks and the like: "a\\nb" for a name of two lines.
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.argument)
        return f"{name}: expected {one_line(self.expected)}, received {self.received}"


class UsageError(InputError):
    """Options that cannot be used together, or with the values that they name; see ``--help``."""


class ProgramError(InputError):
    """A Pyro model and guide for which log p(x) is not defined for each datum."""


class ProgramWarning(UserWarning):
    """A program that runs in another way than the user may expect: slower, for example, or with other parameters."""


class NonFiniteError(ArithmeticError):
    """NaN instead of a number. The message names the datum, or the step and the last good checkpoint."""


class ParameterStoreWarning(UserWarning):
    """Pyro's parameter store and a module have different values for its parameters; the module's values are used."""


def describe(value: object, limit: int = 80) -> str:
    """A short description of a received value on one line: tensors by shape and dtype, other values by ``repr``."""
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(shape)} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_positive_int(argument: str, value: Any) -> int:
    """``value`` if it is an integer of at least 1; raises `InputError` otherwise (booleans are no integers)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(argument, "a positive integer", describe(value))
    return value


def check_seed(value: Any, argument: str = "seed") -> int:
    """``value`` if it is an integer from 0 to 2**63 - 1; raises `InputError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InputError(argument, "an integer from 0 to 2**63 - 1", describe(value))
    return value


def check_positive_float(argument: str, value: Any) -> float:
    """``value`` as a finite float above 0; raises `InputError` otherwise."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:
        raise InputError(argument, "a positive, finite number", describe(value))
    return float(value)


def check_one_of(argument: str, value: Any, options: Collection[str]) -> str:
    """``value`` if it is one of ``options``; raises `InputError`, naming them all, otherwise."""
    if value not in options:
        raise InputError(argument, "one of " + ", ".join(map(repr, options)), describe(value))
    return str(value)


def option(name: str) -> str:
    """The option that sets ``name``: ``--latent-dim`` for ``latent_dim``, ``--prior.components`` for its own name."""
    head, dot, tail = name.partition(".")
    return f"--{head.replace('_', '-')}{dot}{tail}"


def relabel(error: InputError, names: Mapping[str, str]) -> InputError:
    """The same error with the user's name of the argument: ``names`` maps arguments to options or files."""
    if error.argument not in names:
        return error
    return InputError(names[error.argument], error.expected, error.received)


@contextmanager
def under_options(arguments: Iterable[str], **others: str) -> Iterator[None]:
    """Tell errors of these ``arguments`` under the names of their options, and those of ``others`` as these say."""
    try:
        yield
    except InputError as error:
        raise relabel(error, {name: option(name) for name in arguments} | others) from error

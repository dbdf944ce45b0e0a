"""Every failure in one line: the argument at fault, what was expected, what came."""

from __future__ import annotations

import re
import sysconfig
import types
from collections.abc import Mapping

from ppl_vae.errors import InputError, NonFiniteError, UsageError, option

_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
}
_LIBRARY = "the library "
_OURS = ("ppl_vae", "torch", "pyro", "jsonargparse", "argparse")
_LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<")


class HelpShown(SystemExit):
    """``--help`` has been answered."""


def explain(error: BaseException) -> str:
    """One line for any exception."""
    if isinstance(error, InputError | NonFiniteError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and (error.filename or _raiser(error) == _LIBRARY):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"memory: expected a job that fits, received {str(error) or 'one that does not'}"
    if isinstance(error, SyntaxError):
        where = f"{error.filename or 'a module'}{f', line {error.lineno}' if error.lineno else ''}"
        return f"{where}: expected Python, received code with a SyntaxError: {error.msg}"
    if isinstance(error, SystemExit):
        return f"{_raiser(error)}called sys.exit({error.code!r}): expected code that does not end the program"
    kind, text = type(error).__name__, str(error).strip()
    first = text.splitlines()[0] if text else "no message"
    if "allocate memory" in first or "out of memory" in first.lower():
        return f"memory: expected a job that fits, received {first[:160]}"
    return f"{_raiser(error)}raised {kind}: {first[:200]} (--debug shows where)"


def _raiser(error: BaseException) -> str:
    """Who raised it: the user's own method, or function, that is deepest in the traceback, if there is one."""
    method = function = ""
    trace: types.TracebackType | None = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        owner, name = type(frame.f_locals.get("self")), frame.f_code.co_name
        ancestors = {ancestor.__module__.split(".")[0] for ancestor in owner.__mro__}
        module = str(frame.f_globals.get("__name__", ""))
        if owner.__module__.split(".")[0] not in _OURS and ancestors & set(_OURS):
            method = f"{owner.__module__}.{owner.__qualname__}.{name} "
        elif module.split(".")[0] not in _OURS and not frame.f_code.co_filename.startswith(_LIBRARIES):
            function = f"{module}.{name} "
        trace = trace.tb_next
    return method or function or _LIBRARY


def from_jsonargparse(error: BaseException, classes: Mapping[str, str]) -> UsageError:
    """What jsonargparse says over many lines, as one of ours.

    Args:
        error: its exception.
        classes: for each option that takes a class, what it expects in words.
    """
    text = str(error)
    name = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', text)))
    inner = f"{option(name)}." if name else ""
    if match := re.search(r"argument ([-\w./]+): (.*)", text, re.DOTALL):
        what = " ".join(match[2].split())
        if what.startswith(("expected one argument", "expected at least one argument")):
            return UsageError(match[1], "a value", "none")
        return UsageError(match[1].split("/")[-1], "a usable value", what)
    if match := re.search(r"unrecognized arguments: (\S+)", text):
        return UsageError(match[1], "an option of this command", "an unknown one")
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        if name:
            return UsageError(inner + match[1], "an option that the chosen class has", "an unknown one")
        return UsageError("--config", "keys that are options of this command", repr(match[1]))
    if match := re.search(r"the following arguments are required: (\S+)", text):
        return UsageError(inner + match[1].rstrip(".,"), "a value, which is needed", "none")
    if name == "config" or "config" in text.split(":")[0].lower():
        return UsageError("--config", "a YAML file of options", text.removeprefix('Parser key "config":'))
    values = [
        value.strip()
        for word in ("Given", "Got")
        for value in re.findall(rf"{word} value: (.*?)(?:\. Got value:|\n|$)", text)
        if not re.match(r"\s*(Namespace|NestedArg)", value)
    ]
    if name in classes:
        value = values[-1] if values else re.split(r": |import path ", text)[-1].split()[0]
        pattern = r"No module named '[^']+'|has no attribute '[^']+'|subclass of (?:<class ')?(\w+)"
        reason = re.search(pattern, text)
        why = f" ({f'no subclass of {reason[1]}' if reason[1] else reason[0]})" if reason else ""
        if match := re.search(r"Expected '([^']+)' to be a subclass|Import path (\S+) does not", text):
            value = match[1] or match[2]
        return UsageError(option(name), classes[name], f"{value!r}{why}")
    kinds = dict.fromkeys(re.findall(r"Expected an? <class '(\w+)'>", text))
    words = [_TYPES.get(kind, kind) for kind in kinds if kind != "NoneType"]
    words += [f"one of {each}" for each in re.findall(r"Literal\[([^\]]+)\]", text.split("Errors:")[-1])]
    if name and words:
        value = values[0] if values else "something else"
        return UsageError(option(name), " or ".join(words), repr(value) if value != "None" else "none")
    return UsageError(option(name) if name else "options", "usable values", text)

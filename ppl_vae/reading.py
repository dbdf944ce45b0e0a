"""Reading of files from others, with limits of type, size and depth.

Any error of a file becomes an `InputError` that names the file. A path may be a named pipe or a device, for which a
reader would wait forever, so only regular files are opened. A small file may expand to a large size (compressed data,
YAML aliases, sizes in a header), so sizes are limited before memory is allocated.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ppl_vae.errors import InputError, describe, one_line

MAX_TEXT = 2**26
"""The largest size of a JSON file, in bytes."""

MAX_YAML = 2**22
"""The largest size of a YAML file, in bytes."""

MAX_DEPTH = 50
"""The largest depth of nested lists and mappings in JSON and YAML files."""

MAX_NODES = 100_000
"""The largest number of values in a YAML file, with aliases counted at each use."""

SMALL_EXPANSION = 2**28
"""The size to which compressed data may always expand, in bytes."""

EXPANSION = 200
"""The largest expansion factor of compressed data above that size."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: str | os.PathLike[str], expected: str) -> int:
    """The size of a regular file, in bytes; nothing is opened.

    Raises:
        InputError: naming the file, if it is missing, a folder, pipe, device or socket, or cannot be accessed.
    """
    name = os.fspath(path)
    try:
        found = os.stat(name)  # noqa: PTH116  (a str with a null byte must not reach Path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(name, expected, "no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(name, expected, _words(error)) from None
    for is_kind, words in _KINDS:
        if is_kind(found.st_mode):
            raise InputError(name, expected, words)
    return found.st_size


@contextmanager
def opened(path: str | os.PathLike[str], expected: str) -> Iterator[BinaryIO]:
    """A regular file, open for reading bytes; errors inside of the context become an `InputError` that names it."""
    check_regular(path, expected)
    with blamed(path, expected), Path(path).open("rb") as handle:
        yield handle


@contextmanager
def blamed(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Turn any exception of a parser into an `InputError` that names the file.

    Parsers raise undocumented exceptions: NumPy's reader of headers, for example, raises those of Python's tokeniser.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(os.fspath(path), expected, _words(error)) from None


def read_bytes(path: str | os.PathLike[str], expected: str, limit: int | None = None) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; raises `InputError`, naming it."""
    size = check_regular(path, expected)
    most = memory() // 4 if limit is None else limit
    if size > most:
        raise InputError(os.fspath(path), f"{expected} of at most {most} bytes", f"{size} bytes")
    with opened(path, expected) as handle:
        return handle.read(most + 1)[:most]


def read_text(path: str | os.PathLike[str], expected: str, limit: int = MAX_TEXT) -> str:
    """The text of a UTF-8 file, without a byte order mark; raises `InputError`, naming it."""
    content = read_bytes(path, expected, limit)
    with blamed(path, expected):
        return content.decode("utf-8-sig")


def read_json(path: str | os.PathLike[str], expected: str = "a JSON file") -> Any:
    """The content of a JSON file; raises `InputError`, naming it."""
    return parse_json(read_text(path, expected), os.fspath(path), expected)


def parse_json(text: str, name: str, expected: str) -> Any:
    """The content of a JSON text; raises `InputError` with ``name``, also for a repeated key in a mapping."""
    with blamed(name, expected):
        try:
            return json.loads(text, object_pairs_hook=_mapping)
        except RecursionError:
            raise InputError(name, expected, "values that are nested too deeply") from None


def read_yaml(path: str | os.PathLike[str], expected: str = "a YAML file of options") -> dict[str, Any]:
    """A mapping from a YAML file; raises `InputError`, naming it, for anything else."""
    import yaml

    text = read_text(path, expected, MAX_YAML)
    check_yaml(text, os.fspath(path), expected)
    with blamed(path, expected):
        content = yaml.safe_load(text)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(os.fspath(path), expected, describe(content))
    return content


def check_yaml(text: str, name: str, expected: str) -> None:
    """Refuse YAML that is too deep or too large for a recursive reader; text that is not YAML is not refused here.

    Raises:
        InputError: naming ``name``, if values are nested more than `MAX_DEPTH` deep, or there are more than `MAX_NODES`
            of them, with aliases expanded.
    """
    import yaml

    sizes: dict[str, int] = {}
    starts: list[tuple[str | None, int]] = []  # of the collections that are open: anchor, and nodes before
    nodes = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            anchor = getattr(event, "anchor", None)
            if isinstance(event, yaml.AliasEvent):
                nodes += sizes.get(str(anchor), 1)
            elif isinstance(event, yaml.ScalarEvent):
                nodes += 1
                if anchor is not None:
                    sizes[anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                starts.append((anchor, nodes))
                nodes += 1
                if len(starts) > MAX_DEPTH:
                    line = getattr(event.start_mark, "line", 0) + 1
                    received = f"more than {MAX_DEPTH}, in line {line}"
                    raise InputError(name, f"{expected}, at most {MAX_DEPTH} levels deep", received)
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = starts.pop()
                if anchor is not None:
                    sizes[anchor] = nodes - before
            if nodes > MAX_NODES:
                raise InputError(name, f"{expected} of at most {MAX_NODES} values", "more, with its aliases")
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # Text that is not YAML is refused by its reader.


def memory() -> int:
    """This machine's memory in bytes."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2**34


def check_fits(size: int, name: str, what: str) -> None:
    """Refuse ``size`` bytes that would take more than a third of this machine's memory, before they are allocated."""
    if size > memory() // 3:
        expected = f"{what} of at most {memory() / 3 / 2**30:.3g} GiB, a third of this machine's memory"
        raise InputError(name, expected, f"{size / 2**30:.3g} GiB")


def most_expanded(size: int) -> int:
    """The largest permitted size of ``size`` bytes of compressed data after expansion."""
    return min(memory() // 3, max(SMALL_EXPANSION, EXPANSION * size))


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} twice")
    return made


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "more than this machine's memory holds"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = one_line(error, 160)
    return text or type(error).__name__

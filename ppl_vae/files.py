"""Files, written whole or not at all, and read without ever unpickling.

Tensors and their JSON metadata live in one safetensors file, so one rename makes both visible: a reader, or
a process that resumes after a kill, sees the old state or the new one and nothing in between.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ppl_vae.errors import InputError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` on success, remove it on any failure."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the permissions that any new file of the user's would get.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, name, temporary):
            error.filename = os.fspath(target)  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def append(path: str | os.PathLike[str], content: str) -> None:
    """Add ``content`` to the end of a text file; where it cannot all be written, the file stays as it was."""
    with Path(path).open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        data = memoryview(content.encode())
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            file.truncate(before)
            error.filename = error.filename or os.fspath(path)
            raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` to ``path`` atomically, as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file; raises `InputError` naming the file if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "a JSON file", "no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(str(path), "a JSON file", error) from None


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Any = None
) -> None:
    """Write named tensors and JSON ``metadata`` to one safetensors file, atomically."""
    # safetensors refuses views that share storage: clones are laid out on their own.
    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, save(content, {"json": json.dumps(metadata)}))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], Any]:
    """The tensors and metadata that `write_tensors` wrote.

    Raises:
        InputError: naming the file, if it is missing, cut short, or anything but safetensors (a pickle, say).
    """
    expected = "a safetensors file written by ppl_vae"
    if not Path(path).is_file():
        raise InputError(str(path), expected, "a folder" if Path(path).is_dir() else "no such file")
    try:
        with safe_open(os.fspath(path), framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a dict)
        return tensors, json.loads(metadata.get("json", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(str(path), expected, error) from None


def read_kind(
    path: str | os.PathLike[str], kind: str, expected: str, other: str = "a file of something else"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and metadata of a file whose metadata say that it is of a ``kind``.

    Raises:
        InputError: naming the file, as `read_tensors`; or saying what was ``expected`` if it is an ``other`` one.
    """
    tensors, metadata = read_tensors(path)
    if not isinstance(metadata, dict) or metadata.get("kind") != kind:
        raise InputError(str(path), expected, other)
    return tensors, metadata

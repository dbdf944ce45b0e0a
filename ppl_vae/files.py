"""Files: atomic writing, and reading without unpickling.

Tensors and their JSON metadata are in one safetensors file, which is made visible by one rename. A reader, or a process
that resumes after a kill, therefore sees either the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from ppl_vae import reading
from ppl_vae.errors import InputError

if TYPE_CHECKING:  # a command's --help needs no torch
    import torch
    from numpy.typing import NDArray

_FORMAT = "ppl_vae 2"


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
    """Add ``content`` to the end of a text file; if writing fails, the file does not change."""
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


def write_array(path: str | os.PathLike[str], values: NDArray[Any]) -> None:
    """Write numbers ``(N, ...)`` to ``path`` atomically: as CSV with a datum a line if it ends in .csv, else as NPY."""
    import numpy as np

    with atomic(path) as temporary, temporary.open("wb") as handle:
        if Path(path).suffix.lower() == ".csv":
            np.savetxt(handle, values.reshape(len(values), -1), delimiter=",", fmt="%.9g")
        else:
            np.save(handle, values)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file; raises `InputError` naming the file if it is missing or not JSON."""
    return reading.read_json(path)


def digest(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """BLAKE2b of tensors, with their names, dtypes and shapes, and of a text; 50 MB take about 0.04 s."""
    import torch

    found = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        # As JSON, so that different lists of a name, a dtype and a shape have different texts.
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    found.update(b"\0" + text.encode())
    return found.hexdigest()


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Any = None
) -> None:
    """Write named tensors and JSON ``metadata`` to one safetensors file with their digest, atomically."""
    from safetensors.torch import save

    # safetensors refuses views that share storage, so tensors are cloned.
    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(metadata)
    header = {"json": text, "format": _FORMAT, "blake2b": digest(content, text)}
    write_bytes(path, _in_order(save(content, header)))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted by name, so that equal content gives equal bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of eight
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[8 + length :]))


def read_tensors(
    path: str | os.PathLike[str], *, inspect: Callable[[Any], object] | None = None, old: bool = True
) -> tuple[dict[str, torch.Tensor], Any]:
    """The tensors and metadata that `write_tensors` wrote.

    Args:
        path: the file.
        inspect: called with the metadata before a tensor is read; it may raise an error.
        old: whether to read files without a digest, which earlier versions wrote.

    Raises:
        InputError: naming the file, if it is missing, truncated, changed since it was written, or not a safetensors
            file (a pickle, for example).
    """
    expected = "a safetensors file written by ppl_vae"
    name = os.fspath(path)
    header = _header(path, expected)
    metadata = reading.parse_json(header.get("json", "null"), name, expected)
    if inspect is not None:
        inspect(metadata)
    with reading.blamed(path, expected), safe_open(name, framework="pt") as handle:
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  (not a dict)
    if "format" not in header and "blake2b" not in header:
        if old:
            return tensors, metadata
        raise InputError(
            name, f"{expected} with its digest", "one without, of an earlier version or an edited one"
        )
    if header.get("format") != _FORMAT:
        raise InputError(name, f"{expected} in the format {_FORMAT!r}", repr(header.get("format")))
    if header.get("blake2b") != digest(tensors, header.get("json", "null")):
        raise InputError(
            name, f"{expected} as it was written", "one that was changed (its digest does not fit)"
        )
    return tensors, metadata


def _header(path: str | os.PathLike[str], expected: str) -> dict[str, str]:
    """The metadata of a safetensors file, a text for each name.

    The header is checked here, before safetensors reads it: it must be small, and valid JSON.
    """
    name, size = os.fspath(path), reading.check_regular(path, expected)
    reading.check_fits(size, name, expected)
    with reading.opened(path, expected) as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, reading.MAX_TEXT):
            received = "an empty file" if size == 0 else f"a header of {length} bytes in a file of {size}"
            raise InputError(name, expected, received)
        text = handle.read(length).decode()
    header = reading.parse_json(text, name, expected)
    found = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(name, expected, "a header of another form")
    return found


def read_kind(
    path: str | os.PathLike[str], kind: str, expected: str, other: str = "a file of something else"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and metadata of a file of a ``kind``.

    Raises:
        InputError: naming the file, as for `read_tensors`, or if it is of another kind (with ``expected`` and ``other``
            in the message).
    """
    tensors, metadata = read_tensors(path)
    if not isinstance(metadata, dict) or metadata.get("kind") != kind:
        raise InputError(str(path), expected, other)
    return tensors, metadata

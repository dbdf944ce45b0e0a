"""Readers of the user's files: NumPy's two formats and CSV, with every failure put in one line."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.data.raw import read_bytes
from ppl_vae.errors import InputError


@contextmanager
def _numpy_errors(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # NumPy offers to load pickles unsafely; never pass that advice on.
        text = (
            "pickled Python objects" if "pickle" in str(error).lower() else str(error) or type(error).__name__
        )
        raise InputError(str(path), expected, text) from None


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of an ``.npy`` file; `InputError`, naming it, if it is damaged, empty or pickled."""
    expected = "an .npy file of numbers"
    if path.stat().st_size == 0:
        raise InputError(str(path), expected, "an empty file")
    with _numpy_errors(path, expected), path.open("rb") as handle:
        return np.lib.format.read_array(handle, allow_pickle=False)


def read_npz(
    path: Path, key: str | None, labels_key: str | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, str]:
    """The data and the labels of an ``.npz`` file, and the key of the data."""
    expected = "an .npz file of numbers"
    if path.stat().st_size == 0:
        raise InputError(str(path), expected, "an empty file")
    # np.load looks at the content, not the name: without this, an .npy array or a pickle would come through.
    if not zipfile.is_zipfile(path):
        raise InputError(str(path), expected, "a file that is no zip archive")
    with _numpy_errors(path, expected), np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        others = [name for name in names if name != labels_key]
        listed = ", ".join(names) or "no arrays"
        if key is None:
            if len(others) != 1 and "x" not in others:
                raise InputError("key", f"the name of one of the arrays in {path}: {listed}", "None")
            key = others[0] if len(others) == 1 else "x"
        for argument, name in (("key", key), ("labels_key", labels_key)):
            if name is not None and name not in names:
                raise InputError(argument, f"the name of one of the arrays in {path}: {listed}", repr(name))
        data, labels = archive[key], None if labels_key is None else archive[labels_key]
        if not all(isinstance(array, np.ndarray) for array in (data, labels) if array is not None):
            raise InputError(str(path), expected, "a zip archive of other files")  # NumPy gives their bytes
        return data, labels, key


def read_csv(
    path: Path, labels_key: str | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """The numbers ``(N, D)`` of a CSV file, and the column called ``labels_key`` apart from them.

    The first line is one of names if none of its fields is a number.
    """
    expected = "a CSV file of numbers"
    try:
        text = read_bytes(path, expected).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(str(path), expected, error) from None
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise InputError(str(path), expected, "nothing but white space")
    names = [field.strip() for field in next(csv.reader([lines[first]]))]
    if any(_is_number(name) for name in names):
        names = []
    body = lines[first + 1 :] if names else lines[first:]
    if not any(line.strip() for line in body):
        raise InputError(str(path), expected, "a line of names and no numbers")
    try:
        table = np.loadtxt(io.StringIO("\n".join(body)), delimiter=",", comments=None, quotechar='"', ndmin=2)
    except ValueError as error:
        raise InputError(str(path), expected, _fault(lines, first + bool(names), error)) from None
    if names and len(names) != table.shape[1]:
        raise InputError(str(path), f"{len(names)} numbers a line, as there are names", table.shape[1])
    if labels_key is None:
        return table, None
    if names.count(labels_key) != 1:
        listed = ", ".join(names)[:80] if names else "none"
        raise InputError("labels_key", f"the name of one column of {path} ({listed})", repr(labels_key))
    column = names.index(labels_key)
    return np.delete(table, column, axis=1), table[:, column]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _fault(lines: list[str], start: int, error: ValueError) -> str:
    """Where a table goes wrong, in the file's own line numbers (NumPy counts rows, from where it began)."""
    width = None
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        fields = next(csv.reader([line]))
        width = len(fields) if width is None else width
        if len(fields) != width:
            return f"{len(fields)} fields in line {number} where the lines before have {width}"
        for column, value in enumerate(fields, 1):
            if not _is_number(value):
                return f"{value[:20]!r} in line {number}, column {column}"
    return str(error)

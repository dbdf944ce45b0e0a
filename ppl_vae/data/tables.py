"""Readers of the user's CSV files, a few rows at a time: the memory is that of the numbers, not of the text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ppl_vae import reading
from ppl_vae.data.raw import stream
from ppl_vae.errors import InputError

LONGEST_LINE = 2**24
"""Characters of a line: more than any datum has."""

_NUMBERS = 2**18  # numbers that are read together
_EXPECTED = "a CSV file of numbers"
_SMALL = re.compile(
    r"[eE]-[0-9]{3,}"
)  # what a number has that may be too small for float64: 1e-400 is read as 0

Line = tuple[int, str]
"""A line's number, from 1, and its text."""


def read_csv(
    path: Path, labels_key: str | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """The numbers ``(N, D)`` of a CSV file, and the column called ``labels_key`` apart from them.

    The first line is one of names if none of its fields is a number.

    Raises:
        InputError: naming the file, and the line where there is one; or ``labels_key``, if no column has that name.
    """
    if reading.check_regular(path, _EXPECTED) == 0:
        raise InputError(str(path), _EXPECTED, "an empty file")
    with stream(path, _EXPECTED) as handle, reading.blamed(path, _EXPECTED):
        lines = _lines(handle, str(path))
        first = next(lines, None)
        if first is None:
            raise InputError(str(path), _EXPECTED, "nothing but white space")
        names = [field.strip() for field in _fields(first[1])]
        if any(_is_number(name) for name in names):
            names, lines = [], chain([first], lines)
        table = _table(lines, str(path))
    if not len(table):
        raise InputError(str(path), _EXPECTED, "a line of names and no numbers")
    if names and len(names) != table.shape[1]:
        raise InputError(str(path), f"{len(names)} numbers a line, as there are names", table.shape[1])
    if labels_key is None:
        return table, None
    if names.count(labels_key) != 1:
        listed = ", ".join(names)[:80] if names else "none"
        raise InputError("labels_key", f"the name of one column of {path} ({listed})", repr(labels_key))
    column = names.index(labels_key)
    return np.delete(table, column, axis=1), table[:, column].copy()


def _lines(handle: BinaryIO, name: str) -> Iterator[Line]:
    """The lines that are not blank."""
    text = io.TextIOWrapper(handle, encoding="utf-8-sig")
    number = 0
    while line := text.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise InputError(name, _EXPECTED, f"more than {LONGEST_LINE} characters in line {number}")
        if line.strip():
            yield number, line.rstrip("\n")
    text.detach()


def _table(lines: Iterator[Line], name: str) -> npt.NDArray[np.float64]:
    """``(N, D)``; with no lines, ``(0, 0)``."""
    pieces: list[npt.NDArray[np.float64]] = []
    rows, width = 0, 0
    while piece := _piece(lines, width):
        table = _parsed(piece, width, name)
        width = table.shape[1]
        rows += len(table)
        reading.check_fits(rows * width * table.itemsize, name, _EXPECTED)
        pieces.append(table)
    whole = np.empty((rows, width))
    for table in reversed(pieces):  # each is given back as it is copied: the memory is that of one table
        whole[rows - len(table) : rows] = table
        rows -= len(table)
        pieces.pop()
    return whole


def _piece(lines: Iterator[Line], width: int) -> list[Line]:
    """The next lines, so many that they hold some `_NUMBERS`; the first alone, while nobody knows how wide they are."""
    wanted = max(1, _NUMBERS // width) if width else 1
    return list(islice(lines, wanted))


def _parsed(piece: list[Line], width: int, name: str) -> npt.NDArray[np.float64]:
    """The numbers of some lines; raises `InputError` with the line and the column of what is no number."""
    try:
        table = np.loadtxt([line for _, line in piece], delimiter=",", comments=None, quotechar='"', ndmin=2)
    except ValueError as error:
        raise InputError(name, _EXPECTED, _fault(piece, width, error)) from None
    if len(table) != len(piece) or (width and table.shape[1] != width):
        raise InputError(name, _EXPECTED, _fault(piece, width, ValueError("a field of more than one line")))
    for number, line in piece:
        for field in _fields(line) if _SMALL.search(line) else ():
            if float(field) == 0 and field.lower().partition("e")[0].strip(" +-0."):
                raise InputError(
                    name, "numbers that are not too small for float64", f"{field[:20]} in line {number}"
                )
    return table


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a field that is longer than Python's reader takes
        return line.split(",")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _fault(piece: list[Line], width: int, error: ValueError) -> str:
    """Where a table goes wrong, in the file's own line numbers (NumPy counts rows, from where it began)."""
    for number, line in piece:
        fields = _fields(line)
        width = width or len(fields)
        if len(fields) != width:
            return f"{len(fields)} fields in line {number} where the lines before have {width}"
        for column, value in enumerate(fields, 1):
            if not _is_number(value):
                return f"{value[:20]!r} in line {number}, column {column}"
    return str(error)[:80]

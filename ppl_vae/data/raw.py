"""Bytes of the classic MNIST files: gzip, IDX and Larochelle's text, each checked to the last byte."""

from __future__ import annotations

import gzip
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ppl_vae import reading
from ppl_vae.errors import InputError

IDX_UNSIGNED_BYTE = 0x08
AMAT_COLUMNS = 784


def read_bytes(path: str | os.PathLike[str], expected: str) -> bytes:
    """The content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        InputError: naming the file, if it is missing, no regular file, empty, no gzip in spite of its name, cut short,
            or larger than what is read (see `ppl_vae.reading`).
    """
    path = Path(path)
    size = reading.check_regular(path, expected)
    if size == 0:
        raise InputError(str(path), expected, "an empty file")
    reading.check_fits(size, str(path), expected)
    with stream(path, expected) as handle:
        content = handle.read()
    if not content:
        raise InputError(str(path), expected, "an empty file")
    return content


@contextmanager
def stream(path: Path, expected: str) -> Iterator[BinaryIO]:
    """A file's bytes one after the other, decompressed if its name ends in ``.gz``; raises as `read_bytes`."""
    if path.suffix != ".gz":
        with reading.opened(path, expected) as handle:
            yield handle
        return
    most = reading.most_expanded(reading.check_regular(path, expected))
    with reading.opened(path, expected) as packed, gzip.GzipFile(fileobj=packed) as unpacked:
        yield cast(BinaryIO, io.BufferedReader(_Bounded(unpacked, most, str(path), expected), 2**16))


class _Bounded(io.RawIOBase):
    """Bytes of another stream, up to a number: a small gzip file can stand for a file without end."""

    def __init__(self, source: gzip.GzipFile, most: int, name: str, expected: str) -> None:
        super().__init__()
        self._source, self._left, self._most, self._about = source, most, most, (name, expected)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        name, expected = self._about
        try:
            piece = self._source.read(len(buffer))
        except EOFError:
            raise InputError(name, expected, "a gzip file cut short") from None
        self._left -= len(piece)
        if self._left < 0:
            raise InputError(name, f"{expected} of at most {self._most} bytes, decompressed", "more")
        buffer[: len(piece)] = piece
        return len(piece)


def parse_idx(content: bytes, ndim: int, name: str) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file.

    IDX is: two zero bytes, the type (8: unsigned byte), the number of dimensions, one big-endian 32-bit size
    a dimension, then the numbers, the last dimension fastest.

    Args:
        content: the file's bytes, decompressed.
        ndim: the number of dimensions it must have: 3 for images, 1 for labels.
        name: the file's name, for messages.

    Returns:
        A read-only view of ``content``.

    Raises:
        InputError: for anything but exactly that.
    """
    expected = f"an IDX file of unsigned bytes with {ndim} dimension{'s' if ndim > 1 else ''}"
    header = 4 + 4 * ndim
    if content[:2] == b"\x1f\x8b":
        raise InputError(name, expected, "gzip data in a file whose name does not end in .gz")
    if len(content) < 4 or content[:3] != bytes([0, 0, IDX_UNSIGNED_BYTE]):
        raise InputError(name, expected, f"a file that begins with bytes {content[:4].hex(' ') or 'none'}")
    if content[3] != ndim:
        raise InputError(name, expected, f"{content[3]} dimension(s)")
    if len(content) < header:
        raise InputError(name, expected, f"a header cut short after {len(content)} bytes")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    if 0 in shape:
        raise InputError(name, expected + ", none of size 0", f"sizes {shape}")
    if len(content) - header != math.prod(shape):
        expected += f" and, as its header says, {math.prod(shape)} of them"
        raise InputError(name, expected, f"{len(content) - header}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def parse_amat(content: bytes, name: str) -> npt.NDArray[np.float32]:
    """Larochelle's text: one image a line, 784 numbers 0 or 1 between blanks.

    Returns:
        ``(N, 784)`` zeros and ones.

    Raises:
        InputError: naming the file and the line of the first thing that is not so.
    """
    width = 2 * AMAT_COLUMNS  # a digit and a separator each
    if content[-1:] != b"\n":
        content += b"\n"
    table = np.frombuffer(content, dtype=np.uint8)
    if len(table) % width == 0:
        # Written as the published files are, the text *is* the array: 50,000 images in half a second.
        table = table.reshape(-1, width)
        bits = table[:, ::2]
        blanks = table[:, 1:-1:2]
        if (
            ((bits | 1) == ord("1")).all()
            and (blanks == ord(" ")).all()
            and (table[:, -1] == ord("\n")).all()
        ):
            return (bits & 1).astype(np.float32)
    return _parse_amat_lines(content, name)


def _parse_amat_lines(content: bytes, name: str) -> npt.NDArray[np.float32]:
    """The slow way, for other white space (or line ends), and to find the line at fault."""
    expected = f"a text file of {AMAT_COLUMNS} numbers 0 or 1 a line"
    lines = content.rstrip().splitlines()
    if not lines:
        raise InputError(name, expected, "nothing but white space")
    # A line of so many numbers has as many bytes, at least: many short lines do not ask for a large table.
    rows = min(len(lines), len(content) // (2 * AMAT_COLUMNS - 1) + 1)
    out = np.empty((rows, AMAT_COLUMNS), dtype=np.float32)
    for number, line in enumerate(lines):
        words = line.split()
        if len(words) != AMAT_COLUMNS:
            raise InputError(name, expected, f"{len(words)} numbers in line {number + 1}")
        digits = b"".join(words)
        row = np.frombuffer(digits, dtype=np.uint8)
        if len(digits) != AMAT_COLUMNS or not ((row | 1) == ord("1")).all():
            word = next(word for word in words if word not in (b"0", b"1"))
            raise InputError(name, expected, f"{word[:20]!r} in line {number + 1}")
        out[number] = row & 1
    return out

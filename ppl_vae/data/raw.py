"""Bytes of the classic MNIST files: gzip, IDX and Larochelle's text, each checked to the last byte."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.errors import InputError

IDX_UNSIGNED_BYTE = 0x08
AMAT_COLUMNS = 784


def read_bytes(path: str | os.PathLike[str], expected: str) -> bytes:
    """The content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        InputError: naming the file, if it is missing, empty, no gzip in spite of its name, or cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(str(path), expected, "a folder" if path.is_dir() else "no such file")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz" and content:
            content = gzip.decompress(content)
    except EOFError:
        raise InputError(str(path), expected, "a gzip file cut short") from None
    except (OSError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise InputError(str(path), expected, error) from None
    if not content:
        raise InputError(str(path), expected, "an empty file")
    return content


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
    out = np.empty((len(lines), AMAT_COLUMNS), dtype=np.float32)
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

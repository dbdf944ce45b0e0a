"""Readers of NumPy's two formats, which check the header and its sizes before they read the data."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ppl_vae import reading
from ppl_vae.errors import InputError

_MAX_HEADER = 2**16
_CHUNK = 2**20


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of an ``.npy`` file; `InputError`, naming it, if it is damaged, empty or pickled."""
    expected = "an .npy file of numbers"
    size = reading.check_regular(path, expected)
    if size == 0:
        raise InputError(str(path), expected, "an empty file")
    with reading.opened(path, expected) as handle:
        return _array(handle, size, str(path), expected)


def read_npz(
    path: Path, key: str | None, labels_key: str | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, str]:
    """The data and the labels of an ``.npz`` file, and the key of the data."""
    expected = "an .npz file of numbers"
    if reading.check_regular(path, expected) == 0:
        raise InputError(str(path), expected, "an empty file")
    with reading.opened(path, expected) as handle:
        if not zipfile.is_zipfile(handle):
            raise InputError(str(path), expected, "a file that is no zip archive")
        with zipfile.ZipFile(handle) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = list(members)
            others = [name for name in names if name != labels_key]
            listed = (", ".join(names) or "no arrays")[:80]
            if key is None:
                if len(others) != 1 and "x" not in others:
                    raise InputError("key", f"the name of one of the arrays in {path}: {listed}", "None")
                key = others[0] if len(others) == 1 else "x"
            for argument, name in (("key", key), ("labels_key", labels_key)):
                if name is not None and name not in members:
                    raise InputError(
                        argument, f"the name of one of the arrays in {path}: {listed}", repr(name)
                    )
            data = _member(archive, members[key], path, expected)
            labels = None if labels_key is None else _member(archive, members[labels_key], path, expected)
    return data, labels, key


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, expected: str) -> npt.NDArray[Any]:
    name = f"{path}: {info.filename}"
    if not info.filename.endswith(".npy"):
        raise InputError(str(path), expected, "a zip archive of other files")
    if info.file_size > reading.most_expanded(info.compress_size):
        most = reading.most_expanded(info.compress_size)
        received = f"{info.file_size} bytes packed into {info.compress_size}"
        raise InputError(name, f"an array of at most {most} bytes, decompressed", received)
    with archive.open(info) as handle:
        array = _array(cast(BinaryIO, handle), info.file_size, name, expected)
        handle.read(1)  # the end: the archive's checksum is looked at there
    return array


def _array(handle: BinaryIO, size: int, name: str, expected: str) -> npt.NDArray[Any]:
    """The array of a stream of ``size`` bytes in NumPy's format, which must be exactly as long as its header says."""
    shape, by_columns, dtype = _header(handle, name, expected)
    if dtype.hasobject:
        raise InputError(name, expected, "pickled Python objects")
    if dtype.kind not in "biufc" or dtype.shape or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(name, expected, f"an array of dtype {dtype} and shape {shape}")
    count = math.prod(shape)
    length = count * dtype.itemsize
    there = size - handle.tell()
    if length != there:
        raise InputError(name, expected, f"{there} bytes where the header promises {length}, shape {shape}")
    reading.check_fits(length, name, expected)
    content = np.empty(length, dtype=np.uint8)
    done = 0
    while done < length:
        piece = handle.read(min(_CHUNK, length - done))
        if not piece:
            raise InputError(name, expected, f"a file cut short after {done} of {length} bytes")
        content[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        done += len(piece)
    flat = content.view(dtype) if count else np.empty(0, dtype)
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)


def _header(handle: BinaryIO, name: str, expected: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype. NumPy's own reader raises whatever Python's tokeniser does."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of headers that Python 2 wrote, and of odd escapes in damaged ones
            version = np.lib.format.read_magic(handle)
            if version not in readers:
                raise InputError(name, expected, f"the format's version {'.'.join(map(str, version))}")
            return readers[version](handle, max_header_size=_MAX_HEADER)
    except InputError:
        raise
    except Exception as error:
        text = (
            "pickled Python objects"
            if "pickle" in str(error)
            else f"a damaged header ({type(error).__name__})"
        )
        raise InputError(name, expected, text) from None

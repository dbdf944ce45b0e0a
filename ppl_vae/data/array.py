"""The user's own numbers: ``.npy``, ``.npz`` and ``.csv``, read without ever unpickling and never altered."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ppl_vae import reading
from ppl_vae.data.binary import read_npy, read_npz
from ppl_vae.data.dataset import Dataset, check_image_shape, random_split
from ppl_vae.data.tables import read_csv
from ppl_vae.errors import InputError, check_seed, describe
from ppl_vae.likelihoods.summary import summarise

SUFFIXES = (".npy", ".npz", ".csv", ".csv.gz")
EXACT = 2**24

_CHUNK = 2**20  # numbers that are converted together
_SMALLEST = float(np.finfo(np.float32).tiny)  # below it, float32 has fewer digits, and soon none
_LARGEST_LABEL = 2**53
_FITS = "finite numbers that fit float32, from 1.2e-38 to 3.4e+38 in size"
_INTEGERS = f"integers that float32 holds exactly (as it does all up to {EXACT})"


def load_array(
    path: str | os.PathLike[str],
    key: str | None = None,
    labels_key: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    image_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> Dataset:
    """A user's array ``(N, *shape)``, split at random.

    The numbers are not scaled, clipped or reordered within a datum. Real numbers are rounded to float32; what
    float32 cannot hold is refused: numbers that would become 0 or infinite, and integers that would be rounded.

    Args:
        path: a ``.npy``, ``.npz``, ``.csv`` or ``.csv.gz`` file; a CSV has one datum per line, with commas between
            the numbers, and may begin with a line of names.
        key: the name of the array within an ``.npz``; by default the only one, or the one called ``x``.
        labels_key: integer labels ``(N,)``: another array of the ``.npz``, or a named column of the CSV,
            which is then no part of the data.
        valid_fraction: the share of the data, in [0, 1), kept for validation. ``valid`` is None where it rounds
            to none.
        test_fraction: the share of the data, in (0, 1), kept for testing.
        image_shape: the shape in which a datum is plotted; by default its own, if that has two or three
            dimensions.
        seed: of the split. It is part of the data's identity: hold it fixed over all runs that are to be
            compared.

    Returns:
        A data set whose ``values`` are "binary" (all 0 or 1), "counts" (integers from 0) or "real".

    Raises:
        InputError: naming the file, or the argument: a suffix that is none of the above; an empty, damaged or
            pickled file, or one that needs more memory than there is; an array that is not numeric, has no rows,
            or has fewer than two dimensions; a NaN, an infinity, or a number that float32 cannot hold, with the
            index of the datum; a missing key.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", "the path of a file", describe(path))
    check_seed(seed)
    path = Path(path)
    name = str(path)
    array, labels, used = _read(path, key, labels_key)
    if array.ndim < 2:
        expected = "data of at least two dimensions, (N, D); N numbers are (N, 1)"
        raise InputError(name, expected, f"{array.ndim} dimension(s), shape {array.shape}")
    if array.size == 0:
        raise InputError(name, "at least one datum of at least one number", f"shape {array.shape}")
    data = _float32(array, name)
    del array  # as large as the data, or twice
    sizes = _sizes(len(data), valid_fraction, test_fraction, name)
    classes = None if labels is None else _labels(labels, len(data), f"{name}, {labels_key}")
    datum = data.shape[1:]
    image = tuple(datum) if image_shape is None and len(datum) in (2, 3) else image_shape
    summary = summarise(data)
    kind = "real"
    if summary.integers and summary.low >= 0:
        kind = "binary" if summary.high <= 1 else "counts"
    parts: dict[str, Any] = {}
    chosen: dict[str, torch.Tensor] = {}
    for split, index in zip(("train", "valid", "test"), random_split(len(data), sizes, seed), strict=True):
        if len(index):
            parts[split] = data[index]
            if classes is not None:
                chosen[split] = classes[index]
    return Dataset(
        name="array",
        view="as given",
        values=kind,
        train=parts.pop("train"),
        valid=parts.pop("valid", None),
        test=parts.pop("test"),
        labels=chosen,
        image_shape=None if image is None else check_image_shape(image, datum.numel()),
        seed=seed,
        details={"file": path.name, "key": used},
        **parts,
    )


def _read(
    path: Path, key: str | None, labels_key: str | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, str | None]:
    """The data, the labels, and the key under which the data were found."""
    lower = path.name.lower()
    if not lower.endswith(SUFFIXES):
        raise InputError(
            str(path), f"a file that ends in one of {', '.join(SUFFIXES)}", f"suffix {path.suffix!r}"
        )
    reading.check_regular(path, "a file of data")
    if key is not None and not lower.endswith(".npz"):
        raise InputError(
            "key", f"None unless the file is an .npz ({path.name} holds one array)", describe(key)
        )
    if lower.endswith(".npz"):
        return read_npz(path, key, labels_key)
    if lower.endswith(".npy"):
        if labels_key is not None:
            raise InputError("labels_key", f"None: {path.name} holds one array", describe(labels_key))
        return read_npy(path), None, None
    return *read_csv(path, labels_key), None


def _float32(array: npt.NDArray[Any], name: str) -> torch.Tensor:
    """``array`` as float32, if it is numeric and finite and float32 holds it: no number may become 0 or infinite.

    Real numbers are rounded; integers are not, so a column of integers that rounding changes is refused.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(name, "real numbers", f"an array of dtype {array.dtype}")
    reading.check_fits(4 * array.size, name, "data as float32")
    data = np.empty(array.shape, dtype=np.float32)
    wide = array.dtype.itemsize > (4 if array.dtype.kind == "f" else 2)  # else float32 holds every value
    columns = _Columns(array.shape)
    step = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), step):
        part = np.ascontiguousarray(array[start : start + step])
        with np.errstate(all="ignore"):  # what overflows or underflows is found below
            data[start : start + step] = part
        small = data[start : start + step]
        _refuse(~np.isfinite(part), part, start, name, "finite numbers")
        _refuse(~np.isfinite(small), part, start, name, f"{_FITS} (divide the data by a constant)")
        if not wide:
            continue
        if array.dtype.kind == "f":
            lost = (np.abs(small) < _SMALLEST) & (small != part)
            _refuse(
                lost,
                part,
                start,
                name,
                f"{_FITS} (multiply the data by a constant, or set such numbers to 0)",
            )
            columns.look(part, small, start)
        else:
            _refuse((part > EXACT) | (part < -EXACT), part, start, name, _INTEGERS)
    changed = columns.changed()
    if changed is not None:
        _refuse_at(array, changed, name, _INTEGERS)
    return torch.from_numpy(data)


class _Columns:
    """Which elements of a datum hold nothing but integers, and the first of them that float32 changes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape[1:]
        self._whole = np.ones(self._shape, dtype=np.bool_)
        self._first = np.full(self._shape, -1, dtype=np.int64)

    def look(self, part: npt.NDArray[Any], small: npt.NDArray[np.float32], start: int) -> None:
        """Take in rows from ``start`` on."""
        self._whole &= (part == np.floor(part)).all(0)
        if not self._whole.any():
            return
        different = part != small
        new = different.any(0) & (self._first < 0)
        self._first[new] = start + different.argmax(0)[new]

    def changed(self) -> tuple[int, ...] | None:
        """The index of the first integer that is changed, in a column of integers; None if there is none."""
        bad = self._whole & (self._first >= 0)
        if not bad.any():
            return None
        element = np.unravel_index(int(np.where(bad, self._first, 2**62).argmin()), self._shape)
        return (int(self._first[element]), *(int(i) for i in element))


def _refuse(bad: npt.NDArray[np.bool_], part: npt.NDArray[Any], start: int, name: str, expected: str) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise InputError(name, expected, f"{part[index]} at {_where((start + index[0], *index[1:]))}")


def _refuse_at(array: npt.NDArray[Any], index: tuple[int, ...], name: str, expected: str) -> None:
    raise InputError(name, expected, f"{array[index]} at {_where(index)}")


def _where(index: tuple[int, ...]) -> str:
    datum, *element = index
    return f"datum {datum}, element {element[0] if len(element) == 1 else tuple(element)}"


def _labels(labels: npt.NDArray[Any], n: int, name: str) -> torch.Tensor:
    good = labels.shape == (n,) and labels.dtype.kind in "biuf"
    if good and labels.dtype.kind == "f":
        good = bool((np.isfinite(labels) & (labels == np.floor(labels))).all())
    if not good:
        raise InputError(
            name, f"integer labels of shape ({n},)", f"shape {labels.shape} and dtype {labels.dtype}"
        )
    large = (labels > _LARGEST_LABEL) | (labels < -_LARGEST_LABEL) if labels.dtype.kind != "b" else labels < 0
    if large.any():
        expected = f"integer labels from {-_LARGEST_LABEL} to {_LARGEST_LABEL}"
        raise InputError(name, expected, labels[int(large.argmax())])
    return torch.from_numpy(labels.astype(np.int64))


def _sizes(n: int, valid_fraction: float, test_fraction: float, name: str) -> tuple[int, int, int]:
    for argument, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
        if not good or (value == 0 and argument == "test_fraction"):
            interval = "(0, 1)" if argument == "test_fraction" else "[0, 1)"
            raise InputError(argument, f"a number in {interval}", describe(value))
    valid, test = round(n * valid_fraction), max(1, round(n * test_fraction))
    if n - valid - test < 1:
        expected = "with valid_fraction, a share that leaves data to train on"
        raise InputError("test_fraction", expected, f"{valid} + {test} of the {n} data in {name}")
    return n - valid - test, valid, test

"""Descriptions of data sets, as `Dataset.describe` gives them: read from a file, and compared with a data set."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ppl_vae import reading
from ppl_vae.data.dataset import Dataset
from ppl_vae.errors import InputError, describe

_IDENTITY = (
    "name", "view", "values", "total_count", "seed", "sizes", "shape", "image_shape", "resampled", "test_sha256",
    "train_sha256", "valid_sha256",
)  # fmt: skip
_EXPECTED = "a description of data"


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description that a file holds; raises `InputError`, naming it, if it holds none."""
    found = reading.read_json(path, _EXPECTED)
    if not isinstance(found, dict):
        raise InputError(str(path), _EXPECTED, describe(found))
    return found


def check_same(path: Path, dataset: Dataset, argument: str) -> None:
    """Refuse data that are not those that a file describes.

    Args:
        path: the file.
        dataset: the data.
        argument: what named the data, for the message.

    Raises:
        InputError: naming ``argument``, with what the file says and what is so.
    """
    known, now = read(path), dataset.describe()
    # Earlier versions knew the test split alone by its content.
    old = not any(key in known for key in ("train_sha256", "valid_sha256"))
    for key in _IDENTITY:
        if old and key in ("train_sha256", "valid_sha256"):
            continue
        if known.get(key) != now[key] or key not in known:
            found = f"{key} {describe(known[key], 20)}" if key in known else f"no {key}"
            expected = f"the data that {path} describes ({found})"
            raise InputError(argument, expected, f"{key} {describe(now[key], 20)}")


def image_shape(path: Path) -> tuple[int, ...] | None:
    """How a file's description lays a datum out, None for no image; raises `InputError`, naming it."""
    about = read(path)
    found, shape = about.get("image_shape"), about.get("shape")
    if found is None:
        return None
    for sizes in (shape, found):
        if not isinstance(sizes, list) or not all(type(n) is int and n > 0 for n in sizes):
            expected = "shape and image_shape to be lists of positive integers"
            raise InputError(str(path), expected, describe(sizes))
    image = tuple(found)
    if len(image) < 2 or math.prod(image) != math.prod(shape or ()):
        raise InputError(str(path), f"an image_shape for data of shape {shape}", describe(found))
    return image

"""Real data sets and their views: digits (embedded), MNIST (files, or a download), the user's own arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ppl_vae.data.array import load_array
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.digits import load_digits
from ppl_vae.data.mnist import load_mnist
from ppl_vae.data.views import binarise, dequantise, moments, standardise, threshold
from ppl_vae.errors import InputError, check_one_of
from ppl_vae.support import check_support, suggest

__all__ = [
    "LOADERS",
    "Dataset",
    "binarise",
    "check_support",
    "dequantise",
    "load",
    "load_array",
    "load_digits",
    "load_mnist",
    "moments",
    "standardise",
    "suggest",
    "threshold",
]

LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "array": load_array,
}


def load(name: str, **options: Any) -> Dataset:
    """The data set ``name`` (``"digits"``, ``"mnist"`` or ``"array"``), from the options of its loader.

    Raises:
        InputError: for an unknown name, for an option that the loader does not take (both name what there
            is), and for a missing one that it needs; otherwise as the loader.
    """
    loader = LOADERS[check_one_of("data", name, LOADERS)]
    parameters = inspect.signature(loader).parameters
    for option in options:
        if option not in parameters:
            listed = ", ".join(parameters)
            raise InputError(
                option, f"one of the options of data set {name!r} ({listed})", f"option {option!r}"
            )
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise InputError(option, f"a value, which data set {name!r} needs", "none")
    return loader(**options)

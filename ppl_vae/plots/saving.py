"""Saving: figures written to files, atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ppl_vae import files
from ppl_vae.errors import InputError, check_positive_float, describe
from ppl_vae.plots.style import STYLE

# No dates: the same figure gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save(figure: Figure, path: str | os.PathLike[str], dpi: float = 150) -> None:
    """Write a figure to ``path`` atomically; the suffix, .png, .pdf or .svg, is the format.

    Args:
        figure: a figure of this package, or any matplotlib figure.
        path: the file, which is replaced if it exists.
        dpi: pixels per inch (for PDF and SVG, of images inside).

    Raises:
        InputError: if an argument does not fit or the file cannot be written.
    """
    if not isinstance(figure, Figure):
        raise InputError("figure", "a matplotlib Figure", describe(figure))
    check_positive_float("dpi", dpi)
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        raise InputError("path", "a file name that ends in .png, .pdf or .svg", os.fspath(path))
    try:
        with rc_context(STYLE), files.atomic(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=_METADATA[kind])
    except OSError as error:
        raise InputError("path", "a file that can be written", error) from None

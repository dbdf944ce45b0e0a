"""Pictures written by commands: a file that cannot be written is named, not the library's argument."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ppl_vae.cli.oneline import relabel
from ppl_vae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure to ``path``; raises `InputError` naming the file."""
    from ppl_vae import plots

    try:
        plots.save(figure, path)
    except InputError as error:
        raise relabel(error, {"path": str(path)}) from error

"""A run folder, and the trained model with its data: for the command line, and for whoever studies many runs.

The modules are imported when they are used: the help of a command needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppl_vae.runs import data, figures, folder, trained

__all__ = ["data", "figures", "folder", "trained"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Variational autoencoders as probabilistic programs, with honest estimates of their log evidence.

    import ppl_vae as pv

The names below are the public surface. They are imported when they are first used: torch and Pyro take a
second to start, and asking the command line for help need not wait for them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, which takes time to import: Ctrl-C must find the command line ready
if TYPE_CHECKING:
    from typing import Any

    from ppl_vae import (
        analysis,
        compiled,
        data,
        distributed,
        evidence,
        likelihoods,
        networks,
        plots,
        posteriors,
        priors,
        validation,
    )
    from ppl_vae.errors import InputError, NonFiniteError, ProgramError
    from ppl_vae.evidence.results.evidence import Evidence
    from ppl_vae.evidence.results.sandwich import Sandwich
    from ppl_vae.generate import interpolate, reconstruct, sample
    from ppl_vae.history import History
    from ppl_vae.persistence import load, save
    from ppl_vae.program import Program
    from ppl_vae.training import fit
    from ppl_vae.vae import VAE

__version__ = "0.1.0"

_ROOMS = (
    "analysis",
    "compiled",
    "data",
    "distributed",
    "evidence",
    "likelihoods",
    "networks",
    "plots",
    "posteriors",
    "priors",
    "validation",
)
_NAMES = {
    "InputError": "errors",
    "NonFiniteError": "errors",
    "ProgramError": "errors",
    "Evidence": "evidence.results.evidence",
    "Sandwich": "evidence.results.sandwich",
    "interpolate": "generate",
    "reconstruct": "generate",
    "sample": "generate",
    "History": "history",
    "load": "persistence",
    "save": "persistence",
    "Program": "program",
    "fit": "training",
    "VAE": "vae",
}

__all__ = [
    "VAE",
    "Evidence",
    "History",
    "InputError",
    "NonFiniteError",
    "Program",
    "ProgramError",
    "Sandwich",
    "analysis",
    "compiled",
    "data",
    "distributed",
    "evidence",
    "fit",
    "interpolate",
    "likelihoods",
    "load",
    "networks",
    "plots",
    "posteriors",
    "priors",
    "reconstruct",
    "sample",
    "save",
    "validation",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"ppl_vae.{name}")
    if name in _NAMES:
        value = getattr(import_module(f"ppl_vae.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Variational autoencoders as probabilistic programs, with estimates of their log evidence, their errors and verdicts.

    import ppl_vae as pv

The names below are the public interface. They are imported at their first use: importing torch and Pyro takes a second,
and the help of the command line does not need them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, which takes time to import: Ctrl-C must find the command line ready
if TYPE_CHECKING:  # for type checkers and editors; a test compares it with what is imported
    from typing import Any

    from ppl_vae import analysis as analysis
    from ppl_vae import compiled as compiled
    from ppl_vae import data as data
    from ppl_vae import distributed as distributed
    from ppl_vae import evidence as evidence
    from ppl_vae import likelihoods as likelihoods
    from ppl_vae import networks as networks
    from ppl_vae import objectives as objectives
    from ppl_vae import plots as plots
    from ppl_vae import posteriors as posteriors
    from ppl_vae import priors as priors
    from ppl_vae import validation as validation
    from ppl_vae.errors import InputError as InputError
    from ppl_vae.errors import NonFiniteError as NonFiniteError
    from ppl_vae.errors import ProgramError as ProgramError
    from ppl_vae.evidence.results.evidence import Evidence as Evidence
    from ppl_vae.evidence.results.sandwich import Sandwich as Sandwich
    from ppl_vae.generate import interpolate as interpolate
    from ppl_vae.generate import reconstruct as reconstruct
    from ppl_vae.generate import sample as sample
    from ppl_vae.history import History as History
    from ppl_vae.imputation import Imputed as Imputed
    from ppl_vae.imputation import impute as impute
    from ppl_vae.persistence import load as load
    from ppl_vae.persistence import save as save
    from ppl_vae.program import Program as Program
    from ppl_vae.training import fit as fit
    from ppl_vae.vae import VAE as VAE

__version__ = "0.1.0"

_NAMES = {
    "": "analysis compiled data distributed evidence likelihoods networks objectives plots posteriors priors "
    "validation",
    "errors": "InputError NonFiniteError ProgramError",
    "evidence.results.evidence": "Evidence",
    "evidence.results.sandwich": "Sandwich",
    "generate": "interpolate reconstruct sample",
    "history": "History",
    "imputation": "Imputed impute",
    "persistence": "load save",
    "program": "Program",
    "training": "fit",
    "vae": "VAE",
}
"""The modules of public names; the names of the first entry are modules themselves."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)

if not TYPE_CHECKING:  # to a type checker a name that is not there is an error

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")
        home = _HOMES[name]
        if not home:
            return import_module(f"ppl_vae.{name}")
        value = getattr(import_module(f"ppl_vae.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

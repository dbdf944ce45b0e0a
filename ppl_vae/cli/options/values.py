"""Options whose value is an object, ``--proposal`` and ``--draws``: a class by a short name, and its own options."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from ppl_vae.evidence.importance_sampling.proposals import Proposal as LibraryProposal
    from ppl_vae.evidence.importance_sampling.proposals import ProposalOnData
    from ppl_vae.program import Data, Program

_CLASSES = {
    "proposal": ("Guide", "Defensive", "Widened", "StudentT", "Refitted"),
    "draws": ("IID", "Sobol", "UntilStderr"),
}
_PATH = "ppl_vae.evidence."


class Proposal(ABC):  # noqa: B024  (nobody subclasses it)
    """A proposal: any class with a ``bind``, whatever it inherits from."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return callable(getattr(other, "bind", None))


class Draws(ABC):  # noqa: B024
    """Draws: one of the library's own classes."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return other.__module__ == f"{_PATH}importance_sampling.draws" and other.__name__ in _CLASSES["draws"]


TYPES: dict[str, type] = {"proposal": Proposal, "draws": Draws}
"""What jsonargparse takes for each option: it needs no torch."""


def _short(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


EXPECTED = {option: ", ".join(map(_short, names)) for option, names in _CLASSES.items()}
"""For each option, what it takes in words."""
EXPECTED["proposal"] += ", or the import path of a class of your own that has bind (my_file.MyProposal)"
HOW = {
    "proposal": "Write --proposal student-t --proposal.df 3, or --proposal my_file.MyProposal",
    "draws": "Write --draws sobol --draws.scrambles 32, or --draws until-stderr --draws.target 0.05",
}
"""For each option, how it is written."""


def spell_out(argv: Sequence[str]) -> list[str]:
    """The arguments with import paths in the place of short names.

    Raises:
        UsageError: for an option of a class without the class.
    """
    found = list(argv)
    for option, names in _CLASSES.items():
        flags = (f"--{option}", f"--{option}.help")
        paths = {each: _PATH + name for name in names for each in (name, _short(name))}
        for index, argument in enumerate(found):
            key, equals, value = argument.partition("=")
            if equals and key in flags:
                found[index] = f"{key}={paths.get(value, value)}"
            elif index and found[index - 1] in flags:
                found[index] = paths.get(argument, argument)
        given = [argument.partition("=")[0] for argument in found]
        inner = [key for key in given if key.startswith(f"--{option}.") and key not in flags]
        if inner and f"--{option}" not in given:
            raise UsageError(inner[0], f"--{option} CLASS before the options of the class", "none")
    return found


def spec(option: str, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """A class and its options as plain values; None for what there is without the option: the first class."""
    if given is None or given["class_path"] == _PATH + _CLASSES[option][0]:
        return None
    return {"class_path": given["class_path"], "init_args": dict(given.get("init_args") or {})}


def make(option: str, spec: dict[str, Any]) -> Any:
    """The object that a specification names; raises `InputError` naming the option at fault."""
    from ppl_vae import config
    from ppl_vae.trust import Trust

    kind: type = Trust().find(spec["class_path"], TYPES[option], f"--{option}")
    names = {name: f"--{option}.{name}" for name in spec["init_args"]}
    made = config.make(kind, (), spec["init_args"], f"--{option}", names)
    # The repr of an object names it in results and in checkpoints; an address would be another one after a kill.
    if option != "proposal" or getattr(type(made), "__repr__", None) is not object.__repr__:
        return made
    options = ", ".join(f"{name}={value!r}" for name, value in spec["init_args"].items())
    return _Named(made, f"{spec['class_path']}({options})")


class _Named:
    """A user's proposal with a repr that names its class and options."""

    def __init__(self, proposal: LibraryProposal, name: str) -> None:
        self._proposal, self._name = proposal, name

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:
        return self._proposal.bind(program, x, seed, index)

    def __repr__(self) -> str:
        return self._name

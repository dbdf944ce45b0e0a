"""``--proposal``: where importance samples come from, by a short name or by the import path of a user's own class."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from ppl_vae.evidence.importance_sampling.proposals import Proposal as LibraryProposal
    from ppl_vae.evidence.importance_sampling.proposals import ProposalOnData
    from ppl_vae.program import Data, Program

_NAMES = {
    "guide": "Guide",
    "defensive": "Defensive",
    "widened": "Widened",
    "student-t": "StudentT",
    "refitted": "Refitted",
}
_PATH = "ppl_vae.evidence."
_GUIDE = f"{_PATH}Guide"
EXPECTED = (
    f"{', '.join(_NAMES)}, or the import path of a class of your own that has bind (my_file.MyProposal)"
)


class Proposal(ABC):  # noqa: B024  (nobody subclasses it)
    """What jsonargparse takes for a proposal: any class with a ``bind``. It needs no torch to say so."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        """A proposal is what it can do, not what it inherits from."""
        return callable(getattr(other, "bind", None))


def add_option(parser: Any, owners: str) -> None:
    """``--proposal`` and the options of its classes, to a parser or a group of one."""
    parser.add_argument(
        "--proposal",
        type=Proposal | None,
        metavar="CLASS",
        help=f"[{owners}] where samples come from: guide (the default), defensive, widened, student-t, refitted, or a "
        "class of your own by its import path (my_file.MyProposal). Its options follow, as in --proposal.df 3; "
        "--proposal.help student-t lists them",
    )


def spell_out(argv: Sequence[str]) -> list[str]:
    """The arguments with import paths in the place of short names.

    Raises:
        UsageError: for an option of a proposal without a proposal.
    """
    paths = {short: _PATH + name for short, name in _NAMES.items()}
    paths |= {name: _PATH + name for name in _NAMES.values()}
    found: list[str] = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key in ("--proposal", "--proposal.help") and equals:
            argument = f"{key}={paths.get(value, value)}"
        elif found and found[-1] in ("--proposal", "--proposal.help"):
            argument = paths.get(argument, argument)
        found.append(argument)
    given = [argument.partition("=")[0] for argument in found]
    options = [key for key in given if key.startswith("--proposal.") and key != "--proposal.help"]
    if options and "--proposal" not in given:
        raise UsageError(options[0], "a --proposal whose option it is", "none")
    return found


def is_guide(spec: dict[str, Any]) -> bool:
    """Whether a specification is of the guide, which is what there is without any."""
    return bool(spec["class_path"] == _GUIDE)


def named(proposal: LibraryProposal, spec: dict[str, Any]) -> LibraryProposal:
    """``proposal`` with a repr that names its class and options, if it has none but Python's own.

    A proposal's repr names it in the results and in checkpoints; an address would be another one after a kill.
    """
    if type(proposal).__repr__ is not object.__repr__:
        return proposal
    options = ", ".join(f"{name}={value!r}" for name, value in spec["init_args"].items())
    return _Named(proposal, f"{spec['class_path']}({options})")


class _Named:
    def __init__(self, proposal: LibraryProposal, name: str) -> None:
        self._proposal, self._name = proposal, name

    def bind(self, program: Program, x: Data, seed: int, index: int) -> ProposalOnData:
        return self._proposal.bind(program, x, seed, index)

    def __repr__(self) -> str:
        return self._name

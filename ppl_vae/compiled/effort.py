"""Effort: the size of a job, which decides whether its program is captured or compiled.

Levels differ in round-off, so the decision must be the same in each run of a job: it depends on sizes only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.errors import InputError, describe
from ppl_vae.program import Program

Compile = bool | str
"""The values of ``compile``: "auto", True or False."""

_OPERATIONS = 5e10  # operations in a second on a nominal machine with two cores
_PASS = 2e-3  # seconds of Pyro's handlers for one run of a program
_NUMBER = 50  # operations for each number of a site: its density and the draw
CAPTURE_FROM, COMPILE_FROM = 5.0, 60.0
"""Nominal seconds above which a graph is captured (takes 1 to 2 s, mostly imports), and compiled (takes about 15 s)."""


@dataclass(frozen=True)
class Effort:
    """The size of a job.

    Attributes:
        evaluations: the number of density evaluations for one sample of one datum; one with a gradient counts as three.
        passes: the number of runs of the program.
        numbers: the number of numbers in one sample of one datum, over all sites.
    """

    evaluations: float
    passes: float
    numbers: float

    def nominal_seconds(self, program: Program) -> float:
        """The time as a plain program on a nominal machine, to about a factor of two."""
        parameters = sum(p.numel() for module in program.modules for p in module.parameters())
        parameters += sum(value.numel() for value in program.params.values())
        each = 2 * parameters + _NUMBER * self.numbers
        return self.evaluations * each / _OPERATIONS + self.passes * _PASS


def check_compile(value: object) -> Compile:
    """``value`` if it is "auto", True or False; raises `InputError` otherwise."""
    if value != "auto" and not isinstance(value, bool):
        raise InputError("compile", '"auto", True or False', describe(value))
    return value


def level_for(compile: Compile, program: Program, effort: Effort) -> str:  # noqa: A002  (the user's word)
    """One of `backend.LEVELS`."""
    if check_compile(compile) != "auto":
        return "compiled" if compile else "plain"
    seconds = effort.nominal_seconds(program)
    return "compiled" if seconds >= COMPILE_FROM else "captured" if seconds >= CAPTURE_FROM else "plain"

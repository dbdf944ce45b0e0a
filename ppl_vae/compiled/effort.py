"""Effort: the size of a job, by which it is decided whether a graph or a compiler is worth its start.

Levels differ in round-off, so the choice must not differ between two runs of one job: it is a function of sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.errors import InputError, describe
from ppl_vae.program import Program

Compile = bool | str
"""``compile=`` of what runs programs: "auto", True or False."""

_OPERATIONS = 5e10  # a second, on a nominal machine: two cores
_PASS = 2e-3  # seconds that Pyro's handlers take for one run of a program
_NUMBER = 50  # operations for each number of a site: its density and the draw
CAPTURE_FROM, COMPILE_FROM = 5.0, 60.0
"""Nominal seconds from which on a graph is captured (a second or two, most of it imports), and compiled (15 or so)."""


@dataclass(frozen=True)
class Effort:
    """The size of a job.

    Attributes:
        evaluations: of a density for one sample of one datum; one with its gradient counts for three.
        passes: runs of the program that they take.
        numbers: numbers of one sample of one datum, over all sites.
    """

    evaluations: float
    passes: float
    numbers: float

    def nominal_seconds(self, program: Program) -> float:
        """What it would take as a plain program on a nominal machine, to a factor of two or so."""
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

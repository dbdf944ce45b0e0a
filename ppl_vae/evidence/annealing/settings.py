"""Settings of annealing: the user's arguments, checked, and the plan of a run with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_vae.compiled.densities import STARTS
from ppl_vae.compiled.effort import Effort
from ppl_vae.errors import check_one_of, check_positive_int
from ppl_vae.evidence.annealing.kernels import HMC, Transition, check_transition
from ppl_vae.evidence.annealing.pilot import PILOT_CHAINS, num_pilot_moves
from ppl_vae.evidence.annealing.schedules import Schedule, resolve
from ppl_vae.evidence.running.blocks import Plan
from ppl_vae.evidence.running.prior_check import check_prior_draws
from ppl_vae.evidence.running.tiles import numbers_in_pass
from ppl_vae.program import Data, Sites, device_of, num_data

_LITTLE = 0.1  # if the pilot is a smaller share of a run, its passes are not compiled


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings that forward and reversed chains have in common.

    Attributes:
        num_chains: S.
        num_steps: T.
        start: "guide" or "prior".
        schedule: the schedule of temperatures.
        transition: the kernel.
        name: the schedule's name.
        prior_draws: the number of draws of the prior that search for modes which chains from the guide miss.
    """

    num_chains: int
    num_steps: int
    start: str
    schedule: Schedule
    transition: Transition
    name: str
    prior_draws: int = 0

    @classmethod
    def of(
        cls,
        num_chains: int,
        num_steps: int,
        start: str,
        schedule: Schedule | str | Tensor,
        transition: Transition | None,
        prior_draws: int = 0,
    ) -> Settings:
        """Settings from a user's arguments; raises `InputError` for an argument that does not fit."""
        check_positive_int("num_chains", num_chains)
        check_one_of("start", start, STARTS)
        resolved = resolve(schedule, num_steps)
        transition = check_transition(HMC() if transition is None else transition)
        name = schedule if isinstance(schedule, str) else repr(schedule)
        name = "given" if isinstance(schedule, Tensor) else name
        probes = check_prior_draws(prior_draws) if start == "guide" else 0
        return cls(num_chains, num_steps, start, resolved, transition, name, probes)

    def plan(self, title: str, x: Data, sites: Sites) -> Plan:
        """The plan of a run: all chains of some data together, with about a million numbers in a pass."""
        n = num_data(x)
        pairs = min(max(numbers_in_pass(device_of(x)) // max(sites.numbers_per_datum, 1), 64), 2**15)
        size = min(n, max(1, pairs // self.num_chains))
        moves = self.num_steps * (self.transition.densities + 3 * self.transition.gradients)
        passes = self.num_steps * (self.transition.densities + self.transition.gradients) * -(-n // size)
        effort = Effort(n * self.num_chains * moves, passes, sites.numbers_per_datum)
        shapes = [(size, self.num_chains)]
        pilot = num_pilot_moves(self.num_steps) * PILOT_CHAINS
        if pilot > _LITTLE * (pilot + self.num_steps * self.num_chains):
            shapes.append((size, PILOT_CHAINS))
        return Plan(title, size, self.num_steps, self.identity(title), effort, shapes)

    def identity(self, title: str) -> dict[str, Any]:
        """The settings that identify a run."""
        return {
            "estimator": title,
            "num_chains": self.num_chains,
            "num_steps": self.num_steps,
            "start": self.start,
            "schedule": repr(self.schedule),
            "transition": repr(self.transition),
            "prior_draws": self.prior_draws,
        }

    def words(self) -> str:
        """The settings in words, for tables and plots."""
        return (
            f"{self.num_chains} chains of {self.num_steps} steps from the {self.start}, "
            f"{self.name} schedule, {self.transition}"
        )

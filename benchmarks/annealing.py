"""Annealing: gradient evaluations a second of annealed importance sampling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks import handwritten, machine, ours, profile, workloads
from benchmarks.setting import (
    CEILING,
    EAGER,
    JAX,
    ONEDNN,
    OURS,
    PLAIN,
    Section,
    Setting,
    Target,
    figure,
    gate,
    median,
    table,
)
from benchmarks.timing import Job, Spread, Turns, attempt, interleaved
from benchmarks.workloads import TWO_LAYER

PEERS = (EAGER, JAX)
LEAPFROG, STEP = 3, 0.3  # steps a move, and their size in guide scales
EXACT = 1e-4  # float32 along some short chains at given noise
NEAR = 0.5  # nats that mean log p(x) of the peers may lie apart from ours: their chains are not tuned
CHECK_STEPS = 5

INTRO = """Annealed importance sampling of {data} data on the same VAE, {chains} chains a datum from the guide,
{steps} steps, {leapfrog} leapfrog steps a move. {ours} tunes step sizes and schedule on pilot chains, which are part of
its time and of its {gradients:,.0f} gradient evaluations a datum; the peers take a fixed step and a linear schedule of
{peer_steps} steps, which comes to {peer_gradients:,.0f}. A gradient evaluation is log p(x, z) with its gradient in z;
each costs {flops:,.0f} operations of matrix products. Median of {rounds} rounds. Before they are timed, the peers give
the weights of short chains at the same noise (within {exact:g}), and their mean log p(x) is within {near:g} nats of
{ours}'s.

PyTorch: the same chains as a plain loop. JAX: the steps in one jitted `lax.scan`."""


class Contestant(NamedTuple):
    """An estimate: (seconds or None, log p(x)); and the gradient evaluations a datum that it takes."""

    estimate: Callable[[], tuple[float | None, torch.Tensor]]
    gradients: float

    def seconds(self) -> float | None:
        """Those that an estimate took, if it counted them itself."""
        return self.estimate()[0]


class Problem:
    """Chains of some data."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.architecture, self.act = setting, TWO_LAYER, TWO_LAYER.activation
        self.num_data, self.num_chains = setting.size(20, 2), setting.size(16, 4)
        self.num_steps = setting.size(200, 20)
        x = workloads.binary_data(setting.size(10_000, 200) + self.num_data)
        self.x = x[-self.num_data :].contiguous()
        self.model = ours.trained(self.architecture, x[: -self.num_data], setting.size(10, 1))
        self.parameters = ours.parameters(self.model)
        self.value, _, self.gradients = self._annealed(ours.PLAIN)
        self.chains = handwritten.Annealing(
            self.parameters, self.act, self.x, self.num_chains, step=STEP, leapfrog=LEAPFROG
        )
        # As many steps for the peers as give them our number of gradients, which has the pilot's in it.
        self.peer_steps = 1 + round((self.gradients / self.num_chains - 1) / LEAPFROG)
        self.accepted: float | None = None

    def _annealed(self, how: ours.Compile) -> tuple[torch.Tensor, torch.Tensor, float]:
        return ours.annealed(self.model, self.x, self.num_chains, self.num_steps, how)

    def contestants(self, missing: dict[str, str]) -> dict[str, Contestant]:
        """All that can take part and agree."""
        made = {OURS: self._ours(ours.COMPILED)}
        if ours.compiles("annealed"):
            made[PLAIN] = self._ours(ours.PLAIN)
        gradients = self.chains.gradients(self.peer_steps)
        made[EAGER] = Contestant(lambda: (None, self.chains.random(self.peer_steps)), gradients)
        made[JAX] = Contestant(self._jax, gradients)
        attempt(missing, JAX, lambda: self._check_jax(missing))
        for name, contestant in made.items():
            estimate = attempt(missing, name, contestant.estimate)
            if estimate is not None:
                off = abs(float((estimate[1] - self.value).mean()))
                if not off <= NEAR:
                    missing[name] = f"disagrees: mean log p(x) off by {off:.3g} nats; not timed"
        return made

    def _ours(self, how: ours.Compile) -> Contestant:
        def estimate() -> tuple[float, torch.Tensor]:
            start = time.perf_counter()
            value, _, gradients = self._annealed(how)
            seconds = time.perf_counter() - start
            if gradients != self.gradients:
                raise RuntimeError(f"{gradients} gradient evaluations, not {self.gradients}")
            return seconds, value

        return Contestant(estimate, self.gradients)

    def _jax(self) -> tuple[float, torch.Tensor]:
        answer = self.setting.jax.ask(
            "annealing", name="annealing", activation=self.act, step=STEP, leapfrog=LEAPFROG,
            num_chains=self.num_chains, num_steps=self.peer_steps,
        )  # fmt: skip
        self.accepted = answer["accepted"]
        return answer["seconds"], torch.tensor(answer["value"])

    def _check_jax(self, missing: dict[str, str]) -> None:
        shape = (self.num_chains, self.num_data, self.architecture.latent)
        first, momenta = workloads.noise(*shape), workloads.noise(CHECK_STEPS - 1, *shape, seed=2)
        generator = torch.Generator().manual_seed(3)
        thresholds = torch.rand(CHECK_STEPS - 1, *shape[:2], generator=generator)
        reference = self.chains.estimate(CHECK_STEPS, first, lambda t: (momenta[t - 1], thresholds[t - 1]))
        given = {"check_first": first, "check_momenta": momenta, "check_thresholds": thresholds}
        self.setting.jax.send("annealing", self.parameters.named() | {"x": self.x} | given)
        answer = self.setting.jax.ask(
            "annealing_check", name="annealing", activation=self.act, step=STEP, leapfrog=LEAPFROG
        )
        gate({JAX: torch.tensor(answer["value"])}, reference, missing, EXACT)

    def ceiling(self, products: Callable[[list[tuple[int, int, int]], int], Job]) -> Job:
        """The products of as many passes forwards and back as the peers' gradients are, all chains in one pass."""
        forwards = self.architecture.decoder_products(self.num_chains * self.num_data)
        backwards = [(m, n, k) for m, k, n in forwards]
        return products(forwards + backwards, self.chains.gradients(self.peer_steps) // self.num_chains)


def run(setting: Setting) -> Section:
    """Measure."""
    problem = Problem(setting)
    missing: dict[str, str] = {}
    made = problem.contestants(missing)
    jobs: dict[str, Job] = {
        name: contestant.seconds for name, contestant in made.items() if name not in missing
    }
    jobs[CEILING] = problem.ceiling(machine.products)
    jobs[ONEDNN] = problem.ceiling(machine.onednn_products)
    turns = interleaved(jobs, setting.rounds, missing)
    peer_gradients = problem.chains.gradients(problem.peer_steps)
    flops = 2 * problem.architecture.decoder_flops  # forwards, and back to z
    section = Section(
        "Annealing",
        INTRO.format(
            data=problem.num_data, chains=problem.num_chains, steps=problem.num_steps, leapfrog=LEAPFROG, ours=OURS,
            gradients=problem.gradients,
            peer_steps=problem.peer_steps, peer_gradients=peer_gradients, flops=flops, rounds=setting.rounds,
            exact=EXACT, near=NEAR,
        ),
    )  # fmt: skip
    section.add("annealing", turns)
    section.data["annealing"] |= {"gradients": {OURS: problem.gradients, "peers": peer_gradients}}
    amounts = {
        name: made[name].gradients if name in made else float(peer_gradients)
        for name in (*made, CEILING, ONEDNN)
    }
    rows = [annealing_row(name, turns, amounts, problem.num_data, flops) for name in amounts]
    section.parts.append(table(["", "gradients/s", "GFLOP/s", f"{OURS} over it"], rows))
    section.targets.append(
        Target("over the jitted JAX version, gradient evaluations a second", _ratio(turns, JAX, amounts), 1.0)
    )
    if problem.accepted is not None:
        section.notes.append(f"The peers' moves are accepted at a rate of {problem.accepted:.2f}.")
    if any(target.met is False for target in section.targets):
        told = profile.words(made[OURS].estimate)
        section.notes.append(f"Profile of {OURS}: {told}.")
    return section


def _ratio(turns: Turns, peer: str, amounts: dict[str, float]) -> Spread | None:
    return turns.ratio(OURS, peer, amounts[OURS] / amounts[peer])


def annealing_row(name: str, turns: Turns, amounts: dict[str, float], num_data: int, flops: int) -> list[str]:
    """A contestant's rates, and ours over them."""
    amount = amounts[name] * num_data
    return [
        name,
        median(turns.rate(name, amount)),
        median(turns.rate(name, 1e-9 * flops * amount)),
        "" if name == OURS else figure(_ratio(turns, name, amounts), 2),
    ]

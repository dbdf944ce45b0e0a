"""Annealed importance sampling (AIS): chains that move from the guide or the prior to p(x, z) in many steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Generator, Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.checkpoint import with_prefix
from ppl_vae.errors import check_seed
from ppl_vae.evidence.annealing.kernels import Chains, Transition
from ppl_vae.evidence.annealing.path import AnnealingPath, Point
from ppl_vae.evidence.annealing.pilot import PILOT_CHAINS, PilotRun, Tuning, tune
from ppl_vae.evidence.annealing.schedules import Linear, Schedule
from ppl_vae.evidence.annealing.settings import Settings
from ppl_vae.evidence.annealing.work_variance import Increments
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.diagnostics import RunDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import Block, State, evidence_of, prepare, run_blocks
from ppl_vae.evidence.running.options import ALL_BUT_CHUNKS, RunOptions, takes_run_options
from ppl_vae.evidence.running.prior_check import DRAWS, FEW, with_prior_check
from ppl_vae.evidence.running.simulation_check import SharedSimulation, with_simulation_check_of_chains
from ppl_vae.program import Data, Program, device_of


@takes_run_options(*ALL_BUT_CHUNKS)
def annealed(
    program: Program,
    x: Data,
    num_chains: int = 16,
    num_steps: int = 1000,
    *,
    start: str = "guide",
    schedule: Schedule | str | Tensor = "pilot",
    transition: Transition | None = None,
    prior_draws: int = DRAWS,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum by annealed importance sampling.

    Each chain starts at a draw z_0 of f_0, which is q(z|x) or p(z). It moves through the densities f_b with
    log f_b = (1 - b) log f_0 + b log p(x, z), for 0 = b_0 < ... < b_T = 1. Its weight is

        log w = sum_{t=0}^{T-1} (b_{t+1} - b_t) (log p(x, z_t) - log f_0(z_t)),

    where z_t is the chain after a move that leaves f_{b_t} invariant. The mean of w over chains is unbiased for p(x)
    for any such moves, so its logarithm is a lower bound of log p(x) in expectation. It exceeds log p(x) by c nats
    with probability at most exp(-c). With one step this is importance sampling. The bias decreases with the number of
    steps, about as 1 / T when steps are small.

    Step sizes (and the schedule "pilot") are tuned for each datum on pilot chains with their own random numbers. They
    are then frozen and used for new chains. Latents move in unconstrained coordinates, with the Jacobian.

    Args:
        program: a `Program` with continuous latents.
        x: the data, on the device of the program's parameters.
        num_chains: S, the number of chains for each datum; their spread gives the standard error.
        num_steps: T, the number of temperatures.
        start: where chains start: "guide" or "prior".
        schedule: the temperatures: "pilot" (for each datum, from a pilot run), "sigmoid" or "linear". The pilot
            run gives all increments the same spread, and its schedule is then frozen; "sigmoid" is that of Wu et al.
            (2017). The names stand for `Pilot`, `Sigmoid` and `Linear`. Other values: any `Schedule`, such as
            ``Sigmoid(delta=2.0)`` or your own, or ``(T + 1,)`` numbers that increase from 0 to 1.
        transition: a `Transition`; default: `HMC()`. Use `RandomWalk()` for a model without gradients, or your own.
        prior_draws: the largest number of draws of the prior that search for a mode which no chain has found. Data
            for which they find one are rejected (see `ppl_vae.evidence.running.prior_check`). At most 2,048 draws,
            or as many as the passes of the chains if these are more. In many dimensions draws of the prior find
            nothing, and agreement of the chains does not prove that they have visited all modes.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``bound="lower"`` and ``basis="runs"``: for each datum in nats, ``(N,)`` float64. The ELBO is
        estimated from the chains' first draws; it is NaN with ``start="prior"``. The curve has the bounds of
        K = 1, 2, 4, ... chains.

    Raises:
        InputError: if an argument or the data do not fit, or ``checkpoint`` belongs to another run.
        ProgramError: if log p(x) is not defined for each datum, or a latent is discrete; names the site.
        NonFiniteError: if a log weight is NaN; names the datum.

    Sources: Neal, "Annealed importance sampling" (2001); Wu, Burda, Salakhutdinov and Grosse, "On the quantitative
    analysis of decoder-based generative models" (2017).
    """
    program, x, sites = prepare(program, x)
    settings = Settings.of(num_chains, num_steps, start, schedule, transition, prior_draws)
    check_seed(seed)
    plan = settings.plan("annealed importance sampling", x, sites)
    shared = SharedSimulation(program, x, seed, num_chains, plan.block_size)
    figures = run_blocks(
        program,
        x,
        plan,
        lambda block: Annealing(program, block, settings, seed, shared),
        seed=seed,
        **run,
    )
    return evidence_of(
        figures, RunDiagnostics, method="annealed", bound="lower", seed=seed, details=settings.words()
    )


class Annealing:
    """The chains of one block, forwards from f_0 or backwards from samples of the posterior.

    Args:
        program: the program.
        block: the data.
        settings: the settings of the chains.
        seed: the user's seed.
        shared: the simulation check of the run; None without one.
        posterior: ``(S or 1, N, D)`` samples of the posterior in unconstrained coordinates. With them the chains run
            backwards from these samples, and the result is an upper bound.
        thinning: number of moves, which leave the posterior invariant, between a posterior sample and the start of a
            chain. They separate chains that start from the same sample; their distribution stays the posterior.
    """

    def __init__(
        self,
        program: Program,
        block: Block,
        settings: Settings,
        seed: int,
        shared: SharedSimulation | None = None,
        posterior: Tensor | None = None,
        thinning: int = 0,
    ) -> None:
        self.program, self.block, self.settings, self.seed = program, block, settings, seed
        self.shared, self.posterior, self.thinning = shared, posterior, thinning
        self.device = device_of(block.x)
        self.path = AnnealingPath(program, block.x, settings.start)
        self.reverse = posterior is not None
        self.done = 0
        self.tuning: Tuning | None = None
        self.chains: Chains | None = None
        self.log_weight = torch.zeros(0)
        self.first = torch.zeros(0)
        self.increments = Increments(settings.num_steps)

    def advance(self) -> int:
        """Run the pilot and add the first increment, or make one move and add the next increment."""
        T = self.settings.num_steps
        if self.done == T:
            return 0
        if self.chains is None or self.tuning is None:
            self.tuning = self.pilot(self.settings.num_steps).tuning
            self.chains = self._start(self.tuning)
            ratio = self.chains.point.log_ratio()
            self.first = ratio
            at = T - 1 if self.reverse else 0
            increment = self._increment(at) * ratio
            self.log_weight = increment
        else:
            # Forwards: a move at b_t, then the increment from b_t to b_{t+1}. Backwards: the same pairs, from the
            # last to the first, where each move comes before its increment.
            t = T - self.done if self.reverse else self.done
            beta = self.tuning.beta[t]
            self.chains, _ = self.settings.transition.move(
                self.chains,
                self.path,
                beta,
                self.tuning.step(beta),
                self._stream("move", t),
                reverse=self.reverse,
            )
            at = t - 1 if self.reverse else t
            increment = self._increment(at) * self.chains.point.log_ratio()
            self.log_weight = self.log_weight + increment
        self._note(increment)
        self.done += 1
        return 1

    def state(self) -> State:
        """See `Work.state`."""
        if self.chains is None or self.tuning is None:
            return {}
        state = {f"tuning/{name}": value for name, value in self.tuning.tensors().items()}
        state |= {
            **{name: v for name, v in self.chains.point._asdict().items() if v is not None},
            "log_weight": self.log_weight,
            "first": self.first,
            "done": torch.tensor(self.done),
        }
        if self.chains.momentum is not None:
            state["momentum"] = self.chains.momentum
        return state | self.increments.state()

    def restore(self, state: State) -> int:
        """See `Work.restore`. Densities are not computed again, since matrix products may be rounded differently."""
        self.tuning = Tuning.from_tensors(with_prefix("tuning/", state), self.device)
        there = {name: value.to(self.device) for name, value in state.items() if "/" not in name}
        point = Point(**{name: there[name] for name in Point._fields if name in there})
        self.chains = Chains(point, there.get("momentum"))
        self.log_weight, self.first, self.done = there["log_weight"], there["first"], int(there["done"])
        self.increments.restore(with_prefix("increments/", state), self.device)
        return self.done

    def figures(self) -> Figures:
        """The figures of the weights; for an upper bound, those of the inverse weights with the sign changed."""
        S, n = self.log_weight.shape
        sums = Accumulator(n, S, self.device)
        sums.add(-self.log_weight if self.reverse else self.log_weight)
        figures = sums.finish(offset=self.block.offset)
        if self.reverse:
            figures = figures.replace(
                log_evidence=-figures.log_evidence,
                curve_bound=-figures.curve_bound,
            )
        return self._completed(figures)

    def _completed(self, figures: Figures) -> Figures:
        """Figures of weights, completed by the guide's ELBO, the cost of the chains, and the results of the checks."""
        n = self.block.num_data
        elbo, elbo_stderr = self._elbo()
        densities, gradients = self.cost()
        figures = figures.replace(
            elbo=elbo,
            elbo_stderr=elbo_stderr,
            expected_ess=figures.draws * self._expected_share().cpu(),
            density_evals=torch.full((n,), float(densities), dtype=torch.float64),
            gradient_evals=torch.full((n,), float(gradients), dtype=torch.float64),
        )
        # The check must not cost more than the estimate that it checks.
        most = 0 if self.reverse else min(self.settings.prior_draws, max(FEW, densities + 2 * gradients))
        figures = with_prior_check(figures, self.program, self.block, self.seed, most)
        if self.reverse or self.shared is None:
            return figures
        return with_simulation_check_of_chains(figures, self, self.shared)

    @property
    def differentiable(self) -> bool:
        """Whether the chains use gradients."""
        return self.settings.transition.needs_gradient

    @property
    def num_chains(self) -> int:
        """Chains of each datum."""
        return self.settings.num_chains

    def ends(self) -> Tensor:
        """See `simulation_check.Chains`."""
        while self.advance():
            pass
        if self.chains is None:
            raise AssertionError("chains of no step")
        return self.chains.point.log_ratio()

    def pilot_ends(self, num_steps: int) -> Iterator[tuple[Tensor, int, int]]:
        """See `simulation_check.Chains`."""
        tuning, chains = self.pilot(num_steps)
        densities, gradients, transition = tuning.densities, tuning.gradients, self.settings.transition
        one = torch.ones_like(tuning.beta[-1])
        for index in count():
            yield chains.point.log_ratio(), densities, gradients
            generator = self._generator("annealed pilot, longer", 1000, index)
            chains, _ = transition.move(chains, self.path, one, tuning.step(one), generator)
            densities += PILOT_CHAINS * transition.densities
            gradients += PILOT_CHAINS * transition.gradients

    def again(self, block: Block) -> Annealing:
        """The same chains for other data, with their own random numbers."""
        return Annealing(self.program, block, self.settings, rng.derive(self.seed, "rehearsal chains"))

    def _note(self, increment: Tensor) -> None:
        """Update the expected spread of the runs by an increment."""
        self.increments.add(increment)

    def _expected_share(self) -> Tensor:
        return self.increments.expected_share()

    def _elbo(self) -> tuple[Tensor, Tensor]:
        """The guide's ELBO and its error, ``(N,)``, from the first draws of the chains; NaN if not from the guide."""
        S, n = self.first.shape
        nothing = torch.full((n,), torch.nan, dtype=torch.float64)
        if self.settings.start != "guide" or self.reverse:
            return nothing, nothing
        return self.first.mean(0).cpu(), (self.first.std(0) / S**0.5).cpu() if S > 1 else nothing

    def cost(self) -> tuple[int, int]:
        """Evaluations of log p(x, z), and of its gradient, for the chains of a datum and their pilot."""
        num_chains = self.settings.num_chains
        if self.tuning is None:
            raise AssertionError("figures were asked for before any work was done")
        transition = self.settings.transition
        moves = self.settings.num_steps - 1 + (self.thinning if self.reverse else 0)
        densities = num_chains * moves * transition.densities
        gradients = num_chains * moves * transition.gradients
        if transition.needs_gradient:
            gradients += num_chains
        else:
            densities += num_chains
        return densities + self.tuning.densities, gradients + self.tuning.gradients

    def _increment(self, t: int) -> Tensor:
        if self.tuning is None:
            raise AssertionError("chains were weighted before the pilot")
        return self.tuning.beta[t + 1] - self.tuning.beta[t]

    def pilot(self, num_steps: int) -> PilotRun:
        """Run the pilot with ``num_steps`` steps; its random numbers are the same in each call."""
        settings = self.settings
        # Of a shorter pilot only the chains are used, and a schedule of T steps does not fit it.
        schedule = settings.schedule if num_steps == settings.num_steps else Linear()
        return tune(
            self.path,
            settings.transition,
            schedule,
            num_steps,
            lambda index: self._generator("annealed pilot", 1000, index),
            lambda index: rng.reseed(
                self.device, self.seed, "annealed pilot draws", self.block.index * 2 + index
            ),
        )

    def _start(self, tuning: Tuning) -> Chains:
        settings = self.settings
        transition = settings.transition
        if self.posterior is None:
            rng.reseed(self.device, self.seed, "annealed start", self.block.index)
            u = self.path.draw(settings.num_chains)
        else:
            u = self.posterior.expand(settings.num_chains, -1, -1)
        point = self.path.at(u, gradient=transition.needs_gradient)
        chains = transition.start(point, self._stream("move", 0))
        one = torch.ones_like(tuning.beta[-1])
        for index in range(self.thinning if self.reverse else 0):
            generator = self._generator("annealed thinning", self.thinning, index)
            chains, _ = transition.move(chains, self.path, one, tuning.step(one), generator)
        return chains

    def _stream(self, what: str, index: int) -> Generator:
        side = "reverse " if self.reverse else ""
        return self._generator(f"annealed {side}{what}", self.settings.num_steps, index)

    def _generator(self, purpose: str, length: int, index: int) -> Generator:
        return rng.generator(self.seed, purpose, self.block.index * length + index, self.device)

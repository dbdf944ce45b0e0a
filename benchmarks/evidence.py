"""Evidence: importance weights a second through the decoder, against the machine's matrix products alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from benchmarks import handwritten, machine, ours, profile, pyro_recipe, workloads
from benchmarks.setting import (
    CEILING,
    COMPILED,
    EAGER,
    JAX,
    ONEDNN,
    OURS,
    PLAIN,
    PYRO,
    Section,
    Setting,
    Target,
    figure,
    gate,
    median,
    table,
)
from benchmarks.timing import Job, Turns, attempt, fastest, interleaved
from benchmarks.workloads import TWO_LAYER

PEERS = (PYRO, EAGER, COMPILED, JAX)
EXACT = 2e-5  # float32 at given noise
ERRORS = 8.0  # standard errors that two estimates of one log p(x) may lie apart: heavy tails understate them

INTRO = """Importance weights of {data} data, S = {samples:,} each, through {architecture} ({flops:,.0f} operations of
matrix products a weight): from the data to log p(x) of each datum, random draws and the encoder included, on a VAE that
was trained a little. Median of {rounds} rounds. Every peer draws in the chunks that were fastest for it. Before it is
timed, it gives the weights at the same parameters and noise (within {exact:g}), and its mean log p(x) lies within
{errors:g} standard errors of {ours}'s.

Pyro: `vectorized_importance_weights`, summed per datum from the traces that it returns. PyTorch: plain functions under
`no_grad`; compiled: the same under `torch.compile`. JAX: chunks streamed through a jitted `lax.scan`. The
ceiling is the decoder's products of all weights and nothing else, in the chunks that were fastest: by `torch.mm`, and
by oneDNN, which torch holds but does not use for them by itself."""


class Contestant(NamedTuple):
    """The log weights at given noise ``(S, N, latent)``, and an estimate: (seconds or None, log p(x))."""

    check: Callable[[torch.Tensor], torch.Tensor]
    estimate: Callable[[], tuple[float | None, torch.Tensor]]

    def seconds(self) -> float | None:
        """Those that an estimate took, if it counted them itself."""
        return self.estimate()[0]


class Problem:
    """S importance weights of some data."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.architecture = setting, TWO_LAYER
        self.num_samples, self.num_data = setting.size(5000, 100), setting.size(20, 4)
        self.chunks = setting.size((25, 50, 125, 250, 500), (50,))  # each divides S: one shape to compile
        x = workloads.binary_data(setting.size(10_000, 200) + self.num_data)
        self.x = x[-self.num_data :].contiguous()
        self.model = ours.trained(self.architecture, x[: -self.num_data], setting.size(10, 1))
        self.parameters = ours.parameters(self.model)
        self.act = self.architecture.activation

    def contestants(self) -> dict[str, Callable[[], Contestant]]:
        """How each is made; peers come with their fastest chunks."""
        makers = {OURS: lambda: self._ours(ours.COMPILED)}
        if ours.compiles("importance"):
            makers[PLAIN] = lambda: self._ours(ours.PLAIN)
        peers = {
            PYRO: self._pyro,
            EAGER: lambda chunk: self._torch(chunk, compiled=False),
            COMPILED: lambda chunk: self._torch(chunk, compiled=True),
            JAX: self._jax,
        }
        return makers | {name: partial(self._tuned, make) for name, make in peers.items()}

    def _tuned(self, make: Callable[[int], Contestant]) -> Contestant:
        made = {chunk: make(chunk) for chunk in self.chunks}
        return made[fastest({chunk: contestant.seconds for chunk, contestant in made.items()})]

    def _ours(self, how: ours.Compile) -> Contestant:
        return Contestant(
            lambda eps: ours.log_weights(self.model, self.x, eps),
            lambda: (None, ours.importance(self.model, self.x, self.num_samples, how)[0]),
        )

    def _pyro(self, chunk: int) -> Contestant:
        made = pyro_recipe.RecipeEvidence(self.parameters, self.act, self.x, self.num_samples, chunk)
        return Contestant(
            lambda eps: torch.stack([made.vae.log_weight(self.x, e) for e in eps]),
            lambda: (None, made.estimate()),
        )

    def _torch(self, chunk: int, *, compiled: bool) -> Contestant:
        made = handwritten.Evidence(
            self.parameters, self.act, self.x, self.num_samples, chunk, compiled=compiled
        )
        return Contestant(made.check, lambda: (None, made.estimate()))

    def _jax(self, chunk: int) -> Contestant:
        jax = self.setting.jax

        def check(eps: torch.Tensor) -> torch.Tensor:
            jax.send("evidence", self.parameters.named() | {"x": self.x, "check_eps": eps})
            return torch.tensor(jax.ask("evidence_check", name="evidence", activation=self.act)["value"])

        def estimate() -> tuple[float, torch.Tensor]:
            answer = jax.ask(
                "evidence", name="evidence", activation=self.act, num_samples=self.num_samples, chunk=chunk
            )
            return answer["seconds"], torch.tensor(answer["value"])

        check(self.noise()[:1])  # sends what estimates need
        return Contestant(check, estimate)

    def noise(self) -> torch.Tensor:
        """Noise for the check: whole chunks of any size."""
        return workloads.noise(self.setting.size(500, 50), self.num_data, self.architecture.latent)

    def reference(self, eps: torch.Tensor) -> torch.Tensor:
        """The log weights in float64."""
        exact = self.parameters.double()
        peer = handwritten.Evidence(exact, self.act, self.x.double(), len(eps), len(eps), compiled=False)
        return peer.check(eps.double())

    def measure(self) -> Turns:
        """Check, then time."""
        missing: dict[str, str] = {}
        made: dict[str, Contestant] = {}
        means: dict[str, torch.Tensor] = {}
        eps = self.noise()
        reference = self.reference(eps)
        for name, make in self.contestants().items():
            contestant = attempt(missing, name, make)
            weights = None if contestant is None else attempt(missing, name, partial(contestant.check, eps))
            if contestant is None or weights is None:
                continue
            made[name] = contestant
            gate({name: weights}, reference, missing, EXACT)
            estimate = attempt(missing, name, contestant.estimate)
            if estimate is not None:
                means[name] = estimate[1].mean()
        value, stderr = ours.importance(self.model, self.x, self.num_samples, ours.PLAIN)
        within(means, value, stderr, missing)
        jobs: dict[str, Job] = {
            name: contestant.seconds for name, contestant in made.items() if name not in missing
        }
        for name, products in ((CEILING, machine.products), (ONEDNN, machine.onednn_products)):
            ceiling = attempt(missing, name, partial(self.ceiling, products))
            if ceiling is not None:
                jobs[name] = ceiling
        return interleaved(jobs, self.setting.rounds, missing)

    def ceiling(self, products: Callable[[list[tuple[int, int, int]], int], Job]) -> Job:
        """The decoder's products of all weights, in the fastest chunks."""

        def of(chunk: int) -> Job:
            return products(
                self.architecture.decoder_products(chunk * self.num_data), self.num_samples // chunk
            )

        return of(fastest({chunk: of(chunk) for chunk in self.chunks}))


def within(
    means: dict[str, torch.Tensor], value: torch.Tensor, stderr: torch.Tensor, missing: dict[str, str]
) -> None:
    """Put out whoever's mean log p(x) is further from ours than chance explains (two independent errors)."""
    limit = ERRORS * 2**0.5 * float(stderr.square().sum().sqrt()) / len(value)
    for name, mean in means.items():
        off = abs(float(mean) - float(value.mean()))
        if not off <= limit:
            missing[name] = f"disagrees: mean log p(x) off by {off:.3g} nats, {limit:.3g} allowed; not timed"


def run(setting: Setting) -> Section:
    """Measure."""
    problem = Problem(setting)
    weights = problem.num_samples * problem.num_data
    flops = problem.architecture.decoder_flops
    decoder = "-".join(str(n) for n, _ in problem.architecture.decoder) + f"-{problem.architecture.data}"
    section = Section(
        "Evidence",
        INTRO.format(
            data=problem.num_data, samples=problem.num_samples, architecture=f"{decoder} {problem.act}", flops=flops,
            rounds=setting.rounds, exact=EXACT, errors=ERRORS, ours=OURS,
        ),
    )  # fmt: skip
    turns = problem.measure()
    section.add("importance", turns)
    section.data["importance"] |= {"weights": weights, "flops": flops * weights}
    names = [OURS, *([PLAIN] if ours.compiles("importance") else []), *PEERS, CEILING, ONEDNN]
    rows = [
        [
            name,
            median(turns.rate(name, weights)),
            median(turns.rate(name, 1e-9 * flops * weights)),
            figure(turns.ratio(name, CEILING), 2),
            figure(turns.ratio(name, ONEDNN), 2),
            "" if name == OURS else figure(turns.ratio(OURS, name), 2),
        ]
        for name in names
    ]
    section.parts.append(
        table(["", "weights/s", "GFLOP/s", f"of {CEILING}", f"of {ONEDNN}", f"{OURS} over it"], rows)
    )
    section.targets += [
        Target(f"of the ceiling of matrix products, {CEILING}", turns.ratio(OURS, CEILING), 0.8),
        Target(f"of the ceiling of matrix products, {ONEDNN}", turns.ratio(OURS, ONEDNN), 0.8),
        Target("over JAX", turns.ratio(OURS, JAX), 1.3),
        Target("over Pyro", turns.ratio(OURS, PYRO), 3.0),
    ]
    if any(target.met is False for target in section.targets):
        told = profile.words(
            lambda: ours.importance(problem.model, problem.x, problem.num_samples, ours.COMPILED)
        )
        section.notes.append(f"Profile of {OURS}: {told}.")
    return section

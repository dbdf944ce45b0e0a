"""Training: examples a second of steady epochs, the ratios, and the floor that the machine sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from benchmarks import handwritten, machine, ours, profile, pyro_recipe, workloads
from benchmarks.setting import (
    CEILING,
    COMPILED,
    EAGER,
    ONEDNN,
    OURS,
    PLAIN,
    PYRO,
    TRAFFIC,
    Section,
    Setting,
    Target,
    figure,
    gate,
    median,
    table,
)
from benchmarks.timing import Job, Turns, attempt, interleaved
from benchmarks.workloads import ONE_LAYER, TWO_LAYER, Architecture

NUMPYRO = "NumPyro"
PEERS = (PYRO, EAGER, COMPILED, NUMPYRO)
CELLS = [
    (ONE_LAYER, 20, 1),
    (ONE_LAYER, 100, 1),
    (ONE_LAYER, 256, 1),
    (ONE_LAYER, 1024, 1),
    (TWO_LAYER, 20, 1),
    (TWO_LAYER, 100, 1),
    (TWO_LAYER, 20, 50),
]
"""Architecture, batch size, particles: with more than one, the importance-weighted bound."""
WANTED = {NUMPYRO: 1.0, EAGER: 1.2}  # at every batch size
WANTED_OF_PYRO = {20: 3.5, 256: 1.6}
BEST, CUBE = "large squares", (1024, 1024, 1024)
EXACT, SAME_ELBO = 2e-5, 0.01  # float32 at given noise; mean ELBO of the first epoch, whose shuffles differ

INTRO = """Single-sample ELBO, log p(x, z) - log q(z|x) as it was drawn, and Adam, on binary data that lie in memory,
shuffled every epoch; "IWAE-50": the importance-weighted bound of 50 particles (Burda et al. 2016), in Pyro and NumPyro
`RenyiELBO` at alpha = 0, all particles in one pass. Examples a second, median of {rounds} rounds of {epochs};
checks, compilation and the first epoch are not counted (see Start-up). Before it is timed, every contestant gives the
bound of one batch at the same parameters and noise, and the mean bound of a first epoch; one that is off by more than
{exact:g} of its size, or {elbo:.0%}, is not timed.

Pyro: `pyro.optim.Adam`, `SVI`, `Trace_ELBO`, default validation. PyTorch: plain functions and one fused Adam; compiled:
the same loss under `torch.compile`. NumPyro: `SVI.update` and its own Adam (faster than optax's), an epoch in one
jitted `lax.scan`."""

FLOOR = """The floor of a step: the operations of its matrix products at the best rate that torch reaches (GFLOP/s, of
`torch.mm` and oneDNN at the step's own sizes, and for large squares), and what Adam reads and writes (7 floats a
parameter) at the rate of a + 2 b over as many floats (GB/s). Times in ms; "by torch.mm": with its rate instead of the
best. All rates are from the same rounds."""
FLOORS = (
    "a step", "products", CEILING, ONEDNN, BEST, "Adam moves", "at", "floor", "by torch.mm", OURS, "times the floor",
)  # fmt: skip


class Contestant(NamedTuple):
    """What takes part in training: its ELBO at given noise, and epochs -> (seconds, ELBO)."""

    check: Callable[[], torch.Tensor]
    epochs: Callable[[int], tuple[float, float]]

    def seconds(self, epochs: int) -> float:
        """Those that the epochs took."""
        return self.epochs(epochs)[0]


class Cell:
    """One architecture at one batch size, with so many particles a datum."""

    def __init__(self, setting: Setting, architecture: Architecture, batch_size: int, particles: int) -> None:
        self.setting, self.architecture, self.batch_size = setting, architecture, batch_size
        self.particles = particles
        # Whole batches: what compiles for one shape need not drop any data.
        data = setting.size(10_000 if particles == 1 else 2_000, 200)
        self.num_data = batch_size * max(data // batch_size, setting.size(8, 2))
        self.epochs = setting.size({20: 1, 100: 2}.get(batch_size, 3), 1)
        self.steps = self.epochs * self.num_data // batch_size
        self.squares = setting.size(20, 1)
        self.x = workloads.binary_data(self.num_data)
        self.start = ours.parameters(ours.vae(architecture, self.x))
        shape = (
            (batch_size, architecture.latent)
            if particles == 1
            else (particles, batch_size, architecture.latent)
        )
        self.check_x, self.check_eps = self.x[:batch_size], workloads.noise(*shape)

    def __str__(self) -> str:
        bound = "" if self.particles == 1 else f", IWAE-{self.particles}"
        return f"{self.architecture}, batch {self.batch_size}{bound}"

    def contestants(self) -> dict[str, Callable[[], Contestant]]:
        makers = {OURS: lambda: self._ours(ours.COMPILED)}
        if ours.compiles("fit"):
            makers[PLAIN] = lambda: self._ours(ours.PLAIN)
        return makers | {
            PYRO: self._pyro,
            EAGER: lambda: self._torch(compiled=False),
            COMPILED: lambda: self._torch(compiled=True),
            NUMPYRO: self._numpyro,
        }

    @property
    def moved(self) -> int:
        """Bytes that Adam reads and writes in a step."""
        return 4 * machine.ADAM_FLOATS * self.architecture.num_parameters

    def reference(self) -> torch.Tensor:
        """The bound of the batch in float64."""
        act = handwritten.ACTIVATIONS[self.architecture.activation]
        x, eps = self.check_x.double(), self.check_eps.double()
        loss = handwritten.negative_elbo if self.particles == 1 else handwritten.negative_bound
        return -loss(self.start.double(), act, x, eps).reshape(1)

    def _bound(self, log_weights: torch.Tensor) -> torch.Tensor:
        """That of log weights ``(K, N)``, ``(1,)``."""
        return (log_weights.logsumexp(0) - math.log(len(log_weights))).sum().reshape(1)

    def _ours(self, how: ours.Compile) -> Contestant:
        model = ours.vae(self.architecture, self.x)
        objective = None if self.particles == 1 else pyro_recipe.renyi(self.particles)
        eps = self.check_eps.reshape(self.particles, self.batch_size, -1)
        first = True

        def epochs(number: int) -> tuple[float, float]:
            # The very first epoch is compared with the others', and counts for nothing else.
            nonlocal first
            skip, first = 0 if first else 1, False
            return ours.fit(model, self.x, self.batch_size, number, how, skip=skip, objective=objective)

        return Contestant(lambda: self._bound(ours.log_weights(model, self.check_x, eps)), epochs)

    def _pyro(self) -> Contestant:
        activation = self.architecture.activation
        vae = pyro_recipe.RecipeVAE(self.start, activation)
        eps = self.check_eps.reshape(self.particles, self.batch_size, -1)
        value = self._bound(torch.stack([vae.log_weight(self.check_x, e) for e in eps]))
        recipe = pyro_recipe.Recipe(self.start, activation, self.x, self.batch_size, self.particles)
        return Contestant(lambda: value, recipe.epochs)

    def _torch(self, *, compiled: bool) -> Contestant:
        made = handwritten.Training(
            self.start, self.architecture.activation, self.x, self.batch_size, compiled=compiled,
            particles=self.particles,
        )  # fmt: skip
        return Contestant(lambda: made.check(self.check_x, self.check_eps), made.epochs)

    def _numpyro(self) -> Contestant:
        jax = self.setting.jax
        arrays = {"x": self.x, "check_x": self.check_x, "check_eps": self.check_eps}
        jax.send("training", self.start.named() | arrays)
        run = jax.ask(
            "training_start", name="training", activation=self.architecture.activation,
            batch_size=self.batch_size, seed=0, particles=self.particles,
        )["run"]  # fmt: skip

        def epochs(epochs: int) -> tuple[float, float]:
            answer = jax.ask("training_epochs", run=run, epochs=epochs)
            return answer["seconds"], answer["elbo"]

        return Contestant(lambda: torch.tensor(jax.ask("training_check", run=run)["value"]), epochs)

    def profile(self) -> str:
        """Where the time of an epoch of ours goes."""
        contestant = self._ours(ours.COMPILED)
        contestant.epochs(1)
        return profile.words(lambda: contestant.epochs(1))

    def measure(self) -> Turns:
        """Check, then time."""
        missing: dict[str, str] = {}
        made: dict[str, Contestant] = {}
        for name, make in self.contestants().items():
            contestant = attempt(missing, name, make)
            value = None if contestant is None else attempt(missing, name, contestant.check)
            if contestant is not None and value is not None:
                made[name] = contestant
                gate({name: value}, self.reference(), missing, EXACT)
        same_elbo(made, missing)
        jobs: dict[str, Job] = {
            name: partial(contestant.seconds, self.epochs)
            for name, contestant in made.items()
            if name not in missing
        }
        shapes = self.architecture.step_products(self.batch_size, self.particles)
        jobs[CEILING] = machine.products(shapes, self.steps)
        jobs[ONEDNN] = machine.onednn_products(shapes, self.steps)
        large = machine.onednn_products if machine.has_onednn() else machine.products
        jobs[BEST] = large([CUBE] * self.squares)
        jobs[TRAFFIC] = machine.triad(self.architecture.num_parameters, self.steps)
        return interleaved(jobs, self.setting.rounds, missing)


def same_elbo(made: dict[str, Contestant], missing: dict[str, str]) -> None:
    """Train everyone for a first epoch from the same start; put out whoever's ELBO is not the others'."""
    first = {name: attempt(missing, name, partial(contestant.epochs, 1)) for name, contestant in made.items()}
    elbos = {name: result[1] for name, result in first.items() if result is not None}
    if elbos:
        values = {name: torch.tensor([elbo]) for name, elbo in elbos.items()}
        gate(values, torch.tensor([statistics.median(elbos.values())]), missing, SAME_ELBO)


def run(setting: Setting) -> Section:
    """Measure all cells."""
    epochs = setting.size("one to three epochs of 10,000 data", "an epoch")
    intro = INTRO.format(rounds=setting.rounds, epochs=epochs, exact=EXACT, elbo=SAME_ELBO)
    section = Section("Training", intro)
    rates, ratios, floors = [], [], []
    names = [OURS, *([PLAIN] if ours.compiles("fit") else []), *PEERS]
    notes: list[str] = []
    for sizes in setting.size(CELLS, [CELLS[0], CELLS[-2], CELLS[-1]]):
        cell = Cell(setting, *sizes)
        turns = cell.measure()
        label = str(cell)
        print(label, {name: median(turns.time(name), 3) for name in turns.seconds}, flush=True)
        section.add(label, turns)
        rates.append([label, *(median(turns.rate(name, cell.epochs * cell.num_data)) for name in names)])
        ratios.append([label, *(figure(turns.ratio(OURS, peer), 2) for peer in PEERS)])
        floors.append(floor_row(label, cell, turns, section))
        targets = cell_targets(cell, turns)
        section.targets += targets
        if any(target.met is False for target in targets):
            notes.append(f"Profile of {OURS}, {label}: {cell.profile()}.")
            notes.append(f"What bounds it: {bounds(cell, turns)}.")
    section.parts += [
        table(["examples a second", *names], rates),
        table([f"{OURS} over", *PEERS], ratios),
        FLOOR,
        table(FLOORS, floors),
    ]
    section.notes += notes
    return section


def cell_targets(cell: Cell, turns: Turns) -> list[Target]:
    """What is asked of a cell."""
    wanted = dict(WANTED)
    if cell.architecture == ONE_LAYER and cell.batch_size in WANTED_OF_PYRO:
        wanted[PYRO] = WANTED_OF_PYRO[cell.batch_size]
    return [Target(f"{cell}, over {peer}", turns.ratio(OURS, peer), bound) for peer, bound in wanted.items()]


def bounds(cell: Cell, turns: Turns) -> str:
    """A step's products and Adam's traffic by torch's own kernels and nothing else, beside whole steps; in words."""

    def ms(name: str, amount: float = 1.0) -> float:
        return 1e3 * amount * statistics.median(turns.seconds[name]) / cell.steps

    products = min(ms(name) for name in (CEILING, ONEDNN) if name in turns.seconds)
    traffic = ms(TRAFFIC, cell.moved / machine.triad_bytes(cell.architecture.num_parameters))
    steps = ", ".join(f"{name} {ms(name):.2f}" for name in (OURS, NUMPYRO) if name in turns.seconds)
    return (
        f"the products of a step alone, by the faster of torch.mm and oneDNN, take {products:.2f} ms, and what Adam "
        f"moves {traffic:.2f}; a whole step: {steps}"
    )


def floor_row(label: str, cell: Cell, turns: Turns, section: Section) -> list[str]:
    """A step's operations and bytes, how fast the machine does such, and how far from it we are."""
    flops = workloads.flops(cell.architecture.step_products(cell.batch_size, cell.particles))
    moved = cell.moved
    traffic = turns.rate(TRAFFIC, machine.triad_bytes(cell.architecture.num_parameters, cell.steps))
    rates = {
        CEILING: turns.rate(CEILING, flops * cell.steps),
        ONEDNN: turns.rate(ONEDNN, flops * cell.steps),
        BEST: turns.rate(BEST, workloads.flops([CUBE] * cell.squares)),
    }
    known = {name: rate.median for name, rate in rates.items() if rate is not None}
    if traffic is None or CEILING not in known:
        return [label, *["n/a"] * (len(FLOORS) - 1)]
    floor, by_mm = (flops / rate + moved / traffic.median for rate in (max(known.values()), known[CEILING]))
    step = None if OURS not in turns.seconds else statistics.median(turns.seconds[OURS]) / cell.steps
    section.data[label] |= {
        "flops": flops,
        "bytes": moved,
        "floor": floor,
        "floor by mm": by_mm,
        "step": step,
    }
    return [
        label,
        f"{flops / 1e9:.3f} GFLOP",
        *(f"{known[name] / 1e9:.0f}" if name in known else "n/a" for name in rates),
        f"{moved / 1e6:.1f} MB",
        f"{traffic.median / 1e9:.0f}",
        *("n/a" if seconds is None else f"{1e3 * seconds:.2f}" for seconds in (floor, by_mm, step)),
        "n/a" if step is None else f"{step / floor:.2f}",
    ]

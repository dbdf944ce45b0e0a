"""Precision error: what matrix products of a lower precision do to log p(x), measured against float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.compiled.precision import FULL, PRECISIONS, computing, has_tf32
from ppl_vae.errors import check_one_of, check_positive_int, check_seed
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.pareto import khat_threshold
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, ResumeOptions, takes_run_options
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Program, device_of, num_data
from ppl_vae.program.matmul_precision import BY_HAND, InFloat64

SMALL = 0.1
"""The share of the Monte Carlo error that an error of products has to stay below, for it not to matter."""


@dataclass(frozen=True, eq=False, repr=False)
class PrecisionError:
    """Errors of estimates of log p(x) that are due to the precision of matrix products, for N data, in nats.

    Attributes:
        error: ``(N,)`` the estimate with lowered products less that with everything in float64, from the same draws.
        full_error: ``(N,)`` the same for the program as it is: its round-off.
        stderr: ``(N,)`` Monte Carlo standard errors of the estimate.
        khat: ``(N,)`` Pareto tail indices of the weights: where they are high, ``stderr`` is too small if anything.
        precision: of the lowered products.
        num_samples: S.
        seed: of the draws.
        by_hand: whether factors were rounded by hand, as the device has no such products.
    """

    error: Tensor
    full_error: Tensor
    stderr: Tensor
    khat: Tensor
    precision: str
    num_samples: int
    seed: int
    by_hand: bool = False

    def __len__(self) -> int:
        return len(self.error)

    @property
    def share(self) -> float:
        """The error of a datum over its Monte Carlo error, root mean squares over the data of both."""
        return rms(self.error) / rms(self.stderr)

    @property
    def share_of_mean(self) -> float:
        """The error of the mean over these data, over its Monte Carlo error.

        Errors that all data have in common do not average out, as those of the draws do: it grows as sqrt(N) with the
        number of data, and falls for no S.
        """
        return abs(float(self.error.mean())) / (rms(self.stderr) / math.sqrt(len(self)))

    @property
    def small(self) -> bool:
        """Whether both shares are below a tenth: for this S or less, and so many data or fewer."""
        return self.share < SMALL and self.share_of_mean < SMALL

    def __str__(self) -> str:
        hand = ", rounded by hand" if self.by_hand else ""
        names = ("mean", "root mean square", "largest")
        lines = [
            f"error in log p(x): N = {len(self)} data, S = {self.num_samples} samples, seed {self.seed}; nats",
            f"{'':<24}{names[0]:>12}{names[1]:>18}{names[2]:>12}",
        ]
        for name, value in ((f"{self.precision}{hand}", self.error), ("full", self.full_error)):
            figures = (float(value.mean()), rms(value), float(value.abs().max()))
            lines.append(
                f"{name:<24}{figures[0]:>12.2g}{figures[1]:>18.2g}{figures[2]:>12.2g}",
            )
        mean = rms(self.stderr) / math.sqrt(len(self))
        lines.append(
            f"{'Monte Carlo':<24}{mean:>12.2g}{rms(self.stderr):>18.2g}{float(self.stderr.max()):>12.2g}"
        )
        share = f"{self.share:.2g} a datum, {self.share_of_mean:.2g} in the mean"
        lines.append(f"{self.precision} below a tenth of the Monte Carlo error: {self.verdict} ({share})")
        lines.append(self.limits)
        return "\n".join(lines)

    @property
    def limits(self) -> str:
        """How far the verdict reaches, in words."""
        datum, mean = (value / SMALL for value in (rms(self.error), abs(float(self.error.mean()))))
        heavy = int((self.khat > khat_threshold(self.num_samples)).sum())
        return (
            f"not for Monte Carlo errors below {datum:.2g} nats a datum, {mean:.2g} in the mean, whatever gives them; "
            f"k-hat is above its threshold for {heavy} of {len(self)} data"
        )

    @property
    def verdict(self) -> str:
        """What `small` is in a word: yes or no."""
        return "yes" if self.small else "no"


def rms(values: Tensor) -> float:
    """The root mean square."""
    return float(values.square().mean().sqrt())


@takes_run_options(*KEPT)
def precision_error(
    program: Program,
    x: Data,
    num_samples: int = 5000,
    precision: str = "bfloat16",
    *,
    seed: int = 0,
    **run: Unpack[ResumeOptions],
) -> PrecisionError:
    """How far products of a lower precision take importance sampling's log p(x) off, given its draws.

    With z_s drawn from the guide as the run of that precision draws them, and q~ the density that it draws them from,

        error = log sum_s p~(x, z_s) / q~(z_s|x) - log sum_s p(x, z_s) / q~(z_s|x),

    p~ in that precision and p in float64, of the same parameters. The second is the log of an unbiased estimate of
    p(x), whatever the guide's networks were rounded to, so the error is the rounding's and holds no Monte Carlo noise
    to first order: it is the posterior mean of log p~(x, z) - log p(x, z). Its part that is common to all draws is a
    bias that more samples do not take away. What is left out is the round-off of q~ itself, a sum of a float32 number
    for each latent.

    Args:
        program: a `Program` that computes in float32; another has no products to lower.
        x: the data, where the program's parameters live.
        num_samples: S.
        precision: "bfloat16", or "tf32": where the device has no such products, factors are rounded by hand to what it
            would round them to.
        seed: the draws are a function of it.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit.
        ProgramError: if the evidence of the pair is not defined per datum; names the site.
        NonFiniteError: if a log weight is NaN; names the datum.
    """
    check_one_of("precision", precision, [word for word in PRECISIONS if word != FULL])
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    program, x, sites = prepare(program, x)
    device = device_of(x)
    tiles = Tiles.plan(num_data(x), num_samples, sites.numbers_per_datum, device)
    by_hand = precision == "tf32" and not has_tf32(device)
    lowered = BY_HAND if by_hand else precision

    def compute(block: Block) -> Rows:
        error, _ = _measure(program, block, tiles, lowered, seed)
        full_error, exact = _measure(program, block, tiles, FULL, seed)
        return {"error": error, "full_error": full_error, "stderr": exact.stderr, "khat": exact.khat}

    identity = {"num_samples": num_samples, "precision": lowered}
    plan = Plan("precision error", tiles.data, 1, identity, unit="datum")
    columns = {"error": Column(nan=True), "full_error": Column(nan=True)}
    columns |= {"stderr": Column(0, nan=True), "khat": Column(nan=True)}
    rows = run_rows(program, x, plan, compute, columns, seed=seed, run=run)
    return PrecisionError(**rows, precision=precision, num_samples=num_samples, seed=seed, by_hand=by_hand)


def _measure(
    program: Program, block: Block, tiles: Tiles, precision: str, seed: int
) -> tuple[Tensor, Figures]:
    """The errors of a precision for the data of a block ``(n,)``, and the figures of what is in float64."""
    x = block.x
    device = device_of(x)
    ours, exact = (Accumulator(block.num_data, tiles.num_samples, device) for _ in range(2))
    for tile in range(tiles.tiles):
        rng.reseed(device, seed, "precision error", block.index * tiles.tiles + tile)
        with computing(precision, device):
            z = program.sample_guide(x, tiles.size(tile), seed=None)
            log_guide = program.log_guide(z, x)
            ours.add(program.log_joint(z, x) - log_guide)
        with computing(FULL, device), InFloat64():
            log_joint = program.log_joint(z, x)
        exact.add(log_joint - log_guide)
        give_way()
    found, reference = (sums.finish(offset=block.offset) for sums in (ours, exact))
    difference = found.log_evidence - reference.log_evidence
    both = found.log_evidence == reference.log_evidence  # no density in either
    return torch.where(both, 0.0, difference), reference

"""Precision error: the error of log p(x) that matrix products of lower precision cause, compared with float64."""

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
"""An error of matrix products is small if it is below this share of the Monte Carlo error."""


@dataclass(frozen=True, eq=False, repr=False)
class PrecisionError:
    """Errors of estimates of log p(x) that the precision of matrix products causes, for N data, in nats.

    Attributes:
        error: ``(N,)`` the estimate with lower precision minus that in float64, from the same draws.
        full_error: ``(N,)`` the same for the program in its own precision: its round-off.
        stderr: ``(N,)`` Monte Carlo standard errors of the estimate.
        khat: ``(N,)`` Pareto tail indices of the weights; if they are high, ``stderr`` may be too small.
        precision: the lower precision.
        num_samples: S.
        seed: seed of the draws.
        by_hand: whether the factors were rounded in software, because the device has no such products.
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
        """The error of a datum divided by its Monte Carlo error (root mean squares over the data)."""
        return rms(self.error) / rms(self.stderr)

    @property
    def share_of_mean(self) -> float:
        """The error of the mean over these data, divided by its Monte Carlo error.

        Errors that all data have in common do not average out, but the errors of the draws do. This share therefore
        grows as sqrt(N) with the number of data, and no S makes it smaller.
        """
        return abs(float(self.error.mean())) / (rms(self.stderr) / math.sqrt(len(self)))

    @property
    def small(self) -> bool:
        """Whether both shares are below a tenth: for at most this S and at most this number of data."""
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
        """The limits of the verdict, in words."""
        datum, mean = (value / SMALL for value in (rms(self.error), abs(float(self.error.mean()))))
        heavy = int((self.khat > khat_threshold(self.num_samples)).sum())
        return (
            f"this needs Monte Carlo errors of at least {datum:.2g} nats a datum and {mean:.2g} nats in the mean; "
            f"k-hat is above its threshold for {heavy} of {len(self)} data"
        )

    @property
    def verdict(self) -> str:
        """`small` as a word: "yes" or "no"."""
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
    """The error of importance sampling's log p(x) that products of a lower precision cause, given the draws.

    With z_s drawn from the guide in the lower precision, and q~ the density of these draws,

        error = log sum_s p~(x, z_s) / q~(z_s|x) - log sum_s p(x, z_s) / q~(z_s|x),

    where p~ is computed in the lower precision and p in float64, from the same parameters. The second term is the log
    of an unbiased estimate of p(x), although the guide's networks were rounded. The error is therefore due to rounding
    only, and has no Monte Carlo noise to first order: it is the posterior mean of log p~(x, z) - log p(x, z). The part
    that all draws have in common is a bias that more samples do not reduce. The round-off of q~ itself, a sum of one
    float32 number for each latent, is not included.

    Args:
        program: a `Program` that computes in float32; the precision option does not affect others.
        x: the data, on the device of the program's parameters.
        num_samples: S.
        precision: "bfloat16" or "tf32"; if the device has no tf32 products, the factors are rounded in software as such
            a device would round them.
        seed: seed of the draws.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit.
        ProgramError: if log p(x) is not defined for each datum; names the site.
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
    """The errors of a precision for the data of a block ``(n,)``, and the figures of the estimate in float64."""
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

"""ELBO surgery: the rate split into mutual information and the KL of the aggregate posterior to the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.errors import InputError, ProgramError, check_one_of, check_positive_int, check_seed
from ppl_vae.evidence import Mean
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Latents, Program, device_of, num_data, take
from ppl_vae.program.densities import log_terms

_DATA = 64  # data in a pass: few, so that a pass has many points for one run of the encoder
_NUMBERS = {"cpu": 2**21, "cuda": 2**25}  # latent numbers in a pass


@dataclass(frozen=True, eq=False, repr=False)
class Surgery:
    """ELBO = -distortion - rate, and rate = information + marginal KL, for N data; in nats.

    The last two depend on these N data: the aggregate posterior is q(z) = (1/N) sum_n q(z|x_n) over these data only.

    Attributes:
        rate: ``(N,)`` KL(q(z|x_n) || p(z)).
        rate_stderr: ``(N,)`` its Monte Carlo standard errors.
        distortion: ``(N,)`` -E_q[log p(x_n|z)].
        distortion_stderr: ``(N,)`` its standard errors.
        information: ``(N,)`` KL(q(z|x_n) || q(z)), each datum's part of the mutual information of z and the index of
            the datum; at most log N.
        information_stderr: ``(N,)`` its standard errors.
        marginal: ``(N,)`` E_q(z|x_n)[log q(z) - log p(z)], each datum's part of KL(q(z) || p(z)). A part may be
            negative; the mean is not negative, up to its error.
        marginal_stderr: ``(N,)`` its standard errors.
        num_samples: S, the number of draws for each datum.
        seed: the seed of the draws.
    """

    rate: Tensor
    rate_stderr: Tensor
    distortion: Tensor
    distortion_stderr: Tensor
    information: Tensor
    information_stderr: Tensor
    marginal: Tensor
    marginal_stderr: Tensor
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.rate)

    @property
    def max_information(self) -> float:
        """log N, the largest possible information of N data: information close to it shows that N is too small."""
        return math.log(len(self))

    def mean(self, of: str = "rate") -> Mean:
        """The average over data, in nats, with its Monte Carlo standard error and its standard error over data.

        Information and marginal KL are defined for these N data, because each part depends on the aggregate posterior.
        There is no standard error over data for them: ``data_stderr`` is NaN.

        Args:
            of: "rate", "distortion", "information" or "marginal".

        Raises:
            InputError: if ``of`` is another name.
        """
        check_one_of("of", of, _PARTS)
        mean = Mean.of(getattr(self, of), getattr(self, f"{of}_stderr"))
        return mean if of in _PARTS[:2] else replace(mean, data_stderr=math.nan)

    def summary(self) -> dict[str, Any]:
        """What the averages over data come to, in JSON's types: None where a number is not known."""
        means = {name: self.mean(name).summary() for name in _PARTS}
        return {"num_samples": self.num_samples, **means, "max_information": self.max_information}

    def __repr__(self) -> str:
        return f"Surgery(N={len(self)}, S={self.num_samples}, mean rate {self.mean()})"

    def __str__(self) -> str:
        # For these N data there is only a Monte Carlo error.
        information, marginal = (
            f"{mean.value:.4f} ± {mean.mc_stderr:.2g} (Monte Carlo)" for mean in map(self.mean, _PARTS[2:])
        )
        return "\n".join(
            [
                f"ELBO surgery: N = {len(self)} data, S = {self.num_samples} samples, seed {self.seed}; nats",
                f"distortion     {self.mean('distortion')}",
                f"rate           {self.mean('rate')}",
                f"information    {information}, at most log N = {self.max_information:.4f}",
                f"marginal KL    {marginal}",
            ]
        )


_PARTS = ("rate", "distortion", "information", "marginal")


@takes_run_options(*KEPT)
def surgery(
    program: Program, x: Data, num_samples: int = 16, *, seed: int = 0, **run: Unpack[RunOptions]
) -> Surgery:
    """Split the rate E_n KL(q(z|x_n) || p(z)) into I_q(n; z) + KL(q(z) || p(z)).

    For z_s ~ q(z|x_n), s = 1..S: log q(z_s|x_n) - log p(z_s) = [log q(z_s|x_n) - log q(z_s)] + [log q(z_s) -
    log p(z_s)], where log q(z) = log (1/N) sum_m q(z|x_m) is computed from all N guides, so all means are unbiased for
    these N data. It takes S N**2 densities of the guide, in parts: memory does not grow with S, and is linear in N.

    Args:
        program: a `Program` whose prior does not depend on x.
        x: the data, on the device of the program's parameters.
        num_samples: S, at least 2.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit.
        ProgramError: if log p(x) is not defined for each datum, or the prior depends on x.

    Source: Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound" (2016).
    """
    if check_positive_int("num_samples", num_samples) < 2:
        raise InputError("num_samples", "at least 2, for a standard error", num_samples)
    check_seed(seed)
    program, x, sites = prepare(program, x)
    n, device = num_data(x), device_of(x)
    with torch.no_grad():
        if n > 1:
            _refuse_covariates(program, x)
    width = sum(site.event_shape.numel() for site in sites.latent.values())

    def compute(block: Block) -> Rows:
        rng.reseed(device, seed, "surgery", block.index)
        z = program.sample_guide(block.x, num_samples, seed=None)
        own, terms = program.log_guide(z, block.x), log_terms(program, z, block.x)
        aggregate = _log_aggregate(program, z, x, width)
        draws = {
            "rate": own - terms.log_prior,
            "distortion": -terms.log_likelihood,
            "information": own - aggregate,
            "marginal": aggregate - terms.log_prior,
        }
        errors = {f"{name}_stderr": value.std(0) / math.sqrt(num_samples) for name, value in draws.items()}
        return {name: value.mean(0) for name, value in draws.items()} | errors

    columns = {name: Column(nan=True) for name in _PARTS}
    columns |= {f"{name}_stderr": Column(0, nan=True) for name in _PARTS}
    plan = Plan("ELBO surgery", min(n, _DATA), 1, {"num_samples": num_samples}, unit="datum")
    rows = run_rows(program, x, plan, compute, columns, seed=seed, run=run)
    return Surgery(**rows, num_samples=num_samples, seed=seed)


def _log_aggregate(program: Program, z: Latents, x: Data, width: int) -> Tensor:
    """log (1/N) sum_m q(z_sn|x_m), over all N data, at draws for n of them, ``(S, n, *event)``: ``(S, n)``."""
    (S, n), N = next(iter(z.values())).shape[:2], num_data(x)
    points = {name: value.flatten(0, 1) for name, value in z.items()}
    step = max(1, _NUMBERS["cuda" if device_of(x).type == "cuda" else "cpu"] // (min(N, _DATA) * width))
    pieces = []
    for start in range(0, S * n, step):
        some = {name: value[start : start + step, None] for name, value in points.items()}
        sums = []
        for first in range(0, N, _DATA):
            part = take(x, slice(first, first + _DATA))
            here = {k: v.expand(-1, num_data(part), *v.shape[2:]) for k, v in some.items()}
            sums.append(program.log_guide(here, part).logsumexp(1))
            give_way()
        pieces.append(torch.stack(sums).logsumexp(0))
    return torch.cat(pieces).reshape(S, n) - math.log(N)


def _refuse_covariates(program: Program, x: Data) -> None:
    """Refuse a prior that depends on x: latents of one datum must have the same prior density with another datum."""
    few = take(x, slice(0, min(num_data(x), _DATA)))
    shifted = take(few, torch.arange(num_data(few), device=device_of(x)).roll(1))
    z = program.sample_guide(few, 2)
    here, there = (log_terms(program, z, data).log_prior for data in (few, shifted))
    same = (here == there) | torch.isclose(here, there, rtol=1e-4, atol=1e-4)
    if not bool(same.all()):
        datum = int((~same).any(0).nonzero()[0])
        raise ProgramError(
            "model", "a prior that does not depend on x", f"one that depends on x (datum {datum})"
        )

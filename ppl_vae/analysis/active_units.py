"""Active units: the latent dimensions that the guide uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.errors import InputError, check_positive_float, check_positive_int, check_seed
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.program import Data, Latents, Program, Sites, device_of, num_data

THRESHOLD = 0.01
"""The variance over data above which Burda et al. call a unit active."""

_CLEARLY = 2.0  # standard errors from the threshold


@dataclass(frozen=True, eq=False, repr=False)
class ActiveUnits:
    """The variance over data of the posterior mean of each latent dimension.

    Attributes:
        labels: a name for each of the D dimensions, such as "z[3]".
        variances: ``(D,)`` unbiased estimates of Var_x(E_q(z|x)[z_d]). The variance from the finite number of draws is
            subtracted, so the estimate for an inactive unit may be below 0.
        stderr: ``(D,)`` standard errors, over data and draws.
        threshold: the variance above which a unit is active.
        num_data: N.
        num_samples: S, the number of draws for each datum.
        seed: the seed of the draws.
    """

    labels: tuple[str, ...]
    variances: Tensor
    stderr: Tensor
    threshold: float
    num_data: int
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.variances)

    @property
    def active(self) -> Tensor:
        """``(D,)`` bool, variance above the threshold."""
        return self.variances > self.threshold

    @property
    def count(self) -> int:
        """The number of active units."""
        return int(self.active.sum())

    @property
    def close(self) -> Tensor:
        """``(D,)`` bool: within 2 standard errors of the threshold, so that the status may change with other data."""
        return (self.variances - self.threshold).abs() < _CLEARLY * self.stderr

    @property
    def status(self) -> NDArray[np.str_]:
        """``(D,)`` "active", "inactive", or "close" to the threshold."""
        word = np.where(self.active.numpy(), "active", "inactive")
        return np.where(self.close.numpy(), "close", word)

    def summary(self) -> dict[str, Any]:
        """The counts and each unit's variance, in JSON's types."""
        return {
            "num_samples": self.num_samples,
            "threshold": self.threshold,
            "count": self.count,
            "of": len(self),
            "close": int(self.close.sum()),
            "variances": self.variances.tolist(),
            "stderr": self.stderr.tolist(),
        }

    def __repr__(self) -> str:
        return f"ActiveUnits({self.count} of {len(self)} active, {int(self.close.sum())} close)"

    def __str__(self) -> str:
        close = int(self.close.sum())
        note = f"; {close} within {_CLEARLY:g} standard errors of the threshold" if close else ""
        title = f"active units: {self.count} of {len(self)} with a variance of the posterior mean above "
        title += f"{self.threshold:g}{note}; N = {self.num_data} data, S = {self.num_samples} samples, seed {self.seed}"
        lines = [title]
        order = self.variances.argsort(descending=True).tolist()
        for d in order:
            variance, error = float(self.variances[d]), float(self.stderr[d])
            lines.append(f"{self.labels[d]:<10} {variance:>9.4f} ± {error:<8.2g} {self.status[d]}")
        return "\n".join(lines)


@takes_run_options(*KEPT)
def active_units(
    program: Program,
    x: Data,
    threshold: float = THRESHOLD,
    *,
    num_samples: int = 64,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> ActiveUnits:
    """The variance over data of the posterior mean of each latent dimension, compared with a threshold.

    The estimate is ``Var_n(m_n) - mean_n(s_n**2) / S``, for means m_n and variances s_n**2 of S draws. The second term
    is the variance of the means of draws when nothing depends on x: 0.016 for a prior of variance 1 at S = 64, which is
    more than the threshold. Discrete latents are used as numbers, which is of little use for unordered categories.

    Args:
        program: a `Program`.
        x: the data: at least 2.
        threshold: in the squared unit of the latent; the default is for a prior of variance 1.
        num_samples: S, at least 2.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit.
        ProgramError: if log p(x) is not defined for each datum.

    Source: Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders" (2016), section 5.2.
    """
    check_positive_float("threshold", threshold)
    if check_positive_int("num_samples", num_samples) < 2:
        raise InputError("num_samples", "at least 2, for a variance", num_samples)
    check_seed(seed)
    program, x, sites = prepare(program, x)
    n, device = num_data(x), device_of(x)
    if n < 2:
        raise InputError("x", "at least 2 data, for a variance over them", n)
    tiles = Tiles.plan(n, num_samples, sites.numbers_per_datum, device)

    def compute(block: Block) -> Rows:
        rng.reseed(device, seed, "active units", block.index)
        z = flat(program.sample_guide(block.x, num_samples, seed=None))
        return {"mean": z.mean(0), "variance": z.var(0)}

    labels = labels_of(sites)
    dtype = reduce(torch.promote_types, [site.dtype for site in sites.latent.values()])
    kind: dict[str, Any] = {"shape": (len(labels),), "dtype": dtype, "nan": True}
    columns = {"mean": Column(**kind), "variance": Column(0, **kind)}
    plan = Plan("active units", tiles.data, 1, {"num_samples": num_samples}, unit="datum")
    rows = run_rows(program, x, plan, compute, columns, seed=seed, run=run)
    mean, within = rows["mean"], rows["variance"] / num_samples
    # Each datum's part of the variance; the variance is the mean of the parts, and their spread gives its error.
    parts = (mean - mean.mean(0)) ** 2 * (n / (n - 1)) - within
    error = parts.std(0) / math.sqrt(n)
    return ActiveUnits(labels, parts.mean(0), error, threshold, n, num_samples, seed)


def flat(z: Latents) -> Tensor:
    """Latents ``(S, N, *event)`` by name as one tensor ``(S, N, D)``, in the order of `labels_of`."""
    return torch.cat(
        [z[name].flatten(2) if z[name].ndim > 2 else z[name][..., None] for name in sorted(z)], -1
    )


def labels_of(sites: Sites) -> tuple[str, ...]:
    """A name for each latent dimension: "z" for a site of one number, "z[3]" or "z[1,2]" for others."""
    labels = []
    for name in sorted(sites.latent):
        shape = sites.latent[name].event_shape
        labels += (
            [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)] if shape else [name]
        )
    return tuple(labels)

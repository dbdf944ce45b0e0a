"""Conditional evidence: log p(x_a | x_b), of a part of the data given another part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.evidence.results.accumulator import Accumulator
from ppl_vae.evidence.results.mean import Mean
from ppl_vae.evidence.results.pareto import khat_threshold
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, ResumeOptions, takes_run_options
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.program.masks import expanded


@dataclass(frozen=True, eq=False, repr=False)
class Conditional:
    """Estimates of log p(x_a | x_b) = log p(x_a, x_b) - log p(x_b) for N data: float64 tensors ``(N,)``, in nats.

    Attributes:
        value: the difference of the two estimates below.
        stderr: its standard error, which counts that both come from the same draws.
        log_joint: log p(x_a, x_b).
        log_given: log p(x_b).
        joint_ess: effective sample size of the weights of the first.
        given_ess: of the second.
        joint_khat: Pareto tail index of the weights of the first.
        given_khat: of the second.
        num_samples: S.
        seed: of the draws.
    """

    value: Tensor
    stderr: Tensor
    log_joint: Tensor
    log_given: Tensor
    joint_ess: Tensor
    given_ess: Tensor
    joint_khat: Tensor
    given_khat: Tensor
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.value)

    def mean(self) -> Mean:
        """The mean over data, with its two errors."""
        return Mean.of(self.value, self.stderr)

    @property
    def reliable(self) -> Tensor:
        """Whether both tail indices are below their threshold, bool ``(N,)``; elsewhere ``stderr`` is too small."""
        threshold = khat_threshold(self.num_samples)
        return (self.joint_khat <= threshold) & (self.given_khat <= threshold)

    def __repr__(self) -> str:
        return f"Conditional(N={len(self)}, S={self.num_samples}, mean {self.mean()})"

    def __str__(self) -> str:
        lines = [
            f"log p(x_a | x_b): N = {len(self)} data, S = {self.num_samples} samples, seed {self.seed}; nats",
            f"conditional   {self.mean()}",
            f"joint         {float(self.log_joint.mean()):.4f}",
            f"given         {float(self.log_given.mean()):.4f}",
            f"ESS           at least {float(torch.minimum(self.joint_ess, self.given_ess).min()):.1f}",
            f"reliable      {int(self.reliable.sum())} of {len(self)} data, by k-hat of the weights",
        ]
        return "\n".join(lines)


@takes_run_options(*KEPT)
def conditional(
    program: Program,
    x: Data,
    given: Tensor | Mapping[str, Tensor],
    num_samples: int = 5000,
    *,
    seed: int = 0,
    **run: Unpack[ResumeOptions],
) -> Conditional:
    """log p(x_a | x_b) of each datum: how well the model predicts some of a datum's numbers from others.

    x holds x_a and x_b; ``given`` says which of its numbers are x_b. Draws come from a mixture of the guide's two
    posteriors, r(z) = (q(z | x_a, x_b) + q(z | x_b)) / 2, and serve for both evidences:

        log sum_s p(x_a, x_b, z_s) / r(z_s) - log sum_s p(x_b, z_s) / r(z_s).

    The difference is consistent, with a bias of order 1/S of either sign: no bound. Its standard error is that of the
    delta method for a ratio of two means over the same draws.

    Args:
        program: a `Program` whose data have a mask, such as that of a `VAE` with ``missing=True``.
        x: the data.
        given: the mask of x_b, of type bool; or the entries of ``x`` that are others in x_b, for a program whose mask
            has another name. What is observed in x_b must be observed in x.
        num_samples: S.
        seed: the draws are a function of it.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit.
        ProgramError: if the evidence of the pair is not defined per datum, or the guide cannot score values that it did
            not draw.
        NonFiniteError: if a log weight is NaN; names the datum.
    """
    if check_positive_int("num_samples", num_samples) < 2:
        raise InputError("num_samples", "at least 2, for a standard error", num_samples)
    check_seed(seed)
    entries = _entries(x, given)
    prepare(program, _with(x, entries))
    program, x, sites = prepare(program, x)
    device = device_of(x)
    tiles = Tiles.plan(num_data(x), num_samples, 2 * sites.numbers_per_datum, device)

    def compute(block: Block) -> Rows:
        part = _with(block.x, take(entries, slice(block.offset, block.offset + block.num_data)))
        pairs = []
        for tile in range(tiles.tiles):
            rng.reseed(device, seed, "conditional", block.index * tiles.tiles + tile)
            pairs.append(_log_weights(program, block.x, part, tiles.size(tile)))
            give_way()
        return _rows([torch.cat(weights) for weights in zip(*pairs, strict=True)], block, tiles)

    names = (
        "value",
        "stderr",
        "log_joint",
        "log_given",
        "joint_ess",
        "given_ess",
        "joint_khat",
        "given_khat",
    )
    columns = {name: Column(nan=True) for name in names}
    plan = Plan("conditional evidence", tiles.data, 1, {"num_samples": num_samples}, unit="datum")
    rows = run_rows(program, x, plan, compute, columns, seed=seed, run=run)
    return Conditional(**rows, num_samples=num_samples, seed=seed)


def _rows(weights: list[Tensor], block: Block, tiles: Tiles) -> Rows:
    """The columns of a block from its log weights, ``(S, n)`` each."""
    found, parts = [], []
    for each in weights:
        sums = Accumulator(block.num_data, tiles.num_samples, each.device)
        sums.add(each)
        figures = sums.finish(offset=block.offset)
        found.append(figures)
        parts.append((each - figures.log_evidence.to(each.device)).exp().nan_to_num(0.0))
    joint, given = found
    error = (parts[0] - parts[1]).std(0) / math.sqrt(tiles.num_samples)
    value = joint.log_evidence - given.log_evidence
    return {
        "value": value,
        "stderr": torch.where(value.isfinite(), error.cpu(), math.nan),
        "log_joint": joint.log_evidence,
        "log_given": given.log_evidence,
        "joint_ess": joint.ess,
        "given_ess": given.ess,
        "joint_khat": joint.khat,
        "given_khat": given.khat,
    }


def _log_weights(program: Program, x: Data, part: Data, num_samples: int) -> tuple[Tensor, Tensor]:
    """The log weights of both evidences at draws from the mixture, ``(S, n)`` each."""
    first, second = (program.sample_guide(data, num_samples, seed=None) for data in (x, part))
    from_first = torch.rand(num_samples, num_data(x), device=device_of(x)) < 0.5
    z = {k: torch.where(expanded(from_first, v.ndim), v, second[k]) for k, v in first.items()}
    log_mixture = torch.logaddexp(program.log_guide(z, x), program.log_guide(z, part)) - math.log(2)
    return program.log_joint(z, x) - log_mixture, program.log_joint(z, part) - log_mixture


def _entries(x: Data, given: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of x_b that are not those of x."""
    mask = isinstance(given, Tensor)
    entries = {"mask": given} if isinstance(given, Tensor) else given
    if not isinstance(entries, Mapping) or not all(isinstance(v, Tensor) for v in entries.values()):
        raise InputError("given", "a bool tensor, or a dict of tensors", describe(given))
    n = num_data(x)
    for name, value in entries.items():
        if not mask and name != "mask" and (not isinstance(x, Mapping) or name not in x):
            raise InputError("given", "entries that x has", repr(name))
        if value.ndim == 0 or len(value) != n:
            raise InputError("given", f"{n} data, as in x", describe(value))
        seen = x.get(name) if isinstance(x, Mapping) else None
        if value.dtype != torch.bool or seen is None or seen.dtype != torch.bool:
            continue
        if value.shape != seen.shape:
            raise InputError("given", f"a mask of shape {tuple(seen.shape)}", describe(value))
        more = (value & ~seen).flatten(1).any(1)
        if bool(more.any()):
            datum = int(more.nonzero()[0])
            raise InputError("given", "numbers that are observed in x", f"another one at datum {datum}")
    if mask and entries["mask"].dtype != torch.bool:
        raise InputError("given", "a mask of type bool", describe(given))
    return dict(entries)


def _with(x: Data, entries: Data) -> Data:
    """x with other entries; a tensor is the entry "x"."""
    if isinstance(entries, Tensor):
        raise AssertionError("entries without names")
    return {**(x if isinstance(x, Mapping) else {"x": x}), **entries}

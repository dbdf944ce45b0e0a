"""Gaps: the parts of log p(x) - ELBO that come from the guide's family and from its network."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import files, rng
from ppl_vae.checkpoint import digest, with_prefix
from ppl_vae.errors import InputError, check_one_of, check_positive_int, check_seed, describe
from ppl_vae.evidence import Evidence, Mean, StudentT, importance
from ppl_vae.evidence.importance_sampling.refit import TOLERANCE, Refit, Settings, run_refit
from ppl_vae.evidence.results.verdict import ON_EDGE
from ppl_vae.evidence.running.block_files import forget
from ppl_vae.evidence.running.blocks import Block, Plan, prepare
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.evidence.running.rounded_draws import share_on_edge
from ppl_vae.evidence.running.rows import Column, Rows, run_rows
from ppl_vae.evidence.running.tiles import Tiles
from ppl_vae.exclusive import give_way
from ppl_vae.program import Data, Program, Sites, device_of, num_data, take
from ppl_vae.program.sites import refuse_nan
from ppl_vae.stored import Stored

PARTS = ("gap", "approximation", "amortisation")
_KIND = "ppl_vae.Gaps"
_TENSORS = (
    "elbo", "elbo_stderr", "refitted_elbo", "refitted_elbo_stderr", "gap_stderr", "approximation_stderr",
    "amortisation_stderr", "converged", "steps", "on_edge",
)  # fmt: skip
_DERIVED = ("gap_stderr", "approximation_stderr")  # of these, the file says what the others say, too
_ELBO_ERRORS = ("elbo_stderr", "refitted_elbo_stderr", "amortisation_stderr")
_CLEARLY = 4.0  # standard errors: a chance of 1 in 30,000 a datum


@dataclass(frozen=True, eq=False, repr=False)
class Gaps:
    """log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)] for each of N data, in nats.

    q* is the guide's family refitted to each datum. The first part is the approximation gap (of the family), the second
    the amortisation gap (of the network). The refit stops slightly below the best member of the family, so the second
    part is slightly too small, and the first too large. If the evidence is a lower bound, the first part is too small
    by the gap of this bound.

    Attributes:
        evidence: the estimates of log p(x).
        elbo: ``(N,)`` ELBO(q).
        elbo_stderr: ``(N,)`` its Monte Carlo standard errors.
        refitted_elbo: ``(N,)`` ELBO(q*), from draws that were not used in the refit.
        refitted_elbo_stderr: ``(N,)`` its standard errors.
        amortisation_stderr: ``(N,)`` standard errors of `amortisation`, from the differences of log weights, since both
            ELBOs use the same noise.
        converged: ``(N,)`` bool, whether the refit converged.
        steps: ``(N,)`` int64, the number of steps of the refit.
        num_samples: S, the number of draws for each ELBO.
        seed: the seed of the draws.
        on_edge: ``(N,)`` the share of draws that rounding has put onto an edge of their support, the larger one of the
            guide and the refitted guide (see `ppl_vae.evidence.running.rounded_draws`); 0 if this was not checked, as
            in older files.
    """

    evidence: Evidence
    elbo: Tensor
    elbo_stderr: Tensor
    refitted_elbo: Tensor
    refitted_elbo_stderr: Tensor
    amortisation_stderr: Tensor
    converged: Tensor
    steps: Tensor
    num_samples: int
    seed: int
    on_edge: Tensor = None  # type: ignore[assignment]  # __post_init__ fills it in

    def __post_init__(self) -> None:
        if self.on_edge is None:
            object.__setattr__(self, "on_edge", torch.zeros(len(self.evidence), dtype=torch.float64))
        for name in [name for name in _TENSORS if name not in _DERIVED]:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.shape != (len(self.evidence),):
                raise InputError(name, f"a tensor of shape {(len(self.evidence),)}", describe(value))

    def __len__(self) -> int:
        return len(self.evidence)

    @property
    def gap(self) -> Tensor:
        """``(N,)`` log p(x) - ELBO(q) = `approximation` + `amortisation`, up to rounding."""
        return self.evidence.log_evidence - self.elbo

    @property
    def gap_stderr(self) -> Tensor:
        """``(N,)`` standard errors of `gap`."""
        return (self.evidence.stderr**2 + self.elbo_stderr**2).sqrt()

    @property
    def approximation_stderr(self) -> Tensor:
        """``(N,)`` standard errors of `approximation`."""
        return (self.evidence.stderr**2 + self.refitted_elbo_stderr**2).sqrt()

    @property
    def approximation(self) -> Tensor:
        """``(N,)`` log p(x) - ELBO(q*) = KL(q* || p(z|x))."""
        return self.evidence.log_evidence - self.refitted_elbo

    @property
    def amortisation(self) -> Tensor:
        """``(N,)`` ELBO(q*) - ELBO(q)."""
        return self.refitted_elbo - self.elbo

    @property
    def worsened(self) -> Tensor:
        """``(N,)`` bool: the refitted ELBO is below the guide's by more than 4 standard errors and 0.01 nats."""
        return self.amortisation < -(_CLEARLY * self.amortisation_stderr).clamp(min=TOLERANCE)

    @property
    def rounded(self) -> Tensor:
        """``(N,)`` bool: the ELBOs have an unknown error, since rounding puts draws onto an edge (`on_edge`).

        Densities there differ from the model's, so both ELBOs may even be above log p(x).
        """
        return self.on_edge > ON_EDGE

    def mean(self, of: str = "gap") -> Mean:
        """The average over data, in nats, with its Monte Carlo standard error and its standard error over data.

        Args:
            of: "gap", "approximation", "amortisation", "elbo" or "refitted_elbo".

        Raises:
            InputError: if ``of`` is another name.
        """
        check_one_of("of", of, (*PARTS, "elbo", "refitted_elbo"))
        return Mean.of(getattr(self, of), getattr(self, f"{of}_stderr"))

    def summary(self) -> dict[str, Any]:
        """What the averages over data come to, in JSON's types: None where a number is not known."""
        means = ("elbo", "refitted_elbo", *PARTS)
        return {
            "num_data": len(self),
            "num_samples": self.num_samples,
            "seed": self.seed,
            "unit": "nats a datum, mean over data",
            "log_evidence": self.evidence.mean().summary(),
            "method": self.evidence.method,
            "bound": self.evidence.bound,
            "status": self.evidence.status_fractions(),
            **{name: self.mean(name).summary() for name in means},
            "refit": {
                **{name: int(getattr(self, name).sum()) for name in ("converged", "worsened", "rounded")},
                "mean_steps": float(self.steps.double().mean()),
            },
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; `load` reads it without any change."""
        packed, settings = self.evidence.pack()
        tensors = {f"evidence/{name}": value for name, value in packed.items()}
        tensors |= {name: getattr(self, name) for name in _TENSORS}
        numbers = {"num_samples": self.num_samples, "seed": self.seed}
        files.write_tensors(path, tensors, {"kind": _KIND, "evidence": settings, **numbers})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Gaps:
        """Read a file that `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, damaged, or another kind of file.
        """
        tensors, metadata = files.read_kind(path, _KIND, "a file written by Gaps.save")
        source = os.fspath(path)
        stored = Stored(source, tensors, metadata)
        evidence = Evidence.unpack(
            with_prefix("evidence/", tensors), stored.entry("evidence", dict), f"{source}: evidence"
        )
        shape = (len(evidence),)
        names = [name for name in _TENSORS if name != "on_edge" or name in tensors]
        for name in names:
            dtype = {"converged": torch.bool, "steps": torch.int64}.get(name, torch.float64)
            low = 0.0 if name.endswith("stderr") or name == "steps" else -math.inf
            stored.tensor(name, shape, dtype, low=low, nan=True)
        if "on_edge" in names:
            stored.tensor("on_edge", shape, low=0.0, high=1.0)
        own: dict[str, Any] = {name: tensors[name] for name in names if name not in _DERIVED}
        own |= {"num_samples": stored.number("num_samples", 1), "seed": stored.number("seed", 0, 2**63 - 1)}
        return cls(evidence, **own)

    def __repr__(self) -> str:
        return f"Gaps(N={len(self)}, S={self.num_samples}, mean gap {self.mean()})"

    def __str__(self) -> str:
        N, e = len(self), self.evidence
        gap = self.mean().value
        lines = [
            f"parts of the gap: N = {N} data, S = {self.num_samples} samples, seed {self.seed}; nats",
            f"log evidence   {e.mean()}, by {e.method}",
            f"refitted ELBO  {self.mean('refitted_elbo')}",
            f"ELBO           {self.mean('elbo')}",
        ]
        for part in PARTS:
            mean = self.mean(part)
            share = f": {mean.value / gap:.0%} of it" if part != "gap" and gap > 0 else ""
            lines.append(f"{part:<15}{mean}{share}")
        steps = self.steps.double()
        lines.append(
            f"refit          {int(self.converged.sum())} of {N} data converged, "
            f"{float(steps.mean()):.0f} steps on average [max {int(steps.max())}]"
        )
        counts = [f"{status} {round(share * N)}" for status, share in e.status_fractions().items()]
        lines.append(f"log p(x)       {', '.join(counts)}")
        if e.status_fractions()["reject"] > 0:
            lines.append(
                "               if log p(x) is rejected, so is approximation: pass evidence= from another method"
            )
        if not bool(self.converged.all()):
            lines.append("               for data whose refit did not converge, amortisation is too small")
        if bool(self.worsened.any()):
            lines.append(
                f"               the refit made the ELBO worse for {int(self.worsened.sum())} data: do not use them"
            )
        if bool(self.rounded.any()):
            lines.append(
                f"ELBOs          of {int(self.rounded.sum())} data have an unknown error: rounding puts draws onto an "
                "edge of their support; use float64"
            )
        return "\n".join(lines)


@takes_run_options(*KEPT)
def gaps(
    program: Program,
    x: Data,
    num_samples: int = 2000,
    *,
    evidence: Evidence | Callable[[Program, Data], Evidence] | None = None,
    refitted: Refit | None = None,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Gaps:
    """Split log p(x) - ELBO of each datum into the approximation gap and the amortisation gap.

    The guide's family is refitted to each datum (`refit`). Both ELBOs are then estimated from ``num_samples`` new draws
    with common random numbers.

    Args:
        program: a `Program` whose guide is reparameterised.
        x: the data, on the device of the program's parameters.
        num_samples: S.
        evidence: log p(x) of these data: an `Evidence`, or a function that returns one, called with ``program`` and
            ``x``, such as ``pv.evidence.annealed``. The default is importance sampling with S draws of a Student t
            distribution with the moments of the refitted guide, since the guide with the best ELBO has too light tails
            for a proposal. Its ``status`` says whether it can be trusted.
        refitted: the result of `refit` for these data, for example with other settings.
        seed: seed of all random numbers.
        run: see `RunOptions`.

    Raises:
        InputError: if an argument or the data do not fit, or ``evidence`` or ``refitted`` belongs to other data.
        ProgramError: as for `refit`.
        NonFiniteError: if a log weight is NaN; names the datum.

    Source: Cremer, Li & Duvenaud, "Inference suboptimality in variational autoencoders" (2018).
    """
    check_positive_int("num_samples", num_samples)
    if num_samples < 2:
        raise InputError("num_samples", "at least 2, for a standard error", num_samples)
    check_seed(seed)
    program, x, sites = prepare(program, x)
    found = _evidence(program, x, evidence, num_data(x))
    of_refit, of_evidence = _beside(run, ".refit"), _beside(run, ".evidence")
    own = refitted is None
    if refitted is None:
        refitted = run_refit(program, x, Settings(seed=seed), of_refit, keep=True)
    elif not isinstance(refitted, Refit) or not _same(x, refitted.x):
        raise InputError("refitted", "the result of refit for these data", describe(refitted))
    rows = _both_elbos(program, x, refitted, num_samples, seed, sites, run)
    if found is None:
        found = _around(refitted, num_samples, seed, of_evidence)
    forget(run)
    if own:
        forget(of_refit)
    parts: dict[str, Any] = {**rows, "num_samples": num_samples, "seed": seed}
    return Gaps(found, **parts, converged=refitted.converged, steps=refitted.steps)


def _beside(run: RunOptions, name: str) -> RunOptions:
    """The options of another run, with its own checkpoint."""
    checkpoint = run.get("checkpoint")
    return run if checkpoint is None else {**run, "checkpoint": f"{os.fspath(checkpoint)}{name}"}


def _both_elbos(
    program: Program, x: Data, refitted: Refit, num_samples: int, seed: int, sites: Sites, run: RunOptions
) -> Rows:
    """The ELBOs of the guide and of the refitted guide; a finished checkpoint is not removed."""
    device = device_of(x)
    tiles = Tiles.plan(num_data(x), num_samples, sites.numbers_per_datum, device)

    def compute(block: Block) -> Rows:
        again = take(refitted.x, slice(block.offset, block.offset + block.num_data))
        pair, edges = [], []
        for which, data in ((refitted.program, again), (program, block.x)):
            weights = []
            for tile in range(tiles.tiles):
                rng.reseed(device, seed, "gaps", block.index * tiles.tiles + tile)
                weights.append(which.log_weights(data, tiles.size(tile), seed=None, check=False))
                give_way()
            pair.append(torch.cat(weights))
            refuse_nan(pair[-1], "log weight", block.offset)
            edges.append(share_on_edge(which, data, sites, (seed, "gaps, edges", block.index))[0])
        return {**_elbos(*pair), "on_edge": torch.maximum(*edges)}

    columns = {name: Column(nan=True) for name in ("elbo", "refitted_elbo")}
    columns |= {name: Column(0, nan=True) for name in _ELBO_ERRORS}
    columns["on_edge"] = Column(0, 1)
    identity = {"num_samples": num_samples, "refitted": digest(refitted.offsets)}
    plan = Plan("ELBOs", tiles.data, 1, identity, unit="datum")
    return run_rows(program, x, plan, compute, columns, seed=seed, run=run, keep=True)


def _elbos(refitted: Tensor, plain: Tensor) -> dict[str, Tensor]:
    """The two ELBOs and their difference with standard errors, from log weights ``(S, n)`` with common noise."""

    def error(values: Tensor) -> Tensor:
        return values.std(0) / math.sqrt(len(values))

    return {
        "elbo": plain.mean(0),
        "elbo_stderr": error(plain),
        "refitted_elbo": refitted.mean(0),
        "refitted_elbo_stderr": error(refitted),
        "amortisation_stderr": error(refitted - plain),
    }


def _around(refitted: Refit, num_samples: int, seed: int, run: RunOptions) -> Evidence:
    """log p(x) by importance sampling around the refitted guide, with heavier tails; the cost includes the refit."""
    evidence = importance(
        refitted.program,
        refitted.x,
        num_samples,
        proposal=StudentT(),
        seed=rng.derive(seed, "gaps evidence"),
        **run,
    )
    return evidence.replace(
        density_evals=evidence.density_evals + refitted.density_evals,
        gradient_evals=evidence.gradient_evals + refitted.gradient_evals,
        details=f"{evidence.details}, around the refitted guide",
    )


def _evidence(
    program: Program, x: Data, evidence: Evidence | Callable[[Program, Data], Evidence] | None, n: int
) -> Evidence | None:
    if evidence is None:
        return None
    found = evidence(program, x) if callable(evidence) else evidence
    if not isinstance(found, Evidence):
        raise InputError(
            "evidence", "an Evidence, or a function of (program, x) that returns one", describe(found)
        )
    if len(found) != n:
        raise InputError("evidence", f"an Evidence of {n} data, as x", f"an Evidence of {len(found)}")
    return found


def _same(x: Data, carrying: Mapping[str, Tensor]) -> bool:
    entries = {"": x} if isinstance(x, Tensor) else x
    return digest(entries) == digest({name: carrying[name] for name in entries if name in carrying})

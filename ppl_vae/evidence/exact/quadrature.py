"""Quadrature: log evidence as an integral over 1 to 3 latent dimensions, with an error bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from ppl_vae import rng
from ppl_vae.errors import InputError, ProgramError, check_one_of, check_positive_int, check_seed
from ppl_vae.evidence.exact.cubature import Integrals, integrate
from ppl_vae.evidence.exact.cubature_rule import ORDER, Box
from ppl_vae.evidence.exact.linear_gaussian import computed_evidence, computed_figures
from ppl_vae.evidence.results.accumulator import Figures
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.running.blocks import Block, Plan, State, prepare, run_blocks
from ppl_vae.evidence.running.options import KEPT, RunOptions, takes_run_options
from ppl_vae.program import Coordinates, Data, Densities, Program, device_of, num_data, take

RULES = ("adaptive", "gauss_hermite")
_MAX_DIM = 3
_TOLERANCE = {1: 1e-8, 2: 1e-8, 3: 1e-6}  # relative errors at which cells are no longer halved, by dimension
_ROUNDS = 64
_ROUGHLY = 1e-3  # relative error of the moments at which the Gauss-Hermite rule is placed
_DRAWS = 128  # draws of the prior, of the guide, and of wider normal distributions around the guide
_REFINED = 24  # Gauss-Hermite nodes in each dimension for moments
_NUMBERS = 2**20  # numbers in one pass
_PRIOR_NODES, _PRIOR_ROUNDS, _PRIOR_TOLERANCE = 32, 24, 1e-5  # for the prior's mass
_UNKNOWN = 0.5  # relative error above which the prior's mass counts as unknown


@takes_run_options(*KEPT)
def quadrature(
    program: Program,
    x: Data,
    nodes: int = 64,
    *,
    rule: str = "adaptive",
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> Evidence:
    """log p(x) of each datum as an integral over the unconstrained latents, in 1 to 3 dimensions.

    This works for any decoder and any guide: the guide and the prior only give the first points. The density is
    evaluated at ``nodes**D`` points over the whole space. The highest local maxima among them, and the best draws of
    the prior and of the guide, are starts of a search for maxima. Then

    * ``"adaptive"`` halves the cells with the largest errors until the relative error is 1e-8 (1e-6 in three
      dimensions) or a limit of the work is reached. The error is twice the difference between cells and their halves,
      plus the mass that unresolved peaks could have.
    * ``"gauss_hermite"`` does the same to a relative error of 1e-3, places a Gauss-Hermite rule of ``nodes**D`` points
      at the posterior's mean and covariance, and then moves it to the moments that the rule gives. It is fast if the
      posterior is nearly normal, and inaccurate otherwise. The error is twice the difference from a rule with 3/4 of
      the nodes, or the difference from the adaptive value if that is larger than the adaptive error.

    A peak is missed if it is so narrow that neither the first points nor any draw shows its slope. A density that is
    discontinuous in z is integrated slowly, and its error is not quite bounded. There are no other assumptions.

    If rounding puts latents onto an edge of their support (a probability of exactly 0 or 1), their densities cannot be
    computed, and are left out. To measure the missing mass, the prior is integrated in the same way: its mass must be
    1. The missing mass times its largest possible likelihood is added to the error.

    Args:
        program: a `Program` with continuous latents, such as ``vae.program``.
        x: the data.
        nodes: the number of first points, or of Gauss-Hermite points, in each dimension: a multiple of 16, up to 256.
        rule: "adaptive" or "gauss_hermite".
        seed: seed of the draws of the prior and the guide.
        run: see `RunOptions`.

    Returns:
        `Evidence` with ``basis="computed"`` and ``bound="consistent"``, in nats, ``(N,)`` float64; ``stderr`` bounds
        the error of quadrature and of rounding in the program's dtype. No ELBO, ESS, k-hat or curve.

    Raises:
        InputError: if an argument or the data do not fit, or ``checkpoint`` belongs to another run.
        ProgramError: if there are more than three dimensions, or a latent is discrete.
        NonFiniteError: if a density is NaN close to draws of the prior or the guide; names the datum.

    Sources: Naylor and Smith, "Applications of a method for the efficient computation of posterior distributions"
    (1982), for rules at the posterior's moments; van Dooren and de Ridder (1976) for adaptive cells.
    """
    if check_positive_int("nodes", nodes) % (2 * ORDER) or nodes > 256:
        raise InputError("nodes", f"a multiple of {2 * ORDER} up to 256", nodes)
    check_one_of("rule", rule, RULES)
    check_seed(seed)
    program, x, sites = prepare(program, x)
    try:
        dim = Coordinates(program, take(x, slice(0, 1))).dim
    except ProgramError as error:
        expected = f"{error.expected} (finite discrete latents: enumerate_latents)"
        raise ProgramError(error.argument, expected, error.received) from None
    if dim > _MAX_DIM:
        raise ProgramError("program", f"1 to {_MAX_DIM} latent dimensions (more: importance, annealed)", dim)
    width = max(sites.numbers_per_datum, 1)
    block_size = min(max(1, 2**19 // nodes**dim), max(1, _NUMBERS // width), 256)
    plan = Plan("quadrature", block_size, 1, {"nodes": nodes, "rule": rule, "dim": dim, "computed": True})
    figures = run_blocks(
        program,
        x,
        plan,
        lambda block: _Integration(program, block, nodes, rule, width, seed),
        seed=seed,
        **run,
    )
    details = (
        f"{rule.replace('_', '-')} rule, {nodes} nodes a dimension, {dim} latent dimension{'s' * (dim > 1)}"
    )
    return computed_evidence(figures, method="quadrature", seed=seed, details=details)


@dataclass
class _Integration:
    """The integrals of one block, all at once: a block is small."""

    program: Program
    block: Block
    nodes: int
    rule: str
    width: int
    seed: int
    found: State | None = None

    def advance(self) -> int:
        if self.found is not None:
            return 0
        log_value, error, evaluations = self._integrate()
        self.found = {"log_evidence": log_value, "error": error, "evaluations": evaluations}
        return 1

    def state(self) -> State:
        return {} if self.found is None else {name: value.cpu() for name, value in self.found.items()}

    def restore(self, state: State) -> int:
        self.found = dict(state) or None
        return 0 if self.found is None else 1

    def figures(self) -> Figures:
        if self.found is None:
            raise AssertionError("figures before the work is done")
        found = {name: value.cpu() for name, value in self.found.items()}
        return computed_figures(found["log_evidence"], found["error"], found["evaluations"])

    def _integrate(self) -> tuple[Tensor, Tensor, Tensor]:
        joint = _Joint(self.program, self.block, self.width)
        prior, near = self._start_points(joint.coordinates)
        box = Box.around(prior, near[:_DRAWS])
        size = box.centre
        points = torch.cat([prior, near]).to(size.device, torch.float64)
        tolerance = joint.noise(joint.best(points)).clamp(_TOLERANCE[size.shape[1]], _ROUGHLY)
        adaptive = self.rule == "adaptive"
        integrals = integrate(
            joint,
            box,
            points,
            nodes=self.nodes if adaptive else min(self.nodes, 32),
            tolerance=tolerance if adaptive else tolerance.clamp(min=_ROUGHLY),
            rounds=_ROUNDS,
            offset=self.block.offset,
        )
        # A relative error e of Z is an error of at most -log(1 - e) of log Z; if e is near 1, Z is nearly unknown.
        e = integrals.error
        nats = torch.where(e < 0.99, -torch.log1p(-e.clamp(max=0.99)), 5 * e)
        value, evaluations = integrals.log_value, integrals.evaluations + len(points)
        if not adaptive:
            value, nats, more = _gauss_hermite(joint, integrals, nats, self.nodes)
            evaluations = evaluations + more
        unseen, more_evaluations = self._missing_mass(joint, prior, value)
        return value, nats + joint.noise(value) + unseen, evaluations + more_evaluations

    def _missing_mass(self, joint: _Joint, prior: Tensor, log_value: Tensor) -> tuple[Tensor, Tensor]:
        """The possible error of log Z if the prior's mass is not 1, in nats, ``(n,)``; and the number of evaluations.

        If there are points on an edge, the missing mass is there, and its likelihood is at most the one on the edge. If
        there are none, or if the prior has more mass than 1, the largest likelihood of all points is used.
        """
        likelihood, edge = joint.highest_likelihood.clone(), joint.edge_likelihood.clone()
        box = Box.around(prior)
        found = integrate(
            joint.prior,
            box,
            prior.to(box.centre.device, torch.float64),
            nodes=min(self.nodes, _PRIOR_NODES),
            tolerance=torch.full_like(log_value, _PRIOR_TOLERANCE),
            rounds=_PRIOR_ROUNDS,
            offset=self.block.offset,
        )
        edge = torch.maximum(edge, joint.edge_likelihood)
        mass = found.log_value.exp()
        error = mass * (found.error.nan_to_num(1.0) + joint.noise(found.log_value)) + _PRIOR_TOLERANCE
        off = ((1 - mass).abs() - error).clamp(min=0.0)
        off = torch.where(found.error < _UNKNOWN, off, torch.maximum(off, torch.ones_like(off)))
        beside_edge = (mass < 1) & (edge > -math.inf) & (found.error < _UNKNOWN)
        height = torch.where(beside_edge, edge, torch.maximum(likelihood, edge))
        share = torch.where(off > 0, (off.log() + height - log_value).exp(), 0.0).nan_to_num(math.inf)
        nats = torch.where(share < 0.99, -torch.log1p(-share.clamp(max=0.99)), 5 * share)
        return nats, found.evaluations

    def _start_points(self, coordinates: Coordinates) -> tuple[Tensor, Tensor]:
        """Draws of the prior ``(M, n, D)``, and of the guide and normals 4 and 16 times as wide, ``(3 M, n, D)``."""
        device = device_of(self.block.x)
        rng.reseed(device, self.seed, "quadrature", self.block.index)
        prior, guide = coordinates.draw_prior(_DRAWS), coordinates.draw_guide(_DRAWS)
        known = torch.where(guide.isfinite(), guide, math.nan)
        centre = known.nanmedian(0).values
        spread = (known - centre).abs().nanmedian(0).values / 0.6745
        noise = torch.randn(2, _DRAWS, *centre.shape, dtype=guide.dtype, device=guide.device)
        wider = [centre + factor * spread * z for factor, z in zip((4.0, 16.0), noise, strict=True)]
        return prior, torch.cat([guide, *wider])


class _Joint:
    """log p(x, z(u)) |dz/du| of the data of a block, by their indices in it, a few points at a time."""

    def __init__(self, program: Program, block: Block, width: int) -> None:
        self.program, self.x, self.width = program, block.x, width
        self.coordinates = Coordinates(program, block.x, cut=True, resolved=True)
        self._rows: Tensor | None = None
        self._some = self.coordinates
        nothing = torch.full((num_data(self.x),), -math.inf, dtype=torch.float64, device=device_of(self.x))
        self.highest_likelihood, self.edge_likelihood = nothing, nothing.clone()

    def __call__(self, u: Tensor, rows: Tensor) -> Tensor:
        """log p(x, z) |dz/du| at points u ``(S, n, D)`` of the data ``rows``, -inf if z is on an edge."""
        pieces = self._densities(u, rows)
        return torch.cat([torch.where(p.log_prior == -math.inf, -math.inf, p.log_joint) for p in pieces])

    def prior(self, u: Tensor, rows: Tensor) -> Tensor:
        """log p(z) |dz/du|, likewise."""
        return torch.cat([piece.log_prior for piece in self._densities(u, rows)])

    def _densities(self, u: Tensor, rows: Tensor) -> list[Densities]:
        if len(rows) == num_data(self.x):
            self._some = self.coordinates
        elif self._rows is None or not torch.equal(self._rows, rows):
            self._some = Coordinates(self.program, take(self.x, rows), cut=True, resolved=True)
        self._rows = rows
        step = max(1, _NUMBERS // (len(rows) * self.width))
        pieces = u.to(self.coordinates.dtype).split(step)
        found = [self._some.densities(piece) for piece in pieces]
        for piece in found:
            likelihood, lost = piece.log_likelihood, piece.log_prior == -math.inf
            inside = torch.where(lost | likelihood.isnan(), -math.inf, likelihood).amax(0)
            self.highest_likelihood[rows] = torch.maximum(self.highest_likelihood[rows], inside)
            # If the likelihood on the edge is NaN or +inf (for an infinite latent, say), the highest one is used.
            edge = torch.where(likelihood < math.inf, likelihood, self.highest_likelihood[rows])
            edge = torch.where(lost, edge, -math.inf).amax(0)
            self.edge_likelihood[rows] = torch.maximum(self.edge_likelihood[rows], edge)
        return found

    def best(self, u: Tensor) -> Tensor:
        """The largest finite log density at points u ``(M, n, D)``, ``(n,)``."""
        value = self(u.nan_to_num(0.0, 0.0, 0.0), torch.arange(u.shape[1], device=u.device))
        return torch.where(value.isfinite(), value, -math.inf).amax(0)

    def noise(self, log_density: Tensor) -> Tensor:
        """Rounding errors of log densities of this size, in nats."""
        size = torch.where(log_density.isfinite(), log_density.abs(), 0.0)
        return 8 * torch.finfo(self.coordinates.dtype).eps * (size + math.log(self.width) + 1)


def _gauss_hermite(
    joint: _Joint, roughly: Integrals, rough_error: Tensor, nodes: int
) -> tuple[Tensor, Tensor, int]:
    """Gauss-Hermite rules at the posterior's moments; the moments are updated twice from the rule itself.

    Returns:
        log Z, its error in nats, and the number of evaluations of each density.
    """
    centre, covariance = roughly.centre, roughly.covariance
    every = torch.arange(len(centre), device=centre.device)
    evaluations = 0

    def rule(n: int) -> tuple[Tensor, Tensor]:
        x, w = np.polynomial.hermite.hermgauss(n)
        D = centre.shape[1]
        grid = torch.cartesian_prod(*[torch.from_numpy(x)] * D).reshape(-1, D).to(centre.device)
        weights = torch.cartesian_prod(*[torch.from_numpy(np.log(w) + x**2)] * D).reshape(-1, D).sum(-1)
        factor = torch.linalg.cholesky(covariance)
        u = centre + math.sqrt(2) * torch.einsum("nij,sj->sni", factor, grid)
        nonlocal evaluations
        evaluations += len(u)
        value = joint(u, every)
        value = torch.where(value < math.inf, value, -math.inf)
        volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + D * math.log(2) / 2
        return u, value + weights.to(centre.device)[:, None] + volume

    for _ in range(2):
        u, terms = rule(min(nodes, _REFINED))
        weight = terms.softmax(0).nan_to_num(0.0)
        moved = (weight[..., None] * u).sum(0)
        away = u - moved
        second = torch.einsum("sn,sni,snj->nij", weight, away, away)
        # If all weight is on one node, the rule has missed the posterior, and the moments are not updated.
        fine = torch.linalg.cholesky_ex(second).info == 0
        fine &= second.diagonal(dim1=-2, dim2=-1).amin(-1) > 0
        centre = torch.where(fine[:, None], moved, centre)
        covariance = torch.where(fine[:, None, None], second, covariance)
    value = rule(nodes)[1].logsumexp(0)
    fewer = rule(max(1, nodes * 3 // 4))[1].logsumexp(0)
    between = 2 * (fewer - value).abs()
    apart = (roughly.log_value - value).abs() + rough_error
    error = torch.where(apart > 2 * rough_error, torch.maximum(between, apart), between)
    return value, error.nan_to_num(math.inf), evaluations

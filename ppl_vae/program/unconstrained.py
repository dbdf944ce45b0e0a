"""Unconstrained coordinates: the latents of a program as one vector, for gradients, chains and quadrature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from ppl_vae import rng
from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, Latents, device_of, num_data
from ppl_vae.program.densities import model_run
from ppl_vae.program.masks import counted, expanded, is_masked
from ppl_vae.program.program import Program
from ppl_vae.program.sites import GIVEN, family, is_delta
from ppl_vae.program.supports import circle, hull, support_of
from ppl_vae.program.tracing import Handler, Run, scored

_BLURRED = 0.1  # by which u may be off when it is computed back from the latents, near 0; a hundredth of it further out


class Densities(NamedTuple):
    """Log densities at points u, in nats, ``(S, N)`` float64; differentiable in u.

    Attributes:
        z: the latents at u, ``(S, N, *event)`` each.
        log_prior: log p(z) + log |dz/du|: the prior's density over u.
        log_likelihood: log p(x|z).
        log_jacobian: the sum of log |dz/du| of coordinates without a mask, and log N(u; 0, 1) of masked coordinates.
            The densities of model and guide over u are their densities over z times the exponential of this.
    """

    z: dict[str, Tensor]
    log_prior: Tensor
    log_likelihood: Tensor
    log_jacobian: Tensor

    @property
    def log_joint(self) -> Tensor:
        """log p(x, z) + log |dz/du|; the integral over u of its exponential is p(x)."""
        return self.log_prior + self.log_likelihood


class Coordinates:
    """All latents of a program as one vector u of D real numbers for each datum, ``(S, N, D)``.

    Each site is mapped to its support by torch's ``biject_to`` (Kucukelbir et al., "Automatic differentiation
    variational inference", 2017). Densities over u include the Jacobian, so integrals do not change. A support may
    depend on the latents before it.

    An angle is its own coordinate: u and u + 2 pi are the same angle, so chains may go around the circle, and one
    period of u has all of the mass. With ``cut``, the circle is an interval from -pi to pi instead, mapped as others.

    A masked number has no density. Its coordinate gets a standard normal density in the model, in the guide and in
    draws: integrals over u do not change, and no weight depends on it.

    Args:
        program: the program.
        x: the data ``(N, ...)``.
        cut: whether circles are cut at pi: for integrals and proposals over all real u.
        resolved: whether `densities` is zero for latents that have been rounded onto an edge of their support, where u
            cannot be computed from them and the computed densities are unreliable.

    Attributes:
        dim: D.
        dtype: the dtype of u.
        x_device: the device of the data.
        names: the latent sites in the model's order.

    Raises:
        ProgramError: naming a latent site that is discrete, whose support has no smooth map, or whose mask depends on
            latents.
    """

    def __init__(self, program: Program, x: Data, *, cut: bool = False, resolved: bool = False) -> None:
        self.program, self.x, self.num_data, self.cut, self.resolved = program, x, num_data(x), cut, resolved
        self.x_device = device_of(x)
        with torch.no_grad(), rng.seeded(self.x_device, 0, "shapes"), program.evaluating():
            found = model_run(program, x)
        self._shapes: dict[str, torch.Size] = {}
        self._single: Any = None
        dtype = None
        for name, site in found.sites.items():
            if site["is_observed"]:
                continue
            if is_masked(site):
                _refuse_moving_mask(name, program, x, site)
            transform = _transform(name, site["fn"], cut)
            whole = torch.Size(found.shape(name))
            shape = whole if transform is None else transform.inverse_shape(whole)
            self._shapes[name] = torch.Size(shape[2:])
            dtype = site["value"].dtype if dtype is None else torch.promote_types(dtype, site["value"].dtype)
        self.names = tuple(self._shapes)
        self.dim = sum(shape.numel() for shape in self._shapes.values())
        self.dtype = dtype or torch.get_default_dtype()

    def densities(self, u: Tensor) -> Densities:
        """The model's densities at u ``(S, N, D)``."""
        setter = _FromVector(self._split(u), self.cut, self.resolved)
        found = self._run(u.shape[0], setter)
        zero = u.new_zeros(u.shape[:2], dtype=torch.float64)
        log_prior, log_likelihood = found.factors(zero, outside=False)
        for lost in setter.lost:
            log_prior = torch.where(lost, -torch.inf, log_prior)
        z = {name: found.value(name) for name in self.names}
        jacobian = zero
        for term in setter.log_jacobians:
            jacobian = jacobian + term.double()
        return Densities(z, log_prior + jacobian, log_likelihood, jacobian)

    def log_guide(self, at: Densities) -> Tensor:
        """The guide's density over u at points where `densities` was taken, ``(S, N)`` float64, in nats."""
        if len(self.names) > 1 or self.program.layouts(self.x).guide.folded:
            return self.program.log_guide(at.z, self.x) + at.log_jacobian
        # The distribution of a single site depends on x alone: the encoder need not run again.
        name = self.names[0]
        if self._single is None:
            with torch.no_grad(), rng.seeded(self.x_device, 0, "shapes"), self.program.evaluating():
                self._single = self.program.run("guide", self.x, 1).sites[name]
        if is_delta(self._single):  # computed from an auxiliary site: raises an error with the site's name
            return self.program.log_guide(at.z, self.x)
        site = {**self._single, "value": at.z[name]}
        return scored(site, {name: {}}).double() + at.log_jacobian

    def to_vector(self, z: Latents) -> Tensor:
        """u for latents z, ``(S, N, *event)`` each: ``(S, N, D)``. Not finite if z is outside of the model's support.

        Raises:
            InputError: as for `Program.log_joint`.
        """
        self.program.log_joint({name: value[:1] for name, value in z.items()}, self.x)  # checks z
        return self._vector(z)

    def _vector(self, z: Latents) -> Tensor:
        num_samples = next(iter(z.values())).shape[0]
        reader = _ToVector(dict(z), self.cut)
        self._run(num_samples, reader)
        pieces = [reader.found[name].reshape(num_samples, self.num_data, -1) for name in self.names]
        return torch.cat([piece.to(self.dtype) for piece in pieces], dim=-1)

    def draw_guide(self, num_samples: int) -> Tensor:
        """u for z ~ q(z|x), ``(S, N, D)``, drawn from torch's global generator."""
        return self._vector(self.program.sample_guide(self.x, num_samples, seed=None))

    def draw_prior(self, num_samples: int) -> Tensor:
        """u for z ~ p(z), ``(S, N, D)``, drawn from torch's global generator."""
        return self._vector(self.program.sample_prior(self.x, num_samples, seed=None))

    def _split(self, u: Tensor) -> dict[str, Tensor]:
        pieces = u.split([shape.numel() for shape in self._shapes.values()], dim=-1)
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.reshape(*u.shape[:-1], *shape) for (name, shape), piece in named}

    def _run(self, num_samples: int, handler: Handler) -> Run:
        with self.program.evaluating():
            return self.program.run("model", self.x, num_samples, handler)


class _FromVector(Handler):
    """Sets latent sites to the values of their unconstrained coordinates, and records the Jacobians."""

    def __init__(self, u: dict[str, Tensor], cut: bool, resolved: bool = False) -> None:
        super().__init__()
        self.u, self.cut, self.resolved = u, cut, resolved
        self.log_jacobians: list[Tensor] = []
        self.lost: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.u:
            return
        u, fn = self.lay(msg, self.u[msg["name"]]), msg["fn"]
        transform = _transform(msg["name"], fn, self.cut)
        kept = counted(fn, msg["mask"])
        if transform is None:
            msg["value"] = u
        else:
            msg["value"] = transform(u)
            jacobian = transform.log_abs_det_jacobian(u, msg["value"])
            if self.resolved:
                known = (transform.inv(msg["value"]) - u).abs() <= _BLURRED * (1 + u.abs() / 100)
                known = self._apart(msg, known)
                self.lost.append(~known.flatten(2).all(-1) if known.ndim > 2 else ~known)
            if kept is not None:
                jacobian = torch.where(expanded(kept, jacobian.ndim), jacobian, 0.0)
            self.log_jacobians.append(_summed(self._apart(msg, jacobian)))
        if kept is not None:
            normal = -0.5 * (u.double() ** 2 + math.log(2 * math.pi))
            normal = torch.where(expanded(kept, u.ndim), 0.0, normal)
            self.log_jacobians.append(_summed(self._apart(msg, normal)))
        msg["is_observed"], msg["infer"] = True, {**msg["infer"], GIVEN: True}

    def _apart(self, msg: Any, value: Tensor) -> Tensor:
        """A tensor with a site's batch axes, and perhaps axes to their right, as ``(S, N, ...)``."""
        return self.stack(msg, value, value.ndim - len(msg["fn"].batch_shape))


class _ToVector(Handler):
    """Sets the values of latent sites, and records their unconstrained coordinates.

    The coordinate of a masked number is a standard normal draw from torch's global generator.
    """

    def __init__(self, z: dict[str, Tensor], cut: bool) -> None:
        super().__init__()
        self.z, self.cut = z, cut
        self.found: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.z:
            return
        value, fn = self.lay(msg, self.z[msg["name"]]), msg["fn"]
        transform = _transform(msg["name"], fn, self.cut)
        u = value
        if transform is not None:
            inside = _support(msg["name"], fn).check(value)
            u = transform.inv(value)
            u = torch.where(expanded(inside, u.ndim), u, math.nan)
        kept = counted(fn, msg["mask"])
        if kept is not None:
            u = torch.where(expanded(kept, u.ndim), u, torch.randn_like(u))
        self.found[msg["name"]] = self.stack(msg, u, u.ndim - len(fn.batch_shape))
        msg["value"], msg["is_observed"], msg["infer"] = value, True, {**msg["infer"], GIVEN: True}


class _Wrapped(Transform):
    """Maps real numbers to angles from -pi to pi, with period 2 pi."""

    domain = constraints.real
    codomain = circle
    bijective = True  # of one period, which is what densities are integrated over
    sign = 1

    def _call(self, x: Tensor) -> Tensor:
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi

    def _inverse(self, y: Tensor) -> Tensor:
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002  (torch's signature)
        return torch.zeros_like(x)


def _summed(terms: Tensor) -> Tensor:
    """Terms ``(S, N, ...)``, summed over all numbers of a datum: ``(S, N)``."""
    return terms.flatten(2).sum(-1) if terms.ndim > 2 else terms


def _refuse_moving_mask(name: str, program: Program, x: Data, site: Mapping[str, Any]) -> None:
    """Refuse a mask that depends on latents: the set of masked numbers would be a latent, too."""
    first = counted(site["fn"], site["mask"])
    for draw in range(1, 4):
        with torch.no_grad(), rng.seeded(device_of(x), draw, "masks"), program.evaluating():
            again = model_run(program, x).sites[name]
        if not torch.equal(first, counted(again["fn"], again["mask"])):  # type: ignore[arg-type]
            expected = "a mask that depends on the data only (for unconstrained coordinates)"
            raise ProgramError(f"latent site {name!r}", expected, "a mask that depends on latents")


def _support(name: str, fn: Any) -> constraints.Constraint:
    """The support of a latent's distribution, which must declare it."""
    support = support_of(fn)
    if support is None:
        expected = "a latent whose distribution declares its support (for unconstrained coordinates)"
        raise ProgramError(f"latent site {name!r}", expected, f"a {family(fn)} without one")
    return support


def _transform(name: str, fn: Any, cut: bool) -> Transform | None:
    """The map from unconstrained numbers to a distribution's support, element by element; None for real support."""
    support = hull(_support(name, fn))
    if support is constraints.real or support is constraints.real_vector:
        return None
    if support is circle:
        return biject_to(constraints.interval(-math.pi, math.pi)) if cut else _Wrapped()
    if not support.is_discrete:
        try:
            transform: Transform = biject_to(support)
            if transform.bijective:
                return transform
        except NotImplementedError:
            pass
    raise ProgramError(
        f"latent site {name!r}",
        "a continuous latent whose support torch's biject_to knows",
        f"a {family(fn)}",
    )

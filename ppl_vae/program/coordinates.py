"""The latents of a program as one vector of unconstrained numbers: where gradients, chains and quadrature live."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from ppl_vae import rng
from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, Latents, device_of, num_data
from ppl_vae.program.program import Program
from ppl_vae.program.sites import GIVEN, _base, family, is_delta, is_mixture, support_of
from ppl_vae.program.tracing import Handler, Run, scored


class Densities(NamedTuple):
    """Log densities at points u, in nats, ``(S, N)`` float64; differentiable in u.

    Attributes:
        z: the latents at u, ``(S, N, *event)`` each.
        log_prior: log p(z) + log |dz/du|: the prior's density over u.
        log_likelihood: log p(x|z).
        log_jacobian: log |dz/du|.
    """

    z: dict[str, Tensor]
    log_prior: Tensor
    log_likelihood: Tensor
    log_jacobian: Tensor

    @property
    def log_joint(self) -> Tensor:
        """log p(x, z) + log |dz/du|: its integral over u is p(x), as that of p(x, z) over z is."""
        return self.log_prior + self.log_likelihood


class Coordinates:
    """All latents of a program as one vector u of D real numbers a datum, ``(S, N, D)``.

    Each site is mapped to where it lives by torch's ``biject_to`` of its support (Kucukelbir et al., "Automatic
    differentiation variational inference", 2017); densities over u carry the Jacobian, so that every integral is what
    it was. A support may move with the latents before it.

    Args:
        program: the program.
        x: the data ``(N, ...)`` that the coordinates are for.

    Attributes:
        dim: D.
        dtype: of u.
        x_device: where the data are.
        names: the latent sites in the model's order.

    Raises:
        ProgramError: naming a latent site that is discrete, or that no smooth map reaches.
    """

    def __init__(self, program: Program, x: Data) -> None:
        self.program, self.x, self.num_data = program, x, num_data(x)
        self.x_device = device_of(x)
        with torch.no_grad(), rng.seeded(self.x_device, 0, "shapes"), program._evaluating():
            found = program.run("model", x, 1)
        self._shapes: dict[str, torch.Size] = {}
        self._single: Any = None
        dtype = None
        for name, site in found.sites.items():
            if site["is_observed"]:
                continue
            transform = _transform(name, site["fn"])
            whole = torch.Size(found.shape(name))
            shape = whole if transform is None else transform.inverse_shape(whole)
            self._shapes[name] = torch.Size(shape[2:])
            dtype = site["value"].dtype if dtype is None else torch.promote_types(dtype, site["value"].dtype)
        self.names = tuple(self._shapes)
        self.dim = sum(shape.numel() for shape in self._shapes.values())
        self.dtype = dtype or torch.get_default_dtype()

    def densities(self, u: Tensor) -> Densities:
        """The model's densities at u ``(S, N, D)``."""
        setter = _FromVector(self._split(u))
        found = self._run(u.shape[0], setter)
        zero = u.new_zeros(u.shape[:2], dtype=torch.float64)
        log_prior, log_likelihood = found.factors(zero, strays=False)
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
            with torch.no_grad(), rng.seeded(self.x_device, 0, "shapes"), self.program._evaluating():
                self._single = self.program.run("guide", self.x, 1).sites[name]
        if is_delta(self._single):  # computed from an auxiliary site: it says so, by name
            return self.program.log_guide(at.z, self.x)
        site = {**self._single, "value": at.z[name]}
        return scored(site, {name: {}}).double() + at.log_jacobian

    def to_vector(self, z: Latents) -> Tensor:
        """u for latents z, ``(S, N, *event)`` each: ``(S, N, D)``. Not finite where z is outside the model's support.

        Raises:
            InputError: as `Program.log_joint`.
        """
        self.program.log_joint({name: value[:1] for name, value in z.items()}, self.x)  # checks z
        return self._vector(z)

    def _vector(self, z: Latents) -> Tensor:
        num_samples = next(iter(z.values())).shape[0]
        reader = _ToVector(dict(z))
        self._run(num_samples, reader)
        pieces = [reader.found[name].reshape(num_samples, self.num_data, -1) for name in self.names]
        return torch.cat([piece.to(self.dtype) for piece in pieces], dim=-1)

    def draw_guide(self, num_samples: int) -> Tensor:
        """u for z ~ q(z|x), ``(S, N, D)``, drawn from torch's global generator as it stands."""
        return self._vector(self.program.sample_guide(self.x, num_samples, seed=None))

    def draw_prior(self, num_samples: int) -> Tensor:
        """u for z ~ p(z), ``(S, N, D)``, drawn from torch's global generator as it stands."""
        return self._vector(self.program.sample_prior(self.x, num_samples, seed=None))

    def _split(self, u: Tensor) -> dict[str, Tensor]:
        pieces = u.split([shape.numel() for shape in self._shapes.values()], dim=-1)
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.reshape(*u.shape[:-1], *shape) for (name, shape), piece in named}

    def _run(self, num_samples: int, handler: Handler) -> Run:
        with self.program._evaluating():
            return self.program.run("model", self.x, num_samples, handler)


class _FromVector(Handler):
    """Gives latent sites the values that their unconstrained numbers stand for, and notes the Jacobians."""

    def __init__(self, u: dict[str, Tensor]) -> None:
        super().__init__()
        self.u = u
        self.log_jacobians: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.u:
            return
        u, fn = self.lay(msg, self.u[msg["name"]]), msg["fn"]
        transform = _transform(msg["name"], fn)
        if transform is None:
            msg["value"] = u
        else:
            msg["value"] = transform(u)
            jacobian = transform.log_abs_det_jacobian(u, msg["value"])
            jacobian = self.stack(msg, jacobian, jacobian.ndim - len(fn.batch_shape))
            self.log_jacobians.append(jacobian.flatten(2).sum(-1) if jacobian.ndim > 2 else jacobian)
        msg["is_observed"], msg["infer"] = True, {**msg["infer"], GIVEN: True}


class _ToVector(Handler):
    """Gives latent sites their values, and notes the unconstrained numbers that stand for them."""

    def __init__(self, z: dict[str, Tensor]) -> None:
        super().__init__()
        self.z = z
        self.found: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.z:
            return
        value = self.lay(msg, self.z[msg["name"]])
        transform = _transform(msg["name"], msg["fn"])
        if transform is None:
            self.found[msg["name"]] = self.z[msg["name"]]
        else:
            inside = msg["fn"].support.check(value)
            u = transform.inv(value)
            shape = (*inside.shape, *(1,) * (u.ndim - inside.ndim))
            u = torch.where(inside.reshape(shape), u, math.nan)
            self.found[msg["name"]] = self.stack(msg, u, u.ndim - len(msg["fn"].batch_shape))
        msg["value"], msg["is_observed"], msg["infer"] = value, True, {**msg["infer"], GIVEN: True}


def _transform(name: str, fn: Any) -> Transform | None:
    """The map from unconstrained numbers to a distribution's support; None where it is all of them."""
    support: Any = support_of(fn)
    if support is None:
        expected = "a latent whose distribution declares its support, to go to unconstrained numbers"
        raise ProgramError(f"latent site {name!r}", expected, f"a {family(fn)}, which declares none")
    while is_mixture(support):
        support = support.base_constraint
    if _base(support) is constraints.real:
        return None
    if not support.is_discrete:
        try:
            transform: Transform = biject_to(support)
            return transform
        except NotImplementedError:
            pass
    raise ProgramError(
        f"latent site {name!r}", "a continuous latent that torch's biject_to can reach", f"a {family(fn)}"
    )

"""Reparametrised latents, deterministic sites, and auxiliary ones: what the guide draws is what the model asks for."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from case import Case, gaussian, normal, plate, seeded
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer.reparam import LocScaleReparam, TransformReparam

import ppl_vae as pv

_X = 1.5 * seeded(81, 8) + 1
_EXACT = normal(1.0, 4.25)
_NAMES = ("z", "x", "z_decentered", "z_base", "two_z", "aux")
_SHIFT = [transforms.AffineTransform(1.0, 2.0)]


def _base(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(1.0, 2.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _of(site):
    def guide(x):
        with plate(x):
            pyro.sample(site, dist.Normal(0.9 * (x - 1) / 2, 0.35))

    return guide


def _case(name, model, guide, **options):
    options = {"names": _NAMES, "simulates": False, "trains": False, **options}
    exact = None if options.get("refused") else options.pop("exact", _EXACT)
    return Case(name, lambda: pv.Program(model, guide), options.pop("x", _X), exact, **options)


def _transformed(x):
    with plate(x):
        with poutine.reparam(config={"z": TransformReparam()}):
            z = pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), _SHIFT))
        pyro.deterministic("two_z", 2 * z)
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _deterministic(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(1.0, 2.0))
        y = pyro.deterministic("two_z", 2 * z)
        pyro.sample("x", dist.Normal(y / 2, 0.5), obs=x)


def _deterministic_vector(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(1.0, 2.0))
        y = pyro.deterministic("two_z", torch.stack([z, -z], -1), event_dim=1)
        pyro.sample("x", dist.Normal(y[..., 0], 0.5), obs=x)


def _guide_in_both(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(x, 0.6))
        pyro.deterministic("two_z", 2 * z)


def _decentred_half():
    """LocScaleReparam(0.5): z_decentered ~ N(0.5, 2 ** 0.5), whatever it is called inside."""

    def guide(x):
        with plate(x):
            pyro.sample("z_decentered", dist.Normal((0.9 * (x - 1)) / 2**0.5 + 0.5, 0.45))

    return _case("loc_scale_half", poutine.reparam(_base, config={"z": LocScaleReparam(0.5)}), guide)


def _vector():
    """A latent vector by LocScaleReparam, decoded linearly."""
    W, x = 0.7 * seeded(82, 3, 2), seeded(83, 6, 3)

    def inner(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T, 0.7).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z_decentered", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))

    model = poutine.reparam(inner, config={"z": LocScaleReparam(0.0)})
    return _case("loc_scale_vector", model, guide, x=x, exact=gaussian(2 * W, 0.0, 0.49))


def _shared_config():
    """One function of a site picks what is reparametrised, as `poutine.reparam` allows."""
    model = poutine.reparam(_base, config=lambda site: LocScaleReparam(0.0) if site["name"] == "z" else None)
    return _case("config_by_a_function", model, _of("z_decentered"))


# ---- auxiliary sites: q(z|x) is the law of what the guide computes from a draw that the model knows nothing of ----


def _plain(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _plain_vector(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def _auxiliary(x):
    return pyro.sample("aux", dist.Normal(torch.zeros_like(x), 1.0), infer={"is_auxiliary": True})


def _delta_with_density(x):
    with plate(x):
        a = _auxiliary(x)
        pyro.sample("z", dist.Delta(0.8 * x + 0.6 * a, log_density=torch.full_like(a, -math.log(0.6))))


def _delta_nonlinear(x):
    """z = 0.8 x + sinh(a) / 2, whose Jacobian depends on the draw."""
    with plate(x):
        a = _auxiliary(x)
        pyro.sample("z", dist.Delta(0.8 * x + a.sinh() / 2, log_density=math.log(2) - a.cosh().log()))


def _delta_vector(x):
    with plate(x):
        base = dist.Normal(torch.zeros_like(x), 1.0).to_event(1)
        a = pyro.sample("aux", base, infer={"is_auxiliary": True})
        density = torch.full_like(a[..., 0], -2 * math.log(0.6))
        pyro.sample("z", dist.Delta(0.8 * x + 0.6 * a, log_density=density, event_dim=1))


def _delta_without_density(x):
    with plate(x):
        a = _auxiliary(x)
        pyro.sample("z", dist.Delta(0.8 * x + 0.6 * a))


def _delta_alone(x):
    with plate(x):
        pyro.sample("z", dist.Delta(0.8 * x))


def _mixture(x):
    """q(z|x) is a mixture over the draw, whose density is not known: q(a) q(z|a, x) is another one."""
    with plate(x):
        a = _auxiliary(x)
        pyro.sample("z", dist.Normal(0.8 * x + 0.3 * a, 0.5))


def _unused(x):
    with plate(x):
        _auxiliary(x)
        pyro.sample("z", dist.Normal(0.8 * x, 0.55))


def _mixture_in_the_model_too(x):
    """The model knows the auxiliary site: then it is a latent like any other."""
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("aux", dist.Normal(z, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _mixture_of_both(x):
    with plate(x):
        a = pyro.sample("aux", dist.Normal(0.8 * x, 1.2))
        pyro.sample("z", dist.Normal(0.7 * x + 0.1 * a, 0.6))


_STANDARD = seeded(84, 8)
CASES = [
    _case("loc_scale", poutine.reparam(_base, config={"z": LocScaleReparam(0.0)}), _of("z_decentered")),
    _decentred_half(),
    _vector(),
    _shared_config(),
    _case("loc_scale_guide_of_another_site", poutine.reparam(_base, config={"z": LocScaleReparam(0.0)}), _of("z"),
          refused="'z_decentered'|'z'"),
    _case("transform", _transformed, _of("z_base")),
    _case("deterministic", _deterministic, lambda x: _guide_z(x)),
    _case("deterministic_vector", _deterministic_vector, lambda x: _guide_z(x)),
    _case("deterministic_in_both", _deterministic, _guide_in_both),
    _case("delta_with_density", _plain, _delta_with_density, x=_STANDARD, exact=normal(), plain=True),
    _case("delta_nonlinear", _plain, _delta_nonlinear, x=_STANDARD, exact=normal()),
    _case("delta_vector", _plain_vector, _delta_vector, x=seeded(85, 5, 2), exact=lambda x: normal()(x).sum(-1)),
    _case("delta_without_density", _plain, _delta_without_density, x=_STANDARD, refused="'z'|'aux'"),
    _case("delta_alone", _plain, _delta_alone, x=_STANDARD, refused="'z'"),
    _case("auxiliary_mixture", _plain, _mixture, x=_STANDARD, refused="'aux'"),
    _case("auxiliary_unused", _plain, _unused, x=_STANDARD, exact=normal(), accepts=(), plain=False),
    _case("auxiliary_in_both", _mixture_in_the_model_too, _mixture_of_both, x=_STANDARD, exact=normal()),
]  # fmt: skip


def _guide_z(x):
    with plate(x):
        pyro.sample("z", dist.Normal(x, 0.6))

"""NaN where nothing was measured, under a mask: what is masked adds nothing, whatever it is."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from case import Case, plate, seeded
from pyro import poutine
from torch.distributions import constraints

import ppl_vae as pv

_N = 8
_TRUE = seeded(111, _N, 3) + seeded(112, _N, 1)
_SEEN = seeded(113, _N, 3) > -0.3
_SEEN[0] = False
_X = torch.where(_SEEN, _TRUE, torch.nan)
_NAMES = ("z", "x", "x0", "x1", "x2")


def _exact(x):
    """The Gaussian marginal of what is seen; 0 where nothing is."""
    x = x["x"] if isinstance(x, dict) else x
    found = []
    for row in x.double():
        seen = row[row.isfinite()]
        covariance = 0.25 * torch.eye(len(seen), dtype=torch.float64) + 1
        normal = torch.distributions.MultivariateNormal
        found.append(normal(torch.zeros_like(seen), covariance).log_prob(seen) if len(seen) else seen.sum())
    return torch.stack(found)


def _guide(x):
    data = x["x"] if isinstance(x, dict) else x
    with plate(x):
        seen = data.isfinite()
        total, number = torch.where(seen, data, 0.0).sum(-1), seen.sum(-1)
        variance = 1 / (1 + number / 0.25)
        pyro.sample("z", dist.Normal(variance * total / 0.25, 1.2 * variance.sqrt()))


def _trained_guide(x):
    scale = pyro.param("scale", torch.tensor(0.8), constraint=constraints.positive)
    with plate(x):
        pyro.sample("z", dist.Normal(x.nan_to_num(0.0).mean(-1), scale))


def _vector(likelihood):
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            likelihood(z, x)

    return model


def _masked(z, x):
    pyro.sample("x", dist.Normal(z[..., None], 0.5).mask(~x.isnan()).to_event(1), obs=x)


def _masked_after_expand(z, x):
    law = dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 0.5)
    pyro.sample("x", law.mask(x.isfinite()).to_event(1), obs=x)


def _filled(z, x):
    pyro.sample("x", dist.Normal(z[..., None], 0.5).mask(~x.isnan()).to_event(1), obs=x.nan_to_num(0.0))


def _one_by_one(z, x):
    for j in range(3):
        with poutine.mask(mask=~x[:, j].isnan()):
            pyro.sample(f"x{j}", dist.Normal(z, 0.5), obs=x[:, j])


def _one_by_one_masked(z, x):
    for j in range(3):
        pyro.sample(f"x{j}", dist.Normal(z, 0.5).mask(~x[:, j].isnan()), obs=x[:, j])


def _nan_masked(z, x):
    law = dist.NanMaskedNormal(z[..., None].expand(*z.shape, 3), torch.tensor(0.5))
    pyro.sample("x", law.to_event(1), obs=x)


def _nan_masked_multivariate(z, x):
    law = dist.NanMaskedMultivariateNormal(z[..., None].expand(*z.shape, 3), 0.25 * torch.eye(3))
    pyro.sample("x", law, obs=x)


def _given_mask(z, x):
    pyro.sample("x", dist.Normal(z[..., None], 0.5).mask(x["m"]).to_event(1), obs=x["x"])


def _case(name, likelihood, x=_X, guide=_guide, **options):
    model = _vector(likelihood)
    options = {"names": _NAMES, "simulates": False, "hard": True, **options}
    return Case(name, lambda: pv.Program(model, guide), x, _exact, **options)


def _sequences():
    """Steps after the end are NaN in the data, and masked in the model: a random effect seen 1 to 4 times."""
    lengths = torch.tensor([1, 4, 2, 3, 4])
    x = seeded(114, 5, 4) + seeded(115, 5, 1)
    x[torch.arange(4) >= lengths[:, None]] = torch.nan

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for t in range(4):
                with poutine.mask(mask=t < d["n"]):
                    pyro.sample(f"x{t}", dist.Normal(z, 0.5), obs=d["x"][:, t])

    names = ("z", "x0", "x1", "x2", "x3")
    data = {"x": x, "n": lengths}
    return Case("sequences", lambda: pv.Program(model, _guide), data, _exact, names=names, simulates=False)


def _encoder_that_meets_nan():
    """The guide forgets to fill in: its location is NaN for some data."""
    model = _vector(_masked)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.6))

    return Case("encoder_meets_nan", lambda: pv.Program(model, guide), _X, refused="'z'", names=_NAMES)


def _not_masked():
    """NaN without a mask: the datum, or the site, is named."""
    model = _vector(lambda z, x: pyro.sample("x", dist.Normal(z[..., None], 0.5).to_event(1), obs=x))
    return Case("nan_without_mask", lambda: pv.Program(model, _guide), _X, refused="'x'|^x", names=_NAMES)


def _covariate():
    """A covariate is NaN where it is not used: `torch.where` chooses the other branch."""
    y = torch.where(seeded(116, _N) > 0, seeded(117, _N), torch.nan)
    data = {"x": seeded(118, _N), "y": y}

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            shift = torch.where(d["y"].isnan(), torch.zeros_like(d["y"]), d["y"])
            pyro.sample("x", dist.Normal(z + shift, 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            pyro.sample("z", dist.Normal(0.7 * (d["x"] - d["y"].nan_to_num(0.0)), 0.6))

    def exact(d):
        mean = d["y"].nan_to_num(0.0).double()
        return torch.distributions.Normal(mean, 1.25**0.5).log_prob(d["x"].double())

    return Case("covariate", lambda: pv.Program(model, guide), data, exact)


_INFINITE = torch.where(_SEEN, _TRUE, torch.inf)
CASES = [
    _case("masked", _masked),
    _case("masked_after_expand", _masked_after_expand),
    _case("masked_and_filled", _filled),
    _case("one_by_one", _one_by_one),
    _case("one_by_one_masked", _one_by_one_masked),
    _case("nan_masked_normal", _nan_masked),
    _case("nan_masked_multivariate", _nan_masked_multivariate),
    _case("mask_in_the_data", _given_mask, x={"x": _X, "m": _SEEN}),
    _case("infinite_under_the_mask", _given_mask, x={"x": _INFINITE, "m": _SEEN}),
    _case("trained_masked", _masked, guide=_trained_guide),
    _case("trained_filled", _filled, guide=_trained_guide),
    _case("trained_one_by_one", _one_by_one, guide=_trained_guide),
    _sequences(),
    _encoder_that_meets_nan(),
    _not_masked(),
    _covariate(),
]
CASES = [case.__class__(**{**vars(case), "plain": False}) if case.name == "infinite_under_the_mask" else case
         for case in CASES]  # fmt: skip

"""Latents that are masked for some data, in model and guide or in one of the two; `obs_mask`; sequences that end early.

A latent that is masked in both, and that nothing observed depends on, adds nothing: the value is that without it. A
mask in one of the two is an error of the user's, whose weights are those of no model.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from case import Case, normal, plate, seeded
from pyro import poutine

import ppl_vae as pv

_N = 10
_EVEN = torch.arange(_N) % 2 == 0
_D = {"x": 1.2 * seeded(21, _N), "m": _EVEN}


def _extra(name, in_model, in_guide, **options):
    """z2 hangs on z, is masked for the odd data, and touches nothing that is observed."""

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=d["m"] if in_model else True):
                pyro.sample("z2", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.8 * d["x"], 0.5))
            with poutine.mask(mask=d["m"] if in_guide else True):
                pyro.sample("z2", dist.Normal(z, 1.3))

    return Case(name, lambda: pv.Program(model, guide), _D, normal(), names=("z", "z2", "x"), **options)


def _by_method(name, in_model, in_guide, **options):
    """As above, with ``.mask`` of the distribution and a vector whose elements are masked one by one."""
    keep = torch.stack([_EVEN, torch.ones(_N, dtype=torch.bool), ~_EVEN], 1)
    data = {"x": _D["x"], "m": keep}

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            rest = dist.Normal(torch.zeros(3), 1.0)
            pyro.sample("z2", (rest.mask(d["m"]) if in_model else rest).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            pyro.sample("z", dist.Normal(0.8 * d["x"], 0.5))
            rest = dist.Normal(torch.zeros(len(d["x"]), 3), 1.2)
            pyro.sample("z2", (rest.mask(d["m"]) if in_guide else rest).to_event(1))

    return Case(name, lambda: pv.Program(model, guide), data, normal(), names=("z", "z2", "x"), **options)


def _sequence(name, in_guide, **options):
    """A random walk observed with noise, of 1 to 3 steps: what comes after the end is masked."""
    steps, lengths = 3, torch.tensor([1, 3, 2, 3])
    data = {"x": seeded(22, 4, steps), "n": lengths}

    def model(d):
        z = torch.zeros(len(d["x"]))
        with plate(d):
            for t in range(steps):
                with poutine.mask(mask=t < d["n"]):
                    z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                    pyro.sample(f"x{t}", dist.Normal(z, 0.5), obs=d["x"][:, t])

    def guide(d):
        with plate(d):
            for t in range(steps):
                with poutine.mask(mask=t < d["n"] if in_guide else True):
                    pyro.sample(f"z{t}", dist.Normal(0.8 * d["x"][:, t], 0.6))

    def exact(d):
        walk = torch.minimum(torch.arange(1.0, steps + 1)[:, None], torch.arange(1.0, steps + 1)).double()
        found = []
        for x, n in zip(d["x"].double(), d["n"].tolist(), strict=True):
            covariance = walk[:n, :n] + 0.25 * torch.eye(n, dtype=torch.float64)
            mean = torch.zeros(n, dtype=torch.float64)
            found.append(torch.distributions.MultivariateNormal(mean, covariance).log_prob(x[:n]))
        return torch.stack(found)

    names = tuple(f"{role}{t}" for role in "zx" for t in range(steps))
    return Case(
        name,
        lambda: pv.Program(model, guide),
        data,
        exact,
        names=names,
        hard=True,
        simulates=False,
        **options,
    )


def _part_observed(name, kind, **options):
    """x2 is missing for some data, by ``obs_mask``: Pyro makes a latent of it, called x2_unobserved."""
    data = {"x": seeded(23, _N, 2), "m": seeded(24, _N) > -0.3}

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x1", dist.Normal(z, 0.5), obs=d["x"][:, 0])
            pyro.sample("x2", dist.Normal(z, 0.5), obs=d["x"][:, 1], obs_mask=d["m"])

    def guide(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.5 * d["x"][:, 0], 0.6))
            if kind == "masked":
                with poutine.mask(mask=~d["m"]):
                    pyro.sample("x2_unobserved", dist.Normal(z, 0.5))
            if kind == "unmasked":
                pyro.sample("x2_unobserved", dist.Normal(z, 0.5))

    def exact(d):
        x = d["x"].double()
        pair = 1 + 0.25 * torch.eye(2, dtype=torch.float64)
        both = torch.distributions.MultivariateNormal(torch.zeros(2).double(), pair).log_prob(x)
        return torch.where(d["m"], both, torch.distributions.Normal(0.0, 1.25**0.5).log_prob(x[:, 0]))

    names = ("z", "x1", "x2", "x2_unobserved", "x2_observed")
    return Case(name, lambda: pv.Program(model, guide), data, exact, names=names, simulates=False, **options)


def _everything_masked():
    """A mask of the plain False: the latent counts nowhere, in neither."""

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=False):
                pyro.sample("z2", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.8 * d["x"], 0.5))
            with poutine.mask(mask=False):
                pyro.sample("z2", dist.Normal(z, 1.3))

    names = ("z", "z2", "x")
    return Case(
        "masked_for_all_data", lambda: pv.Program(model, guide), _D, normal(), names=names, accepts=()
    )


def _observed_masked():
    """The ordinary use: an observation masked for some data; without it the evidence is 1."""

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=d["m"]):
                pyro.sample("x", dist.Normal(z, 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            pyro.sample("z", dist.Normal(0.0 * d["x"], 1.0))

    def exact(d):
        return torch.where(d["m"], normal()(d), 0.0)

    return Case("observation_masked", lambda: pv.Program(model, guide), _D, exact, simulates=False)


_NAMED = "'z2'"
CASES = [
    _extra("no_mask", False, False),
    _extra("both_masked", True, True, accepts=()),
    _extra("only_the_guide_masked", False, True, refused=_NAMED),
    _extra("only_the_model_masked", True, False, refused=_NAMED),
    _by_method("both_masked_by_element", True, True, accepts=()),
    _by_method("only_the_guide_masked_by_element", False, True, refused=_NAMED),
    _by_method("only_the_model_masked_by_element", True, False, refused=_NAMED),
    _sequence("sequences_masked_in_both", True, accepts=()),
    _sequence("sequences_masked_in_the_model", False, refused="'z[012]'"),
    _part_observed("part_observed_no_guide", "none", accepts=(), plain=False),
    _part_observed("part_observed_masked", "masked", accepts=()),
    _part_observed("part_observed_unmasked", "unmasked", accepts=(), plain=False),
    _everything_masked(),
    _observed_masked(),
]

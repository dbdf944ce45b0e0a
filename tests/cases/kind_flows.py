"""Normalising flows of Pyro in guide, prior and likelihood; some have no inverse, and can score only what they drew."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from case import Case, gaussian, grid, plate, seeded, wide_guide
from pyro.distributions import transforms as T  # noqa: N812
from torch import nn

import ppl_vae as pv

_X, _W = seeded(101, 6, 3), 0.8 * seeded(102, 2, 3)
_COVARIANCE = torch.linalg.inv(torch.eye(2) + _W @ _W.T / 0.64)
_SLOPE = _COVARIANCE @ _W / 0.64
_EXACT = gaussian(_W.T, 0.0, 0.64)
_NAMES = ("z", "x", "flow", "flow0", "flow1")


def _model(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ _W, 0.8).to_event(1), obs=x)


def _seeded_flow(make):
    with torch.random.fork_rng():
        torch.manual_seed(103)
        return make()


def _guide(name, make, *, conditional=False, **options):
    """z = flow(base), the base a little wider than the exact posterior."""

    def program():
        found = _seeded_flow(make)
        flows = found if isinstance(found, list) else [found]
        for flow in flows:
            if isinstance(flow, nn.Module):
                flow.eval()

        def guide(x):
            for i, flow in enumerate(flows):
                if isinstance(flow, nn.Module):
                    pyro.module(f"flow{i}" if len(flows) > 1 else "flow", flow)
            with plate(x):
                base = dist.Normal(x @ _SLOPE.T, 1.3 * _COVARIANCE.diagonal().sqrt()).to_event(1)
                moves = [flow.condition(x) if conditional else flow for flow in flows]
                pyro.sample("z", dist.TransformedDistribution(base, moves))

        return pv.Program(_model, guide)

    options = {"names": _NAMES, "trains": False, "hard": True, **options}
    return Case(name, program, _X, _EXACT, **options)


_GUIDES = {
    "planar": lambda: T.planar(2),
    "radial": lambda: T.radial(2),
    "sylvester": lambda: T.sylvester(2),
    "householder": lambda: T.householder(2),
    "affine_autoregressive": lambda: T.affine_autoregressive(2, hidden_dims=[8]),
    "affine_autoregressive_inverse": lambda: T.affine_autoregressive(2, hidden_dims=[8]).inv,
    "affine_coupling": lambda: T.affine_coupling(2, hidden_dims=[8]),
    "spline": lambda: T.spline(2),
    "spline_coupling": lambda: T.spline_coupling(2, hidden_dims=[8]),
    "neural_autoregressive": lambda: T.neural_autoregressive(2, hidden_dims=[8]),
    "batch_norm_flow": lambda: T.batchnorm(2),
    "permute": lambda: T.permute(2, torch.tensor([1, 0])),
    "two_planar": lambda: [T.planar(2), T.planar(2)],
    "coupling_and_permute": lambda: [
        T.affine_coupling(2, hidden_dims=[8]),
        T.permute(2, torch.tensor([1, 0])),
    ],
    "lower_cholesky_affine": lambda: T.LowerCholeskyAffine(
        torch.zeros(2), torch.tensor([[1.1, 0.0], [0.3, 0.9]])
    ),
    "matrix_exponential": lambda: T.matrix_exponential(2),
}
_CONDITIONAL = {
    "conditional_autoregressive": lambda: T.conditional_affine_autoregressive(
        2, context_dim=3, hidden_dims=[8]
    ),
    "conditional_planar": lambda: T.conditional_planar(2, context_dim=3, hidden_dims=[8]),
    "conditional_coupling": lambda: T.conditional_affine_coupling(2, context_dim=3, hidden_dims=[8]),
    "conditional_spline": lambda: T.conditional_spline(2, context_dim=3, hidden_dims=[8]),
}


def _conditional_likelihood(name, observe, make, inverse, **options):
    """p(x|z) is a flow whose parameters are a network of z."""
    x = seeded(104, 5, 3)
    flow = _seeded_flow(make)

    def model(x):
        pyro.module("flow", flow)
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            move = flow.condition(z)
            base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
            law = dist.TransformedDistribution(base, [move.inv if inverse else move])
            pyro.sample("x", law, obs=observe(x, z))

    exact = grid(model, 2, nodes=61)
    options = {"names": _NAMES, "trains": False, "simulates": False, **options}
    return Case(name, lambda: pv.Program(model, wide_guide(2)), x, exact, **options)


def _prior_flow():
    """A prior that is a flow, with an inverse; the guide is a plain normal."""
    flow = _seeded_flow(lambda: T.affine_coupling(2, hidden_dims=[8]))

    def model(x):
        pyro.module("flow", flow)
        with plate(x):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
            pyro.sample("x", dist.Normal(z @ _W, 0.8).to_event(1), obs=x)

    exact = grid(model, 2, nodes=81, low=-8, high=8)
    guide = wide_guide(2, 1.2)
    return Case(
        "prior_is_a_flow", lambda: pv.Program(model, guide), _X, exact, names=_NAMES, trains=False, hard=True
    )


def _prior_without_inverse():
    """A prior that cannot score what the guide draws."""
    flow = _seeded_flow(lambda: T.planar(2))

    def model(x):
        with plate(x):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
            pyro.sample("x", dist.Normal(z @ _W, 0.8).to_event(1), obs=x)

    return Case(
        "prior_without_inverse", lambda: pv.Program(model, wide_guide(2)), _X, refused="'z'", names=_NAMES
    )


class _Cubic(torch.distributions.Transform):
    """A transform of a user's own, without an inverse: z + z^3 / 10."""

    domain = codomain = torch.distributions.constraints.real
    bijective = True
    sign = 1

    def __eq__(self, other):
        return isinstance(other, _Cubic)

    __hash__ = None

    def _call(self, x):
        return x + x**3 / 10

    def log_abs_det_jacobian(self, x, y):
        return torch.log1p(0.3 * x**2)


def _own_transform():
    def guide(x):
        with plate(x):
            base = dist.Normal(x @ _SLOPE.T, 1.2 * _COVARIANCE.diagonal().sqrt())
            pyro.sample("z", dist.TransformedDistribution(base, [_Cubic(cache_size=1)]).to_event(1))

    return Case(
        "transform_of_ones_own", lambda: pv.Program(_model, guide), _X, _EXACT, trains=False, hard=True
    )


_AUTO = lambda: T.conditional_affine_autoregressive(3, context_dim=2, hidden_dims=[8])  # noqa: E731
_SPLINE = lambda: T.conditional_spline(3, context_dim=2, hidden_dims=[8])  # noqa: E731

CASES = [
    *(_guide(name, make) for name, make in _GUIDES.items()),
    *(_guide(name, make, conditional=True) for name, make in _CONDITIONAL.items()),
    _conditional_likelihood("likelihood_flow", lambda x, z: x, _AUTO, True),
    _conditional_likelihood("likelihood_flow_expanded", lambda x, z: x.expand(*z.shape[:-1], 3), _AUTO, True),
    _conditional_likelihood("likelihood_spline", lambda x, z: x, _SPLINE, False),
    _prior_flow(),
    _prior_without_inverse(),
    _own_transform(),
]

"""Autoguides, and guides with a parameter for each datum: they work, or are told to take an index from the data.

A guide whose parameters belong to the rows of one data set can be evaluated on that data set, in that order; on a part
of it only with an index in the data.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from case import Case, normal, plate, seeded
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.nn import PyroModule, PyroParam
from torch import nn

import ppl_vae as pv

_N = 12
_X = 1.2 * seeded(71, _N)
_INDEXED = {"x": _X, "i": torch.arange(_N)}
_PART = {"x": _X[4:7], "i": torch.arange(4, 7)}
_ALL_ROWS = (
    "importance",
    "refitted",
    "gaps",
    "sandwich",
)  # of estimators for guides with a row for each datum
_SAYS = r"index|auxiliary|row for each datum"  # the way round: an index of the row; or another estimator
_ROWS = ("z_unconstrained", "loc", "scale", "z", "x", "guide", "AutoNormal.locs.z", "AutoNormal.scales.z")


def _model(x):
    x = x["x"] if isinstance(x, dict) else x
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _counts(x):
    with plate(x):
        z = pyro.sample("z", dist.Gamma(3.0, 1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)


def _train(model, guide, x, steps):
    torch.manual_seed(0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def _auto(name, kind, *, model=_model, x=_X, exact=None, steps=60, evaluate=None, **options):
    """An autoguide of the whole data set, trained a little by plain SVI."""

    def program():
        guide = kind(model)
        if steps:
            _train(model, guide, x, steps)
        return pv.Program(model, guide)

    names = (*_ROWS, f"_{kind.__name__}_latent", "z_aux", kind.__name__)
    options = {
        "accepts": (),
        "plain": False,
        "names": names,
        "hard": True,
        "trains": False,
        "says": _SAYS,
        **options,
    }
    return Case(name, program, x if evaluate is None else evaluate, exact or normal(), **options)


def _poisson(x):
    half = torch.tensor(0.5, dtype=torch.float64)
    return dist.NegativeBinomial(torch.tensor(3.0, dtype=torch.float64), probs=half).log_prob(x.double())


def _rows(name, guide, *, x=_X, **options):
    """A guide with a parameter for each row, at the values of the exact posterior, widened."""

    def program():
        pyro.param("loc", 0.8 * _X)
        pyro.param("scale", torch.full((_N,), 0.55), constraint=constraints.positive)
        return pv.Program(_model, guide)

    options = {"accepts": (), "plain": False, "names": _ROWS, "trains": False, "says": _SAYS, **options}
    return Case(name, program, x, normal(), **options)


def _outside(x):
    loc = pyro.param("loc", torch.zeros(len(x)))
    scale = pyro.param("scale", torch.ones(len(x)), constraint=constraints.positive)
    with plate(x):
        pyro.sample("z", dist.Normal(loc, scale))


def _inside(x):
    with plate(x):
        loc = pyro.param("loc", torch.zeros(len(x)), event_dim=0)
        scale = pyro.param("scale", torch.ones(len(x)), constraint=constraints.positive, event_dim=0)
        pyro.sample("z", dist.Normal(loc, scale))


def _by_index(d):
    loc = pyro.param("loc", torch.zeros(_N))
    scale = pyro.param("scale", torch.ones(_N), constraint=constraints.positive)
    with plate(d):
        pyro.sample("z", dist.Normal(loc[d["i"]], scale[d["i"]]))


def _by_table(name, x):
    """The rows are those of an embedding, by an index in the data."""
    table = nn.Embedding(_N, 2)
    with torch.no_grad():
        table.weight.copy_(torch.stack([0.8 * _X, torch.full((_N,), -0.6)], 1))

    def guide(d):
        pyro.module("table", table)
        with plate(d):
            row = table(d["i"])
            pyro.sample("z", dist.Normal(row[:, 0], row[:, 1].exp()))

    return Case(name, lambda: pv.Program(_model, guide), x, normal(), names=("z", "x", "table"))


class _Rows(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = PyroParam(0.8 * _X)
        self.scale = PyroParam(torch.full((_N,), 0.55), constraint=constraints.positive)

    def forward(self, x):
        with plate(x):
            pyro.sample("z", dist.Normal(self.loc, self.scale))


class _RowsByIndex(_Rows):
    def forward(self, d):
        with plate(d):
            pyro.sample("z", dist.Normal(self.loc[d["i"]], self.scale[d["i"]]))


def _rows_of_the_model(name, x, **options):
    """The model, too, may know each datum: a shift for each row."""
    shift = 0.5 * seeded(72, _N)

    def model(d):
        b = pyro.param("shift", shift)
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + b[d["i"]], 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            pyro.sample("z", dist.Normal(0.8 * (d["x"] - shift[d["i"]]), 0.55))

    def exact(d):
        return normal()(d["x"] - shift[d["i"]])

    return Case(
        name, lambda: pv.Program(model, guide), x, exact, names=("z", "x", "shift"), trains=False, **options
    )


CASES = [
    _auto("auto_normal", autoguide.AutoNormal, accepts=("importance", "refitted", "gaps")),
    _auto("auto_normal_untrained", autoguide.AutoNormal, steps=0, accepts=("importance", "refitted", "gaps")),
    _auto("auto_normal_of_a_part", autoguide.AutoNormal, evaluate=_X[:3], plain=False),
    _auto("auto_normal_of_one", autoguide.AutoNormal, evaluate=_X[5:6], plain=False),
    _auto("auto_normal_gamma_poisson", autoguide.AutoNormal, model=_counts, x=torch.tensor([0.0, 2, 3, 5]),
          exact=_poisson),
    _auto("auto_diagonal_normal", autoguide.AutoDiagonalNormal),
    _auto("auto_multivariate_normal", autoguide.AutoMultivariateNormal),
    _auto("auto_low_rank_normal", autoguide.AutoLowRankMultivariateNormal),
    _auto("auto_delta", autoguide.AutoDelta, refused=".", says=None),
    _auto("auto_laplace", autoguide.AutoLaplaceApproximation),
    _auto("auto_structured", autoguide.AutoStructured, steps=20),
    _auto("auto_iaf_normal", autoguide.AutoIAFNormal, steps=5),
    _rows("rows", _outside, accepts=_ALL_ROWS),
    _rows("rows_inside_the_plate", _inside, accepts=_ALL_ROWS),
    _rows("rows_of_a_part", _outside, x=_X[:5]),
    _rows("rows_of_one", _inside, x=_X[3:4]),
    _rows("rows_by_index", _by_index, x=_INDEXED, accepts=("importance", "annealed", "quadrature"), says=None),
    _rows("rows_by_index_of_a_part", _by_index, x=_PART, accepts=("importance", "annealed", "quadrature"), says=None),
    _by_table("embedding_by_index", _INDEXED),
    _by_table("embedding_by_index_of_a_part", _PART),
    Case("pyro_module_rows", lambda: pv.Program(_model, _Rows()), _X, normal(), accepts=_ALL_ROWS, names=_ROWS,
         plain=False, trains=False, says=_SAYS),
    Case("pyro_module_rows_by_index", lambda: pv.Program(_model, _RowsByIndex()), _PART, normal(), names=_ROWS),
    _rows_of_the_model("rows_of_the_model", _INDEXED),
    _rows_of_the_model("rows_of_the_model_of_a_part", _PART),
]  # fmt: skip

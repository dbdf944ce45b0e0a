"""Plates, kinds of numbers, and what else a program may be: the value, or a refusal by the name of what is at fault."""

from __future__ import annotations

import functools
import math

import pyro
import pyro.distributions as dist
import torch
from case import Case, gaussian, grid, normal, plate, seeded
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn

import ppl_vae as pv

_X = seeded(131, 6, 3) + seeded(132, 6, 1)
_EXACT = gaussian(torch.ones(3, 1), 0.0, 0.25)
_PLATES = ("z", "x", "x0", "x1", "x2", "data", "pixels", "lin.weight", "shared")
_BITS = _X > 0


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.sum(-1) / 3.25, 0.35))


def _case(name, model, guide=_guide, x=_X, exact=_EXACT, **options):
    options = {"names": _PLATES, "trains": False, "plain": False, "simulates": False, **options}
    return Case(
        name, lambda: pv.Program(model, guide), x, None if options.get("refused") else exact, **options
    )


def _nested(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0))
        with pyro.plate("pixels", 3, dim=-1):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _nested_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal((x.sum(-1) / 3.25)[:, None], 0.35))


def _pixels_left(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("pixels", 3, dim=-2):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)


def _pixels_without_dim(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("pixels", 3):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)


def _pixels_in_turn(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for j in pyro.plate("pixels", 3):
            pyro.sample(f"x{j}", dist.Normal(z, 0.5), obs=x[:, j])


def _data_in_turn(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 0.5).expand([3]).to_event(1), obs=x[i])


def _data_in_turn_guide(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z_{i}", dist.Normal(x[i].sum() / 3.25, 0.35))


def _pixels_by_range(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for j in range(3):
            pyro.sample(f"x{j}", dist.Normal(z, 0.5), obs=x[:, j])


def _two_plates_of_data(x):
    """Two plates over the same data, one after the other."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data2", len(x)):
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 0.5).to_event(1), obs=x)


def _no_plate(x):
    """Batch dimensions without a plate: Pyro itself warns of them in training."""
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    pyro.sample("x", dist.Normal(z[..., None].expand(len(x), 3), 0.5).to_event(1), obs=x)


def _no_plate_guide(x):
    pyro.sample("z", dist.Normal(x.sum(-1) / 3.25, 0.35))


def _subsample(x):
    with pyro.plate("data", 60000, subsample=x) as batch:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 0.5).to_event(1), obs=batch)


def _subsample_guide(x):
    with pyro.plate("data", 60000, subsample=x):
        pyro.sample("z", dist.Normal(x.sum(-1) / 3.25, 0.35))


def _scaled(x):
    with poutine.scale(scale=0.5):
        _pixels_by_range(x)


class _Bayesian(PyroModule):
    """Weights that are latent too: another integral."""

    def __init__(self):
        super().__init__()
        self.lin = PyroModule[nn.Linear](1, 3)
        self.lin.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 1]).to_event(2))

    def forward(self, x):
        weight = self.lin.weight
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * weight.squeeze(-1), 0.5).to_event(1), obs=x)


def _shared(x):
    m = pyro.sample("shared", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 0.5).to_event(1), obs=x)


def _shared_guide(x):
    pyro.sample("shared", dist.Normal(0.0, 1.0))
    _guide(x)


# ---- kinds of numbers ----


def _bernoulli(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z[..., None].expand(*z.shape, 3)).to_event(1), obs=x)


def _bernoulli_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.float().mean(-1) - 0.5, 1.0))


def _bernoulli_exact(x):
    number = torch.as_tensor(x).double().sum(-1)
    z = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, None] + math.log(0.005)
    up, down = torch.nn.functional.logsigmoid(z)[:, None], torch.nn.functional.logsigmoid(-z)[:, None]
    return torch.logsumexp(log_prior + number * up + (3 - number) * down, 0)


def _poisson(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)


def _poisson_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(2.0 + 0.9 * x, 1.9))


def _poisson_exact(x):
    half, two = torch.tensor(0.5, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    return dist.NegativeBinomial(two, probs=half).log_prob(x.double())


_COUNTS = torch.tensor([0.0, 1.0, 2.0, 5.0])
# torch's own Bernoulli takes floats alone: a refusal is right for the others, and so is the value.
_KINDS = {
    "bool": (_BITS, ()),
    "int64": (_BITS.long(), ()),
    "uint8": (_BITS.to(torch.uint8), ()),
    "float64": (_BITS.double(), ("importance",)),
    "float16": (_BITS.half(), ()),
    "bfloat16": (_BITS.bfloat16(), ()),
    "requires_grad": (_BITS.float().requires_grad_(), ()),
    "not_contiguous": (_BITS.float().T.contiguous().T, ("importance",)),
    "sparse": (_BITS.float().to_sparse(), ()),
}

# ---- other things that a program may be ----


def _not_observed(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 0.5).to_event(1))


def _conditioned(x):
    return poutine.condition(_not_observed, data={"x": x})(x)


def _of_keyword(x, *, noise):
    _pixels_by_range(x)


def _of_dict(d):
    _conditioned(d["x"])


def _closed_over(_):
    _conditioned(_X)


def _improper(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 0.5).to_event(1), obs=x)


def _improper_exact(x):
    """The integral of the likelihood over all z, which is what the program says."""
    x = x.double()
    spread = ((x - x.mean(-1, keepdim=True)) ** 2).sum(-1)
    return -math.log(2 * math.pi * 0.25) - math.log(3) / 2 - spread / 0.5


def _tuple_of_data():
    """Data as a pair: a program takes a tensor, or a dict of them."""
    return (_X, _X)


def _mixed_dict():
    """One entry of floats, one of labels, one of flags, beside one another."""
    data = {
        "x": seeded(133, 5),
        "label": torch.tensor([0, 1, 1, 0, 1]),
        "flag": torch.tensor([True, False, True, True, False]),
    }
    shift = torch.tensor([0.5, -0.5])

    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = z + torch.where(d["flag"], shift[d["label"]], torch.zeros(len(d["x"])))
            pyro.sample("x", dist.Normal(loc, 0.5), obs=d["x"])

    def guide(d):
        with plate(d):
            pyro.sample("z", dist.Normal(0.7 * d["x"], 0.7))

    def exact(d):
        return normal()(d["x"] - torch.where(d["flag"], shift[d["label"]], 0.0))

    return Case("dict_of_kinds", lambda: pv.Program(model, guide), data, exact)


def _integer_latent_beside():
    """A count and a number as latents of one datum."""

    def model(x):
        with plate(x):
            k = pyro.sample("k", dist.Poisson(1.0))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + k, 0.5), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("k", dist.Poisson(1.0 + 0.0 * x))
            pyro.sample("z", dist.Normal(0.5 * x - 0.5, 1.1))

    def exact(x):
        counts = torch.arange(40, dtype=torch.float64)[:, None]
        log_k = torch.distributions.Poisson(torch.ones((), dtype=torch.float64)).log_prob(counts)
        return torch.logsumexp(log_k + torch.distributions.Normal(counts, 1.25**0.5).log_prob(x.double()), 0)

    x = seeded(134, 4)
    return Case(
        "count_beside_a_number",
        lambda: pv.Program(model, guide),
        x,
        exact,
        names=("k", "z", "x"),
        trains=False,
    )


def _vector_without_event():
    """The user forgets `.to_event`: it is refused, with the site's name."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 0.5), obs=x)

    return _case("no_to_event", model, refused="'x'|site x")


_BY_DEFAULT = grid(_pixels_by_range, 0)
CASES = [
    _case("data_at_minus_two", _nested, _nested_guide, accepts=()),
    _case("pixels_at_minus_two", _pixels_left, accepts=()),
    _case("pixels_without_dim", _pixels_without_dim, accepts=()),
    _case("pixels_in_turn", _pixels_in_turn, accepts=()),
    _case("data_in_turn", _data_in_turn, _data_in_turn_guide, accepts=(), names=("data", "z_0", "x_0")),
    _case("pixels_by_range", _pixels_by_range, plain=True, simulates=True),
    _case("by_plain_pyro_on_a_grid", _pixels_by_range, exact=_BY_DEFAULT, plain=True),
    _case("two_plates_of_data", _two_plates_of_data, accepts=(), names=(*_PLATES, "data2")),
    _case("no_plate", _no_plate, _no_plate_guide, accepts=()),
    _case("subsample", _subsample, _subsample_guide, refused="'data'|'z'|'x'"),
    _case("scaled", _scaled, refused="'z'|'x[012]'"),
    _case("bayesian_weights", _Bayesian(), refused="'lin.weight'"),
    _case("shared_latent", _shared, _shared_guide, refused="'shared'"),
    *(
        _case(f"bits_{name}", _bernoulli, _bernoulli_guide, x, _bernoulli_exact, accepts=accepts)
        for name, (x, accepts) in _KINDS.items()
    ),
    _case("bits_of_numpy", _bernoulli, _bernoulli_guide, _BITS.numpy(), refused="^x"),
    _case("bits_of_lists", _bernoulli, _bernoulli_guide, _BITS.tolist(), refused="^x"),
    _case("pair_of_data", _pixels_by_range, x=_tuple_of_data(), refused="^x"),
    *(
        _case(
            f"counts_{str(kind).rpartition('.')[2]}",
            _poisson,
            _poisson_guide,
            _COUNTS.to(kind),
            _poisson_exact,
        )
        for kind in (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8)
    ),
    _case("counts_of_nan", _poisson, _poisson_guide, _COUNTS * torch.nan, refused="^x|'x'|'z'"),
    _case("counts_below_zero", _poisson, _poisson_guide, _COUNTS - 1, refused="^x|'x'|'z'"),
    _case("conditioned_inside", _conditioned, plain=True),
    _case("conditioned_once", poutine.condition(_not_observed, data={"x": _X}), accepts=()),
    _case("closed_over", _closed_over, lambda _: _guide(_X), accepts=()),
    _case("dict_of_one", _of_dict, lambda d: _guide(d["x"]), {"x": _X}, plain=True),
    _case("keyword_missing", _of_keyword, refused="^model|'noise'"),
    _case("keyword_bound", functools.partial(_of_keyword, noise=1.0), plain=True),
    _case("improper_prior", _improper, exact=_improper_exact, accepts=()),
    _mixed_dict(),
    _integer_latent_beside(),
    _vector_without_event(),
]

"""A case: a small Pyro program, its data, and what plain Pyro and calculus say its log evidence is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

import ppl_vae as pv

Data = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A program, and what an estimator may do with it.

    Attributes:
        name: of the case, unique in its kind.
        program: makes the pair. It is called once for each estimator, with an empty parameter store.
        x: the data.
        exact: log p(x) of each datum ``(N,)`` in float64, as a function of the data; None where the case is refused.
        refused: where the evidence of the program is not defined: what every refusal must match.
        sums: whether `enumerate_latents`, which does without the guide, gives the right values where it is ``refused``.
        says: what a refusal must match besides, where one is allowed: the way round that it has to name.
        accepts: the estimators that must give values. All the others may refuse, by the name of a site.
        names: the sites, parameters and modules that a refusal may name.
        hard: the verdict may be "caution" or "reject" for all of the data.
        simulates: the data can be drawn anew from the model, and ``exact`` holds for what is drawn.
        plain: plain Pyro runs it, with the data in copies, and its weights are the ones that are meant.
        trains: the ELBO that `fit` reports can be compared with that of plain Pyro.
    """

    name: str
    program: Callable[[], pv.Program]
    x: Any
    exact: Callable[[Any], Tensor] | None = None
    refused: str | None = None
    sums: bool = False
    says: str | None = None
    accepts: tuple[str, ...] = ("importance",)
    names: tuple[str, ...] = ("z", "x")
    hard: bool = False
    simulates: bool = True
    trains: bool = True
    plain: bool = True


def count(x: Any) -> int:
    """The number of data, also of those that must be refused: arrays, lists and tuples."""
    return len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)


def plate(x: Data) -> Any:
    return pyro.plate("data", count(x), dim=-1)


def repeat(x: Data, index: int, times: int) -> Data:
    """One datum, ``times`` times."""
    if isinstance(x, Tensor):
        return x[index : index + 1].repeat(times, *(1,) * (x.ndim - 1))
    return {name: repeat(value, index, times) for name, value in x.items()}


def plain_log_joint(model: Callable[..., Any], z: Mapping[str, Tensor], x: Data) -> Tensor:
    """log p(x, z) of each datum ``(N,)``, as plain Pyro has it: one value ``(N, *event)`` of each latent."""
    with torch.no_grad(), pyro.get_param_store().scope():
        trace = poutine.trace(poutine.condition(model, data=dict(z))).get_trace(x)
    return sum_sites(trace)


def sum_sites(trace: poutine.Trace) -> Tensor:
    """The log density of a trace, summed over its sites for each datum, in float64."""
    total: Tensor | None = None
    for site in trace.nodes.values():
        deterministic = site.get("infer", {}).get("_deterministic")
        if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample" or deterministic:
            continue
        log_prob = site["fn"].log_prob(site["value"]).double()
        if site["mask"] is not None and site["mask"] is not True:
            log_prob = torch.where(torch.as_tensor(site["mask"]), log_prob, 0.0)
        total = log_prob if total is None else total + log_prob
    assert total is not None
    return total


def grid(
    model: Callable[..., Any],
    dims: int,
    *,
    low: float = -6.0,
    high: float = 6.0,
    nodes: int = 81,
    dtype: torch.dtype = torch.float32,
    site: str = "z",
) -> Callable[[Data], Tensor]:
    """log p(x) of each datum by the trapezoid rule over the latents, with densities of the model run by plain Pyro.

    Args:
        model: the model.
        dims: the length of the latent's vector; 0 for a latent number.
        low: where the rule begins, in each dimension.
        high: where it ends.
        nodes: how many points it has in each dimension. The rule converges exponentially for a smooth density
            that vanishes at the ends: these are 4 or more to a standard deviation of the posteriors here.
        dtype: of the latent.
        site: the latent's name.
    """
    axis = torch.linspace(low, high, nodes, dtype=torch.float64)
    width = torch.full_like(axis, (high - low) / (nodes - 1))
    width[0] = width[-1] = width[0] / 2
    points, log_width = axis, width.log()
    if dims:
        points = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
        log_width = torch.cartesian_prod(*[width.log()] * dims).reshape(-1, dims).sum(-1)

    def exact(x: Data) -> Tensor:
        z = {site: points.to(dtype)}
        found = [
            torch.logsumexp(plain_log_joint(model, z, repeat(x, n, len(points))) + log_width, 0)
            for n in range(count(x))
        ]
        return torch.stack(found)

    return exact


def gaussian(W: Tensor, bias: Tensor | float, variance: float) -> Callable[[Data], Tensor]:
    """log N(x; bias, W W' + variance I), the evidence of x = W z + bias + noise; ``W`` is ``(K, D)``."""
    covariance = (W @ W.mT).double() + variance * torch.eye(len(W), dtype=torch.float64)

    def exact(x: Data) -> Tensor:
        x = x if isinstance(x, Tensor) else x["x"]
        mean = torch.as_tensor(bias).double().expand(x.shape)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.double())

    return exact


def normal(mean: float = 0.0, variance: float = 1.25) -> Callable[[Data], Tensor]:
    """log N(x; mean, variance), for data that are numbers."""

    def exact(x: Data) -> Tensor:
        x = x if isinstance(x, Tensor) else x["x"]
        return torch.distributions.Normal(mean, math.sqrt(variance)).log_prob(x.double())

    return exact


def seeded(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers that are a function of the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def observed(x: Data) -> Tensor:
    return x if isinstance(x, Tensor) else x["x"]


def wide_guide(dims: int, scale: float = 1.0) -> Callable[[Data], None]:
    """q(z|x) = N(0, scale^2), whatever x is: right for every model here with a standard normal prior."""

    def guide(x: Data) -> None:
        data = observed(x)
        with plate(x):
            dtype = data.dtype if data.is_floating_point() else torch.get_default_dtype()
            loc = torch.zeros((len(data), dims) if dims else len(data), dtype=dtype)
            prior = dist.Normal(loc, scale)
            pyro.sample("z", prior.to_event(1) if dims else prior)

    return guide


def decoding(
    decode: Callable[..., Tensor], dims: int, noise: float = 0.7, *, latent: Callable[..., Any] | None = None
) -> Callable[[Data], None]:
    """x ~ N(decode(z, y), noise^2), z ~ N(0, 1); ``decode`` is called with z alone where the data are a tensor."""

    def model(x: Data) -> None:
        data = observed(x)
        shift = pyro.param("shift", torch.zeros(()))  # for `fit` to have something to train
        with plate(x):
            if latent is not None:
                z = latent(x)
            elif dims:
                z = pyro.sample("z", dist.Normal(data.new_zeros(dims), 1.0).to_event(1))
            else:
                z = pyro.sample("z", dist.Normal(data.new_zeros(()), 1.0))
            loc = decode(z) if isinstance(x, Tensor) else decode(z, x["y"])
            pyro.sample("x", dist.Normal(loc + shift, noise).to_event(data.ndim - 1), obs=data)

    return model


def decoded(name: str, decode: Callable[..., Tensor], x: Data, dims: int = 2, **options: Any) -> Case:
    """The case of a decoder: its evidence is that of plain Pyro on a grid, or it must be refused."""
    model = decoding(decode, dims)
    nodes = options.pop("nodes", 161 if dims < 2 else 121)
    exact = None if options.get("refused") else grid(model, dims, nodes=nodes)
    return Case(name, lambda: pv.Program(model, wide_guide(dims)), x, exact, **options)


def by_name(cases: Sequence[Case]) -> dict[str, Case]:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), names
    return dict(zip(names, cases, strict=True))


def by_hand(program: pv.Program, x: Data, num_samples: int = 500) -> tuple[Tensor, Tensor]:
    """Importance sampling by plain Pyro: estimates ``(N,)`` and their standard errors; knows nothing of the library.

    S copies of the data lie on the data axis, so the pair runs as it runs under `pyro.infer.SVI`.
    """
    copies = tile(x, num_samples)
    with torch.no_grad(), pyro.validation_enabled(False):
        guide = poutine.trace(program._guide).get_trace(copies)
        model = poutine.trace(poutine.replay(program._model, trace=guide)).get_trace(copies)
        log_weights = (sum_sites(model) - sum_sites(guide)).reshape(num_samples, count(x))
    weights = torch.softmax(log_weights, 0)
    return log_weights.logsumexp(0) - math.log(num_samples), ((weights - 1 / num_samples) ** 2).sum(0).sqrt()


def tile(x: Data, times: int) -> Data:
    """The data, one copy after another."""
    if isinstance(x, Tensor):
        return x.repeat(times, *(1,) * (x.ndim - 1))
    return {name: tile(value, times) for name, value in x.items()}

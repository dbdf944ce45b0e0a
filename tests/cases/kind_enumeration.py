"""Discrete latents that are summed out: marked for enumeration, in the model without a guide site, or in the guide."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from case import Case, plate, seeded
from pyro.infer import config_enumerate

import ppl_vae as pv

_MU = torch.tensor([-2.0, 0.0, 3.0])
_X = _MU[torch.tensor([0, 1, 2, 0, 1, 2])] + seeded(121, 6)
_A = torch.tensor([1.0, -1.0])
_PAIRS = _MU[torch.tensor([0, 1, 2, 0, 2]), None] * _A + seeded(122, 5, 1) * _A + 0.5 * seeded(123, 5, 2)
_NAMES = ("k", "z", "x", "b", "c")


def _mixture_exact(x):
    log_prob = torch.distributions.Normal(_MU[:, None].double(), 1.0).log_prob(x.double())
    return torch.logsumexp(log_prob - math.log(3), 0)


def _mixture(x):
    with plate(x):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(_MU[k], 1.0), obs=x)


def _marked(x):
    with plate(x):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(_MU[k], 1.0), obs=x)


def _empty(x):
    pass


def _flat(x):
    with plate(x):
        pyro.sample("k", dist.Categorical(torch.ones(3)))


def _case(name, model, guide, x=_X, exact=_mixture_exact, **options):
    options = {"names": _NAMES, "trains": False, "plain": False, **options}
    return Case(name, lambda: pv.Program(model, guide), x, exact, **options)


# ---- a class and a continuous latent ----


def _classes_and_z(x):
    with plate(x):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        z = pyro.sample("z", dist.Normal(_MU[k], 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * _A, 0.5).to_event(1), obs=x)


def _z_alone(x):
    with plate(x):
        pyro.sample("z", dist.Normal((x @ _A) / 2, 0.5))


def _k_and_z(x):
    with plate(x):
        pyro.sample("k", dist.Categorical(torch.ones(3)))
        pyro.sample("z", dist.Normal((x @ _A) / 2, 0.5))


def _classes_exact(x):
    covariance = (torch.outer(_A, _A) + 0.25 * torch.eye(2)).double()
    normal = torch.distributions.MultivariateNormal
    terms = [normal((m * _A).double(), covariance).log_prob(x.double()) - math.log(3) for m in _MU]
    return torch.logsumexp(torch.stack(terms), 0)


# ---- a hidden Markov model of 5 steps ----

_STEPS, _MOVES = 5, torch.softmax(seeded(124, 3, 3), -1)
_CHAINS = 2 * seeded(125, 3, _STEPS)


def _chain(x):
    with plate(x):
        s = None
        for t in pyro.markov(range(_STEPS)):
            s = pyro.sample(f"s{t}", dist.Categorical(torch.ones(3) if s is None else _MOVES[s]))
            pyro.sample(f"x{t}", dist.Normal(_MU[s], 1.0), obs=x[:, t])


def _chain_guide(x):
    with plate(x):
        for t in range(_STEPS):
            logits = torch.distributions.Normal(_MU, 1.0).log_prob(x[:, t, None])
            pyro.sample(f"s{t}", dist.Categorical(logits=logits))


def _chain_exact(x):
    x, forward = x.double(), None
    for t in range(_STEPS):
        emission = torch.distributions.Normal(_MU.double(), 1.0).log_prob(x[:, t, None])
        if forward is None:
            forward = emission - math.log(3)
        else:
            forward = torch.logsumexp(forward[:, :, None] + _MOVES.double().log(), 1) + emission
    return torch.logsumexp(forward, -1)


_CHAIN_NAMES = tuple(f"{role}{t}" for role in "sx" for t in range(_STEPS))

# ---- coins, one-hot classes and two classes at once ----


def _coin(x):
    with plate(x):
        b = pyro.sample("b", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(4 * b - 1, 1.0), obs=x)


def _coin_guide(x):
    with plate(x):
        pyro.sample("b", dist.Bernoulli(torch.sigmoid(x)))


def _coin_exact(x):
    normal = torch.distributions.Normal
    terms = [
        normal(3.0, 1.0).log_prob(x.double()) + math.log(0.3),
        normal(-1.0, 1.0).log_prob(x.double()) + math.log(0.7),
    ]
    return torch.logaddexp(*terms)


def _one_hot(x):
    with plate(x):
        k = pyro.sample("k", dist.OneHotCategorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(k @ _MU, 1.0), obs=x)


def _one_hot_guide(x):
    with plate(x):
        pyro.sample("k", dist.OneHotCategorical(torch.ones(len(x), 3) / 3))


def _two_classes(x):
    with plate(x):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        c = pyro.sample("c", dist.Categorical(logits=torch.stack([_MU[k], 0 * _MU[k]], -1)))
        pyro.sample("x", dist.Normal(_MU[k] + c, 1.0), obs=x)


def _two_classes_guide(x):
    with plate(x):
        pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))
        pyro.sample("c", dist.Categorical(torch.ones(len(x), 2)))


def _two_classes_exact(x):
    terms = []
    for m in _MU.double():
        for c in (0, 1):
            log_c = torch.log_softmax(torch.stack([m, 0 * m]), 0)[c]
            terms.append(torch.distributions.Normal(m + c, 1.0).log_prob(x.double()) + log_c - math.log(3))
    return torch.logsumexp(torch.stack(terms), 0)


def _table(x):
    """A table of means indexed by class and by axis: `mu[k, :]`, after Pyro's own tutorial of mixtures."""
    means = torch.stack([_MU, -_MU], 1)
    with plate(x):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(means[k, :], 1.0).to_event(1), obs=x)


def _table_exact(x):
    means = torch.stack([_MU, -_MU], 1).double()[:, None]
    log_prob = torch.distributions.Normal(means, 1.0).log_prob(x.double()).sum(-1)
    return torch.logsumexp(log_prob - math.log(3), 0)


_WITH_Z = {"x": _PAIRS, "exact": _classes_exact}
_SUM = ("enumerate_latents",)
_BOTH = ("enumerate_latents", "importance")
CASES = [
    _case("plain", _mixture, _flat, accepts=_BOTH, plain=True),
    _case("config_enumerate_no_guide_site", config_enumerate(_mixture), _empty, accepts=_SUM),
    _case("infer_enumerate_no_guide_site", _marked, _empty, accepts=_SUM),
    _case("config_enumerate_with_guide_site", config_enumerate(_mixture), _flat, accepts=_SUM),
    _case("config_enumerate_guide", _mixture, config_enumerate(_flat), accepts=_SUM),
    _case("sequential_enumeration", config_enumerate(_mixture, default="sequential"), _empty, accepts=_SUM),
    _case("class_summed_beside_z", config_enumerate(_classes_and_z), _z_alone, **_WITH_Z),
    _case("class_and_z_in_the_guide", config_enumerate(_classes_and_z), _k_and_z, **_WITH_Z, accepts=(), hard=True),
    _case("class_and_z_plain", _classes_and_z, _k_and_z, **_WITH_Z, hard=True, plain=True),
    _case("class_not_in_the_guide", _classes_and_z, _z_alone, **_WITH_Z, accepts=()),
    _case("hidden_markov", _chain, _chain_guide, x=_CHAINS, exact=_chain_exact, accepts=_SUM, names=_CHAIN_NAMES,
          hard=True),
    _case("hidden_markov_enumerated", config_enumerate(_chain), _empty, x=_CHAINS, exact=_chain_exact, accepts=(),
          names=_CHAIN_NAMES),
    _case("coin", _coin, _coin_guide, exact=_coin_exact, accepts=_BOTH, plain=True),
    _case("coin_enumerated", config_enumerate(_coin), _empty, exact=_coin_exact, accepts=_SUM),
    _case("one_hot", _one_hot, _one_hot_guide, accepts=_BOTH, plain=True),
    _case("one_hot_enumerated", config_enumerate(_one_hot), _empty, accepts=_SUM),
    _case("two_classes", _two_classes, _two_classes_guide, exact=_two_classes_exact, accepts=_BOTH, plain=True),
    _case("two_classes_enumerated", config_enumerate(_two_classes), _empty, exact=_two_classes_exact, accepts=_SUM),
    _case("table_of_means", _table, _flat, x=seeded(126, 5, 2), exact=_table_exact, accepts=_BOTH, plain=True),
    _case("table_of_means_enumerated", config_enumerate(_table), _empty, x=seeded(126, 5, 2), exact=_table_exact,
          accepts=_SUM),
]  # fmt: skip

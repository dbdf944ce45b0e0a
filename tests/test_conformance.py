"""Every prior with every likelihood with every posterior: the laws that any combination keeps.

A new family is tested here as soon as it is in its package's ``__all__`` and in the table below; a family that
is missing from the table fails `test_every_family_is_in_the_table`.
"""

import copy
import importlib.util
import itertools

import pyro
import pytest
import torch
from covering import covering, tiered
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors, rng
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import Likelihood
from ppl_vae.networks import ConvNet
from ppl_vae.posteriors import Posterior
from ppl_vae.priors import Prior

DIM, PIXELS, N, S = 2, 6, 5, 3
HAS_ZUKO = importlib.util.find_spec("zuko") is not None  # an optional extra, which the flows need
SMALL_FLOW = {"transforms": 2, "bins": 4, "hidden": (8,)}

# Arguments after the first (dim, or shape); one entry for each variant that is worth its own test.
PRIORS = {
    "StandardNormal": [{}],
    "MixtureOfGaussians": [{"components": 3}],
    "VampPrior": [{"components": 3}],
    "Normal": [{}],
    "Laplace": [{}],
    "StudentT": [{"df": 4.0}],
    "PowerSpherical": [{}],
    "Flow": [SMALL_FLOW] if HAS_ZUKO else [],
    "ConditionalNormal": [],  # of a VAE with covariates: see test_covariates
}
LIKELIHOODS = {
    "Bernoulli": [{}],
    "Binomial": [{"total_count": 4}],
    "Poisson": [{}],
    "Gaussian": [{"scale": 0.7}, {"scale": "learned"}, {"scale": "decoder"}],
    "ContinuousBernoulli": [{}],
    "Laplace": [{"scale": "learned"}],
    "StudentT": [{"df": 5.0, "scale": "decoder"}],
    "LogNormal": [{"scale": "learned"}],
    "Beta": [{}],
    "NegativeBinomial": [{}, {"total_count": "decoder"}],
    "ZeroInflatedNegativeBinomial": [{}],
    "BetaBinomial": [{"total_count": 4}],
    "Categorical": [{"categories": 3}],
    "Ordinal": [{"levels": 4}],
    "DiscretisedLogistic": [{"levels": 5}],
    "DiscretisedLogisticMixture": [{"components": 2, "levels": 5}],
}
POSTERIORS = {
    "MeanFieldNormal": [{}],
    "MultivariateNormal": [{}],
    "LowRankNormal": [{}],
    "MixtureOfNormals": [{"components": 3}],
    "Flow": [{"context": 3, **SMALL_FLOW}] if HAS_ZUKO else [],
    "PowerSpherical": [{}],
}
TABLE = [(priors, Prior, PRIORS), (likelihoods, Likelihood, LIKELIHOODS), (posteriors, Posterior, POSTERIORS)]


def families(package, base):
    found = {name: getattr(package, name) for name in package.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base
    }


@pytest.mark.parametrize(("package", "base", "table"), TABLE, ids=["priors", "likelihoods", "posteriors"])
def test_every_family_is_in_the_table(package, base, table):
    assert set(table) == set(families(package, base)), "add the family to the tables of this file"


def variants(package, base, table):
    return [
        (kind, arguments)
        for name, kind in families(package, base).items()
        for arguments in table.get(name, [])
    ]


ON_SPHERE = (priors.PowerSpherical, posteriors.PowerSpherical)


def sensible(prior, likelihood, posterior, *others):
    """Whether prior and posterior are on one set; a VampPrior is on that of its posterior."""
    return prior[0] is priors.VampPrior or (prior[0] in ON_SPHERE) == (posterior[0] in ON_SPHERE)


def unconstrained(combination):
    """Whether its latents have unconstrained coordinates."""
    return combination[-1][0] not in ON_SPHERE


VARIANTS = [variants(*entry) for entry in TABLE]
COMBINATIONS = [parts for parts in itertools.product(*VARIANTS) if sensible(*parts)]
EVERY_ONE = covering(*VARIANTS, strength=1, allowed=sensible)
TIERED = [pytest.param(row.values, marks=row.marks) for row in tiered(*VARIANTS, allowed=sensible)]
UNCONSTRAINED = [parts for parts in EVERY_ONE if unconstrained(parts)]


def words(value):
    """A combination in words; anything else that stands beside it among the parameters."""
    if not isinstance(value, tuple):
        return str(value)
    return "-".join(
        ":".join([kind.__name__, *(str(value) for value in arguments.values())]) for kind, arguments in value
    )


def build(combination, shape=PIXELS, seed=0, **networks):
    prior, likelihood, posterior = (
        kind(size, **arguments)
        for (kind, arguments), size in zip(combination, (DIM, shape, DIM), strict=True)
    )
    return pv.VAE(prior, likelihood, posterior, **({"hidden": (7,)} | networks), seed=seed).double()


def draw(vae, n=N, seed=7):
    """Data on the likelihood's support, whatever it is: drawn from the model itself."""
    with rng.seeded("cpu", seed, "test data"), torch.no_grad():
        return vae.model(None, n)


def check_two_views(vae, x):
    """The Pyro program and the VAE's own densities are one and the same function."""
    n = len(x)
    with rng.seeded("cpu", 3, "test"):
        z = vae.program.sample_guide(x, S, seed=None)["z"]
    with rng.seeded("cpu", 3, "test"):
        log_weights = vae.program.log_weights(x, S, seed=None)
    log_joint = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    log_guide = vae.encode(x).log_prob(z)
    for ours, direct in (
        (vae.program.log_joint({"z": z}, x), log_joint),
        (vae.program.log_guide({"z": z}, x), log_guide),
        (log_weights, log_joint - log_guide),
    ):
        assert ours.shape == (S, n)
        assert ours.dtype == torch.float64
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, direct, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=TIERED, ids=words)
def combination(request):
    return request.param


@pytest.fixture
def vae(combination):
    return build(combination)


@pytest.fixture
def x(vae):
    return draw(vae)


@pytest.fixture(autouse=True)
def _the_global_store_stays_empty():
    yield
    assert not pyro.get_param_store().keys()


def test_shapes_and_data(vae, x):
    vae.check_data(x)
    assert x.shape == (N, PIXELS)
    assert vae.encode(x).batch_shape == (N,)
    assert vae.encode(x).event_shape == (DIM,)
    assert vae.prior().event_shape == (DIM,)
    assert vae.decode(torch.zeros(S, N, DIM).double()).batch_shape == (S, N)
    sites = vae.program.check(x)
    assert list(sites.latent) == ["z"]
    assert list(sites.observed) == ["x"]


@pytest.mark.parametrize(
    "parts",
    [parts for parts in itertools.product(VARIANTS[0], VARIANTS[1][:1], VARIANTS[2]) if not sensible(*parts)],
    ids=words,
)
def test_a_prior_and_a_posterior_on_different_sets_are_refused(parts):
    vae = build(parts)
    with pytest.raises(InputError, match=r"^guide site 'z': expected ") as caught:
        vae.program.check(draw(vae))
    assert "points of a sphere" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_views_agree(vae, x):
    vae.start_from(x)
    check_two_views(vae, x)


def test_two_views_agree_with_convolutions(combination):
    def network(in_shape, out_shape):
        return ConvNet(in_shape, out_shape, channels=(2, 3), hidden=5)

    vae = build(combination, (1, 8, 8), encoder=network, decoder=network)
    x = draw(vae, 4)
    vae.start_from(x)
    check_two_views(vae, x)
    assert torch.isfinite(torch.tensor(SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO()).step(x)))


def test_one_datum_and_one_sample(vae, x):
    z = vae.program.sample_guide(x[:1], 1)["z"]
    assert vae.program.log_joint({"z": z}, x[:1]).shape == (1, 1)
    torch.testing.assert_close(  # a datum's density does not know its neighbours
        vae.program.log_joint({"z": z.expand(1, N, DIM)}, x)[:, :1], vae.program.log_joint({"z": z}, x[:1])
    )


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_predictive_takes_the_programs(vae, x, parallel):
    posterior = Predictive(vae.model, guide=vae.guide, num_samples=S, parallel=parallel)(x)
    assert posterior["z"].shape == (S, N, DIM)
    prior = Predictive(vae.model, num_samples=S, parallel=parallel)(None, N + 1)
    assert prior["z"].shape == (S, N + 1, DIM)
    assert prior["x"].shape == (S, N + 1, PIXELS)
    vae.check_data(prior["x"].reshape(-1, PIXELS))


def test_traces_hold_densities_per_datum(vae, x):
    trace = poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == (N,)
    assert trace.nodes["x"]["log_prob"].shape == (N,)
    assert trace.nodes["x"]["is_observed"]
    named = {name for name, _ in vae.named_parameters()}
    seen = {name.removeprefix("vae.") for name, node in trace.nodes.items() if node["type"] == "param"}
    assert seen == named


@pytest.mark.parametrize(
    "objective",
    [
        lambda: Trace_ELBO(),
        lambda: Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1),
        lambda: TraceMeanField_ELBO(),
        lambda: RenyiELBO(num_particles=3),
        lambda: RenyiELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=["Trace", "Trace of 5, vectorised", "TraceMeanField", "Renyi", "Renyi, vectorised"],
)
def test_plain_svi_trains_every_parameter(vae, x, objective):
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective())
    for _ in range(3):
        assert abs(svi.step(x)) < 1e6
    still = [name for name, value in vae.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_every_parameter_has_a_gradient(vae, x):
    vae.start_from(x)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    waiting = {name for name, _ in vae.named_parameters()}
    for _ in range(3):
        loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
        grads = torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)
        waiting -= {
            name
            for (name, _), g in zip(vae.named_parameters(), grads, strict=True)
            if g is not None and g.any()
        }
        svi.step(x)
    assert waiting == set()


def test_fit_evidence_and_saving(vae, x, tmp_path):
    pv.fit(vae, x, x_valid=x, epochs=2, batch_size=3, seed=0)
    pv.save(vae, tmp_path / "vae")
    loaded = pv.load(tmp_path / "vae")
    assert loaded.config() == vae.config()
    first = pv.evidence.importance(vae.program, x, num_samples=70, seed=1)
    again = pv.evidence.importance(loaded.program, x, num_samples=70, seed=1)
    for name in ("log_evidence", "stderr", "elbo", "ess", "curve_bound"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.isfinite(first.log_evidence).all()


def test_a_deep_copy_is_independent(vae, x):
    other = copy.deepcopy(vae)
    before = vae.program.log_weights(x, S)
    assert torch.equal(other.program.log_weights(x, S), before)
    shared = {id(t) for t in vae.state_dict(keep_vars=True).values()} & {
        id(t) for t in other.state_dict(keep_vars=True).values()
    }
    assert not shared
    SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    assert torch.equal(vae.program.log_weights(x, S), before)
    assert not torch.equal(other.program.log_weights(x, S), before)


def test_generation(vae, x):
    assert pv.sample(vae, 4).shape == (4, PIXELS)
    vae.check_data(pv.sample(vae, 4))
    assert pv.sample(vae, 4, mean=True).shape == (4, PIXELS)
    assert pv.reconstruct(vae, x).shape == x.shape
    assert pv.interpolate(vae, x[0], x[1], steps=3).shape == (3, PIXELS)

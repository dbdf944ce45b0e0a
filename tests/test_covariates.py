"""A VAE that is conditioned on covariates."""

import pyro.distributions as dist
import pytest
import torch
from covering import tiered
from test_conformance import POSTERIORS, PRIORS
from test_entries import holes, linear
from torch.distributions import MultivariateNormal as Normal
from vae_parts import make, same, state

import ppl_vae as pv
from ppl_vae import InputError, posteriors, priors, rng
from ppl_vae.evidence.running import blocks
from ppl_vae.likelihoods import Bernoulli, Gaussian
from ppl_vae.networks import ConvNet
from ppl_vae.posteriors import MeanFieldNormal
from ppl_vae.priors import ConditionalNormal, Prior, StandardNormal, VampPrior
from ppl_vae.training import loop

N, SIZES = 12, {"batch": 3, "age": 1}


def covariates(n=N, dtype=torch.float32, seed=5):
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(3, (n,), generator=generator)
    return {"batch": batch, "age": torch.randn(n, 1, generator=generator).to(dtype)}


def drawn(vae, given):
    with rng.seeded("cpu", 7, "test data"), torch.no_grad():
        return {"x": vae.model(given), **given}


def conditional(prior=None, **options):
    return make(prior=prior, likelihood=options.pop("likelihood", None), covariates=SIZES, **options)


def test_the_evidence_is_that_of_x_given_the_covariates():
    """A linear Gaussian model, whose marginal is a normal with a mean and a covariance that depend on c."""
    prior = ConditionalNormal(2, 4)
    vae = pv.VAE(
        prior, Gaussian(5, 1.0), MeanFieldNormal(2), hidden=(4,), decoder=linear, covariates=SIZES
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*vae.decoder.parameters(), *prior.parameters()]:
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        for parameter in vae.encoder.parameters():
            parameter.mul_(0.1)
    data = drawn(vae, covariates(100, torch.float64))
    found = pv.evidence.importance(vae.program, data, num_samples=4000)
    with torch.no_grad():
        c = torch.cat([torch.nn.functional.one_hot(data["batch"], 3), data["age"]], -1)
        weights, bias = vae.decoder.last.weight, vae.decoder.output_bias
        W, V = weights[:, :2], weights[:, 2:]
        p = prior(c)
        covariance = W @ torch.diag_embed(p.variance) @ W.T + torch.eye(5)
        exact = Normal(p.mean @ W.T + c @ V.T + bias, covariance).log_prob(data["x"])
    error = found.log_evidence - exact
    assert (error.abs() < 5 * found.stderr).all()
    assert abs(error.mean()) < 4 * (found.stderr**2).mean().sqrt() / 10


HERE = [name for name, variants in PRIORS.items() if variants or name == "ConditionalNormal"]

MADE = [name for name, variants in POSTERIORS.items() if variants]


def on_one_set(prior, posterior):
    """Whether both are on the sphere, or both on all of space; a VampPrior is where its posterior is."""
    return prior == "VampPrior" or (prior == "PowerSpherical") == (posterior == "PowerSpherical")


@pytest.mark.parametrize(("prior", "posterior"), tiered(HERE, MADE, allowed=on_one_set))
def test_every_prior_and_posterior(prior, posterior, tmp_path):
    arguments = {"num_covariates": 4} if prior == "ConditionalNormal" else PRIORS[prior][0]
    vae = conditional(getattr(priors, prior)(2, **arguments), posterior=getattr(posteriors, posterior)(2))
    data = drawn(vae, covariates())
    before = state(vae)
    pv.fit(vae, data, x_valid=data, epochs=3, batch_size=5)
    for name, value in vae.named_parameters():
        assert value.isfinite().all()
        assert not torch.equal(value, before[name])
    pv.save(vae, tmp_path / "vae")
    loaded = pv.load(tmp_path / "vae")
    assert loaded.config() == vae.config()
    first, again = (pv.evidence.importance(v.program, data, num_samples=40) for v in (vae, loaded))
    assert torch.equal(first.log_evidence, again.log_evidence)


@pytest.mark.parametrize("prior", [StandardNormal(2), ConditionalNormal(2, 4), VampPrior(2, 3)], ids=str)
def test_plain_and_captured_agree(prior, monkeypatch):
    found = []
    for level in ("plain", "captured"):
        for module in (blocks, loop):
            monkeypatch.setattr(module, "level_for", lambda *_, level=level: level)
        vae = conditional(type(prior)(**prior.init_args)).double()
        data = drawn(vae, covariates(30, torch.float64))
        pv.fit(vae, data, epochs=2, batch_size=10)
        evidence = pv.evidence.importance(vae.program, data, num_samples=100)
        found.append([evidence.log_evidence, *vae.parameters()])
    for plain, captured in zip(*found, strict=True):
        torch.testing.assert_close(plain, captured, rtol=1e-9, atol=1e-9)


def test_categories_are_columns():
    vae = conditional()
    data = drawn(vae, covariates())
    columns = torch.nn.functional.one_hot(data["batch"], 3).float()
    wide = {**data, "batch": columns, "age": data["age"][:, 0]}
    assert torch.equal(vae.program.log_weights(data, 3), vae.program.log_weights(wide, 3))
    assert vae.encoder.in_shape == (6 + 4,)
    assert vae.decoder.in_shape == (2 + 4,)


def test_covariates_matter_and_are_kept_when_data_are_simulated():
    vae = conditional()
    data = drawn(vae, covariates())
    other = {**data, "age": data["age"] + 2}
    assert not torch.equal(vae.program.log_weights(data, 3), vae.program.log_weights(other, 3))
    _, simulated = vae.program.simulate(data)
    assert torch.equal(simulated["batch"], data["batch"])
    assert torch.equal(simulated["age"], data["age"])
    assert not torch.equal(simulated["x"], data["x"])
    assert (
        pv.evidence.sandwich(vae.program, data, num_chains=2, num_steps=20)
        .lower.log_evidence.isfinite()
        .all()
    )


def test_pictures_and_holes():
    def conv(in_shape, out_shape):
        return ConvNet(in_shape, out_shape, channels=(2,), hidden=5)

    vae = conditional(likelihood=Bernoulli((1, 6, 6)), encoder=conv, decoder=conv, missing=True)
    assert vae.encoder.in_shape == (1 + 4 + 1, 6, 6)
    seen = []
    vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = drawn(vae, covariates()) | {"mask": holes((N, 1, 6, 6))}
    vae.encode(data)
    assert torch.equal(seen[0][:, 4], data["age"][:, :, None].expand(N, 6, 6))
    assert torch.equal(seen[0][:, 5:], data["mask"].float())
    pv.fit(vae, data, epochs=1, batch_size=5)
    assert pv.evidence.importance(vae.program, data, num_samples=20).log_evidence.isfinite().all()
    assert pv.impute(vae, data, 10).draws.shape == (10, N, 1, 6, 6)


class Shifted(Prior):
    """A user's own prior of covariates."""

    def __init__(self, dim):
        super().__init__(dim)
        self.num_covariates = 4

    def forward(self, covariates):
        loc = covariates[..., :2]
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def test_a_users_own_prior():
    vae = conditional(Shifted(2))
    data = drawn(vae, covariates())
    draws = vae.program.sample_prior(data, 500)["z"]
    assert abs((draws.mean(0) - torch.nn.functional.one_hot(data["batch"], 3)[:, :2]).mean()) < 0.1


# ---- generation ---------------------------------------------------------------------------------------------


def test_samples_follow_their_covariates():
    vae = conditional(likelihood=Gaussian(6, 0.1))
    given = covariates(7)
    assert pv.sample(vae, 7, covariates=given).shape == (7, 6)
    one = {"batch": torch.tensor([1]), "age": torch.zeros(1, 1)}
    alike = {"batch": torch.full((7,), 1), "age": torch.zeros(7, 1)}
    assert torch.equal(pv.sample(vae, 7, covariates=one), pv.sample(vae, 7, covariates=alike))
    other = one | {"age": torch.ones(1, 1)}
    means = [pv.sample(vae, 7, covariates=c, mean=True) for c in (one, other)]
    assert not torch.equal(*means)
    drawn_from = pv.sample(conditional(ConditionalNormal(2, 4)), 7, covariates=given)
    assert drawn_from.shape == (7, 6)


def test_reconstructions_and_paths():
    vae = conditional()
    data = drawn(vae, covariates())
    same_batch = pv.reconstruct(vae, data)
    assert same_batch.shape == (N, 6)
    given = {name: data[name] for name in SIZES}
    assert torch.equal(same_batch, pv.reconstruct(vae, data, covariates=given))
    moved = {"batch": torch.tensor([2]), "age": torch.zeros(1, 1)}
    assert not torch.equal(same_batch, pv.reconstruct(vae, data, covariates=moved))
    first, last = ({name: value[i] for name, value in data.items()} for i in (0, 1))
    path = pv.interpolate(vae, first, last, steps=3)
    torch.testing.assert_close(path[0], same_batch[0])
    path = pv.interpolate(vae, first, last, steps=3, covariates={n: v[1:2] for n, v in given.items()})
    torch.testing.assert_close(path[-1], same_batch[1])


# ---- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": torch.full((N,), 3)}, ["0 to 2", "'batch'", "3 to 3"]),
        ({"batch": torch.zeros(N, 2)}, ["'batch'", "(N, 3)", "(12, 2)"]),
        ({"age": torch.zeros(N, 1).double()}, ["'age'", "float32", "float64"]),
        ({"age": torch.zeros(N, dtype=torch.long)}, ["'age'", "float32", "int64"]),
        ({"age": torch.full((N, 1), torch.nan)}, ["'age'", "finite"]),
        ({"age": torch.zeros(N - 1, 1)}, ["same positive number of data"]),
        ({"ages": torch.zeros(N, 1)}, ["'ages'", "'x', 'batch', 'age'"]),
        ({"mask": holes((N, 6))}, ["'mask'"]),
    ],
)
def test_data_that_do_not_fit_are_refused(change, words):
    vae = conditional()
    data = {"x": torch.zeros(N, 6), **covariates()} | change
    for attempt in (vae.check_data, vae.program.check, lambda x: pv.fit(vae, x, epochs=1)):
        with pytest.raises(InputError) as caught:
            attempt(data)
        for word in words:
            assert word in str(caught.value)


def test_missing_covariates_are_refused():
    vae = conditional()
    for data in (torch.zeros(N, 6), {"x": torch.zeros(N, 6), "age": torch.zeros(N, 1)}):
        with pytest.raises(InputError, match=r"covariate 'batch'.*no entry 'batch'"):
            vae.check_data(data)
    with pytest.raises(InputError, match="covariates: expected a dict with 'batch', 'age'"):
        pv.sample(vae, 3)
    with pytest.raises(InputError, match="covariates: expected those of 3 data, or of one"):
        pv.sample(vae, 3, covariates=covariates(2))
    with pytest.raises(InputError, match="covariates: expected None"):
        pv.sample(make(), 3, covariates=covariates(3))
    with pytest.raises(InputError, match="no entry 'batch'"):
        vae.decode(torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"covariates": {"x": 2}}, "covariates"),
        ({"covariates": {"age": 0}}, "covariates['age']"),
        ({"covariates": ["age"]}, "covariates"),
        ({"covariates": {"age": 1}, "prior": ConditionalNormal(2, 3)}, "prior"),
        ({"prior": ConditionalNormal(2, 3)}, "prior"),
    ],
)
def test_what_a_vae_cannot_be_made_with(options, argument):
    with pytest.raises(InputError) as caught:
        make(**options)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("covariates", {"batch": 10**13}, ["sizes", "10000000000000"]),
        ("covariates", {"batch": 5}, ["encoder"]),
        ("covariates", ["batch"], ["covariates"]),
        ("missing", 3, ["missing"]),
    ],
)
def test_a_changed_file_is_refused(name, value, words, tmp_path):
    vae = conditional()
    config = {**vae.config(), name: value}
    vae.config = lambda: config
    pv.save(vae, tmp_path / "vae")
    with pytest.raises(InputError) as caught:
        pv.load(tmp_path / "vae")
    assert caught.value.argument.startswith(str(tmp_path))
    for word in words:
        assert word in str(caught.value)


def test_nothing_changes_without_covariates():
    assert "covariates" not in make().config()
    assert same(state(make()), state(make(covariates={})))

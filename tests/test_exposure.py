"""Counts with an exposure: likelihoods whose mean is multiplied by an entry of the data."""

import pyro.distributions as dist
import pytest
import torch
from vae_parts import make, same, state

import ppl_vae as pv
from ppl_vae import InputError, likelihoods, rng
from ppl_vae.evidence.running import blocks
from ppl_vae.likelihoods import Gaussian, NegativeBinomial, Poisson
from ppl_vae.training import loop

N, FAMILIES = 12, ["Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial"]


def counts(family="Poisson", **options):
    return make(likelihood=getattr(likelihoods, family)(5, exposure="library_size"), **options)


def sizes(n=N, dtype=torch.float32, scale=50.0):
    return scale * (0.5 + torch.rand(n, generator=torch.Generator().manual_seed(2))).to(dtype)


def drawn(vae, given):
    with rng.seeded("cpu", 7, "test data"), torch.no_grad():
        return {"x": vae.model(given), **given}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_is_multiplied(family):
    vae = counts(family)
    z = torch.randn(4, N, 2, generator=torch.Generator().manual_seed(0))
    exposure = sizes()
    with torch.no_grad():
        one, many = (vae.decode(z, {"library_size": e}) for e in (torch.ones(N), exposure))
    torch.testing.assert_close(many.mean, one.mean * exposure[:, None])


def test_the_density_is_that_of_the_product():
    vae = counts().double()
    data = drawn(vae, {"library_size": sizes(dtype=torch.float64)})
    z = torch.randn(3, N, 2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        rate = vae.decoder_params(z)["log_rate"].exp() * data["library_size"][:, None]
        expected = dist.Poisson(rate).log_prob(data["x"]).sum(-1) + vae.prior().log_prob(z)
        found = vae.program.log_joint({"z": z}, data)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_evidence_and_files(family, tmp_path, monkeypatch):
    found = []
    for level in ("plain", "captured"):
        for module in (blocks, loop):
            monkeypatch.setattr(module, "level_for", lambda *_, level=level: level)
        vae = counts(family).double()
        data = drawn(vae, {"library_size": sizes(dtype=torch.float64)})
        pv.fit(vae, data, x_valid=data, epochs=2, batch_size=5)
        found.append(
            [pv.evidence.importance(vae.program, data, num_samples=100).log_evidence, *vae.parameters()]
        )
    for plain, captured in zip(*found, strict=True):
        torch.testing.assert_close(plain, captured, rtol=1e-9, atol=1e-9)
    pv.save(vae, tmp_path / "vae")
    loaded = pv.load(tmp_path / "vae")
    assert same(state(vae), state(loaded))
    assert torch.equal(vae.program.log_weights(data, 3), loaded.program.log_weights(data, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_starts_at_the_mean_of_the_data(family):
    vae = counts(family)
    exposure = sizes(4000, scale=1e4)
    rates = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    generator = torch.Generator().manual_seed(0)
    data = {"x": torch.poisson(exposure[:, None] * rates, generator), "library_size": exposure}
    vae.start_from(data)
    with torch.no_grad():
        vae.decoder.last.weight.zero_()
        mean = pv.sample(vae, 4000, covariates={"library_size": exposure}, mean=True).mean(0)
    torch.testing.assert_close(mean, data["x"].mean(0), rtol=0.02, atol=0.01)


def test_samples_and_reconstructions_take_an_exposure():
    vae = counts()
    data = drawn(vae, {"library_size": sizes()})
    assert pv.sample(vae, 7, covariates={"library_size": torch.tensor([100.0])}).shape == (7, 5)
    found = pv.reconstruct(vae, data)
    double = pv.reconstruct(vae, data, covariates={"library_size": 2 * data["library_size"]})
    torch.testing.assert_close(double, 2 * found)
    column = {**data, "library_size": data["library_size"][:, None]}
    assert torch.equal(found, pv.reconstruct(vae, column))


def test_exposure_covariates_and_holes_together():
    vae = counts("NegativeBinomial", covariates={"batch": 2, "library_size": 1}, missing=True)
    given = {"library_size": sizes(), "batch": torch.arange(N) % 2}
    data = drawn(vae, given)
    mask = torch.rand(N, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    data = {**data, "x": torch.where(mask, data["x"], torch.nan), "mask": mask}
    pv.fit(vae, data, epochs=2, batch_size=5)
    assert pv.evidence.importance(vae.program, data, num_samples=50).log_evidence.isfinite().all()
    draws = pv.impute(vae, data, 30).draws
    assert (draws == draws.floor()).all()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (torch.zeros(N), ["positive numbers", "'library_size'", "received 0"]),
        (-torch.ones(N), ["positive", "-1"]),
        (torch.ones(N).double(), ["'library_size'", "float32", "float64"]),
        (torch.ones(N, 5), ["'library_size'", "(N, 1)", "(12, 5)"]),
        (torch.full((N,), torch.inf), ["finite", "'library_size'"]),
    ],
)
def test_exposures_that_do_not_fit_are_refused(entry, words):
    with pytest.raises(InputError) as caught:
        pv.fit(counts(), {"x": torch.zeros(N, 5), "library_size": entry}, epochs=1)
    for word in words:
        assert word in str(caught.value)


def test_what_is_refused():
    with pytest.raises(InputError, match="the exposure 'library_size', received no entry 'library_size'"):
        counts().check_data(torch.zeros(N, 5))
    with pytest.raises(InputError, match="exposure: expected the name"):
        Poisson(5, exposure=3)
    with pytest.raises(InputError, match="likelihood: expected an exposure of another name"):
        make(likelihood=NegativeBinomial(5, exposure="mask"))
    with pytest.raises(InputError, match=r"covariates\['size'\]: expected 1 of an exposure, received 2"):
        make(likelihood=Poisson(5, exposure="size"), covariates={"size": 2})
    with pytest.raises(NotImplementedError, match="Gaussian takes no exposure"):
        Gaussian(5).exposed({}, torch.ones(()))


def test_nothing_changes_without_an_exposure():
    ours, theirs = make(likelihood=Poisson(5)), make(likelihood=Poisson(5, exposure=None))
    x = torch.poisson(torch.full((N, 5), 3.0))
    assert torch.equal(ours.program.log_weights(x, 3), theirs.program.log_weights(x, 3))

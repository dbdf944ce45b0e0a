"""Data of a VAE of which some numbers are missing."""

import math
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from test_conformance import LIKELIHOODS, PIXELS
from torch.distributions import MultivariateNormal as Normal
from torch.distributions import constraints
from vae_parts import make, same, state

import ppl_vae as pv
from ppl_vae import InputError, likelihoods, rng
from ppl_vae.evidence.running import blocks
from ppl_vae.likelihoods import Bernoulli, Gaussian, Likelihood
from ppl_vae.networks import MLP, ConvNet
from ppl_vae.posteriors import MeanFieldNormal
from ppl_vae.priors import StandardNormal, VampPrior
from ppl_vae.training import loop

N = 12
VARIANTS = [(name, arguments) for name, entries in LIKELIHOODS.items() for arguments in entries]


def linear(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=())


def holes(shape, fraction=0.4, seed=3):
    """A mask that is false at a fraction of the numbers."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) >= fraction


def drawn(vae, n=N):
    with rng.seeded("cpu", 7, "test data"), torch.no_grad():
        return vae.model(None, n)


def holed(vae, n=N, fraction=0.4, junk=math.nan):
    """Data of the model with holes in which any number stands."""
    x = drawn(vae, n)
    mask = holes(x.shape, fraction)
    return {"x": torch.where(mask, x, junk), "mask": mask}


def gaussian(dim=2, pixels=8, noise=1.0, seed=1):
    """A linear Gaussian model whose guide is near the posterior, since the data tell little; in float64."""
    vae = pv.VAE(
        StandardNormal(dim),
        Gaussian(pixels, noise),
        MeanFieldNormal(dim),
        hidden=(5,),
        decoder=linear,
        missing=True,
        seed=seed,
    ).double()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in vae.decoder.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        for parameter in vae.encoder.parameters():
            parameter.mul_(0.1)
    return vae


def exact(vae, x, mask):
    """log p(x_observed) of `gaussian`, by the marginal normal."""
    with torch.no_grad():
        origin = vae.decode(torch.zeros(vae.latent_dim).double())
        W = (vae.decode(torch.eye(vae.latent_dim).double()).mean - origin.mean).T
        covariance = W @ W.T + torch.diag(origin.variance)
        found = [
            Normal(origin.mean[m], covariance[m][:, m]).log_prob(row[m]) if m.any() else torch.tensor(0.0)
            for row, m in zip(x, mask, strict=True)
        ]
    return torch.stack([value.double() for value in found])


# ---- densities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_evidence_is_that_of_the_observed_numbers(fraction):
    vae = gaussian()
    data = holed(vae, 200, fraction)
    found = pv.evidence.importance(vae.program, data, num_samples=3000)
    error = found.log_evidence - exact(vae, drawn(vae, 200), data["mask"])
    assert abs(error.mean()) < 4 * (found.stderr**2).mean().sqrt() / math.sqrt(200)
    assert (error.abs() < 5 * found.stderr + 1e-12).all()


def test_quadrature_gives_the_evidence_of_the_observed_numbers():
    vae = gaussian()
    data = holed(vae, 10, 0.5)
    found = pv.evidence.quadrature(vae.program, data)
    torch.testing.assert_close(
        found.log_evidence, exact(vae, drawn(vae, 10), data["mask"]), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=str)
def test_what_is_not_observed_changes_nothing(name, arguments):
    def fitted(junk):
        vae = make(likelihood=getattr(likelihoods, name)(PIXELS, **arguments), missing=True)
        data = holed(vae, junk=junk)
        pv.fit(vae, data, x_valid=data, epochs=2, batch_size=5)
        return vae, pv.evidence.importance(vae.program, data, num_samples=40)

    vae, evidence = fitted(math.nan)
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    assert evidence.log_evidence.isfinite().all()
    for junk in (math.inf, -3.0, 1e30):
        other, again = fitted(junk)
        assert same(state(vae), state(other))
        assert torch.equal(evidence.log_evidence, again.log_evidence)


@pytest.mark.parametrize("fit_with", ["fit", "SVI"])
def test_gradients_are_those_of_the_observed_part(fit_with):
    vae, junk = gaussian(), gaussian()
    data = holed(vae, junk=0.3)
    nan = {**data, "x": data["x"].where(data["mask"], torch.tensor(math.nan).double())}
    for each, x in ((vae, data), (junk, nan)):
        if fit_with == "fit":
            pv.fit(each, x, epochs=3, batch_size=5, compile=False)
        else:  # plain Pyro, without the library's handlers
            with rng.seeded("cpu", 0, "test"):
                svi = SVI(each.model, each.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
                assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert same(state(vae), state(junk))


def test_plain_and_captured_agree(monkeypatch):
    data = holed(gaussian(), 30)

    def results(level):
        for module in (blocks, loop):
            monkeypatch.setattr(module, "level_for", lambda *_: level)
        vae = gaussian()
        pv.fit(vae, data, epochs=3, batch_size=10)
        evidence = pv.evidence.importance(vae.program, data, num_samples=200)
        return [evidence.log_evidence, *vae.parameters()]

    for plain, captured in zip(results("plain"), results("captured"), strict=True):
        torch.testing.assert_close(plain, captured, rtol=1e-9, atol=1e-9)


def test_a_datum_without_any_number_has_the_evidence_0():
    vae = gaussian()
    data = {"x": torch.full((3, 8), math.nan).double(), "mask": torch.zeros(3, 8, dtype=torch.bool)}
    found = pv.evidence.importance(vae.program, data, num_samples=4000)
    assert (found.log_evidence.abs() < 4 * found.stderr + 1e-12).all()


def test_a_tensor_stands_for_data_without_holes():
    vae = gaussian()
    x = drawn(vae)
    whole = {"x": x, "mask": torch.ones_like(x, dtype=torch.bool)}
    assert torch.equal(vae.program.log_weights(x, 3), vae.program.log_weights(whole, 3))
    assert torch.equal(vae.program.log_weights(x, 3), vae.program.log_weights({"x": x}, 3))


def test_two_sided_bounds_hold_the_evidence():
    vae = gaussian()
    data = holed(vae, 20)
    z, other = vae.program.simulate(data)
    assert z["z"].shape == (1, 20, 2)
    assert torch.equal(other["mask"], data["mask"])
    assert other["x"].isfinite().all()
    found = pv.evidence.sandwich(vae.program, data, num_chains=2, num_steps=30)
    truth = exact(vae, other["x"], data["mask"]).mean()
    assert abs(float(found.lower.log_evidence.mean() - truth)) < 3.0


# ---- networks -----------------------------------------------------------------------------------------------


def test_the_encoder_sees_the_training_mean_and_the_mask():
    vae = make(likelihood=Gaussian(3), missing=True)
    assert vae.encoder.in_shape == (6,)
    x = torch.tensor([[1.0, 2.0, math.nan], [3.0, math.nan, math.nan]])
    data = {"x": x, "mask": ~x.isnan()}
    vae.start_from(data)
    assert vae.fill.tolist() == [2.0, 2.0, 2.0]  # the last was never observed: the mean of all numbers
    seen = []
    vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vae.encode(data)
    assert seen[0].tolist() == [[1, 2, 2, 1, 1, 0], [3, 2, 2, 1, 0, 0]]
    torch.testing.assert_close(vae.decode(torch.zeros(2)).mean, torch.tensor([2.0, 2.0, 2.0]), atol=2, rtol=0)


def test_pictures_are_stacked_on_their_channels():
    def conv(in_shape, out_shape):
        return ConvNet(in_shape, out_shape, channels=(2,), hidden=5)

    vae = make(likelihood=Bernoulli((1, 6, 6)), encoder=conv, decoder=conv, missing=True)
    assert vae.encoder.in_shape == (2, 6, 6)
    data = holed(vae)
    pv.fit(vae, data, epochs=1, batch_size=5)
    assert pv.evidence.importance(vae.program, data, num_samples=20).log_evidence.isfinite().all()


def test_a_vamp_prior_has_whole_pseudo_inputs():
    vae = make(prior=VampPrior(2, 4), likelihood=Gaussian(6), missing=True)
    data = holed(vae)
    pv.fit(vae, data, epochs=1, batch_size=5)
    assert vae.prior.pseudo_inputs.shape == (4, 6)
    assert vae.prior.pseudo_inputs.isfinite().all()


# ---- refusals and files -------------------------------------------------------------------------------------


class Joint(Likelihood):
    base_measure = "lebesgue"

    def __init__(self, shape):
        super().__init__(shape)
        self.param_shapes = {"loc": self.shape}

    def forward(self, params):
        return dist.MultivariateNormal(params["loc"], torch.eye(self.shape[0]))

    @property
    def support(self):
        return constraints.real


def test_a_joint_likelihood_is_refused():
    make(likelihood=Joint(3))
    with pytest.raises(InputError, match="likelihood: expected with missing=True"):
        make(likelihood=Joint(3), missing=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": torch.ones(N, 6)}, ["'mask'", "bool", "float32"]),
        ({"mask": torch.ones(N, 5, dtype=torch.bool)}, ["'mask'", "(12, 6)", "(12, 5)"]),
        ({"masks": torch.ones(N, 6, dtype=torch.bool)}, ["'x', 'mask'", "'masks'"]),
        ({"x": torch.zeros(N, 5)}, ["(N, 6)", "(12, 5)"]),
        ({"x": torch.zeros(N, 6).double()}, ["float32", "float64"]),
        ({"x": torch.full((N, 6), 0.5)}, ["Bernoulli", "0.5 at datum"]),
    ],
)
def test_data_that_do_not_fit_are_refused(change, words):
    vae = make(missing=True)
    data = {"x": torch.zeros(N, 6), "mask": holes((N, 6))} | change
    for attempt in (vae.check_data, vae.program.check, lambda x: pv.fit(vae, x, epochs=1)):
        with pytest.raises(InputError) as caught:
            attempt(data)
        for word in words:
            assert word in str(caught.value)


def test_only_observed_numbers_are_checked():
    vae = make(missing=True)
    x, mask = torch.zeros(N, 6), holes((N, 6))
    vae.check_data({"x": torch.where(mask, x, 0.5), "mask": mask})
    with pytest.raises(InputError, match="nan at datum 0"):
        vae.check_data(torch.where(mask, x, math.nan) * math.nan)
    with pytest.raises(InputError, match="missing: expected True or False"):
        make(missing="yes")
    with pytest.raises(InputError, match=r"a tensor of shape \(N, 6\), received"):
        make().check_data({"x": x, "mask": mask})


def test_save_and_load(tmp_path):
    vae = make(missing=True)
    data = holed(vae)
    pv.fit(vae, data, epochs=1)
    pv.save(vae, tmp_path / "vae")
    loaded = pv.load(tmp_path / "vae")
    assert same(state(vae), state(loaded))
    assert loaded.config() == vae.config()
    assert torch.equal(vae.program.log_weights(data, 3), loaded.program.log_weights(data, 3))
    assert "missing" not in make().config()


def test_python_in_the_docs_runs():
    text = (Path(__file__).parents[1] / "docs" / "incomplete_data.md").read_text(encoding="utf-8")
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        small = re.sub(r"epochs=\d+", "epochs=1", re.sub(r"num_samples=\d+", "num_samples=64", block))
        exec(compile(small, "incomplete_data.md", "exec"), namespace)  # noqa: S102
    assert namespace

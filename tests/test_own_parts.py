"""The user's own networks and parts in a VAE."""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from vae_parts import Laplace, N, Poisson, StudentT, bits, dense, make, same, state

import ppl_vae as pv
from ppl_vae import InputError, rng
from ppl_vae.likelihoods import Bernoulli, Gaussian
from ppl_vae.networks import ConvNet
from ppl_vae.posteriors import MeanFieldNormal, MultivariateNormal
from ppl_vae.priors import StandardNormal, VampPrior


class ImageEncoder(nn.Module):
    def __init__(self, n_out):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Linear(2 * 4 * 4, n_out)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.conv(x))).flatten(1))


class ImageDecoder(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        self.first = nn.Linear(n_in, 2 * 4 * 4)
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, z):
        return self.conv(torch.relu(self.first(z)).reshape(-1, 2, 4, 4))


OWN = {
    "dense with BatchNorm": lambda: make(encoder=dense(6, 4), decoder=dense(2, 6)),
    "lazy": lambda: make(encoder=nn.Sequential(nn.LazyLinear(4))),
    "images": lambda: make(likelihood=Bernoulli((1, 4, 4)), encoder=ImageEncoder(4), decoder=ImageDecoder(2)),
    "images, Vamp": lambda: make(
        VampPrior(2, 3), Bernoulli((1, 4, 4)), encoder=ImageEncoder(4), decoder=ImageDecoder(2)
    ),
    "factories": lambda: make(likelihood=Bernoulli((1, 4, 4)), encoder=ConvNet, decoder=ConvNet),
    "functions": lambda: make(
        encoder=lambda i, o: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(i), math.prod(o))),
        decoder=lambda i, o: dense(math.prod(i), math.prod(o)),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_any_module_trains_and_has_evidence(name):
    torch.manual_seed(0)
    vae = OWN[name]()
    x = bits(shape=tuple(vae.shape))
    for objective in (
        Trace_ELBO(),
        Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    ):
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
        assert all(math.isfinite(svi.step(x)) for _ in range(3))
    pv.fit(vae, x, epochs=2, batch_size=3)
    modes = [module.training for module in vae.modules()]
    log_weights = vae.program.log_weights(x, 3)
    assert log_weights.shape == (3, N)
    # Evaluated in evaluation mode: a datum's weight does not know the rest of its batch, and nothing is random.
    z = vae.program.sample_guide(x, 3)
    joint = vae.program.log_joint(z, x)
    torch.testing.assert_close(vae.program.log_joint({"z": z["z"][:, 2:3]}, x[2:3]), joint[:, 2:3])
    before = state(vae)
    assert torch.isfinite(pv.evidence.importance(vae.program, x, num_samples=70).log_evidence).all()
    assert same(state(vae), before)  # running statistics are not moved by evidence
    assert [module.training for module in vae.modules()] == modes


def test_the_probe_of_a_network_leaves_no_trace():
    encoder = nn.Sequential(nn.BatchNorm1d(6), dense(6, 4))
    encoder[1][1].eval()  # a frozen normalisation, as in fine-tuning
    before, modes = state(encoder), [module.training for module in encoder.modules()]
    make(encoder=encoder)
    assert same(state(encoder), before)
    assert [module.training for module in encoder.modules()] == modes


@pytest.mark.parametrize(
    "parts",
    [
        lambda: (StudentT(2, df=5.0), Poisson(6, floor=0.02), Laplace(2)),
        lambda: (StandardNormal(2), Poisson((2, 3)), MultivariateNormal(2)),
        lambda: (VampPrior(2, 3), Poisson(6), Laplace(2)),
        lambda: (StudentT(2), Gaussian(6, "learned"), MeanFieldNormal(2)),
    ],
)
def test_own_parts_are_as_good_as_ours(parts, tmp_path):
    vae = make(*parts())
    with rng.seeded("cpu", 0, "test"), torch.no_grad():
        x = vae.model(None, 30)
    history = pv.fit(vae, x, x_valid=x, epochs=15, batch_size=10, lr=1e-2)
    assert history[-1].valid_elbo > history[0].valid_elbo
    e = pv.evidence.importance(vae.program, x, num_samples=200)
    assert (e.log_evidence >= e.elbo).all()
    pv.save(vae, tmp_path / "own")
    loaded = pv.load(tmp_path / "own")
    assert type(loaded.prior) is type(vae.prior)
    assert loaded.prior.init_args == vae.prior.init_args
    assert torch.equal(loaded.program.log_weights(x, 4), vae.program.log_weights(x, 4))
    if vae.likelihood.base_measure == "counting":
        with pytest.raises(InputError, match="integer"):
            vae.check_data(x + 0.5)

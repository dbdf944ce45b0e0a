"""Sticking the landing and doubly reparameterised gradients: unbiased, quiet, and of every path that they must keep."""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from exact_models import linear_vae
from gradient_laws import X, check_subsampled, check_unbiased, signal_to_noise, slope
from torch import nn

import ppl_vae as pv
from ppl_vae.objectives import IWAE, DReG
from ppl_vae.objectives.iwae import log_mean_exp


def made(particles=1, **options):
    return DReG(particles, max_plate_nesting=1, **options)


def bound(log_model, log_guide):
    return log_mean_exp(log_model - log_guide)


def elbo(log_model, log_guide):
    return (log_model - log_guide).mean(0)


@pytest.mark.statistical
@pytest.mark.parametrize(("particles", "exact"), [(1, elbo), (2, bound)])
def test_gradients_are_unbiased(particles, exact):
    """Fails once in 5000 for another seed: three numbers at 4 standard errors."""
    check_unbiased(made(particles), exact)


@pytest.mark.statistical
@pytest.mark.parametrize(("particles", "exact"), [(1, elbo), (2, bound)])
def test_gradients_are_unbiased_if_the_plate_is_subsampled(particles, exact):
    """Fails once in 5000 for another seed."""
    check_subsampled(made(particles), exact)


@pytest.mark.statistical
def test_the_signal_to_noise_ratio_grows_as_the_root_of_the_number_of_particles():
    """Tucker et al. 2019: slope +1/2."""
    particles = (4, 8, 16, 32)
    found = slope(particles, signal_to_noise(made, particles, 20000))
    assert found == pytest.approx(0.5, abs=0.1)


def gradients(objective, module, program, x, seed=0):
    for p in module.parameters():
        p.grad = None
    torch.manual_seed(seed)
    loss = objective.loss_and_grads(program.model, program.guide, x)
    return loss, {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("particles", [1, 5])
def test_the_guides_gradient_is_zero_at_the_exact_posterior(particles):
    exact = linear_vae(2, 3, 20)
    vae = exact.program.callable("model").__self__
    _, found = gradients(made(particles), vae, exact.program, exact.x)
    assert all(found[f"encoder.{name}"].abs().max() < 1e-6 for name in ("weight", "bias"))
    _, theirs = gradients(IWAE(particles, max_plate_nesting=1), vae, exact.program, exact.x)
    assert theirs["encoder.weight"].abs().max() > 1e-2
    torch.testing.assert_close(found["decoder.weight"], theirs["decoder.weight"])


def test_value_and_gradients_of_the_model_are_those_of_iwae():
    exact = linear_vae(2, 3, 5, widen=1.4, shift=0.3)
    vae = exact.program.callable("model").__self__
    ours = gradients(made(4), vae, exact.program, exact.x)
    theirs = gradients(IWAE(4, max_plate_nesting=1), vae, exact.program, exact.x)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12)
    for name in ("decoder.weight", "decoder.bias"):
        torch.testing.assert_close(ours[1][name], theirs[1][name])


def averaged(objective, module, program, x, steps):
    """The mean of gradients and its standard error, all parameters in a row."""
    found = []
    for seed in range(steps):
        _, each = gradients(objective, module, program, x, seed)
        found.append(torch.cat([g.flatten() for g in each.values()]))
    stacked = torch.stack(found)
    return stacked.mean(0), stacked.std(0) / steps**0.5


def check_same_mean(module, program, x, particles, steps):
    """DReG and IWAE have one expected gradient, of every parameter (4.5 standard errors of the difference)."""
    x = x.repeat(60, *(1,) * (x.ndim - 1))
    ours, e = averaged(made(particles), module, program, x, steps)
    theirs, f = averaged(IWAE(particles, max_plate_nesting=1), module, program, x, steps)
    assert ((ours - theirs).abs() < 4.5 * (e**2 + f**2).sqrt() + 1e-9).all()
    return ours, e


@pytest.mark.statistical
def test_an_encoder_that_is_in_the_prior_keeps_its_gradient_there():
    """A prior that is the guide at a pseudo-input, as VampPrior's is if the encoder is shared."""
    torch.manual_seed(0)

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(3, 4).double(), nn.Linear(2, 3).double()
            self.pseudo = nn.Parameter(torch.randn(3, dtype=torch.float64))

        def code(self, x):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            return dist.Normal(loc, log_scale.exp()).to_event(1)

        def model(self, x):
            pyro.module("shared", self)
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", self.code(self.pseudo))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("shared", self)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", self.code(x))

    shared = Shared()
    x = torch.randn(4, 3, dtype=torch.float64)
    program = pv.Program(shared.model, shared.guide)
    for particles in (1, 3):
        check_same_mean(shared, program, x, particles, 50)


class Chain(nn.Module):
    """Two latents of the guide of which one depends on the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c = (nn.Linear(n, 2).double() for n in (1, 2, 1))

    def model(self, x):
        pyro.module("chain", self)
        with pyro.plate("data", len(x), dim=-1):
            v = pyro.sample("v", dist.Normal(torch.zeros_like(x), 1.0))
            z = pyro.sample("z", dist.Normal(v.tanh(), 0.8))
            loc, log_scale = self.c(z.unsqueeze(-1)).unbind(-1)
            pyro.sample("x", dist.Normal(loc, (0.3 * log_scale).exp()), obs=x)

    def guide(self, x):
        pyro.module("chain", self)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = self.a(x.unsqueeze(-1)).unbind(-1)
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()))
            both = torch.stack([z, x.expand(z.shape)], -1)
            loc, log_scale = self.b(both).unbind(-1)
            pyro.sample("v", dist.Normal(loc.tanh(), (0.5 * log_scale).exp()))


@pytest.mark.statistical
def test_latents_that_depend_on_one_another_keep_the_paths_between_them():
    chain = Chain()
    program = pv.Program(chain.model, chain.guide)
    for particles in (1, 3):
        check_same_mean(chain, program, X[:4], particles, 50)


def with_flow(transform):
    """A guide that is a flow, which keeps what it drew: its density would be scored by that, not by its inverse."""
    torch.manual_seed(2)

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow, self.decoder = transform.double(), nn.Linear(2, 2).double()

        def model(self, x):
            pyro.module("flowing", self)
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("flowing", self)
            base = dist.Normal(0.5 * x, 1.0).to_event(1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))

    flow = Flow()
    return flow, pv.Program(flow.model, flow.guide), torch.randn(4, 2, dtype=torch.float64)


@pytest.mark.statistical
def test_a_flow_is_scored_by_its_inverse():
    flow, program, x = with_flow(transforms.affine_coupling(2, hidden_dims=[4]))
    check_same_mean(flow, program, x, 3, 50)


def test_a_flow_without_inverse_is_refused_by_name():
    flow, program, x = with_flow(transforms.Planar(2))
    with pytest.raises(pv.ProgramError, match=r"guide site 'z': expected .* a flow with an inverse"):
        gradients(made(3), flow, program, x)


@pytest.mark.statistical
def test_warm_up_of_the_kl_leaves_gradients_unbiased():
    chain = Chain()
    program = pv.Program(chain.model, chain.guide)
    weighted = program.derived(*program.kl_weighted(0.4), None)
    check_same_mean(chain, weighted, X[:4], 3, 50)


def test_it_has_no_loss_to_differentiate():
    exact = linear_vae(2, 3, 5)
    with pytest.raises(NotImplementedError, match="loss_and_grads"):
        made(2).differentiable_loss(exact.program.model, exact.program.guide, exact.x)

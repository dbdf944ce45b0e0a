"""The ELBO with a weight of the KL, or a floor under it: exact values, and closed forms where they are right."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_models import linear_vae
from gradient_laws import X, check_subsampled, check_unbiased, leaves, pair
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import Normal, kl_divergence

import ppl_vae as pv
from ppl_vae.objectives import BetaELBO, FreeBits


def made(kind, *arguments, **options):
    return kind(*arguments, max_plate_nesting=1, **options)


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_value_is_that_of_pyro_with_scaled_latents(beta):
    exact = linear_vae(2, 3, 5, widen=1.4, shift=0.3)
    found = []
    for halves, objective in (
        (exact.program.kl_weighted(1.0), made(BetaELBO, beta, 3)),
        (exact.program.kl_weighted(beta), TraceMeanField_ELBO(3, 1, vectorize_particles=True)),
    ):
        torch.manual_seed(3)
        found.append(objective.loss(*halves, exact.x))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize("check", [check_unbiased, check_subsampled])
def test_gradients_of_the_elbo_are_unbiased_with_and_without_subsampling(check):
    """Fails once in 5000 for another seed."""
    check(made(BetaELBO, 1.0, 2), lambda p, q: (p - q).mean(0))


def in_the_other_order():
    """A model and a guide that sample two latents in opposite orders, for which closed forms site by site are wrong."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 0.5))
            pyro.sample("x", dist.Normal(b, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Normal(0.6 * x, 0.4))
            pyro.sample("a", dist.Normal(0.8 * b, 0.45))

    return model, guide


def test_closed_forms_are_used_only_where_they_are_right():
    model, guide = in_the_other_order()
    found = []
    for objective in (made(BetaELBO, 1.0, 7), Trace_ELBO(7, max_plate_nesting=1, vectorize_particles=True)):
        torch.manual_seed(0)
        found.append(objective.loss(model, guide, X))
    assert found[0] == pytest.approx(found[1], rel=1e-12)  # log p - log q of the same draws


def test_a_prior_without_a_closed_form_is_scored_at_the_draws():
    vae = pv.VAE(
        pv.priors.VampPrior(2, components=3),
        pv.likelihoods.Gaussian(3),
        pv.posteriors.MeanFieldNormal(2),
        hidden=(4,),
    ).double()
    x, found = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), []
    for objective in (made(BetaELBO, 1.0, 3), Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True)):
        torch.manual_seed(0)
        found.append(objective.loss(vae.program.model, vae.program.guide, x))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def floors(x):
    """A program of two latents for each datum: the floor of each, and a guide whose first KL is below it."""
    locs = [torch.full((len(x),), v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.7)]

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in "ab":
                pyro.sample(name, dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for name, loc in zip("ab", locs, strict=True):
                pyro.sample(name, dist.Normal(loc, 1.0))

    return locs, model, guide


def test_the_floor_is_under_each_latent_of_each_datum():
    locs, model, guide = floors(X)
    loss = made(FreeBits, 0.5).loss_and_grads(model, guide, X)
    kls = [kl_divergence(Normal(loc.detach(), 1.0), Normal(0.0, 1.0)) for loc in locs]
    likelihood = Normal(0.0, 1.0).log_prob(X).sum()
    assert loss == pytest.approx(float(sum(kl.clamp(min=0.5).sum() for kl in kls) - likelihood), rel=1e-12)
    assert not locs[0].grad.any()  # 0.045 nats: free
    torch.testing.assert_close(locs[1].grad, locs[1].detach())  # d/dm (m²/2)


def test_without_a_floor_it_is_the_elbo():
    found = []
    for objective in (made(FreeBits, 0.0, 2), made(BetaELBO, 1.0, 2)):
        torch.manual_seed(3)
        found.append(objective.loss(*pair(leaves()), X))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize(("kind", "argument"), [(BetaELBO, "beta"), (FreeBits, "nats")])
@pytest.mark.parametrize("value", [-1.0, float("nan"), "much", True])
def test_wrong_arguments_are_refused(kind, argument, value):
    with pytest.raises(pv.InputError, match=f"{argument}: expected a finite number, 0 or more"):
        kind(value)

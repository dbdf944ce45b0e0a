"""The importance-weighted bounds: their values for each datum, and their gradients, are the exact ones."""

from itertools import combinations

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_models import draw_normal_normal, linear_vae, normal_normal
from gradient_laws import START, X, check_subsampled, check_unbiased, leaves, pair, signal_to_noise, slope
from pyro import poutine
from pyro.infer import SVI, RenyiELBO

import ppl_vae as pv
from ppl_vae.objectives import IWAE
from ppl_vae.objectives.iwae import log_mean_exp

ALPHAS = (0.0, 0.4)


def made(particles=2, **options):
    return IWAE(particles, max_plate_nesting=1, **options)


def bound(alpha):
    return lambda log_model, log_guide: log_mean_exp((1 - alpha) * (log_model - log_guide)) / (1 - alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_value_is_that_of_the_log_weights_of_each_datum(alpha):
    exact = linear_vae(2, 3, 5, widen=1.4, shift=0.3)
    torch.manual_seed(3)
    weights = exact.program.log_weights(exact.x, 6, seed=None).detach()
    torch.manual_seed(3)
    loss = made(6, alpha=alpha).loss(exact.program.model, exact.program.guide, exact.x)
    assert loss == pytest.approx(-float(bound(alpha)(weights, 0.0).sum()), rel=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_are_unbiased(alpha):
    """Fails once in 5000 for another seed: three numbers at 4 standard errors."""
    check_unbiased(made(alpha=alpha), bound(alpha))


@pytest.mark.statistical
def test_gradients_are_unbiased_if_the_plate_is_subsampled():
    """Fails once in 5000 for another seed."""
    check_subsampled(made(), bound(0.0))


def test_gradients_are_those_of_pyro_where_pyro_is_right():
    for vectorised in (True, False):
        found = []
        for objective in (
            made(4, alpha=0.3, vectorize_particles=vectorised),
            RenyiELBO(0.3, num_particles=4, vectorize_particles=vectorised, max_plate_nesting=1),
        ):
            p = leaves()
            torch.manual_seed(0)
            loss = objective.loss_and_grads(*listed(*pair(p), p), X)
            found.append([loss, *(float(p[name].grad) for name in START)])
        assert found[0] == pytest.approx(found[1], rel=1e-12)


def listed(model, guide, p):
    """The pair with its parameters told to Pyro, whose own objective differentiates nothing else."""

    def told(x):
        pyro.param("a", p["a"])
        return model(x)

    return told, guide


@pytest.mark.statistical
def test_the_signal_to_noise_ratio_falls_as_the_root_of_the_number_of_particles():
    """Rainforth et al. 2018: slope -1/2. The slope's error is about 0.03."""
    particles = (4, 8, 16, 32)
    found = slope(particles, signal_to_noise(made, particles, 100000))
    assert found == pytest.approx(-0.5, abs=0.1)


def test_a_scale_of_the_pair_is_outside_of_the_logarithm():
    x = torch.as_tensor(draw_normal_normal(6))
    exact = normal_normal(x)  # its guide is the posterior: every weight is p(x)
    total = float(exact.log_evidence.sum())
    model, guide = exact.program.callable("model"), exact.program.callable("guide")
    for by in (3.0, torch.tensor(3.0, dtype=torch.float64)):
        scaled = (poutine.scale(fn, by) for fn in (model, guide))
        assert made(4).loss(*scaled, exact.x) == pytest.approx(-3 * total)
    each = torch.tensor([0.1, 1.0, 2.0, 3.0, 1.0, 0.5], dtype=torch.float64)  # a weight for each datum
    scaled = (poutine.scale(fn, each) for fn in (model, guide))
    assert made(4).loss(*scaled, exact.x) == pytest.approx(-float(exact.log_evidence @ each))
    kept = each > 0.7
    masked = (poutine.mask(fn, kept) for fn in (model, guide))
    assert made(4).loss(*masked, exact.x) == pytest.approx(-float(exact.log_evidence[kept].sum()))


def test_a_subsampled_plate_multiplies_the_sum_of_its_data():
    x = torch.as_tensor(draw_normal_normal(6))
    exact, index = normal_normal(x), torch.tensor([0, 3, 4])
    half = normal_normal(x[index])

    def within(fn):
        def run(x):
            with pyro.plate("data", 6, subsample=index, dim=-1):
                return fn(x)

        return run

    model, guide = within(plain_model), within(plain_guide)
    expected = -2 * float(half.log_evidence.sum())
    assert made(4).loss(model, guide, exact.x[index]) == pytest.approx(expected)


def plain_model(x):
    z = pyro.sample("z", dist.Normal(x.new_tensor(0.5), 2.0))
    pyro.sample("x", dist.Normal(z, 0.8), obs=x)


def plain_guide(x):
    variance = 1 / (1 / 2.0**2 + 1 / 0.8**2)
    pyro.sample("z", dist.Normal(variance * (0.5 / 2.0**2 + x / 0.8**2), variance**0.5))


def drawing(fn):
    """In a plate that draws three of the data."""

    def run(x):
        with pyro.plate("data", len(x), subsample_size=3, dim=-1) as i:
            return fn(x[i])

    return run


@pytest.mark.parametrize("vectorised", [True, False])
def test_all_particles_are_of_the_data_that_a_plate_draws_once(vectorised):
    exact = normal_normal(torch.as_tensor(draw_normal_normal(6)))
    sums = [2 * float(exact.log_evidence[list(three)].sum()) for three in combinations(range(6), 3)]
    objective = made(5, vectorize_particles=vectorised)
    for _ in range(3):
        loss = objective.loss(drawing(plain_model), drawing(plain_guide), exact.x)
        assert min(abs(loss + each) for each in sums) < 1e-9


def test_latents_in_a_plate_inside_of_a_datum_make_one_weight():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # parts, data
    drawn = {}

    def model(x):
        with pyro.plate("data", 5, dim=-1):
            u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("parts", 3, dim=-2):
                v = pyro.sample("v", dist.Normal(u, 1.0))
                pyro.sample("x", dist.Normal(v, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", 5, dim=-1):
            drawn["u"] = pyro.sample("u", dist.Normal(x.mean(0), 0.7))
            with pyro.plate("parts", 3, dim=-2):
                drawn["v"] = pyro.sample("v", dist.Normal(0.8 * x, 0.6))

    loss = IWAE(4).loss(model, guide, x)  # finds out by itself how deep plates nest
    u, v = drawn["u"], drawn["v"]
    normal = torch.distributions.Normal
    ratio_u = normal(0.0, 1.0).log_prob(u) - normal(x.mean(0), 0.7).log_prob(u)
    inner = normal(u, 1.0).log_prob(v) + normal(v, 0.5).log_prob(x) - normal(0.8 * x, 0.6).log_prob(v)
    expected = log_mean_exp(ratio_u.squeeze(-2) + inner.sum(-2)).sum()
    assert loss == pytest.approx(-float(expected), rel=1e-12)


def test_what_has_no_weight_for_each_datum_is_refused_by_name():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=2, dim=-1) as i:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        pyro.sample("z", dist.Normal(x.mean(), 1.0))

    with pytest.raises(
        pv.ProgramError, match=r"plate 'data': expected a plate that all sites are in.*'x' in 2 out of 8"
    ):
        made().loss(model, guide, X)
    assert made(1).loss(model, guide, X) > 0  # the ELBO is a sum
    wanted = "model site 'z': expected a latent that the guide samples"
    with pyro.validation_enabled(False), pytest.raises(pv.ProgramError, match=wanted):  # or Pyro warns of it
        made().loss(model, lambda x: None, X)


def test_wrong_arguments_are_refused():
    with pytest.raises(pv.InputError, match="num_particles: expected a positive integer"):
        IWAE(0)
    with pytest.raises(pv.InputError, match="alpha: expected a number from 0 to below 1"):
        IWAE(4, alpha=1.0)


def test_plain_pyro_learns_by_it():
    """The optimum of a and s where log p(x) is known: x ~ N(0, a² + 1/4)."""
    generator = torch.Generator().manual_seed(2)
    x = 1.5 * torch.randn(200, generator=generator, dtype=torch.float64)

    def model(x):
        a = pyro.param("a", torch.tensor(0.5, dtype=torch.float64))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(a * z, 0.5), obs=x)

    def guide(x):
        b, s = (pyro.param(n, torch.tensor(v, dtype=torch.float64)) for n, v in (("b", 0.1), ("s", 0.0)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(b * x, s.exp()))

    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=IWAE(5))
    for _ in range(300):
        svi.step(x)
    a = abs(float(pyro.param("a").detach()))
    pyro.clear_param_store()
    assert a == pytest.approx(float((x.square().mean() - 0.25).sqrt()), rel=0.03)

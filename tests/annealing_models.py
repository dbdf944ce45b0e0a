"""Programs for the annealing tests: several sites, latents with a support, guides that stray."""

import pyro
import pyro.distributions as dist
import torch
from exact_models import Exact, tensor
from scipy import special, stats

import ppl_vae as pv

CLASSES, POPULATION, WITHIN, NOISE = 3, 2.0, 1.0, 0.5


def hierarchy(num_data, *, seed=0, widen=1.3, dtype=torch.float64):
    """Two latent sites, the second depending on the first in model and guide: mu ~ N, theta | mu ~ N, x | theta ~ N."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            mu = pyro.sample("mu", dist.Normal(x.new_tensor(0.0), POPULATION))
            spread = mu[..., None].expand(*mu.shape, CLASSES)
            theta = pyro.sample("theta", dist.Normal(spread, WITHIN).to_event(1))
            pyro.sample("x", dist.Normal(theta, NOISE).to_event(1), obs=x)

    total = WITHIN**2 + NOISE**2
    variance = 1 / (1 / POPULATION**2 + CLASSES / total)
    inner = 1 / (1 / WITHIN**2 + 1 / NOISE**2)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            mu = pyro.sample("mu", dist.Normal(variance * x.sum(-1) / total, widen * variance**0.5))
            mean = inner * (mu[..., None] / WITHIN**2 + x / NOISE**2)
            pyro.sample("theta", dist.Normal(mean, widen * inner**0.5).to_event(1))

    covariance = POPULATION**2 * torch.ones(CLASSES, CLASSES) + total * torch.eye(CLASSES)
    law = stats.multivariate_normal(torch.zeros(CLASSES).numpy(), covariance.numpy())
    x = law.rvs(num_data, random_state=seed).reshape(num_data, CLASSES)
    return Exact(pv.Program(model, guide), tensor(x, dtype), tensor(law.logpdf(x)).reshape(num_data))


def dirichlet_multinomial(num_data, *, seed=0, count=8, widen=1.5, dtype=torch.float64):
    """Latents on the simplex: p ~ Dirichlet(a), counts of ``count`` draws from it."""
    a = torch.tensor([1.5, 2.0, 0.8, 1.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    gammas = torch._standard_gamma(a.expand(num_data, 4), generator=generator)
    shares = gammas / gammas.sum(-1, keepdim=True)
    drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
    x = torch.nn.functional.one_hot(drawn, 4).sum(1).to(dtype)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            p = pyro.sample("p", dist.Dirichlet(a.to(x.dtype)))
            pyro.sample("x", dist.Multinomial(count, probs=p, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("p", dist.Dirichlet((a.to(x.dtype) + x) / widen))

    k, alpha = x.double().numpy(), a.numpy()
    exact = special.gammaln(count + 1) - special.gammaln(k + 1).sum(-1)
    exact = exact + special.gammaln(alpha.sum()) - special.gammaln(count + alpha.sum())
    exact = exact + (special.gammaln(k + alpha) - special.gammaln(alpha)).sum(-1)
    return Exact(pv.Program(model, guide), x, tensor(exact))


def straying_guide(num_data, *, dtype=torch.float64):
    """A rate > 0 under the model, a guide on all reals: a quarter or so of its draws have no density at all."""
    x = torch.linspace(0.5, 2.0, num_data, dtype=dtype)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Exponential(torch.ones_like(x)))
            pyro.sample("x", dist.Normal(rate, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.Normal(0.8 * torch.ones_like(x), 1.2))

    # The integral over rate > 0 of exp(-rate) N(x; rate, 1).
    exact = 0.5 - x.double() + torch.special.log_ndtr(x.double() - 1)
    return Exact(pv.Program(model, guide), x, exact)


def bimodal(x, *, noise=0.1, scale=0.05):
    """x = z² + noise: modes at ± sqrt(x), and a guide, much too narrow, at one of them."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z**2, noise), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.clamp(min=0.01).sqrt(), scale))

    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    joint = stats.norm.logpdf(grid)[:, None] + stats.norm(grid[:, None] ** 2, noise).logpdf(x.double()[None])
    exact = torch.logsumexp(torch.as_tensor(joint), 0) + (grid[1] - grid[0]).log()
    return Exact(pv.Program(model, guide), x, exact)

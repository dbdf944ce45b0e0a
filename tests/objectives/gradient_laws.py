"""A program of one latent whose bounds and their gradients are known by quadrature, and the laws that estimates keep.

The parameters of the program are tensors with a value for each datum, so one run over R copies of a datum gives R
independent estimates of the gradient. a is the model's, c and s are the guide's.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

START = {"a": 0.9, "c": 0.3, "s": -0.4}
X = torch.tensor([0.7, -1.1, 0.2, 1.6, -0.5, 0.9, -2.0, 0.1], dtype=torch.float64)
NOISE, SLOPE = 0.5, 0.6


def leaves(*shape):
    return {k: torch.full(shape, v, dtype=torch.float64, requires_grad=True) for k, v in START.items()}


def pair(p, plate=lambda x: (pyro.plate("data", len(x), dim=-1), x)):
    """z ~ N(0, 1), x ~ N(a z, NOISE²); q(z|x) = N(SLOPE x + c, exp(s)²)."""

    def model(x):
        data, x = plate(x)
        with data as i:
            x = x[i]
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(p["a"] * z, NOISE), obs=x)

    def guide(x):
        data, x = plate(x)
        with data as i:
            pyro.sample("z", dist.Normal(SLOPE * x[i] + p["c"], p["s"].exp()))

    return model, guide


def halves(size):
    """The same plate, of which ``size`` data are drawn."""
    return lambda x: (pyro.plate("data", len(x), subsample_size=size, dim=-1), x)


def exact_gradient(bound, x, nodes=40, fixed=False):
    """The gradient of E[bound(log p(x, z), log q(z|x))] of two particles, by Gauss-Hermite quadrature; one datum.

    With ``fixed`` it is the expectation of the gradient with the draws held fixed.
    """
    p = leaves()
    at, weight = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    weight = (weight[:, None] * weight) / weight.sum() ** 2
    eps = torch.stack(torch.meshgrid(at, at, indexing="ij")).flatten(1)  # (2, nodes²)
    q = torch.distributions.Normal(SLOPE * x + p["c"], p["s"].exp())
    z = q.loc + q.scale * eps
    z = z.detach() if fixed else z
    prior, likelihood = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(p["a"] * z, NOISE)
    value = (bound(prior.log_prob(z) + likelihood.log_prob(x), q.log_prob(z)) * weight.flatten()).sum()
    return {k: float(g) for k, g in zip(p, torch.autograd.grad(value, list(p.values())), strict=True)}


def estimates(objective, x, repetitions, seed=0):
    """So many estimates of the gradient of the objective (of the bound, not of the loss) for a datum."""
    p = leaves(repetitions)
    torch.manual_seed(seed)
    objective.loss_and_grads(*pair(p), x.expand(repetitions).clone())
    return {k: torch.zeros(repetitions) if v.grad is None else -v.grad for k, v in p.items()}


def check_mean(found, exact):
    """Within 4 standard errors: false once in 16000 for each number."""
    for name, values in found.items():
        error = values.std() / len(values) ** 0.5
        assert abs(values.mean() - exact[name]) < 4 * error + 1e-12, (name, values.mean(), exact[name], error)


def check_unbiased(objective, bound, repetitions=40000, names=tuple(START)):
    exact = exact_gradient(bound, X[0])
    found = estimates(objective, X[0], repetitions)
    check_mean({k: found[k] for k in names}, exact)


def check_subsampled(objective, bound, steps=400, names=tuple(START)):
    """The mean over steps of a third of the data is the gradient of all data."""
    exact = [exact_gradient(bound, x) for x in X]
    total = {k: sum(each[k] for each in exact) for k in START}
    p, found = leaves(), {k: [] for k in names}
    model, guide = pair(p, halves(3))
    torch.manual_seed(1)
    for _ in range(steps):
        objective.loss_and_grads(model, guide, X)
        for name in names:
            found[name].append(-p[name].grad.clone())
        for value in p.values():
            value.grad = None
    check_mean({k: torch.stack(v) for k, v in found.items()}, total)


def signal_to_noise(make, particles, repetitions, names=("c", "s")):
    """|mean| / standard deviation of the gradient of the guide's parameters, for each number of particles."""
    rows = []
    for k in particles:
        blocks = [estimates(make(k), X[0], repetitions // 10, seed=seed) for seed in range(10)]
        found = {n: torch.cat([block[n] for block in blocks]) for n in names}
        rows.append([float(abs(found[n].mean()) / found[n].std()) for n in names])
    return np.array(rows)


def slope(particles, ratios):
    """The slope of log SNR in log K, mean over parameters."""
    return float(np.polyfit(np.log(particles), np.log(ratios), 1)[0].mean())

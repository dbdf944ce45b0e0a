"""A program's densities are what torch.distributions says they are, datum by datum; everything else is refused."""

import math

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import linear

import ppl_vae as pv
from ppl_vae import InputError, NonFiniteError, Program, ProgramError

N, S = 7, 5
GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def counts(*shape):
    return torch.randint(0, 9, shape, generator=GENERATOR).double()


W1, W2, W3 = randn(2, 3), randn(3, 2, 3), randn(4, 3)
X1, X3, X23 = randn(N), randn(N, 3), randn(N, 2, 3)
MASK = torch.rand(N, 3, generator=GENERATOR) < 0.6
ROWS = torch.tensor([True, False, True, True, False, True, True])


def normal(value, loc, scale=1.0, event=0):
    return td.Independent(td.Normal(loc, torch.as_tensor(scale, dtype=torch.float64)), event).log_prob(value)


# ---- the programs, and the same densities by hand --------------------------------------------------------


class OneLatent:
    x = X1

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.6))

    def joint(self, z, x):
        return normal(z["z"], torch.tensor(0.3, dtype=torch.float64), 1.5) + normal(x, 2 * z["z"], 0.7)

    def proposal(self, z, x):
        return normal(z["z"], x / 2, 0.6)


class PlateWithoutDim(OneLatent):
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("another name", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.6))


class Deterministic(OneLatent):
    def model(self, x):
        pyro.deterministic("outside", x.mean())
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            mean = pyro.deterministic("mean", 2 * z)
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x)


class SeveralSites:
    """Scalar, vector and matrix events; two latent and three observed sites."""

    x = {"scalar": X1, "matrix": X23, "counts": counts(N, 3)}  # noqa: RUF012

    def model(self, x):
        with pyro.plate("data", len(x["scalar"]), dim=-1):
            a = pyro.sample("a", dist.Normal(x["scalar"].new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(a.unsqueeze(-1), x["scalar"].new_ones(3)).to_event(1))
            pyro.sample("scalar", dist.Normal(a, 0.5), obs=x["scalar"])
            pyro.sample("counts", dist.Poisson(z.exp()).to_event(1), obs=x["counts"])
            mean = torch.einsum("...i,ijk->...jk", z, W2)
            pyro.sample("matrix", dist.Normal(mean, 0.9).to_event(2), obs=x["matrix"])

    def guide(self, x):
        with pyro.plate("data", len(x["scalar"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["matrix"].mean(-2), 0.4).to_event(1))
            pyro.sample("a", dist.Normal(z.sum(-1), 0.8))

    def joint(self, z, x):
        a, z = z["a"], z["z"]
        return (
            normal(a, torch.zeros(()).double())
            + normal(z, a[..., None].expand(*a.shape, 3), 1.0, 1)
            + normal(x["scalar"], a, 0.5)
            + td.Poisson(z.exp()).log_prob(x["counts"]).sum(-1)
            + normal(x["matrix"], torch.einsum("sni,ijk->snjk", z, W2), 0.9, 2)
        )

    def proposal(self, z, x):
        return normal(z["z"], x["matrix"].mean(-2), 0.4, 1) + normal(z["a"], z["z"].sum(-1), 0.8)


class Discrete:
    x = X3

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(x.new_tensor(0.3)))
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.1, 0.2, 0.3, 0.4])))
            pyro.sample("x", dist.Normal(W3[k] + b.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(torch.sigmoid(x[:, 0])))
            pyro.sample("k", dist.Categorical(logits=x @ W3.T + b.unsqueeze(-1)))

    def joint(self, z, x):
        b, k = z["b"], z["k"]
        return (
            td.Bernoulli(torch.tensor(0.3, dtype=torch.float64)).log_prob(b)
            + td.Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)).log_prob(k)
            + normal(x, W3[k] + b[..., None], 1.0, 1)
        )

    def proposal(self, z, x):
        log_k = td.Categorical(logits=x @ W3.T + z["b"][..., None]).log_prob(z["k"])
        return td.Bernoulli(torch.sigmoid(x[:, 0])).log_prob(z["b"]) + log_k


class Constrained:
    """Gamma (guide: LogNormal), Beta, Dirichlet."""

    x = {"counts": counts(N, 3), "flips": (randn(N, 4) > 0).double()}  # noqa: RUF012

    def model(self, x):
        one = x["counts"].new_ones(())
        with pyro.plate("data", len(x["counts"]), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2 * one, one))
            share = pyro.sample("share", dist.Dirichlet(one.new_tensor([1.0, 2.0, 3.0])))
            p = pyro.sample("p", dist.Beta(2 * one, 3 * one))
            pyro.sample("counts", dist.Poisson(rate.unsqueeze(-1) * share).to_event(1), obs=x["counts"])
            flips = dist.Bernoulli(p.unsqueeze(-1).expand(*p.shape, 4)).to_event(1)
            pyro.sample("flips", flips, obs=x["flips"])

    def guide(self, x):
        with pyro.plate("data", len(x["counts"]), dim=-1):
            pyro.sample("rate", dist.LogNormal((1 + x["counts"].sum(-1)).log(), 0.5))
            pyro.sample("share", dist.Dirichlet(1 + x["counts"]))
            pyro.sample("p", dist.Beta(2 + x["flips"].sum(-1), 7 - x["flips"].sum(-1)))

    def joint(self, z, x):
        one = torch.ones(()).double()
        return (
            td.Gamma(2 * one, one).log_prob(z["rate"])
            + td.Dirichlet(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).log_prob(z["share"])
            + td.Beta(2 * one, 3 * one).log_prob(z["p"])
            + td.Poisson(z["rate"][..., None] * z["share"]).log_prob(x["counts"]).sum(-1)
            + td.Bernoulli(z["p"][..., None]).log_prob(x["flips"]).sum(-1)
        )

    def proposal(self, z, x):
        return (
            td.LogNormal((1 + x["counts"].sum(-1)).log(), 0.5).log_prob(z["rate"])
            + td.Dirichlet(1 + x["counts"]).log_prob(z["share"])
            + td.Beta(2 + x["flips"].sum(-1), 7 - x["flips"].sum(-1)).log_prob(z["p"])
        )


class Covariates:
    """A library size and a label, neither of them observed."""

    x = {  # noqa: RUF012
        "counts": counts(N, 3),
        "size": torch.linspace(0.5, 2.0, N).double(),
        "label": torch.arange(N) % 2,
    }

    def model(self, x):
        with pyro.plate("data", len(x["counts"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["size"].new_zeros(2), 1.0).to_event(1))
            rate = x["size"].unsqueeze(-1) * (z @ W1 + x["label"].unsqueeze(-1)).exp()
            pyro.sample("counts", dist.Poisson(rate).to_event(1), obs=x["counts"])

    def guide(self, x):
        with pyro.plate("data", len(x["counts"]), dim=-1):
            loc = torch.stack([x["size"], x["label"].double()], -1)
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    def joint(self, z, x):
        z = z["z"]
        rate = x["size"][:, None] * (z @ W1 + x["label"][:, None]).exp()
        return normal(z, torch.zeros(2).double(), 1.0, 1) + td.Poisson(rate).log_prob(x["counts"]).sum(-1)

    def proposal(self, z, x):
        return normal(z["z"], torch.stack([x["size"], x["label"].double()], -1), 0.5, 1)


class MaskedElements:
    """``.mask`` inside the event: missing entries hold NaN."""

    x = {"x": torch.where(MASK, X3, math.nan), "seen": MASK}  # noqa: RUF012

    def model(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["x"].new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W1, 1.0).mask(x["seen"]).to_event(1), obs=x["x"])

    def guide(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            loc = torch.where(x["seen"], x["x"], 0.0)[:, :2]
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def joint(self, z, x):
        each = normal(x["x"].nan_to_num(), z["z"] @ W1)
        return normal(z["z"], torch.zeros(2).double(), 1.0, 1) + (each * x["seen"]).sum(-1)

    def proposal(self, z, x):
        return normal(z["z"], torch.where(x["seen"], x["x"], 0.0)[:, :2], 1.0, 1)


class MaskedData(OneLatent):
    """``poutine.mask``: whole data count or do not."""

    x = {"x": X1, "seen": ROWS}  # noqa: RUF012

    def model(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(X1.new_tensor(0.3), 1.5))
            with poutine.mask(mask=x["seen"]):
                pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x["x"])

    def guide(self, x):
        super().guide(x["x"])

    def joint(self, z, x):
        return (
            normal(z["z"], torch.tensor(0.3, dtype=torch.float64), 1.5)
            + normal(x["x"], 2 * z["z"], 0.7) * x["seen"]
        )

    def proposal(self, z, x):
        return super().proposal(z, x["x"])


class Factored(OneLatent):
    """``pyro.factor`` in the model: an unnormalised joint."""

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x)
            pyro.factor("f", -(x**2))

    def joint(self, z, x):
        return super().joint(z, x) - x**2


CASES = {
    case.__name__: case()
    for case in (
        OneLatent, PlateWithoutDim, Deterministic, SeveralSites, Discrete, Constrained, Covariates,
        MaskedElements, MaskedData, Factored,
    )
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    case = CASES[request.param]
    case.program = Program(case.model, case.guide)
    return case


# ---- densities -----------------------------------------------------------------------------------------------


def test_log_densities_equal_hand_computation(case):
    z = case.program.sample_guide(case.x, S, seed=1)
    for ours, by_hand in (
        (case.program.log_joint(z, case.x), case.joint(z, case.x)),
        (case.program.log_guide(z, case.x), case.proposal(z, case.x)),
    ):
        assert ours.shape == (S, N)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_samples", [1, 2, N])
def test_log_weights_are_joint_minus_guide_at_the_draws(case, num_samples):
    """On one global stream `sample_guide` and `log_weights` draw the same z: the guide runs first in both."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        z = case.program.sample_guide(case.x, num_samples, seed=None)
        torch.manual_seed(3)
        weights = case.program.log_weights(case.x, num_samples, seed=None, check=False)
    assert weights.shape == (num_samples, N)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, case.joint(z, case.x) - case.proposal(z, case.x), rtol=0, atol=1e-10)


def test_log_weights_follow_the_distribution_of_the_guide():
    """log w is a fixed quadratic of a standard normal here: its mean over draws is the ELBO in closed form."""
    exact = models.normal_normal([0.7], widen=1.4, shift=0.5)
    weights = exact.program.log_weights(exact.x, 100_000, seed=0)[:, 0]
    kl = 0.5 * (1.4**2 + 0.5**2 - 1) - math.log(1.4)
    error = weights.std() / math.sqrt(len(weights))
    assert abs(weights.mean() - (exact.log_evidence[0] - kl)) < 4 * error  # fails for 6 in 100,000 seeds


def test_data_do_not_mix(case):
    """Log weights of a part of the data are a part of the log densities of all."""
    z = case.program.sample_guide(case.x, S, seed=1)
    whole = case.program.log_joint(z, case.x)
    index = torch.tensor([4, 1, 6])
    x = case.x[index] if isinstance(case.x, torch.Tensor) else {k: v[index] for k, v in case.x.items()}
    part = case.program.log_joint({k: v[:, index] for k, v in z.items()}, x)
    torch.testing.assert_close(part, whole[:, index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["OneLatent", "SeveralSites", "Covariates", "MaskedElements", "MaskedData"])
def test_gradients_in_z_are_those_of_finite_differences(name):
    case = CASES[name]
    program = Program(case.model, case.guide)
    # torch's own gradient of a masked NaN is NaN (0 * NaN): whoever differentiates fills what is missing.
    x = {k: v.nan_to_num() for k, v in case.x.items()} if name == "MaskedElements" else case.x
    drawn = program.sample_guide(x, 2, seed=1)
    names = list(drawn)
    values = tuple(drawn[site].clone().requires_grad_() for site in names)
    for density in (program.log_joint, program.log_guide):
        assert torch.autograd.gradcheck(
            lambda *z, density=density: density(dict(zip(names, z, strict=True)), x), values
        )


def test_gradients_in_parameters_flow_through_log_weights():
    exact = models.linear_vae(2, 3, 4, widen=1.3)
    exact.program.log_weights(exact.x, 3).logsumexp(0).sum().backward()
    (vae,) = exact.program.modules
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_sites_are_described():
    sites = Program(CASES["Constrained"].model, CASES["Constrained"].guide).check(CASES["Constrained"].x)
    assert {name: (tuple(site.event_shape), site.distribution) for name, site in sites.latent.items()} == {
        "rate": ((), "Gamma"),
        "share": ((3,), "Dirichlet"),
        "p": ((), "Beta"),
    }
    assert {name: (tuple(site.event_shape), site.distribution) for name, site in sites.observed.items()} == {
        "counts": ((3,), "Poisson"),
        "flips": ((4,), "Bernoulli"),
    }
    assert sites.numbers_per_datum == 1 + 3 + 1 + 3 + 4
    assert sites.latent["rate"].dtype == torch.float64


# ---- where the guide leaves the prior's support -----------------------------------------------------------------

STRAYING = {
    "exponential": (lambda: dist.Exponential(torch.tensor(0.7).double()), 0.7),
    "half normal": (lambda: dist.HalfNormal(torch.tensor(1.2).double()), 1.2),
    "gamma": (lambda: dist.Gamma(torch.tensor(2.0).double(), torch.tensor(1.5).double()), None),
    "uniform": (lambda: dist.Uniform(torch.tensor(0.0).double(), torch.tensor(2.0).double()), None),
    "beta": (lambda: dist.Beta(torch.tensor(2.0).double(), torch.tensor(1.5).double()), None),
}


@pytest.mark.parametrize("prior", STRAYING)
def test_a_guide_outside_the_support_of_the_prior_meets_zero_density(prior):
    """Against quadrature on a fine grid; 4 standard errors for 3 data: fails for 2 in 10,000 seeds."""
    made = STRAYING[prior][0]
    x = torch.tensor([0.2, 0.9, 1.5], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", made())
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x * 0.6 + 0.2, 0.7))

    program = Program(model, guide)
    z = program.sample_guide(x, 50, seed=0)
    inside = (z["z"] >= 0) & (z["z"] <= {"uniform": 2.0, "beta": 1.0}.get(prior, math.inf))
    assert 0 < inside.double().mean() < 1
    assert torch.equal(program.log_joint(z, x) > -math.inf, inside)
    weights = program.log_weights(x, 50)
    assert (weights == -math.inf).any()
    assert not weights.isnan().any()

    evidence = pv.evidence.importance(program, x, 20_000)
    top = {"uniform": 2.0, "beta": 1.0}.get(prior, 12.0)
    grid = (torch.arange(200_000).double() + 0.5) * (top / 200_000)
    density = made().log_prob(grid) + td.Normal(grid, 0.8).log_prob(x[:, None])
    exact = density.logsumexp(1) + math.log(top / 200_000)
    assert ((evidence.log_evidence - exact).abs() < 4 * evidence.stderr).all()
    assert (evidence.stderr < 0.05).all()
    assert (evidence.elbo == -math.inf).all()


def test_a_support_that_moves_with_a_latent():
    """x ~ Uniform(0, z), z ~ Pareto(1, 2): p(x) = (2/3) max(1, x)^-3. Draws below x are legal."""
    x = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Pareto(x.new_tensor(1.0), 2.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(z), z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Pareto(x.new_tensor(1.0), x.new_tensor(1.5)))

    evidence = pv.evidence.importance(Program(model, guide), x, 50_000)
    exact = math.log(2 / 3) - 3 * x.clamp(min=1).log()
    assert ((evidence.log_evidence - exact).abs() < 4 * evidence.stderr).all()

    def shifted(x):  # a Pareto's formula goes on below its scale: p(x|z) must be cut off there
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Exponential(x.new_tensor(1.0)))
            pyro.sample("x", dist.Pareto(z, 2.0), obs=x)

    def exponential(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Exponential(x.new_tensor(0.8)))

    evidence = pv.evidence.importance(Program(shifted, exponential), x, 50_000)
    # The integral of exp(-z) 2 z² / x³ over z < x.
    exact = (2 / x**3 * (2 - (-x).exp() * (x**2 + 2 * x + 2))).log()
    assert ((evidence.log_evidence - exact).abs() < 4 * evidence.stderr).all()


# ---- simulation --------------------------------------------------------------------------------------------------


def test_simulated_latents_are_exact_posterior_draws():
    """z standardised by p(z|x') is standard normal and knows nothing of x'. 4 errors, 3 figures: 2 in 10,000 seeds."""
    n = 20_000
    exact = models.normal_normal(torch.zeros(n))
    z, x = exact.program.simulate(exact.x, seed=2)
    assert z["z"].shape == (1, n)
    variance = 1 / (1 / 2.0**2 + 1 / 0.8**2)
    score = (z["z"][0] - variance * (0.5 / 2.0**2 + x / 0.8**2)) / variance**0.5
    assert abs(score.mean()) < 4 / n**0.5
    assert abs(score.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((score * (x - x.mean()) / x.std()).mean()) < 4 / n**0.5
    assert abs(x.var() - (2.0**2 + 0.8**2)) < 4 * (2 / n) ** 0.5 * (2.0**2 + 0.8**2)


def test_simulation_keeps_covariates_and_replaces_observations():
    case = CASES["Covariates"]
    before = {name: value.clone() for name, value in case.x.items()}
    z, x = Program(case.model, case.guide).simulate(case.x, seed=1)
    assert z["z"].shape == (1, N, 2)
    assert torch.equal(x["size"], case.x["size"])
    assert torch.equal(x["label"], case.x["label"])
    assert not torch.equal(x["counts"], case.x["counts"])
    assert x["counts"].shape == case.x["counts"].shape
    assert all(
        torch.equal(case.x[name], before[name]) for name in before
    )  # the data given are not written to
    assert torch.isfinite(Program(case.model, case.guide).log_joint(z, x)).all()


def split_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample(
            "left", dist.Normal(z.unsqueeze(-1) + 100, x.new_full((3,), 0.1)).to_event(1), obs=x[:, :3]
        )
        pyro.sample(
            "right", dist.Normal(z.unsqueeze(-1) - 100, x.new_full((2,), 0.1)).to_event(1), obs=x[:, 3:]
        )


def split_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, 0] - 100, 1.0))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "part of a larger tensor"])
def test_slices_observed_apart_are_written_back_to_their_places(layout):
    x = {
        "contiguous": torch.zeros(N, 5),
        "transposed": torch.zeros(5, N).T,
        "part of a larger tensor": torch.zeros(3 * N, 9)[N : 2 * N, 2:7],
    }[layout].double()
    z, drawn = Program(split_model, split_guide).simulate(x)
    assert drawn.shape == (N, 5)
    torch.testing.assert_close(drawn[:, :3] - 100, z["z"][0][:, None].expand(N, 3), rtol=0, atol=0.6)
    torch.testing.assert_close(drawn[:, 3:] + 100, z["z"][0][:, None].expand(N, 2), rtol=0, atol=0.6)
    assert (x == 0).all()


def test_entries_that_share_memory_are_told_apart():
    both = torch.zeros(2, N, 3).double()

    def model(x):
        with pyro.plate("data", N, dim=-1):
            z = pyro.sample("z", dist.Normal(x["covariate"].new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z.unsqueeze(-1) + x["covariate"], 1.0).to_event(1), obs=x["seen"])

    def guide(x):
        with pyro.plate("data", N, dim=-1):
            pyro.sample("z", dist.Normal(x["seen"][:, 0], 1.0))

    _, drawn = Program(model, guide).simulate({"covariate": both[0], "seen": both[1]})
    assert (drawn["covariate"] == 0).all()
    assert (drawn["seen"] != 0).all()


def test_simulation_refuses_observations_that_it_cannot_find():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("logs", dist.Normal(z, 1.0), obs=x.exp())

    with pytest.raises(ProgramError, match=r"observed site 'logs'.*computed"):
        Program(model, OneLatent().guide).simulate(X1)


# ---- nothing outside is read or changed ---------------------------------------------------------------------------


def every_method(program, x, seed=0):
    z = program.sample_guide(x, 3, seed=seed)
    if "f" in program.check(x).observed:  # a factor: the joint is not normalised, there is no x' to be had
        with pytest.raises(ProgramError, match="observed site 'f'"):
            program.simulate(x, seed=seed)
        simulated, again = {}, x
    else:
        simulated, again = program.simulate(x, seed=seed)
    numbers = [program.log_weights(x, 3, seed=seed), program.log_joint(z, x), program.log_guide(z, x)]
    again = [again] if isinstance(again, torch.Tensor) else [again[name] for name in sorted(again)]
    return [*numbers, *z.values(), *simulated.values(), *again]


def test_a_seed_gives_the_same_numbers_and_leaves_the_global_generator_alone(case):
    torch.manual_seed(123)
    first = every_method(case.program, case.x)
    state = torch.get_rng_state()
    torch.rand(5)
    torch.set_rng_state(state)
    case.program.check(case.x)
    second = every_method(case.program, case.x)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    torch.manual_seed(456)
    other = every_method(case.program, case.x, seed=1)
    assert not torch.equal(first[0], other[0])


def flags():
    return (
        {key: pyro.settings.get(key) for key in pyro.settings.get()},
        td.Distribution._validate_args,
        pyro.distributions.is_validation_enabled(),
        pyro.infer.util.is_validation_enabled(),
        pyro.poutine.util.is_validation_enabled(),
    )


class FailsError(Exception):
    pass


@pytest.mark.parametrize("torch_validates", [True, False])
@pytest.mark.parametrize("pyro_validates", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_settings_validation_and_the_parameter_store_are_put_back(torch_validates, pyro_validates, fails):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
            self.net[1].eval()  # one child in evaluation mode before: it must stay there

        def forward(self, x):
            assert not any(module.training for module in self.modules())
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
                if fails:
                    raise FailsError
                loc = self.net(z.float().unsqueeze(-1))[..., 0]
                pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, pyro.param("q", torch.tensor(1.0))))

    model, x = Model(), X1.float()
    program = Program(model, guide)
    before = flags()
    try:
        pyro.enable_validation(pyro_validates)
        td.Distribution.set_default_validate_args(torch_validates)
        pyro.get_param_store().clear()
        pyro.param("somebody's", torch.tensor(3.0))
        inside = flags()
        for call in (
            lambda: program.check(x),
            lambda: program.log_weights(x, 2, check=False),
            lambda: program.log_joint({"z": torch.zeros(1, N)}, x),
            lambda: program.simulate(x),
        ):
            if fails:
                with pytest.raises(FailsError):
                    call()
            else:
                call()
            assert flags() == inside
            assert [module.training for module in model.modules()] == [True, True, True, False]
            assert list(pyro.get_param_store().keys()) == ["somebody's"]
    finally:
        pyro.get_param_store().clear()
        pyro.settings.set(**before[0])
        td.Distribution.set_default_validate_args(before[1])
    assert flags() == before


# ---- parameters ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def param_pair(start=0.0):
    """pyro.param and pyro.module under names that every call shares."""
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(0.5)
        net.bias.fill_(start)

    def model(x):
        pyro.module("decoder", net)
        scale = pyro.param("scale", torch.tensor(1.0 + start), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(net(z.unsqueeze(-1)).squeeze(-1), scale), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.tensor(start))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc + 0 * x, 1.0))

    def by_hand(z, x, loc, scale):
        scale = torch.as_tensor(scale)
        with torch.no_grad():
            mean = net(z[..., None])[..., 0]
        log_q = td.Normal(torch.as_tensor(loc), 1.0).log_prob(z)
        return td.Normal(0.0, 1.0).log_prob(z) + td.Normal(mean, scale).log_prob(x) - log_q

    return model, guide, net, by_hand


def train(model, guide, x, steps=20):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def test_two_programs_with_the_same_names_share_nothing():
    x = torch.full((N,), 4.0)
    pairs = [param_pair(), param_pair()]
    programs = [Program(model, guide) for model, guide, *_ in pairs]
    other = programs[1].log_weights(x, 3)
    train(programs[0].model, programs[0].guide, x)
    assert torch.equal(programs[1].log_weights(x, 3), other)  # untouched by the training of the first
    assert not list(pyro.get_param_store().keys())
    trained = {name: value.detach().clone() for name, value in programs[0].params.items()}
    weights = programs[0].log_weights(x, 3)
    assert trained["scale"] != 1
    assert trained["loc"] != 0
    assert pairs[0][2].weight != 0.5
    train(programs[1].model, programs[1].guide, -x)
    assert torch.equal(programs[0].log_weights(x, 3), weights)
    assert {name: float(value.detach()) for name, value in programs[0].params.items()} == {
        name: float(value) for name, value in trained.items()
    }
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("created", ["before training", "after training"])
@pytest.mark.parametrize("evaluated_before", [True, False])
def test_a_pair_trained_with_plain_svi_is_evaluated_as_trained(created, evaluated_before):
    x = torch.full((N,), 4.0)
    model, guide, _, by_hand = param_pair()
    program = Program(model, guide) if created == "before training" else None
    if program is not None and evaluated_before:
        program.log_weights(x, 2)  # first values, which must not outlive the training
    train(model, guide, x)
    program = program or Program(model, guide)
    store = pyro.get_param_store()
    names, values = list(store.keys()), [value.detach().clone() for value in store.values()]
    assert float(store["scale"].detach()) != 1
    z = program.sample_guide(x, 3)["z"].detach()
    ours = program.log_joint({"z": z}, x) - program.log_guide({"z": z}, x)
    expected = by_hand(z, x, store["loc"].detach(), store["scale"].detach())
    torch.testing.assert_close(ours, expected.double(), rtol=0, atol=1e-5)
    assert list(store.keys()) == names
    assert all(torch.equal(a, b) for a, b in zip(values, [v.detach() for v in store.values()], strict=True))


def test_what_the_program_trained_itself_counts_more_than_the_global_store():
    x = torch.full((N,), 4.0)
    model, guide, _, by_hand = param_pair()
    program = Program(model, guide)
    train(program.model, program.guide, x)
    pyro.param("scale", torch.tensor(77.0), constraint=constraints.positive)
    z = torch.randn(3, N)
    ours = program.log_joint({"z": z}, x) - program.log_guide({"z": z}, x)
    expected = by_hand(z, x, program.params["loc"].detach(), program.params["scale"].detach())
    torch.testing.assert_close(ours, expected.double(), rtol=0, atol=1e-5)


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    def scale(self):
        return 1.0


class TorchGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    scale = TorchModel.scale


class PyroModel(PyroModule):
    """A PyroModule with a PyroParam, a plain torch child and a ``pyro.param`` statement of its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)
        self.sd = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x):
        extra = pyro.param("extra", torch.tensor(2.0), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.sd * extra).to_event(1), obs=x)


class PyroGuide(PyroModule):
    """Its parameter is called as the model's is: two parameters all the same."""

    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](3, 2)
        self.sd = PyroParam(torch.tensor(0.8), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), self.sd).to_event(1))


def module_by_hand(model, guide, z, x, sd=1.0, guide_sd=1.0):
    with torch.no_grad():
        # Not model.net(z): a PyroModule that runs by itself puts its parameters into the global store.
        log_x = td.Normal(linear(z, model.net.weight, model.net.bias), sd).log_prob(x).sum(-1)
        log_q = td.Normal(linear(x, guide.net.weight, guide.net.bias), guide_sd).log_prob(z).sum(-1)
        return td.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_x - log_q


@pytest.mark.parametrize("kind", ["torch", "pyro"])
def test_modules_as_model_and_guide(kind):
    model, guide = (TorchModel(), TorchGuide()) if kind == "torch" else (PyroModel(), PyroGuide())
    x = X3.float()
    program = Program(model, guide)

    def check():
        z = program.sample_guide(x, 3)["z"].detach()
        sd, guide_sd = 1.0, 1.0
        if kind == "pyro":
            extra = program.params["extra"].detach() if "extra" in program.params else 2.0
            sd, guide_sd = model.sd.detach() * extra, guide.sd.detach()
        expected = module_by_hand(model, guide, z, x, sd, guide_sd).double()
        ours = program.log_joint({"z": z}, x) - program.log_guide({"z": z}, x)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        assert program.log_weights(x, 3).shape == (3, N)

    check()
    # Every parameter of the two is trained, though names are shared, and nothing else is.
    leaves = program.parameters(x)
    modules = [p for part in (model, guide) for p in part.parameters()]
    assert {id(p) for p in modules} <= {id(p) for p in leaves.values()}
    assert len(leaves) == len(modules) + (kind == "pyro")
    before = [p.detach().clone() for p in leaves.values()]
    train(program.model, program.guide, x, steps=2)
    assert all(not torch.equal(a, b) for a, b in zip(before, leaves.values(), strict=True))
    assert not list(pyro.get_param_store().keys())
    check()


def test_a_pyro_module_trained_with_plain_svi_is_evaluated_as_trained():
    model, x = PyroModel(), X3.float()

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    program = Program(model, guide)
    program.log_weights(x, 1)
    train(model, guide, x)
    store = pyro.get_param_store()
    z = torch.randn(3, N, 2)
    with torch.no_grad():
        sd = store["sd"] * store["extra"]
        expected = td.Normal(model.net(z), sd).log_prob(x).sum(-1) + td.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_q = td.Normal(store["loc"], 1.0).log_prob(z).sum(-1)
    assert abs(float(sd) - 1.0) > 0.01
    torch.testing.assert_close(program.log_joint({"z": z}, x), expected.double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(program.log_guide({"z": z}, x), log_q.double(), rtol=0, atol=1e-4)


def test_a_pyro_module_that_ran_by_itself_is_trained_all_the_same():
    """That puts its parameters into the global store, where Pyro strips them of what SVI finds them by."""
    model, guide, x = PyroModel(), PyroGuide(), X3.float()
    guide.net(x)
    model.net(torch.zeros(2))
    program = Program(model, guide)
    leaves = program.parameters(x)
    assert len(leaves) == 7
    before = [p.detach().clone() for p in leaves.values()]
    train(program.model, program.guide, x, steps=1)
    assert all(not torch.equal(a, b) for a, b in zip(before, leaves.values(), strict=True))


def test_networks_are_evaluated_in_evaluation_mode():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Gaussian(3),
        pv.posteriors.MeanFieldNormal(2),
        encoder=nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9)),
        decoder=nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    )
    x = X3.float()
    vae.train()
    training = [module.training for module in vae.modules()]
    weights = vae.program.log_weights(x, 4)
    assert [module.training for module in vae.modules()] == training
    vae.eval()
    assert torch.equal(vae.program.log_weights(x, 4), weights)
    assert int(vae.decoder[1].num_batches_tracked) == 0


def test_annealing_never_reaches_log_weights():
    case = CASES["SeveralSites"]
    program = Program(case.model, case.guide)
    before = program.log_weights(case.x, 4)
    model, guide = program.kl_weighted(0.25)
    loss = Trace_ELBO(num_particles=1).loss(model, guide, case.x)
    plain = Trace_ELBO(num_particles=1).loss(program.model, program.guide, case.x)
    assert math.isfinite(loss)
    assert math.isfinite(plain)
    assert torch.equal(program.log_weights(case.x, 4), before)
    with pytest.raises(ProgramError, match=r"site '(a|z)'.*unscaled.*scale 0\.25"):
        Program(model, guide).log_weights(case.x, 4)
    # The annealed ELBO is E_q[log p(x|z)] - beta KL, draw by draw.
    trace = poutine.trace(guide).get_trace(case.x)
    replayed = poutine.trace(poutine.replay(model, trace)).get_trace(case.x)
    z = {name: trace.nodes[name]["value"][None] for name in ("a", "z")}
    latent = case.joint(z, case.x) - sum(
        value.log_prob(x).reshape(1, N, -1).sum(-1)
        for value, x in (
            (td.Normal(z["a"], 0.5), case.x["scalar"]),
            (td.Poisson(z["z"].exp()), case.x["counts"]),
            (td.Normal(torch.einsum("sni,ijk->snjk", z["z"], W2), 0.9), case.x["matrix"]),
        )
    )
    likelihood = case.joint(z, case.x) - latent
    expected = likelihood + 0.25 * (latent - case.proposal(z, case.x))
    got = replayed.log_prob_sum() - trace.log_prob_sum()
    torch.testing.assert_close(got, expected.sum(), rtol=1e-10, atol=0)


# ---- refusals --------------------------------------------------------------------------------------------------------


def good_model(x, loc=0.0, **_):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W1 + loc, 1.0).to_event(1), obs=x)


def good_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def unit(x, event=2):
    return dist.Normal(x.new_zeros(event), 1.0).to_event(1)


def bad_latent_outside(x):
    z = pyro.sample("z", unit(x))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_shared_latent(x):
    shared = pyro.sample("shared", dist.Normal(x.new_zeros(()), 1.0))
    good_model(x, loc=shared)


def bad_observed_outside(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
    pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(2), obs=x)


def bad_guide_outside(x):
    pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(2))


def bad_subsample_size(x):
    with pyro.plate("batch", len(x), subsample_size=3, dim=-1) as index:
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x[index])


def bad_subsample_indices(x):
    with pyro.plate("batch", 100, subsample=torch.arange(len(x)), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_guide_subsample(x):
    with pyro.plate("batch", 100, subsample=torch.arange(len(x)), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_scaled_latent(x):
    with pyro.plate("data", len(x), dim=-1):
        with poutine.scale(scale=0.1):
            z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_scaled_guide(x):
    with poutine.scale(scale=0.5):
        good_guide(x)


def bad_tensor_scale(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        with poutine.scale(scale=torch.linspace(0.5, 2.0, len(x))):
            pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_tensor_scale_of_one(x):
    with poutine.scale(scale=torch.tensor(1.0)):  # might be learned: refused before it moves
        good_model(x)


def bad_second_plate(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        with pyro.plate("pixels", 3, dim=-3):
            pyro.sample("x", dist.Normal((z @ W1).movedim(-1, 0).unsqueeze(-3), 1.0), obs=x.T.unsqueeze(-2))


def bad_second_plate_in_guide(x):
    with pyro.plate("data", len(x), dim=-1), pyro.plate("other", 4, dim=-3):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_sequential_plate(x):
    for n in pyro.plate("loop", len(x)):
        z = pyro.sample(f"z{n}", unit(x))
        pyro.sample(f"x{n}", dist.Normal(z @ W1, 1.0).to_event(1), obs=x[n])


def bad_sequential_guide(x):
    for n in pyro.plate("loop", len(x)):
        pyro.sample(f"z{n}", unit(x))


def bad_no_event(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_no_event_observed(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0), obs=x)


def bad_no_event_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0))


def bad_event_shape_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :3], 1.0).to_event(1))


def bad_guide_missing(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("w", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_guide_extra(x):
    good_guide(x)
    with pyro.plate("again", len(x), dim=-1):
        pyro.sample("extra", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_guide_of_observed(x):
    good_guide(x)
    with pyro.plate("again", len(x), dim=-1):
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1))


def bad_guide_observes(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1), obs=x[:, :2])


def bad_guide_factor(x):
    good_guide(x)
    with pyro.plate("again", len(x), dim=-1):
        pyro.factor("f", -x[:, 0], has_rsample=True)


def bad_guide_delta(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Delta(x[:, :2]).to_event(1))


def bad_guide_masked_delta(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Delta(x[:, :2]).mask(True).to_event(1))


def discrete_model(x):
    with pyro.plate("data", len(x), dim=-1):
        k = pyro.sample("k", dist.Categorical(x.new_ones(4)))
        pyro.sample("x", dist.Normal(W3[k], 1.0).to_event(1), obs=x)


def bad_enumerated(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("k", dist.Categorical(x.new_ones(4)), infer={"enumerate": "parallel"})


def bad_plate_size(x):
    with pyro.plate("data", 100, dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal((z @ W1)[..., : len(x), :], 1.0).to_event(1), obs=x)


def bad_plate_of_one(x):
    with pyro.plate("data", 1, dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x.sum(0))


def bad_guide_plate_size(x):
    with pyro.plate("small", 3, dim=-1):
        pyro.sample("z", dist.Normal(x[:3, :2], 1.0).to_event(1))


def bad_nothing_observed(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", unit(x))


def bad_nothing_at_all(x):
    pass


def bad_observed_shape(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("first", dist.Normal(z[..., 0], 1.0), obs=x[:, :1])


def bad_nan_model(x):
    good_model(x, loc=torch.where(torch.arange(len(x)) == 4, math.nan, 0.0)[:, None])


def bad_nan_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        loc = torch.where(torch.arange(len(x)) == 5, math.nan, 0.0)[:, None].expand(-1, 2)
        pyro.sample("z", dist.Normal(loc.double(), 1.0).to_event(1))


def bernoulli_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("pixels", dist.Bernoulli(logits=z @ W1).to_event(1), obs=x)


def binomial_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("grey", dist.Binomial(2, logits=z @ W1).to_event(1), obs=x)


def good_bits():
    return (X3 > 0).double()


def with_value(x, index, value):
    x = x.clone()
    x[index] = value
    return x


REFUSED = {
    "latent outside the plate": (bad_latent_outside, good_guide, X3, ProgramError, "model site 'z'.*plate"),
    "latent shared by all data": (bad_shared_latent, good_guide, X3, ProgramError, "model site 'shared'.*plate"),
    "observed outside the plate": (bad_observed_outside, good_guide, X3, ProgramError, "model site 'x'.*plate"),
    "guide outside the plate": (good_model, bad_guide_outside, X3, ProgramError, "guide site 'z'.*plate"),
    "subsample_size": (bad_subsample_size, good_guide, X3, ProgramError, "'batch'.*subsample of 3 out of 7"),
    "subsample indices": (bad_subsample_indices, good_guide, X3, ProgramError, "'batch'.*of 7 out of 100"),
    "subsample in the guide": (good_model, bad_guide_subsample, X3, ProgramError, "'batch' in the guide"),
    "scaled latent": (bad_scaled_latent, good_guide, X3, ProgramError, r"model site 'z'.*scale 0\.1"),
    "scaled guide": (good_model, bad_scaled_guide, X3, ProgramError, r"guide site 'z'.*scale 0\.5"),
    "tensor scale": (bad_tensor_scale, good_guide, X3, ProgramError, "model site 'x'.*scale"),
    "tensor scale of one": (bad_tensor_scale_of_one, good_guide, X3, ProgramError, "model site '.'.*scale 1"),
    "scaled from outside": (
        poutine.scale(good_model, scale=3.0), good_guide, X3, ProgramError, "model site '.'.*scale 3",
    ),
    "second plate": (bad_second_plate, good_guide, X3, ProgramError, "model site 'x'.*batch shape"),
    "second plate in guide": (good_model, bad_second_plate_in_guide, X3, ProgramError, "site 'z'.*plate 'other'"),
    "sequential plate": (bad_sequential_plate, bad_sequential_guide, X3, ProgramError, "site 'z0'.*sequential"),
    "forgotten to_event": (bad_no_event, good_guide, X3, ProgramError, "model: .*to_event.*site z "),
    "forgotten to_event, observed": (bad_no_event_observed, good_guide, X3, ProgramError, "model: .*to_event.*site x "),
    "forgotten to_event, guide": (good_model, bad_no_event_guide, X3, ProgramError, "guide: .*to_event.*site z "),
    "event shape of the guide": (good_model, bad_event_shape_guide, X3, ProgramError, r"site 'z'.*\(2,\).*\(3,\)"),
    "latent missing in guide": (good_model, bad_guide_missing, X3, ProgramError, "model site 'z'.*no such"),
    "latent missing in model": (good_model, bad_guide_extra, X3, ProgramError, "guide site 'extra'.*no such"),
    "guide of an observed site": (good_model, bad_guide_of_observed, X3, ProgramError, "guide site 'x'.*observed"),
    "guide observes": (good_model, bad_guide_observes, X3, ProgramError, "guide site 'z'.*observed"),
    "factor in the guide": (good_model, bad_guide_factor, X3, ProgramError, "guide site 'f'.*observed"),
    "Delta guide": (good_model, bad_guide_delta, X3, ProgramError, "guide site 'z'.*Delta"),
    "masked Delta guide": (good_model, bad_guide_masked_delta, X3, ProgramError, "guide site 'z'.*Delta"),
    "enumerated": (discrete_model, good_guide, X3, ProgramError, "model site 'k'.*enumerate_latents"),
    "plate too large": (bad_plate_size, good_guide, X3, ProgramError, "'data'.* 100"),
    "plate of one": (bad_plate_of_one, good_guide, X3, ProgramError, "'data'.* of 1"),
    "plate too small, guide": (good_model, bad_guide_plate_size, X3, ProgramError, "guide site 'z'.*'small' of 3"),
    "nothing observed": (bad_nothing_observed, good_guide, X3, ProgramError, "model.*observed site"),
    "nothing sampled": (bad_nothing_at_all, bad_nothing_at_all, X3, ProgramError, "model.*observed site"),
    "observed value of another shape": (bad_observed_shape, good_guide, X3, ProgramError, r"'first'.*\(7, 1\)"),
    "NaN in the model": (bad_nan_model, good_guide, X3, NonFiniteError, "model site 'x'.*datum 4 "),
    "NaN in the guide": (good_model, bad_nan_guide, X3, NonFiniteError, "guide site 'z'.*datum 5 "),
    "NaN datum": (good_model, good_guide, with_value(X3, (6, 1), math.nan), InputError, "observed site 'x'.*datum 6"),
    "grey under Bernoulli": (
        bernoulli_model, good_guide, with_value(good_bits(), (3, 0), 0.5), InputError, "'pixels'.*Bernoulli.*datum 3",
    ),
    "count above the total": (
        binomial_model, good_guide, with_value(good_bits(), (2, 2), 3.0), InputError, "'grey'.*Binomial.*datum 2",
    ),
    "x a list": (good_model, good_guide, [1.0, 2.0], InputError, "x: .*tensor"),
    "x an array": (good_model, good_guide, X3.numpy(), InputError, "x: .*tensor"),
    "x empty": (good_model, good_guide, X3[:0], InputError, "x: .*at least one datum"),
    "x without axes": (good_model, good_guide, torch.tensor(1.0), InputError, "x: .*at least one datum"),
    "x an empty dict": (good_model, good_guide, {}, InputError, "x: .*dict of tensors"),
    "x a dict of numbers": (good_model, good_guide, {"a": 1}, InputError, "x: .*dict of tensors"),
    "x a dict of unequal lengths": (good_model, good_guide, {"a": X3, "b": X3[:4]}, InputError, "'a': 7, 'b': 4"),
    "x a dict with a scalar": (good_model, good_guide, {"a": X3, "b": X3[0, 0]}, InputError, "'b': 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_what_is_wrong_in_one_line(name):
    model, guide, x, error, message = REFUSED[name]
    program = Program(model, guide)
    for call in (lambda: program.check(x), lambda: program.log_weights(x, 3)):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        if error is ProgramError:
            assert type(caught.value) is ProgramError
    with pytest.raises((InputError, NonFiniteError)):  # the first datum alone may hide what the rest shows
        pv.evidence.importance(program, x, 100)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_refusals_do_not_depend_on_the_number_of_data(size):
    """As many data as latent dimensions, as pixels, or one: a forgotten to_event must show all the same."""
    for model, guide in ((bad_no_event_observed, good_guide), (good_model, bad_no_event_guide)):
        with pytest.raises(ProgramError, match=r"to_event.*site [zx] |site '[zx]'.*to_event"):
            Program(model, guide).log_weights(X3[:size], 2)
    assert Program(good_model, good_guide).log_weights(X3[:size], 2).shape == (2, size)


def test_good_programs_are_not_refused():
    for model, guide, x in (
        (good_model, good_guide, X3),
        (bernoulli_model, good_guide, good_bits()),
        (binomial_model, good_guide, 2 * good_bits()),
        (split_model, split_guide, randn(4, 5)),
    ):
        assert torch.isfinite(Program(model, guide).log_weights(x, 3)).all()


def test_errors_of_the_callables_themselves_come_through():
    class MineError(Exception):
        pass

    def model(x):
        raise MineError("as it was")

    with pytest.raises(MineError, match="as it was"):
        Program(model, good_guide).log_weights(X3, 2)

    def refuses(x):
        raise InputError("x", "something else", "this")

    with pytest.raises(InputError, match="x: expected something else, received this"):
        Program(refuses, good_guide).log_weights(X3, 2)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        ({"z": torch.zeros(N, 2)}, "shape"),
        ({"z": torch.zeros(3, N)}, r"z\['z'\]"),
        ({"z": torch.zeros(3, N, 3)}, "'z'"),
        ({"z": torch.zeros(3, N + 1, 2)}, "shape"),
        ({"z": torch.zeros(3)}, "shape"),
        ({"z": torch.zeros(3, N, 2), "w": torch.zeros(3, N, 2)}, "unknown=.'w'"),
        ({"z": torch.zeros(3, N, 2), "x": torch.zeros(3, N, 3)}, "unknown=.'x'"),
        ({"z": torch.zeros(3, N, 2), "w": torch.zeros(4, N, 2)}, "shape"),
        ({"w": torch.zeros(3, N, 2)}, "missing=.'z'"),
        ({}, "dict"),
        ({"z": 1.0}, "dict"),
        (torch.zeros(3, N, 2), "dict"),
    ],
)
def test_latents_that_do_not_fit(z, message):
    z = (
        {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in z.items()}
        if isinstance(z, dict)
        else z
    )
    program = Program(good_model, good_guide)
    with pytest.raises(InputError, match=message):
        program.log_joint(z, X3)
    with pytest.raises(InputError):
        program.log_guide(z, X3)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True, "3", None])
def test_numbers_of_samples_that_are_none(num_samples):
    program = Program(good_model, good_guide)
    for call in (program.log_weights, program.sample_guide):
        with pytest.raises(InputError, match="num_samples: expected a positive integer"):
            call(X3, num_samples)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", 2**63])
def test_seeds_that_are_none(seed):
    program = Program(good_model, good_guide)
    for call in (
        lambda: program.log_weights(X3, 1, seed=seed),
        lambda: program.sample_guide(X3, 1, seed=seed),
        lambda: program.simulate(X3, seed=seed),
    ):
        with pytest.raises(InputError, match="seed: expected an integer"):
            call()


@pytest.mark.parametrize("argument", ["model", "guide"])
def test_what_is_not_callable_is_no_program(argument):
    with pytest.raises(InputError, match=f"{argument}: expected a callable"):
        Program(**({"model": good_model, "guide": good_guide} | {argument: 3}))


def test_check_data_comes_first():
    def refuse(x):
        raise InputError("x", "other data", "these")

    with pytest.raises(InputError, match="other data"):
        Program(bad_no_event, good_guide, check_data=refuse).log_weights(X3, 2)

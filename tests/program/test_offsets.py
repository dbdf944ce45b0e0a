"""A guide moved by offsets: at zero it is the guide, elsewhere its family; what cannot be moved is refused by name."""

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn

import ppl_vae as pv
from ppl_vae import InputError, Program, ProgramError
from ppl_vae.program import take
from ppl_vae.program.offsets import carry, carrying_program, make_offsets, path_log_weights

N, S, D = 5, 4, 3
X = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FLOW = transforms.affine_coupling(
    D, hidden_dims=[4]
).double()  # the inverse of an autoregressive one is in float32


def positive(x):
    return x.abs() + 0.3


def tril(x):
    return torch.diag_embed(positive(x)) + 0.1 * torch.ones(D, D).double().tril(-1)


FAMILIES = {
    "Normal": lambda x: dist.Normal(x, positive(x)).to_event(1),
    "Normal, not amortised": lambda x: dist.Normal(x.new_zeros(D), 1.0).to_event(1),
    "Normal, masked": lambda x: dist.Normal(x, positive(x)).to_event(1).mask(x[..., 0] > -99),
    "MultivariateNormal": lambda x: dist.MultivariateNormal(x, scale_tril=tril(x)),
    "MultivariateNormal of a covariance": lambda x: dist.MultivariateNormal(x, tril(x) @ tril(x).mT),
    "LowRankMultivariateNormal": lambda x: dist.LowRankMultivariateNormal(x, x[..., None], positive(x)),
    "LogNormal": lambda x: dist.LogNormal(x, positive(x)).to_event(1),
    "Gamma": lambda x: dist.Gamma(positive(x), positive(x)).to_event(1),
    "Beta": lambda x: dist.Beta(positive(x), positive(x)).to_event(1),
    "Dirichlet": lambda x: dist.Dirichlet(positive(x)),
    "StudentT": lambda x: dist.StudentT(5.0, x, positive(x)).to_event(1),
    "Laplace": lambda x: dist.Laplace(x, positive(x)).to_event(1),
    "Gumbel": lambda x: dist.Gumbel(x, positive(x)).to_event(1),
    "LogisticNormal": lambda x: dist.LogisticNormal(x, positive(x)),
    "Weibull": lambda x: dist.Weibull(positive(x), positive(x)).to_event(1),
    "Kumaraswamy": lambda x: dist.Kumaraswamy(positive(x), positive(x)).to_event(1),
    "InverseGamma": lambda x: dist.InverseGamma(positive(x), positive(x)).to_event(1),
    "RelaxedBernoulli": lambda x: dist.RelaxedBernoulli(x.new_tensor(0.7), logits=x).to_event(1),
    "RelaxedOneHotCategorical": lambda x: dist.RelaxedOneHotCategorical(x.new_tensor(0.7), logits=x),
    "SoftLaplace": lambda x: dist.SoftLaplace(x, positive(x)).to_event(1),
    "expanded": lambda x: dist.SoftLaplace(x.new_tensor(0.1), x.new_tensor(1.0)),
    "expanded events": lambda x: dist.SoftLaplace(x.new_zeros(D), x.new_ones(D)).to_event(1),
    "flow": lambda x: dist.TransformedDistribution(dist.Normal(x, positive(x)).to_event(1), [FLOW]),
    "transformed": lambda x: dist.TransformedDistribution(
        dist.Normal(x, positive(x)), [transforms.TanhTransform()]
    ).to_event(1),
    "stick-breaking": lambda x: dist.TransformedDistribution(
        dist.Normal(x, positive(x)).to_event(1), [transforms.StickBreakingTransform()]
    ),
}


class Squashed(dist.TransformedDistribution):
    """With a constructor of its own."""

    arg_constraints = {}  # noqa: RUF012  (torch's own way)

    def __init__(self, loc, scale):
        super().__init__(dist.Normal(loc, scale), [dist.transforms.SigmoidTransform()])

    def expand(self, batch_shape, _instance=None):
        return type(self)(
            *(value.expand(batch_shape) for value in (self.base_dist.loc, self.base_dist.scale))
        )


class Scored(Squashed):
    """With a density of its own, and so not known from its base and its transforms."""

    def log_prob(self, value):
        return super().log_prob(value)


FAMILIES["Squashed"] = lambda x: Squashed(x, positive(x)).to_event(1)
FAMILIES["FoldedDistribution"] = lambda x: dist.FoldedDistribution(dist.Normal(x, positive(x))).to_event(1)
REFUSED = {
    "Scored": (lambda x: Scored(x, positive(x)).to_event(1), "built from its parameters"),
    "VonMises": (lambda x: dist.VonMises(x, positive(x)).to_event(1), "reparameterised"),
    "Bernoulli": (lambda x: dist.Bernoulli(logits=x).to_event(1), "reparameterised"),
    "Categorical": (lambda x: dist.Categorical(logits=x), "reparameterised"),
    "Uniform": (
        lambda x: dist.Uniform(x - 1, x + 1).to_event(1),
        "support that does not depend on parameters",
    ),
}


def pair(family):
    """The family as prior and as guide, its draws seen through a network's noise."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", family(x))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            fn = family(x)
            z = pyro.sample("z", fn)
            mean = z.sum(-1) if fn.event_shape else z
            pyro.sample("x", dist.Normal(mean.unsqueeze(-1).expand(*mean.shape, D), 1.0).to_event(1), obs=x)

    return Program(model, guide)


def random_offsets(offsets, size=0.3):
    generator = torch.Generator().manual_seed(2)
    return {k: size * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in offsets.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_offsets_of_zero_are_the_guide_and_others_its_family(name):
    program = pair(FAMILIES[name])
    offsets = make_offsets(program, X)
    assert all(len(v) == N and not v.any() for v in offsets.values())
    plain = program.log_weights(X, S)
    torch.testing.assert_close(carrying_program(program).log_weights(carry(X, offsets), S), plain)

    moved = random_offsets(offsets)
    refitted, x = carrying_program(program), carry(X, moved)
    sites = refitted.check(x)
    assert sites == program.check(X)
    away = refitted.log_weights(x, S)
    assert not torch.isclose(away, plain).any()
    # ... whose density is the one that its own draws have.
    z = refitted.sample_guide(x, S, seed=3)
    weights = program.log_joint(z, X) - refitted.log_guide(z, x)
    assert weights.isfinite().all()

    leaves = {k: v.clone().requires_grad_() for k, v in moved.items()}
    torch.manual_seed(0)
    path = path_log_weights(program, X, leaves, S)
    torch.manual_seed(0)
    torch.testing.assert_close(path, refitted.log_weights(x, S, seed=None))
    assert all(g.isfinite().all() for g in torch.autograd.grad(path.sum(), list(leaves.values())))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_moved_is_refused_by_name(name):
    family, words = REFUSED[name]
    with pytest.raises(ProgramError, match=f"guide site 'z'.*{words}.*{name}"):
        make_offsets(pair(family), X)


def test_a_family_without_parameters_is_refused():
    class Fixed(dist.TorchDistribution):
        arg_constraints = {}  # noqa: RUF012  (torch's own way)
        support = dist.constraints.real
        has_rsample = True

        def rsample(self, sample_shape=torch.Size()):  # noqa: B008
            return torch.randn(sample_shape + self.batch_shape, dtype=torch.float64)

        def log_prob(self, value):
            return dist.Normal(0.0, 1.0).log_prob(value)

    with pytest.raises(ProgramError, match=r"guide site 'z'.*with parameters.*Fixed"):
        make_offsets(pair(lambda x: Fixed()), X)


def test_a_family_that_takes_other_arguments_is_refused():
    class Odd(dist.Normal):
        def __init__(self, both, validate_args=None):
            super().__init__(both, 1.0, validate_args)

        def expand(self, batch_shape, _instance=None):
            return Odd(self.loc.expand(batch_shape))

    with pytest.raises(ProgramError, match=r"guide site 'z'.*built from its parameters.*Odd"):
        make_offsets(pair(lambda x: Odd(x[..., 0])), X)


def test_the_offsets_reach_any_member_of_the_family():
    """Solve for the offsets of a given mean and covariance: units are the guide's own standard deviations."""
    program = pair(FAMILIES["MultivariateNormal"])
    loc, scale = X.flip(0), 2 * tril(X.flip(1))
    old = tril(X)
    deviation = old.norm(dim=-1)
    lower = (scale - old).tril(-1) / deviation[..., None]
    diagonal = torch.diag_embed((scale.diagonal(dim1=1, dim2=2) / old.diagonal(dim1=1, dim2=2)).log())
    offsets = {"z.loc": (loc - X) / deviation, "z.scale_tril": lower + diagonal}
    z = torch.randn(S, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(loc, scale_tril=scale).log_prob(z)
    torch.testing.assert_close(carrying_program(program).log_guide({"z": z}, carry(X, offsets)), expected)


def test_the_gradient_along_the_path_is_that_of_the_elbo():
    """Against the closed form for N(m, s²) under N(0, 1) p(x|z) = N(z, 1), within 4 s.e. over 20,000 draws.

    Another seed would fail in one of 1,000 cases (20 gradients).
    """
    x = X[:, 0].repeat(2)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.sin(), 0.5 + x.abs()))

    program = Program(model, guide)
    offsets = {k: v.requires_grad_() for k, v in make_offsets(program, x).items()}
    m, s = x.sin(), 0.5 + x.abs()
    loc = (m + s * offsets["z.loc"]).requires_grad_()
    scale = s * offsets["z.scale"].exp()
    elbo = -(loc**2 + scale**2) / 2 - ((x - loc) ** 2 + scale**2) / 2 + scale.log()
    exact = torch.autograd.grad(elbo.sum(), list(offsets.values()))
    torch.manual_seed(0)
    draws = []
    for _ in range(100):
        weights = path_log_weights(program, x, offsets, 200)
        draws.append(torch.autograd.grad(weights.mean(0).sum(), list(offsets.values())))
    for index, wanted in enumerate(exact):
        values = torch.stack([draw[index] for draw in draws])
        error = values.std(0) / 10
        assert ((values.mean(0) - wanted).abs() < 4 * error).all()


def test_no_noise_at_the_exact_posterior():
    exact = models.linear_vae(3, 6, 10)
    offsets = {k: v.requires_grad_() for k, v in make_offsets(exact.program, exact.x).items()}
    weights = path_log_weights(exact.program, exact.x, offsets, 7)
    for gradient in torch.autograd.grad(weights.sum(), list(offsets.values())):
        assert gradient.abs().max() < 1e-10


class TwoSites(nn.Module):
    """z1, then z2 given z1, under a dict of data, a parameter of Pyro's and a network."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(D, D), nn.Dropout(0.5)).double()

    def model(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x["x"].new_zeros(D), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Gamma(2.0, z1.sum(-1).exp()))
            pyro.sample("x", dist.Normal(z1 * z2[..., None] + x["shift"], 1.0).to_event(1), obs=x["x"])

    def guide(self, x):
        rate = pyro.param("rate", torch.tensor(1.5).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x["x"]), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.network(x["x"]), 0.5).to_event(1))
            pyro.sample("z2", dist.Gamma(2.0, rate * z1[..., 0].exp()))


def test_sites_of_sites_dicts_parameters_and_modes():
    torch.manual_seed(0)
    pair = TwoSites()
    program = Program(pair.model, pair.guide)
    x = {"x": X, "shift": X[:, :1]}
    program.guide(x)  # the parameter is the program's own from here on
    program.params["rate"] = torch.tensor(4.0).double()
    offsets = make_offsets(program, x)
    assert {k: tuple(v.shape) for k, v in offsets.items()} == {
        "z1.loc": (N, D),
        "z1.scale": (N, D),
        "z2.concentration": (N,),
        "z2.rate": (N,),
    }
    carrying = carrying_program(program)
    torch.testing.assert_close(carrying.log_weights(carry(x, offsets), S), program.log_weights(x, S))

    moved = random_offsets(offsets)
    z = program.sample_guide(x, S)
    ours = carrying.log_guide(z, carry(x, moved))
    with torch.no_grad():
        mean = pair.network[0](X) + 0.5 * moved["z1.loc"]
        scale = 0.5 * moved["z1.scale"].exp()
        rate = 4.0 * z["z1"][..., 0].exp() * moved["z2.rate"].exp()
        first = torch.distributions.Normal(mean, scale).log_prob(z["z1"]).sum(-1)
        second = torch.distributions.Gamma(2 * moved["z2.concentration"].exp(), rate).log_prob(z["z2"])
    torch.testing.assert_close(ours, first + second)

    _, drawn = carrying.simulate(carry(x, moved), seed=1)
    torch.testing.assert_close(drawn["x"], program.simulate(x, seed=1)[1]["x"])


def test_data_that_carry_offsets_can_be_cut_into_blocks():
    exact = models.linear_vae(2, 5, 40, widen=1.3, shift=0.5)
    moved = random_offsets(make_offsets(exact.program, exact.x))
    program, x = carrying_program(exact.program), carry(exact.x, moved)
    whole = program.log_guide(program.sample_guide(x, 3), x)
    z = {"z": program.sample_guide(x, 3)["z"][:, 10:20]}
    torch.testing.assert_close(program.log_guide(z, take(x, slice(10, 20))), whole[:, 10:20])
    evidence = pv.evidence.importance(program, x, 2000)
    scores = (evidence.log_evidence - exact.log_evidence) / evidence.stderr
    assert scores.abs().max() < 4  # one of 400 seeds would fail


def test_offsets_of_other_data_are_refused():
    program = pair(FAMILIES["Normal"])
    offsets = make_offsets(program, X)
    with pytest.raises(InputError, match=r"offsets: expected one for z\.scale"):
        carrying_program(program).log_weights(carry(X, {"z.loc": offsets["z.loc"]}), S)
    with pytest.raises(InputError, match="data with offsets"):
        carrying_program(program).log_weights(X, S)
    vae = models.linear_vae(2, 5, 4)
    with pytest.raises(InputError, match="dtype"):
        carrying_program(vae.program).check(carry(vae.x.float(), make_offsets(vae.program, vae.x)))

"""A prior that can only be scored: what needs no draws of it works, what does is refused by the site's name."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import ppl_vae as pv
from ppl_vae.errors import ProgramError
from ppl_vae.program import Coordinates
from ppl_vae.program.draws import NoSamplerError

X = torch.tensor([0.3, -1.2, 0.8])


class Scored(dist.TorchDistribution):
    """A standard normal distribution without a sampler."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, shape):
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return type(self)(batch_shape)

    def log_prob(self, value):
        return torch.distributions.Normal(0.0, 1.0).log_prob(value)


class Mistaken(Scored):
    """Its sampler has a mistake."""

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        return self.location.expand(sample_shape + self.batch_shape)


def program_of(prior, likelihood=lambda z: dist.Normal(z, 0.5)):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(len(x)))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.5))

    return pv.Program(model, guide)


def test_the_shapes_of_a_prior_that_cannot_be_drawn_are_found_at_draws_of_the_guide():
    coordinates = Coordinates(program_of(lambda n: Scored((n,))), X)
    u = torch.zeros(4, 3, 1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(torch.zeros(4, 3)).double()
    assert coordinates.dim == 1
    torch.testing.assert_close(coordinates.densities(u).log_prior, log_prior)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.sample_prior(X, 2),
        lambda p: p.simulate(X),
        lambda p: pv.evidence.importance(p, X, 8, proposal=pv.evidence.Defensive(), progress=False),
        lambda p: pv.evidence.importance(p, X, 8, prior_draws=8, progress=False),
        lambda p: pv.evidence.annealed(p, X, num_chains=2, num_steps=2, start="prior", progress=False),
    ],
    ids=["sample_prior", "simulate", "defensive", "prior_draws", "annealed_from_the_prior"],
)
def test_draws_that_are_asked_for_are_refused_by_name(call):
    with pytest.raises(
        NoSamplerError, match=r"^site 'z': expected a distribution with a sampler .* a Scored"
    ):
        call(program_of(lambda n: Scored((n,))))


def test_draws_of_the_prior_that_are_only_a_check_are_left_out():
    chains = pv.evidence.annealed(
        program_of(lambda n: Scored((n,))), X, num_chains=8, num_steps=4, progress=False
    )
    assert bool(chains.log_evidence.isfinite().all())


def test_the_line_of_a_mistake_in_a_sampler_is_named():
    with pytest.raises(
        ProgramError, match=r"site 'z'.*AttributeError \(test_draws.py line \d+\).*'location'"
    ):
        program_of(lambda n: Mistaken((n,))).sample_prior(X, 2)


def test_an_observed_site_that_cannot_be_drawn_is_named_when_data_are_simulated():
    program = program_of(lambda n: dist.Normal(0.0, 1.0).expand([n]), lambda z: Scored(z.shape))
    with pytest.raises(NoSamplerError, match=r"^site 'x'"):
        program.simulate(X)

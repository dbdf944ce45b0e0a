"""Every prior is a normalised density that can be trained, saved and copied. New families: add to PRIORS."""

import copy
import math

import numpy as np
import pytest
import torch
from pyro import validation_enabled
from scipy import stats
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.posteriors import MeanFieldNormal, MultivariateNormal
from ppl_vae.priors import Laplace, MixtureOfGaussians, Normal, StandardNormal, StudentT, VampPrior

SHAPE = torch.Size([3])
PRIORS = {
    "standard": lambda dim: StandardNormal(dim),
    "mixture": lambda dim: MixtureOfGaussians(dim, components=4, seed=1),
    "vamp": lambda dim: VampPrior(dim, components=5),
    "normal": lambda dim: Normal(dim),
    "laplace": lambda dim: Laplace(dim),
    "student-t": lambda dim: StudentT(dim, df=4.0),
}


class Owner(nn.Module):
    """What a VAE is to a prior: an encoder and a posterior family."""

    def __init__(self, prior, family=MeanFieldNormal):
        super().__init__()
        self.prior = prior
        self.posterior = family(prior.dim)
        sizes = [shape.numel() for shape in self.posterior.param_shapes.values()]
        self.sizes = sizes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(3, sum(sizes))
        with torch.no_grad():
            self.layer.weight.mul_(0.4)
        prior.bind(self.encode, SHAPE)

    def encode(self, features):
        values = self.layer(features).split(self.sizes, -1)
        return self.posterior(dict(zip(self.posterior.param_shapes, values, strict=True)))


def build(name, dim, family=MeanFieldNormal):
    owner = Owner(PRIORS[name](dim), family).double()
    generator = torch.Generator().manual_seed(2)
    owner.prior.start_from(torch.randn(7, 3, generator=generator, dtype=torch.float64), generator)
    with torch.no_grad():  # away from the symmetric start
        for parameter in owner.prior.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return owner


@pytest.fixture(params=PRIORS)
def name(request):
    return request.param


def points(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("family", [MeanFieldNormal, MultivariateNormal])
def test_density_integrates_to_one(name, dim, family):
    # Double-exponential quadrature (Takahasi and Mori 1974), both ways from 0, where a density may have a kink.
    t = torch.arange(-4, 4, 1 / 64, dtype=torch.float64)
    x, slope = (math.pi / 2 * t.sinh()).exp(), math.pi / 2 * t.cosh() / 64
    line, volume = torch.cat([-x.flip(0), x]), torch.cat([(x * slope).flip(0), x * slope])
    grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    weight = torch.cartesian_prod(*[volume] * dim).reshape(-1, dim).prod(1)
    log_prob = build(name, dim, family).prior().log_prob(grid)
    assert math.isclose(float((log_prob.detach().exp() * weight).sum()), 1.0, rel_tol=1e-8)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_shapes(name, lead):
    p = build(name, 2).prior()
    assert p.batch_shape == ()
    assert p.event_shape == (2,)
    torch.manual_seed(0)
    z = p.sample(lead)
    assert z.shape == (*lead, 2)
    assert p.support.check(z).all()
    assert p.log_prob(z).shape == lead


def test_leading_dimensions_do_not_matter(name):
    p = build(name, 2).prior()
    z = points(2, 3, 2)
    one_by_one = torch.stack([p.log_prob(each) for each in z.reshape(6, 2)]).reshape(2, 3)
    torch.testing.assert_close(p.log_prob(z), one_by_one, rtol=1e-12, atol=1e-12)


def test_every_parameter_gets_a_gradient(name):
    owner = build(name, 2)
    wanted = dict(owner.named_parameters()) if name == "vamp" else dict(owner.prior.named_parameters())
    if not wanted:
        pytest.skip("a prior without parameters")
    owner.prior().log_prob(points(5, 2)).sum().backward()
    for key, parameter in wanted.items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_rebuilds_and_loads(name):
    owner, z = build(name, 2), points(4, 2)
    again = Owner(rebuild(owner.prior.config())).double()
    again.load_state_dict(owner.state_dict())
    assert torch.equal(again.prior().log_prob(z), owner.prior().log_prob(z))


def test_a_deep_copy_is_independent(name):
    owner, z = build(name, 2), points(4, 2)
    before = owner.prior().log_prob(z).detach()
    twin = copy.deepcopy(owner)
    assert torch.equal(twin.prior().log_prob(z), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    assert torch.equal(owner.prior().log_prob(z), before)
    if list(owner.prior.parameters()):
        assert not torch.equal(twin.prior().log_prob(z), before)


def test_can_be_captured_as_a_graph(name):
    owner, z = build(name, 2), points(4, 2)
    with torch.no_grad(), validation_enabled(False):
        graph = make_fx(lambda z: owner.prior().log_prob(z))(z)
        other = points(4, 2, seed=8)
        torch.testing.assert_close(graph(other), owner.prior().log_prob(other))


def test_follows_the_module_to_another_dtype(name):
    p = build(name, 2).float().prior()
    assert p.log_prob(points(3, 2).float()).dtype == torch.float32


def test_standard_normal_against_scipy():
    z = points(6, 3)
    expected = stats.norm.logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(StandardNormal(3).double()().log_prob(z).numpy(), expected, rtol=0, atol=1e-10)


def test_laplace_and_student_t_against_scipy():
    z = points(6, 3)
    expected = stats.laplace.logpdf(z.numpy(), scale=2**-0.5).sum(-1)
    np.testing.assert_allclose(Laplace(3).double()().log_prob(z).numpy(), expected, rtol=0, atol=1e-10)
    expected = stats.t.logpdf(z.numpy(), 4.0).sum(-1)
    np.testing.assert_allclose(StudentT(3, 4.0).double()().log_prob(z).numpy(), expected, rtol=0, atol=1e-10)


def test_normal_against_scipy():
    prior, z = build("normal", 2).prior, points(6, 2)
    loc, scale = prior.loc.detach().numpy(), prior.log_scale.detach().exp().numpy()
    expected = stats.norm.logpdf(z.numpy(), loc, scale).sum(-1)
    np.testing.assert_allclose(prior().log_prob(z).detach().numpy(), expected, rtol=0, atol=1e-10)


def test_mixture_against_scipy():
    prior, z = build("mixture", 2).prior, points(6, 2)
    weights = prior.logits.detach().softmax(-1).numpy()
    loc, scale = prior.loc.detach().numpy(), prior.log_scale.detach().exp().numpy()
    density = sum(
        w * stats.norm.pdf(z.numpy(), m, s).prod(-1) for w, m, s in zip(weights, loc, scale, strict=True)
    )
    np.testing.assert_allclose(prior().log_prob(z).detach().numpy(), np.log(density), rtol=0, atol=1e-10)


def test_mixture_start_depends_on_its_seed_alone():
    state = torch.get_rng_state()
    first, other = MixtureOfGaussians(2, seed=4), MixtureOfGaussians(2, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.loc, MixtureOfGaussians(2, seed=4).loc)
    assert not torch.equal(first.loc, other.loc)
    assert len(first.loc.unique(dim=0)) == 10


@pytest.mark.parametrize("family", [MeanFieldNormal, MultivariateNormal])
def test_vamp_is_the_mixture_of_encodings(family):
    owner, z = build("vamp", 2, family), points(6, 2)
    q = owner.encode(owner.prior.pseudo_inputs.detach())
    assert q.batch_shape == (5,)
    mean = q.mean.detach().numpy()
    covariance = q.covariance_matrix.detach().numpy() if family is MultivariateNormal else None
    density = np.zeros(6)
    for k in range(5):
        c = np.diag(q.variance[k].detach().numpy()) if covariance is None else covariance[k]
        density += stats.multivariate_normal.pdf(z.numpy(), mean[k], c) / 5
    np.testing.assert_allclose(
        owner.prior().log_prob(z).detach().numpy(), np.log(density), rtol=0, atol=1e-10
    )


def test_vamp_encoder_is_not_a_submodule():
    owner = build("vamp", 2)
    assert set(owner.prior.state_dict()) == {"pseudo_inputs"}
    assert not list(owner.prior.children())
    prior = VampPrior(2, components=2)
    prior.bind(Owner(StandardNormal(2)), SHAPE)  # a module itself, not a bound method
    assert set(prior.state_dict()) == {"pseudo_inputs"}


def test_vamp_copy_encodes_with_the_copy():
    owner, z = build("vamp", 2), points(3, 2)
    twin = copy.deepcopy(owner)
    with torch.no_grad():
        twin.layer.weight.zero_()
        twin.layer.bias.zero_()
    torch.testing.assert_close(twin.prior().log_prob(z), StandardNormal(2).double()().log_prob(z))


def test_vamp_starts_from_distinct_data():
    prior = Owner(VampPrior(2, components=5)).prior
    parameter, data = prior.pseudo_inputs, points(20, 3).float()
    prior.start_from(data, torch.Generator().manual_seed(0))
    assert prior.pseudo_inputs is parameter
    found = (prior.pseudo_inputs[:, None] == data).all(-1)
    assert found.any(1).all()
    assert found.any(0).sum() == 5


def test_vamp_starts_from_fewer_data_than_components():
    prior = Owner(VampPrior(2, components=9)).prior
    data = points(2, 3).float()
    prior.start_from(data, torch.Generator().manual_seed(0))
    u = prior.pseudo_inputs.detach()
    assert len(u.unique(dim=0)) == 9
    assert (u[:, None] - data).abs().amax(-1).amin(1).max() < 0.1


def test_vamp_start_repeats_with_the_generator():
    starts = []
    for _ in range(2):
        prior = Owner(VampPrior(2, components=5)).prior
        prior.start_from(points(20, 3).float(), torch.Generator().manual_seed(7))
        starts.append(prior.pseudo_inputs)
    assert torch.equal(*starts)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: StandardNormal(0), "dim"),
        (lambda: StandardNormal(True), "dim"),
        (lambda: MixtureOfGaussians("2"), "dim"),
        (lambda: StudentT(2, df=0.0), "df"),
        (lambda: MixtureOfGaussians(2, components=0), "components"),
        (lambda: MixtureOfGaussians(2, seed=-1), "seed"),
        (lambda: VampPrior(2, components=1.5), "components"),
        (lambda: VampPrior(2)(), "prior"),
        (lambda: VampPrior(2).start_from(torch.zeros(3, 3), torch.Generator()), "prior"),
        (lambda: build("vamp", 2).prior.bind(lambda u: None, SHAPE), "prior"),
        (lambda: build("vamp", 2).prior.start_from(torch.zeros(3, 4), torch.Generator()), "features"),
        (lambda: build("vamp", 2).prior.start_from(torch.zeros(0, 3), torch.Generator()), "features"),
    ],
)
def test_bad_arguments(make, argument):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)

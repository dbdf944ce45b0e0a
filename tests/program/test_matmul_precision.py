"""Matrix products of a lower precision: what is rounded and what is not."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiled_programs import PROGRAMS, randn
from rounded_vae import S, vae
from torch import nn
from torch.nn.functional import linear

import ppl_vae as pv
from ppl_vae import Program
from ppl_vae.evidence import precision_error
from ppl_vae.evidence.importance_sampling.proposals import StudentT
from ppl_vae.program.handlers import Replayed
from ppl_vae.program.matmul_precision import BY_HAND, FULL, InFloat64, lowering, products
from ppl_vae.program.sites import site_log_prob


def by_hand(product, *factors):
    return product(*(factor.bfloat16() for factor in factors)).float()


def test_factors_are_rounded_and_the_rest_is_float32():
    a, b, c = (randn(4, 6, seed=i).float() for i in range(3))
    image, kernel = randn(2, 3, 8, 8).float(), randn(5, 3, 3, 3).float()
    batch = a.reshape(2, 2, 6)
    cases = [
        (lambda: a @ b.T, by_hand(torch.matmul, a, b.T)),
        (lambda: torch.mm(a, b.T), by_hand(torch.mm, a, b.T)),
        (lambda: torch.matmul(input=a, other=b.T), by_hand(torch.mm, a, b.T)),
        (lambda: a.mv(b[0]), by_hand(torch.mv, a, b[0])),
        (lambda: linear(a, b, c[0, :4]), by_hand(linear, a, b) + c[0, :4]),
        (lambda: linear(a, b, bias=c[0, :4]), by_hand(linear, a, b) + c[0, :4]),
        (lambda: linear(a, b), by_hand(linear, a, b)),
        (
            lambda: torch.addmm(c[:, :4], a, b.T, beta=0.5, alpha=2.0),
            0.5 * c[:, :4] + 2 * by_hand(torch.mm, a, b.T),
        ),
        (lambda: c[:, :4].addmm(mat1=a, mat2=b.T), c[:, :4] + by_hand(torch.mm, a, b.T)),
        (
            lambda: torch.baddbmm(c[0, 0], batch, batch.mT),
            c[0, 0] + by_hand(torch.bmm, batch, batch.mT),
        ),
        (
            lambda: torch.einsum("ij,kj->ik", a, b),
            by_hand(lambda x, y: torch.einsum("ij,kj->ik", x, y), a, b),
        ),
        (
            lambda: torch.conv2d(image, kernel, c[0, :5], stride=2),
            by_hand(lambda x, w: torch.conv2d(x, w, stride=2), image, kernel) + c[0, :5].reshape(-1, 1, 1),
        ),
    ]
    for case, expected in cases:
        exact = case()
        with lowering("bfloat16"), products():
            found = case()
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        assert not torch.equal(found, exact)
        with lowering(FULL), products():
            assert torch.equal(case(), exact)
        assert torch.equal(case(), exact)  # and not outside of a program


def test_other_products_are_left_alone():
    a = randn(4, 4)
    out = torch.empty(4, 4)
    with lowering("bfloat16"), products():
        assert torch.equal(a @ a, torch.mm(a, a))
        torch.mm(a.float(), a.float(), out=out)
        assert torch.equal(torch.tanh(a.float()) * 3, torch.tanh(a.float()) * 3)
    assert torch.equal(out, a.float() @ a.float())


def test_gradients_are_rounded_too():
    w, x, up = randn(5, 6).float().requires_grad_(), randn(4, 6).float(), randn(4, 5).float()
    with lowering("bfloat16"), products():
        value = linear(x, w)
    (found,) = torch.autograd.grad(value, w, up)
    assert found.dtype == torch.float32
    assert torch.equal(found, by_hand(torch.mm, up.T, x))


def test_tf32_by_hand_is_the_nearest_of_its_numbers():
    x = randn(1000) * torch.logspace(-20, 20, 1000, dtype=torch.float64)
    x = torch.cat([x, torch.tensor([0.0, 1.0, -3.0, 1 + 2.0**-10]).double()]).float()
    with lowering(BY_HAND), products():
        rounded = (x.unsqueeze(-1) @ torch.ones(1, 1)).squeeze(-1)
    unit = 2.0 ** (x.double().abs().clamp(min=1e-30).log2().floor() - 10)
    assert torch.equal((rounded / unit).round(), rounded.double() / unit)
    assert ((rounded.double() - x.double()).abs() <= unit / 2).all()
    assert torch.equal(rounded[-4:], x[-4:])
    infinite = torch.tensor([[math.inf], [-math.inf]])
    with lowering(BY_HAND), products():
        assert torch.equal(infinite @ torch.ones(1, 1), infinite)


def numbers_of(fn):
    """The parameters of a distribution."""
    core = getattr(fn, "base_dist", fn)
    values = [getattr(core, name, None) for name in core.arg_constraints]
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]


@pytest.mark.parametrize("precision", ["bfloat16", BY_HAND])
def test_densities_and_draws_are_in_float32(precision):
    for likelihood in (None, pv.likelihoods.Gaussian(20, scale="decoder"), pv.likelihoods.Binomial(20, 4)):
        model, x = vae(likelihood, posterior=pv.posteriors.MultivariateNormal)
        program = model.program
        with lowering(precision), torch.no_grad(), program.evaluating():
            drawn = program.run("guide", x, S)
            for run in (drawn, program.run("model", x, S, Replayed(drawn.latents()))):
                for site in run.sites.values():
                    assert site["value"].dtype == torch.float32
                    assert site_log_prob(site, {}).dtype == torch.float32
                    for value in numbers_of(site["fn"]):
                        assert value.dtype == torch.float32


def test_a_draw_has_the_density_that_is_computed_for_it():
    """Products inside distributions, of which a low-rank Gaussian has some when it is made, drawn and scored."""
    factor, diagonal = randn(3, 2).float(), randn(3, seed=1).float().exp()
    loc = diagonal + 1

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.LowRankMultivariateNormal(loc, factor, diagonal))
            pyro.sample("x", dist.MultivariateNormal(z, torch.eye(3) + 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LowRankMultivariateNormal(x * 0.5, factor, diagonal))

    program, x = Program(model, guide), randn(4, 3).float()
    full = program.log_weights(x, S)
    with lowering("bfloat16"):
        assert torch.equal(program.log_weights(x, S), full)
    options = {"proposal": StudentT(), "progress": False}
    one = pv.evidence.importance(program, x, 64, **options)
    two = pv.evidence.importance(program, x, 64, precision="bfloat16", **options)
    assert torch.equal(one.log_evidence, two.log_evidence)


def test_rounding_the_guide_alone_is_no_error():
    """A model without products: the lowered guide draws other numbers, which are weighted as what they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Linear(3, 6)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        loc, raw = encoder(x).split(3, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, (0.2 * raw).exp()).to_event(1))

    program, x = Program(model, guide), randn(4, 3).float()
    with torch.no_grad():
        full = program.sample_guide(x, S)["z"]
        with lowering("bfloat16"):
            moved = program.sample_guide(x, S)["z"]
    assert float((moved - full).abs().max()) > 1e-4
    assert float(precision_error(program, x, S).error.abs().max()) < 1e-6


@pytest.mark.parametrize("kind", PROGRAMS)
def test_float64_arithmetic_changes_no_float64_program(kind):
    made = kind()
    program = Program(made.model, made.guide)
    expected = program.log_weights(made.x, 7)
    with InFloat64(), torch.no_grad():
        found = program.log_weights(made.x, 7)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    with lowering("bfloat16"), torch.no_grad():  # nothing there to lower
        assert torch.equal(program.log_weights(made.x, 7), expected)


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [
        (pv.likelihoods.Gaussian((1, 8, 8), scale="decoder"), {"encoder": "conv", "decoder": "conv"}),
        (pv.likelihoods.Binomial(20, 4), {}),
    ],
)
def test_float64_arithmetic_is_that_of_a_float64_copy(likelihood, options):
    def conv(in_shape, out_shape):
        return pv.networks.ConvNet(in_shape, out_shape, channels=(3, 4), hidden=8)

    model, x = vae(likelihood, **dict.fromkeys(options, conv))
    z = model.program.sample_guide(x, 7)["z"]
    expected = copy.deepcopy(model).double().program.log_joint({"z": z.double()}, x.double())
    with InFloat64(), torch.no_grad():
        found = model.program.log_joint({"z": z}, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    with lowering("bfloat16"), torch.no_grad():
        assert not torch.equal(model.program.log_joint({"z": z}, x), found)

"""The sum over discrete latents against independent exact answers."""

import itertools
import math

import exact_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy import special, stats

import ppl_vae as pv
from ppl_vae.evidence.exact.enumeration import enumerate_latents


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_is_the_sum_over_its_components(dtype):
    exact = models.mixture(300, dtype=dtype)
    evidence = enumerate_latents(exact.program, exact.x)
    slack = 2e-6 if dtype == torch.float32 else 1e-14  # the reference's data are not rounded to float32
    assert ((evidence.log_evidence - exact.log_evidence).abs() < evidence.stderr + slack).all()
    assert (evidence.basis, evidence.bound, evidence.method) == ("computed", "consistent", "enumeration")
    assert evidence.cost.density == 4
    assert evidence.stderr.max() < (1e-4 if dtype == torch.float32 else 1e-12)


def several(total=4):
    share = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    odds = torch.tensor([[0.3, 0.6, 0.9], [0.2, 0.5, 0.5]], dtype=torch.float64)
    weight = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def latents():
        c = pyro.sample("c", dist.Categorical(share))
        z = pyro.sample("z", dist.Bernoulli(odds).to_event(2))
        k = pyro.sample("k", dist.Binomial(total, 0.2 + c.double() / 5))
        o = pyro.sample("o", dist.OneHotCategorical(share))
        return c, z, k, o

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            c, z, k, o = latents()
            mean = z.flatten(-2) @ weight + (c + k / 2).unsqueeze(-1) + o[..., :1]
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            latents()

    def by_hand(x):
        terms = []
        for c, k, o in itertools.product(range(3), range(total + 1), range(3)):
            for bits in itertools.product((0.0, 1.0), repeat=6):
                z = torch.tensor(bits, dtype=torch.float64)
                p = 0.2 + c / 5
                prior = (
                    share[c].log()
                    + share[o].log()
                    + math.log(math.comb(total, k) * p**k * (1 - p) ** (total - k))
                )
                prior = prior + torch.where(z == 1, odds.flatten(), 1 - odds.flatten()).log().sum()
                mean = z @ weight + c + k / 2 + (o == 0)
                terms.append(prior - ((x - mean) ** 2).sum(-1) / 2 - 2 * math.log(2 * math.pi))
        return torch.stack(terms).logsumexp(0)

    return pv.Program(model, guide), by_hand


def test_several_sites_with_events_of_any_shape():
    program, by_hand = several()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    evidence = enumerate_latents(program, x)
    assert evidence.cost.density == 3 * 2**6 * 5 * 3
    torch.testing.assert_close(evidence.log_evidence, by_hand(x), rtol=0, atol=1e-12)


def test_pyros_own_enumeration_agrees():
    """TraceEnum_ELBO with every latent summed out is -log p(x) of all data together."""
    exact = models.mixture(20)
    enumerated = config_enumerate(exact.program._model, default="parallel")
    elbo = TraceEnum_ELBO(max_plate_nesting=1).loss(enumerated, lambda x: None, exact.x)
    total = float(enumerate_latents(exact.program, exact.x).log_evidence.sum())
    assert abs(-elbo - total) < 1e-10


def test_values_are_worked_through_in_pieces(monkeypatch):
    from ppl_vae.evidence.exact import enumeration

    program, _ = several()
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole = enumerate_latents(program, x).log_evidence
    monkeypatch.setattr(enumeration, "_NUMBERS", 1000)
    torch.testing.assert_close(enumerate_latents(program, x).log_evidence, whole, rtol=0, atol=1e-12)


def test_an_enumeration_that_was_stopped_goes_on(tmp_path, monkeypatch):
    from ppl_vae import checkpoint
    from ppl_vae.evidence.exact import enumeration

    monkeypatch.setattr(enumeration, "_NUMBERS", 2**14)
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", 1e9)
    program, _ = several()
    x = torch.randn(70, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    left, original = [10**9], pv.Program.log_joint

    def stops(program, z, x):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return original(program, z, x)

    monkeypatch.setattr(pv.Program, "log_joint", stops)
    whole = enumerate_latents(program, x)
    calls, left[0] = 10**9 - left[0], 20
    with pytest.raises(KeyboardInterrupt):
        enumerate_latents(program, x, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").exists()
    left[0] = 10**9
    resumed = enumerate_latents(program, x, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(resumed.log_evidence, whole.log_evidence)
    assert 10**9 - left[0] < calls - 15  # it did not start again


def one_latent(make_latent, n=3):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", make_latent(x))
            pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", make_latent(x))

    return pv.Program(model, guide), torch.arange(1.0, n + 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("latent", "received"),
    [
        (lambda x: dist.Normal(x.new_zeros(()), 1.0), "a Normal"),
        (lambda x: dist.Poisson(x.new_ones(())), "a Poisson"),
        (lambda x: dist.Binomial(x.long(), x.new_tensor(0.3)), "a Binomial"),
    ],
)
def test_what_is_not_finite_is_refused_in_words(latent, received):
    program, x = one_latent(latent)
    with pytest.raises(
        pv.ProgramError, match=f"latent site 'z': expected a latent with finitely.*{received}"
    ):
        enumerate_latents(program, x)


def test_too_many_values_are_refused_before_any_is_looked_at():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((17,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(x.new_full((17,), 0.5)).to_event(1))

    with pytest.raises(pv.ProgramError, match=r"at most 65536 joint values .*received 131072"):
        enumerate_latents(pv.Program(model, guide), torch.zeros(2, dtype=torch.float64))


def test_a_binomial_latent_is_a_beta_binomials_cousin():
    """x ~ N(k, 1), k ~ Binomial(5, 0.3): six terms by hand."""
    program, x = one_latent(lambda x: dist.Binomial(5, x.new_tensor(0.3)))
    k = np.arange(6)
    terms = stats.binom(5, 0.3).logpmf(k) + stats.norm(k, 1.0).logpdf(x.numpy()[:, None])
    torch.testing.assert_close(
        enumerate_latents(program, x).log_evidence,
        models.tensor(special.logsumexp(terms, axis=1)),
        rtol=0,
        atol=1e-13,
    )

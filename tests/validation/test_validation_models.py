"""The exact models: their log evidence by another way, and guides that are as wrong as they say."""

import math

import pyro
import pytest
import torch

import ppl_vae as pv
from ppl_vae.evidence.exact.enumeration import enumerate_latents
from ppl_vae.evidence.exact.quadrature import quadrature
from ppl_vae.validation import MODELS, ExactModel
from ppl_vae.validation import models as built

SMALL = (
    "linear-gaussian-2",
    "decoder-1",
    "decoder-2",
    "beta-binomial",
    "gamma-poisson",
    "hierarchy",
    "two-modes",
    "gamma-lognormal",
    "one-mode",
    "rare-tail",
)
BAD = {
    "linear-gaussian-50",
    "two-modes",
    "narrower-guide",
    "one-mode",
    "rare-tail",
    "phase-transition",
    "nested-spike",
}
PERFECT = {
    "linear-gaussian-2": lambda: built.linear_gaussian(2, 5, num_data=4, widen=1.0, shift=0.0),
    "linear-gaussian-10": lambda: built.linear_gaussian(10, 30, num_data=4, widen=1.0, shift=0.0),
    "linear-gaussian-50": lambda: built.linear_gaussian(50, 100, num_data=4, widen=1.0, shift=0.0),
    "beta-binomial": lambda: built.beta_binomial(num_data=4, widen=1.0),
    "gamma-poisson": lambda: built.gamma_poisson(num_data=4, widen=1.0),
    "mixture": lambda: built.mixture(num_data=4, widen=1.0),
}


def test_there_are_enough_of_them():
    assert len(MODELS) >= 8
    assert {name for name, make in MODELS.items() if make(num_data=2).bad_guide} == BAD


@pytest.mark.parametrize("name", MODELS)
def test_models_are_a_function_of_size_and_seed(name):
    before = torch.get_rng_state()
    one, again, other = (MODELS[name](num_data=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.name, len(one)) == (name, 3)
    assert one.note
    assert torch.equal(one.x, again.x)
    assert torch.equal(one.log_evidence, again.log_evidence)
    assert not torch.equal(one.x, other.x)
    assert one.x.dtype == one.log_evidence.dtype == torch.float64
    sites = one.program.check(one.x)
    assert sites.latent
    # The global store of Pyro's is not touched, and another model's guide is not this one's.
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("name", SMALL)
def test_the_log_evidence_is_that_of_quadrature(name):
    """References come from closed forms, or from sums over grids that know nothing of the program."""
    model = MODELS[name](num_data=4)
    evidence = quadrature(model.program, model.x)
    error = (evidence.log_evidence - model.log_evidence).abs()
    assert (error <= evidence.stderr + 1e-10).all()
    assert evidence.stderr.max() < 2e-8


def test_the_log_evidence_of_the_mixture_is_the_sum():
    model = MODELS["mixture"](num_data=10)
    found = enumerate_latents(model.program, model.x).log_evidence
    torch.testing.assert_close(found, model.log_evidence, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PERFECT)
def test_the_guide_can_be_made_perfect(name):
    """No variance at all: the log evidence is right in any dimension, and ``widen`` is what is wrong."""
    model = PERFECT[name]()
    evidence = pv.evidence.importance(model.program, model.x, 300, seed=0)
    torch.testing.assert_close(evidence.log_evidence, model.log_evidence, rtol=0, atol=1e-9)
    assert evidence.stderr.max() < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_bad_guides_are_rejected(seed):
    """60 data of each, at fixed seeds; of the phase transitions and the missed mode no weight tells anything."""
    for name in ("two-modes", "linear-gaussian-50", "one-mode", "phase-transition", "nested-spike"):
        model = MODELS[name](num_data=60, seed=seed)
        evidence = pv.evidence.importance(model.program, model.x, 1000, seed=seed)
        fractions = evidence.status_fractions()
        assert fractions["reject"] >= 0.95, fractions
        assert fractions["trust"] == 0
        assert (evidence.log_evidence - model.log_evidence).mean() < -math.log(2) / 2


def test_a_phase_transition_has_the_share_that_it_says():
    """The spike's part of p(x), by its own closed form: the hill alone, of which the guide is exact, is the rest."""
    for dim in (5, 10):
        model = built.phase_transition(dim, num_data=6, share=0.8, widen=1.0)
        hill = pv.evidence.importance(model.program, model.x, 64, seed=0)
        part = (hill.log_evidence - model.log_evidence).exp()
        assert (part - 0.2).abs().max() < 0.05
    with pytest.raises(pv.InputError, match="dim"):
        built.phase_transition(1)


@pytest.mark.parametrize("name", [n for n in MODELS if n not in BAD])
def test_the_other_guides_are_wrong_and_good_enough(name):
    model = MODELS[name](num_data=20)
    evidence = pv.evidence.importance(model.program, model.x, 1000, seed=0)
    assert evidence.status_fractions()["trust"] >= 0.5  # the narrow guide's tails are on the border
    assert evidence.gap.mean() > 0.002
    # Of 20 data each interval fails for 1 of 7,000 seeds.
    trusted = torch.from_numpy(evidence.status == "trust")
    low, high = evidence.interval(1 - 1 / 7000)
    inside = (low - model.error <= model.log_evidence) & (model.log_evidence <= high + model.error)
    assert inside[trusted].all()


def test_a_model_needs_a_log_evidence_for_each_datum():
    model = MODELS["mixture"](num_data=3)
    with pytest.raises(pv.InputError, match=r"log_evidence: expected a tensor of shape \(3,\)"):
        ExactModel("mine", model.program, model.x, torch.zeros(2))

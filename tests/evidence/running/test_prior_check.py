"""The prior as a witness: it finds the mode that agreeing chains have missed, and accuses no honest estimate."""

import annealing_models
import exact_models as models
import pytest
import torch

import ppl_vae as pv
from ppl_vae import InputError
from ppl_vae.evidence import StudentT

ev = pv.evidence


def two_modes(n):
    """A guide inside one of two equal modes, wide enough for it: its weights look well."""
    return annealing_models.bimodal(torch.linspace(1.0, 3.0, n, dtype=torch.float64), noise=0.4, scale=0.25)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda e, **more: ev.annealed(e.program, e.x, 16, 50, **more),
        lambda e, **more: ev.smc(e.program, e.x, 64, 30, **more),
        lambda e, **more: ev.importance(e.program, e.x, 2000, proposal=StudentT(), **more),
    ],
    ids=["annealed", "smc", "importance"],
)
def test_a_missed_mode_is_found(estimate):
    """Without the probe most data are trusted, log 2 too low; with it none of these is."""
    exact = two_modes(40)
    blind = estimate(exact, prior_draws=0)
    assert blind.unvisited.all()  # the rehearsal finds it, too; this is of the prior alone
    blind = blind.replace(unvisited=torch.zeros(40, dtype=torch.bool))
    low = blind.log_evidence < exact.log_evidence - 0.5
    wrong = torch.from_numpy(blind.status == "trust") & low
    assert wrong.double().mean() > 0.3
    e = estimate(exact, prior_draws=4096)
    assert torch.equal(e.log_evidence, blind.log_evidence)  # no number changes, only the verdict
    assert (e.missed[wrong]).double().mean() > 0.9
    assert not ((e.status == "trust") & low.numpy()).any()
    assert "prior" in e.reason[int(e.missed.nonzero()[0])]
    assert torch.allclose(e.density_evals - blind.density_evals, torch.tensor(4096.0, dtype=torch.float64))
    assert not blind.missed.any()


@pytest.mark.statistical
def test_no_honest_estimate_is_accused():
    """600 data of three models, a few steps: at most 4 marked, where 3 standard errors leave 0.8 (1 seed in 500)."""
    marked = 0
    for exact in (
        models.gamma_poisson(200, widen=1.5),
        models.linear_vae(2, 5, 200, seed=3, widen=1.3),
        annealing_models.hierarchy(200),
    ):
        marked += int(ev.annealed(exact.program, exact.x, 8, 10).missed.sum())
    print(f"marked: {marked}")
    assert marked <= 4


def test_a_lost_prior_is_given_up_early():
    """In 50 dimensions the first 256 draws say that no more would help."""
    exact = models.linear_vae(50, 60, 4, seed=3, widen=0.9)
    with_probe = ev.annealed(exact.program, exact.x, 4, 3)
    without = ev.annealed(exact.program, exact.x, 4, 3, prior_draws=0)
    assert (with_probe.density_evals - without.density_evals == 256).all()
    assert not with_probe.missed.any()


def test_discrete_latents_and_bad_arguments():
    exact = models.mixture(20, temper=2.0)
    e = ev.importance(exact.program, exact.x, 500, prior_draws=500)
    assert not e.missed.any()
    for bad in (-1, True, 1.5, "many"):
        with pytest.raises(InputError, match="prior_draws"):
            ev.importance(exact.program, exact.x, 10, prior_draws=bad)
    with pytest.raises(InputError, match="prior_draws"):
        ev.importance(exact.program, exact.x, 10, prior_draws=10, draws=ev.Sobol())


def test_what_was_missed_is_saved_and_picked(tmp_path):
    exact = two_modes(6)
    e = ev.annealed(exact.program, exact.x, 16, 50)
    e.save(tmp_path / "e")
    again = pv.Evidence.load(tmp_path / "e")
    assert torch.equal(again.missed, e.missed)
    assert e.missed.dtype == torch.bool
    assert torch.equal(e[2:4].missed, e.missed[2:4])

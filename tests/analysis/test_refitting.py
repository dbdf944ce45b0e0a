"""The refitted guide against the best of its family in closed form."""

import sys

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from mean_field import mean_field
from torch import nn

import ppl_vae as pv
from ppl_vae import InputError, ProgramError, checkpoint
from ppl_vae.analysis import refit
from ppl_vae.program import take


@pytest.mark.parametrize(
    ("latent", "dim", "moved"),
    [
        (2, 5, {"widen": 1.5, "shift": 1.0}),
        (5, 10, {"widen": 0.5, "shift": 2.0}),
        (10, 30, {"widen": 3.0, "shift": 3.0, "noise": 0.3}),
    ],
)
def test_it_finds_the_best_of_the_family(latent, dim, moved):
    """Short of the best by 0.0005 nats a dimension on average, whatever the start; never above it."""
    exact = mean_field(latent, dim, 40, **moved)
    fitted = refit(exact.program, exact.x)
    assert fitted.converged.all()
    assert exact.amortisation > 1
    shortfall = exact.shortfall(fitted.offsets)
    assert shortfall.min() > -1e-9
    assert shortfall.mean() < 0.0006 * latent
    assert shortfall.max() < 0.03
    assert torch.equal(fitted.gradient_evals, 16.0 * fitted.steps.double())
    assert ((fitted.density_evals > 0) & (fitted.gain < 0.05)).all()


def test_the_best_guide_is_mostly_left_alone():
    exact = mean_field(3, 6, 50)
    fitted = refit(exact.program, exact.x)
    assert fitted.converged.all()
    assert exact.shortfall(fitted.offsets).mean() < 5e-4
    still = torch.stack([v.flatten(1).abs().sum(1) == 0 for v in fitted.offsets.values()]).all(0)
    assert still.double().mean() > 0.5


def test_a_small_gain_is_not_lost_in_the_noise():
    """0.03 nats a datum, found but for 0.001, though 256 draws that did not share their noise could not see it."""
    exact = mean_field(3, 6, 50, widen=0.95, shift=0.1)
    assert 0.02 < exact.amortisation < 0.03
    shortfall = exact.shortfall(refit(exact.program, exact.x).offsets)
    assert shortfall.mean() < 0.002
    assert shortfall.max() < 0.01


def test_the_exact_posterior_is_not_moved_at_all():
    exact = models.linear_vae(3, 6, 20)
    fitted = refit(exact.program, exact.x, 4)
    assert all(v.abs().max() == 0 for v in fitted.offsets.values())
    weights = fitted.program.log_weights(fitted.x, 8)
    torch.testing.assert_close(weights, exact.log_evidence.expand(8, -1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("make", [models.gamma_poisson, models.beta_bernoulli])
def test_a_family_that_holds_the_posterior_reaches_it(make):
    exact = make(30, widen=3.0)
    fitted = refit(exact.program, exact.x)
    elbo = fitted.program.log_weights(fitted.x, 1000)
    before = exact.program.log_weights(exact.x, 1000).mean(0)
    assert (exact.log_evidence - before).mean() > 0.1
    assert (exact.log_evidence - elbo.mean(0)).abs().mean() < 0.005


def test_a_seed_gives_the_same_numbers_and_leaves_the_global_ones_alone():
    exact = mean_field(2, 5, 8, shift=1.0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = (refit(exact.program, exact.x, seed=3) for _ in range(2))
    other = refit(exact.program, exact.x, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.offsets.items():
        assert torch.equal(value, again.offsets[name])
        assert not torch.equal(value, other.offsets[name])


def test_blocks_and_their_checkpoint(tmp_path, monkeypatch):
    """Interrupted after the first block, it ends with the same bits; a checkpoint of another run is refused."""
    monkeypatch.setattr(sys.modules["ppl_vae.evidence.importance_sampling.refit"], "_DATA", 10)
    exact = mean_field(2, 5, 25, shift=1.0)
    whole = refit(exact.program, exact.x)
    path = tmp_path / "refit.safetensors"

    def interrupted(program, x, **options):
        if options.get("offset"):  # the second block
            raise KeyboardInterrupt
        return check(program, x, **options)

    check = pv.Program.check_more
    with monkeypatch.context() as patch:
        patch.setattr(pv.Program, "check_more", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refit(exact.program, exact.x, checkpoint=path)
    assert path.exists()
    with pytest.raises(InputError, match="another: seed"):
        refit(exact.program, exact.x, seed=1, checkpoint=path, resume=True)
    with pytest.raises(InputError, match="exists"):
        refit(exact.program, exact.x, checkpoint=path)
    resumed = refit(exact.program, exact.x, checkpoint=path, resume=True)
    assert not path.exists()
    for name, value in whole.offsets.items():
        assert torch.equal(value, resumed.offsets[name])
    assert torch.equal(whole.steps, resumed.steps)
    assert len({tuple(row) for row in whole.offsets["z.loc"][[0, 10, 20]].tolist()}) == 3


def test_stopped_when_all_is_done_but_the_checkpoint(tmp_path, monkeypatch):
    """25 data in blocks of 10, killed before the checkpoint goes: no block is done twice."""
    monkeypatch.setattr(sys.modules["ppl_vae.evidence.importance_sampling.refit"], "_DATA", 10)
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", float("inf"))
    exact = mean_field(2, 5, 25, shift=1.0)
    path = tmp_path / "refit.safetensors"

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            refit(exact.program, exact.x, checkpoint=path)
    resumed = refit(exact.program, exact.x, checkpoint=path, resume=True)
    assert len(resumed) == 25
    assert torch.equal(resumed.offsets["z.loc"], refit(exact.program, exact.x).offsets["z.loc"])


def test_giving_up_is_told():
    exact = mean_field(2, 5, 6, widen=3.0, shift=4.0)
    fitted = refit(exact.program, exact.x, max_steps=60)
    assert not fitted.converged.any()
    assert (fitted.steps == 60).all()
    assert (fitted.gain > 0.05).all()
    assert (exact.shortfall(fitted.offsets) < exact.amortisation).all()
    assert "0 converged" in repr(fitted)
    assert "0 converged" in str(fitted)


def test_every_estimator_takes_the_refitted_program():
    exact = mean_field(2, 5, 60, widen=0.5, shift=2.0)
    fitted = refit(exact.program, exact.x)
    evidence = pv.evidence.importance(fitted.program, fitted.x, 50_000)
    good = evidence.status == "trust"
    assert good.sum() >= 5  # the best mean-field guide is too narrow: k-hat is close to 0.5 for most
    scores = ((evidence.log_evidence - exact.log_evidence) / evidence.stderr)[torch.from_numpy(good)]
    assert scores.abs().max() < 4
    some = pv.evidence.importance(fitted.program, take(fitted.x, slice(0, 5)), 100)
    assert len(some) == 5


def test_a_network_a_dict_and_single_precision():
    torch.manual_seed(0)
    network = nn.Linear(3, 4)

    def model(x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["x"].new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + x["shift"], 0.5).to_event(1), obs=x["x"])

    def guide(x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            loc, log_scale = network(x["x"]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    x = {"x": torch.randn(12, 3), "shift": torch.randn(12, 1)}
    program = pv.Program(model, guide)
    fitted = refit(program, x)
    assert fitted.converged.all()
    assert fitted.offsets["z.loc"].dtype == torch.float32
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    before, after = program.log_weights(x, 200).mean(0), fitted.program.log_weights(fitted.x, 200).mean(0)
    assert (after > before).all()


def test_a_start_without_density_does_not_break_the_rest():
    """One datum's guide strays off the model's support at once: its ELBO is -inf and stays so; others are fitted."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 0.1))

    x = torch.tensor([4.0, -4.0, 5.0]).double()
    program = pv.Program(model, guide)
    fitted = refit(program, x, max_steps=400)
    elbo = fitted.program.log_weights(fitted.x, 200).mean(0)
    assert (elbo > program.log_weights(x, 200).mean(0))[[0, 2]].all()
    assert elbo[1] == -torch.inf
    assert all(v.isfinite().all() for v in fitted.offsets.values())


def test_what_cannot_be_refitted_is_refused():
    with pytest.raises(ProgramError, match="guide site 'k': expected a reparameterised"):
        refit(models.mixture(5).program, models.mixture(5).x)
    exact = mean_field(2, 5, 6)
    for wrong in ({"num_samples": 0}, {"step_size": -1.0}, {"max_steps": 0}, {"tolerance": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            refit(exact.program, exact.x, **wrong)
    with pytest.raises(InputError, match="program"):
        refit(models.linear_vae, exact.x)

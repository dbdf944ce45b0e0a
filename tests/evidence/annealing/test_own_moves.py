"""A user's own schedule, transition and resampler are values that the estimators take, and refuse if they are none."""

from dataclasses import dataclass

import exact_models as models
import pytest
import torch

import ppl_vae as pv
from ppl_vae.evidence import (
    HMC,
    Chains,
    Linear,
    Pilot,
    Resampler,
    Schedule,
    Sigmoid,
    Systematic,
    Transition,
    annealed,
    sandwich,
    smc,
)


@dataclass(frozen=True)
class Quadratic:
    """b_t = (t / T)**2, which no pilot has a say in."""

    def temperatures(self, num_steps, spread, at):
        return torch.linspace(0, 1, num_steps + 1) ** 2


@dataclass(frozen=True)
class Metropolis:
    """One proposal from a normal distribution around where the chain is; returns a plain pair."""

    target_accept: float = 0.4
    needs_gradient: bool = False
    densities: int = 1
    gradients: int = 0

    def start(self, point, generator):
        return Chains(point, None)

    def move(self, chains, path, beta, step, generator, *, reverse=False):
        point = chains.point
        noise = torch.randn(point.u.shape, dtype=point.u.dtype, generator=generator)
        proposal = path.at(point.u + step * noise, gradient=False)
        accept = (proposal.log_density(beta) - point.log_density(beta)).exp().clamp(max=1)
        uniform = torch.rand(accept.shape, dtype=accept.dtype, generator=generator)
        return Chains(point.select(uniform < accept, proposal), None), accept


@dataclass(frozen=True)
class Multinomial:
    """Independent choices."""

    def resample(self, log_shares, generator):
        R, M, N = log_shares.shape
        shares = log_shares.exp().permute(0, 2, 1).reshape(-1, M)
        chosen = torch.multinomial(shares, M, replacement=True, generator=generator)
        return chosen.reshape(R, N, M).permute(0, 2, 1)


@pytest.fixture(scope="module")
def exact():
    return models.normal_normal(models.draw_normal_normal(300), widen=1.5)


def check_unbiased(e, exact):
    """E[Z-hat / Z] = 1, to 4 standard errors of the mean over data: fails once in 16,000 seeds."""
    ratio = (e.log_evidence - exact.log_evidence).exp()
    assert abs(float(ratio.mean() - 1)) < 4 * float(ratio.std()) / len(ratio) ** 0.5
    assert float(ratio.std()) > 0


@pytest.mark.statistical
@pytest.mark.parametrize(
    "own", [{"schedule": Quadratic()}, {"transition": Metropolis()}, {"schedule": Sigmoid(2.0)}], ids=str
)
def test_annealing_with_ones_own_part_is_unbiased(own, exact):
    e = annealed(exact.program, exact.x, 4, 10, start="prior", progress=False, **own)
    check_unbiased(e, exact)
    assert repr(next(iter(own.values()))) in e.details


@pytest.mark.statistical
@pytest.mark.parametrize("own", [{"resampler": Multinomial()}, {"schedule": Quadratic()}], ids=str)
def test_smc_with_ones_own_part_is_unbiased(own, exact):
    options = {"num_islands": 2, "ess_threshold": 0.9, "start": "prior", "progress": False}
    e = smc(exact.program, exact.x, 16, 8, **options, **own)
    check_unbiased(e, exact)
    assert repr(next(iter(own.values()))) in e.details


def test_bounds_on_both_sides_with_ones_own_parts(exact):
    own = {"schedule": Quadratic(), "transition": Metropolis()}
    s = sandwich(exact.program, exact.x[:50], 4, 20, progress=False, **own)
    assert float(s.upper.log_evidence.mean()) > float(s.lower.log_evidence.mean()) - 0.05
    assert "Quadratic() schedule" in s.upper.details


@pytest.mark.parametrize(
    ("name", "value"), [("pilot", Pilot()), ("sigmoid", Sigmoid()), ("linear", Linear())]
)
def test_a_name_is_short_for_a_value(name, value, exact):
    run = [
        annealed(exact.program, exact.x[:5], 3, 6, schedule=schedule, progress=False)
        for schedule in (name, value)
    ]
    assert torch.equal(run[0].log_evidence, run[1].log_evidence)


def test_the_values_have_what_the_protocols_ask_for():
    assert all(isinstance(value, Schedule) for value in (Pilot(), Sigmoid(), Linear(), Quadratic()))
    assert all(isinstance(value, Transition) for value in (HMC(), pv.evidence.RandomWalk(), Metropolis()))
    assert all(isinstance(value, Resampler) for value in (Systematic(), Multinomial()))


class Falling:
    def temperatures(self, num_steps, spread, at):
        return torch.linspace(1, 0, num_steps + 1)


class Beyond:
    def resample(self, log_shares, generator):
        return torch.full(log_shares.shape, log_shares.shape[1])


class Floats:
    def resample(self, log_shares, generator):
        return log_shares


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("schedule", "cubic"),
        ("schedule", Linear),
        ("schedule", HMC()),
        ("schedule", Falling()),
        ("transition", Quadratic()),
        ("transition", Metropolis),
        ("transition", "hmc"),
        ("resampler", Systematic),
        ("resampler", "systematic"),
        ("resampler", Quadratic()),
        ("resampler", Beyond()),
        ("resampler", Floats()),
    ],
)
def test_what_is_none_is_refused_in_one_line(argument, value, exact):
    with pytest.raises(pv.InputError) as error:
        smc(
            exact.program,
            exact.x[:3],
            16,
            6,
            num_islands=2,
            ess_threshold=1,
            progress=False,
            **{argument: value},
        )
    assert error.value.argument == argument
    assert "\n" not in str(error.value)


def test_a_checkpoint_knows_its_parts(exact, tmp_path, monkeypatch):
    from ppl_vae.checkpoint import Checkpoint

    class Killed(BaseException):
        pass

    def killed(self, tensors, state):
        write(self, tensors, state)
        raise Killed

    write = Checkpoint.write
    path, x = tmp_path / "state", exact.x[:3]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", killed)
        with pytest.raises(Killed):
            annealed(exact.program, x, 4, 6, schedule=Quadratic(), checkpoint=path, progress=False)
    with pytest.raises(pv.InputError, match=r"another: schedule Quadratic\(\) \(this run: Linear\(\)\)"):
        annealed(exact.program, x, 4, 6, schedule="linear", checkpoint=path, resume=True, progress=False)

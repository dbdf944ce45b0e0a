"""Sequential Monte Carlo: unbiased with resampling, and only because its schedule is frozen."""

import math

import annealing_models
import exact_models as models
import pytest
import torch
from covering import crossed, slow_but
from exact_models import identical, repeated

import ppl_vae as pv
from ppl_vae import InputError, checkpoint
from ppl_vae.evidence.annealing.kernels import HMC, Chains, RandomWalk
from ppl_vae.evidence.annealing.path import AnnealingPath
from ppl_vae.evidence.annealing.resampling import Systematic
from ppl_vae.evidence.annealing.smc import _Particles

smc = pv.evidence.smc

CASES = {
    "linear VAE": lambda n: models.linear_vae(3, 6, n, seed=3, widen=1.3, shift=0.4),
    "gamma": lambda n: models.gamma_poisson(n, widen=1.7),
    "hierarchy": lambda n: annealing_models.hierarchy(n),
    "straying guide": lambda n: annealing_models.straying_guide(n),
}


@pytest.mark.statistical
@pytest.mark.parametrize(("case", "threshold"), crossed(CASES, [0.0, 0.6, 1.0], strength=1))
def test_unbiased_with_any_threshold(case, threshold):
    """mean(Z-hat / Z) over 1,000 estimates: within 4 errors of 1 in 12 cases; fails for 8 seeds in 10,000."""
    program, x, exact = repeated(CASES[case](3), 1000)
    e = smc(program, x, 16, 6, num_islands=2, ess_threshold=threshold, seed=1)
    ratio = (e.log_evidence - exact).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    print(f"{case}, {threshold}: {float(ratio.mean()):.4f} ± {error:.4f}")
    assert abs(float(ratio.mean()) - 1) < 4 * error
    assert error < 0.03


@pytest.mark.statistical
def test_intervals_from_the_spread_of_islands_cover():
    """1,000 intervals from 8 islands, Student's with 7 degrees of freedom: 92..98 % but for 2 seeds in 100,000."""
    program, x, exact = repeated(models.linear_vae(3, 6, 1, seed=3, widen=1.3), 1000)
    e = smc(program, x, 64, 10, seed=2)
    low, high = e.interval()
    coverage = float(((low <= exact) & (exact <= high)).double().mean())
    print(f"coverage {coverage:.3f}")
    assert 0.92 <= coverage <= 0.98
    assert (e.status == "trust").mean() > 0.9


def test_a_guide_30_percent_too_narrow_in_50_dimensions():
    exact = models.linear_vae(50, 60, 10, seed=3, widen=0.7)
    e = smc(exact.program, exact.x, 256, 60, seed=1)
    error = e.log_evidence - exact.log_evidence
    assert abs(float(error.mean())) < 0.1
    assert (error.abs() < 6 * e.stderr).all()


@pytest.mark.parametrize("seed", slow_but([0], range(3)))
def test_zero_variance_under_the_exact_posterior(seed):
    for exact in (
        models.linear_vae(3, 7, 9),
        models.gamma_poisson(9),
        annealing_models.hierarchy(9, widen=1.0),
    ):
        e = smc(exact.program, exact.x, 16, 12, seed=seed, ess_threshold=1.0)
        torch.testing.assert_close(e.log_evidence, exact.log_evidence, rtol=0, atol=1e-8)
        assert e.stderr.max() < 1e-8


def adaptive(exact, schedule, seed, particles=8, threshold=0.9):
    """A textbook sampler from the prior. ``schedule`` None: each next temperature keeps the ESS of the very particles
    that it weights at ``threshold``. Returns log Z-hat and the schedules ``(K, N)``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        path, kernel = AnnealingPath(exact.program, exact.x, "prior"), HMC()
        chains = kernel.start(path.at(path.draw(particles), gradient=True), generator)
    n = len(exact.x)
    step = torch.ones(n, 1, dtype=torch.float64)
    beta, log_evidence = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    used = [beta]
    while bool((beta < 1).any()):
        ratio = chains.point.log_ratio()

        def enough(new, ratio=ratio, beta=beta):
            weights = (new - beta) * ratio
            return (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp() >= threshold * particles

        if schedule is None:
            low, high = beta, torch.ones_like(beta)
            for _ in range(30):
                middle = (low + high) / 2
                low, high = (
                    torch.where(enough(middle), middle, low),
                    torch.where(enough(middle), high, middle),
                )
            new = torch.where(enough(torch.ones_like(beta)), 1.0, high)
        else:
            new = schedule[len(used)] if len(used) < len(schedule) else torch.ones_like(beta)
        weights = (new - beta) * ratio
        log_evidence = log_evidence + weights.logsumexp(0) - math.log(particles)
        index = torch.multinomial(weights.softmax(0).T, particles, replacement=True, generator=generator).T
        momentum = chains.momentum.gather(0, index.unsqueeze(-1))
        chains, beta = Chains(chains.point.rows(index), momentum), new
        used.append(beta)
        for _ in range(2):
            chains, _ = kernel.move(chains, path, beta, step, generator)
    return log_evidence, torch.stack(used)


@pytest.mark.statistical
def test_tuning_on_the_chains_that_are_weighted_is_biased_and_a_frozen_pilot_is_not():
    """Rule 3, measured: 6,000 estimates each of one log p(x), 3 deviations out in the tail of a sharp likelihood.

    The adaptive sampler is more than 10 standard errors too high, above log p(x), where no lower bound may be. The same
    sampler with schedules from another run of itself, and ours, are within 4 (fails for 2 seeds in 10,000).
    """
    exact = models.normal_normal([3.7] * 6000, scale=0.3)
    log_evidence, schedules = adaptive(exact, None, 1)
    _, pilot = adaptive(exact, None, 2)
    frozen, _ = adaptive(exact, pilot, 3)

    def score(estimate):
        ratio = (estimate - exact.log_evidence).exp()
        error = float(ratio.std()) / math.sqrt(len(ratio))
        print(f"mean Z-hat / Z = {float(ratio.mean()):.3f} ± {error:.3f}")
        return (float(ratio.mean()) - 1) / error

    assert len(schedules) > 10
    assert score(log_evidence) > 10
    assert abs(score(frozen)) < 4
    assert abs(score(smc(exact.program, exact.x, 16, 15, num_islands=2, start="prior").log_evidence)) < 4
    assert abs(score(pv.evidence.annealed(exact.program, exact.x, 8, 15, start="prior").log_evidence)) < 4


def test_systematic_resampling():
    """Each particle as often as its share asks, never a whole time off; on average exactly."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(1, 7, 1, generator=generator, dtype=torch.float64) ** 3
    shares = (shares / shares.sum()).expand(1, 7, 4000)
    chosen = Systematic().resample(shares.log(), generator)
    assert chosen.shape == (1, 7, 4000)
    counts = torch.nn.functional.one_hot(chosen[0], 7).sum(0).double()  # (4000, 7)
    wanted = 7 * shares[0, :, 0]
    assert ((counts - wanted).abs() < 1).all()
    torch.testing.assert_close(counts.mean(0), wanted, rtol=0, atol=0.04)
    # A share of nothing is never chosen, and one of everything always.
    certain = torch.tensor([-math.inf, 0.0, -math.inf], dtype=torch.float64).reshape(1, 3, 1)
    assert (Systematic().resample(certain, generator) == 1).all()


@pytest.mark.parametrize("after", [0, 1, 5, 11, 13])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, monkeypatch, after):
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)
    exact, path = models.gamma_poisson(5, widen=1.5), tmp_path / "state"
    run = lambda **more: smc(exact.program, exact.x, 16, 12, num_islands=4, ess_threshold=0.95, **more)  # noqa: E731
    whole = run()
    original, calls = _Particles.advance, []

    def advance(self):
        if len(calls) >= after:
            raise KeyboardInterrupt
        calls.append(1)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Particles, "advance", advance)
        if after < 13:
            with pytest.raises(KeyboardInterrupt):
                run(checkpoint=path)
        else:
            run(checkpoint=path)
    assert identical(run(checkpoint=path, resume=True), whole)
    with pytest.raises(InputError, match="ess_threshold"):
        smc(exact.program, exact.x, 16, 12, num_islands=4, ess_threshold=1.5)


def test_bad_arguments_and_settings():
    exact = models.normal_normal([1.0, 2.0], widen=1.2)
    for change, argument in (
        ({"num_particles": 10}, "num_particles"),
        ({"num_islands": 0}, "num_islands"),
        ({"ess_threshold": True}, "ess_threshold"),
        ({"num_steps": 0}, "num_steps"),
    ):
        with pytest.raises(InputError) as caught:
            smc(exact.program, exact.x, **({"num_particles": 16, "num_steps": 4} | change))
        assert caught.value.argument == argument
    e = smc(exact.program, exact.x, 16, 4, num_islands=2, transition=RandomWalk())
    assert (e.method, e.bound, e.basis, e.num_samples) == ("smc", "lower", "runs", 2)
    assert "2 islands of 8 particles" in e.details
    assert e.cost.gradient == 0

"""Two-sided bounds: the truth inside, a gap that closes, and no certificate that was not earned."""

import itertools
import math

import annealing_models
import exact_models as models
import numpy as np
import pytest
import torch
from covering import slow_but
from exact_models import identical
from scipy import stats

import ppl_vae as pv
from ppl_vae import InputError, checkpoint
from ppl_vae.evidence.annealing.ais import Annealing
from ppl_vae.evidence.annealing.kernels import HMC, RandomWalk, langevin

sandwich = pv.evidence.sandwich

LATENT, DIM, SEED = 4, 8, 3


def linear(n, widen=1.3, shift=0.3):
    """A program, data that only say how many, and the function that knows log p of any data."""
    W, b, noise, _ = models.draw_linear_gaussian(LATENT, DIM, n, SEED)
    law = stats.multivariate_normal(b, W @ W.T + np.diag(noise))
    exact = models.linear_vae(LATENT, DIM, n, seed=SEED, widen=widen, shift=shift)
    return exact.program, exact.x, lambda x: torch.as_tensor(law.logpdf(x.numpy()))


def gamma(n):
    exact = models.gamma_poisson(n, widen=1.7)
    return exact.program, exact.x, lambda x: torch.as_tensor(stats.nbinom(2.5, 0.5 / 1.5).logpmf(x.numpy()))


def hierarchy(n):
    exact = annealing_models.hierarchy(n)
    m = annealing_models
    spread = m.WITHIN**2 + m.NOISE**2
    covariance = m.POPULATION**2 * np.ones((m.CLASSES, m.CLASSES)) + spread * np.eye(m.CLASSES)
    law = stats.multivariate_normal(np.zeros(m.CLASSES), covariance)
    return exact.program, exact.x, lambda x: torch.as_tensor(law.logpdf(x.numpy()))


CASES = {"linear": linear, "gamma": gamma, "hierarchy": hierarchy}
RUNS = {
    "HMC": {},
    "prior": {"start": "prior", "num_steps": 160},
    "langevin": {"transition": langevin()},
    "walk": {"transition": RandomWalk(3)},
    "fresh momenta": {"transition": HMC(2, persistence=0.0)},
    "importance": {"method": "importance", "num_samples": 50},
}


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("case", "run"),
    slow_but([("linear", "HMC"), ("gamma", "importance")], itertools.product(CASES, RUNS)),
)
def test_the_inverse_of_the_upper_bound_is_unbiased(case, run):
    """mean(p(x) / exp(upper)) over 1,500 simulated data is 1 within 4 errors: the reversed kernel is the reversal.

    18 cases; another seed fails for one with probability 1e-3. For the multi-sample bound the mean is of 1 / mean(w),
    which is unbiased for 1 / p(x) as well.
    """
    program, x, log_p = CASES[case](1500)
    s = sandwich(program, x, **({"num_chains": 8, "num_steps": 8, "seed": 1} | RUNS[run]))
    ratio = (log_p(s.x) - s.upper.log_evidence).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    print(f"{case}, {run}: {float(ratio.mean()):.4f} ± {error:.4f}")
    assert abs(float(ratio.mean()) - 1) < 4 * error
    assert error < 0.03
    assert s.certified
    # ... and it is a bound from above, the other one from below, on average over the data.
    truth = log_p(s.x)
    for bound, sign in ((s.lower, 1), (s.upper, -1)):
        slack = sign * (truth - bound.log_evidence)
        assert float(slack.mean()) > -4 * float(slack.std()) / math.sqrt(len(slack))


@pytest.mark.statistical
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_truth_is_inside_for_99_percent_of_the_data_over_20_seeds(case):
    """`contains` at 99.9 %, 20 seeds of 60 data: at least 99 % of 1,200.

    With a true rate of 99.5 % or more the count is below 99 % for 2 % of the choices of seeds, of which one is fixed.
    """
    inside = []
    for seed in range(20):
        program, x, log_p = CASES[case](60)
        s = sandwich(program, x, 16, 20, seed=seed)
        inside.append(s.contains(log_p(s.x), 0.999))
    share = float(torch.cat(inside).double().mean())
    print(f"{case}: {share:.4f} of {sum(map(len, inside))}")
    assert share >= 0.99


@pytest.mark.slow
def test_the_gap_closes_with_the_number_of_steps():
    """Mean gaps at 4, 16, 64, 256 steps: each at most 0.6 of the one before, down to the noise."""
    program, x, _ = linear(150, widen=0.6, shift=1.0)
    sandwiches = [sandwich(program, x, 8, steps, seed=2) for steps in (4, 16, 64, 256)]
    gaps = [s.mean_gap().value for s in sandwiches]
    noise = [s.mean_gap().mc_stderr for s in sandwiches]
    print(gaps, noise)
    assert gaps[0] > 0.1
    for before, after, error in zip(gaps[:-1], gaps[1:], noise[1:], strict=True):
        assert after < 0.6 * before + 2 * error
    assert abs(gaps[-1]) < 0.01 + 3 * noise[-1]


def test_zero_gap_under_the_exact_posterior():
    exact = models.linear_vae(3, 7, 9)
    for method in ("annealed", "importance"):
        s = sandwich(exact.program, exact.x, 4, 20, method=method, num_samples=50)
        assert s.gap.abs().max() < 1e-8
        assert s.contains(s.lower.log_evidence + 1e-9).all() or s.gap.abs().max() < 1e-10


def test_real_data_have_no_certificate():
    """Posterior samples from the guide: a heuristic, in the result, in the words and in the verdicts."""
    program, x, log_p = linear(20, widen=1.0, shift=0.0)
    z = program.sample_guide(x, 1, seed=5)
    s = sandwich(program, x, 4, 20, posterior=z)
    assert s.x is None
    assert not s.certified
    assert not s.upper.certified
    assert s.lower.certified
    assert "heuristic" in s.upper.method
    assert "HEURISTIC" in str(s)
    assert "trust" not in set(s.upper.status)
    # Here the guide is the posterior: the samples are exact, and may be declared so.
    exact = sandwich(program, x, 4, 20, posterior=z, exact=True)
    assert exact.certified
    assert torch.equal(exact.upper.log_evidence, s.upper.log_evidence)
    torch.testing.assert_close(exact.upper.log_evidence, log_p(x), rtol=0, atol=1e-8)


def test_saved_and_loaded_exactly(tmp_path):
    program, x, _ = linear(6)
    s = sandwich(program, x, 4, 5)
    s.save(tmp_path / "both")
    again = pv.evidence.Sandwich.load(tmp_path / "both")
    assert identical(again.lower, s.lower)
    assert identical(again.upper, s.upper)
    s.lower.save(tmp_path / "one")
    with pytest.raises(InputError, match="Sandwich"):
        pv.evidence.Sandwich.load(tmp_path / "one")
    with pytest.raises(InputError, match="evidence file"):
        pv.evidence.Evidence.load(tmp_path / "both")
    with pytest.raises(InputError, match="lower"):
        pv.evidence.Sandwich(s.upper, s.upper)
    with pytest.raises(InputError, match="upper"):
        pv.evidence.Sandwich(s.lower[:3], s.upper)


@pytest.mark.parametrize("method", ["annealed", "importance"])
@pytest.mark.parametrize("after", [1, 7, 14, 20])
def test_an_interrupted_sandwich_resumes_to_the_same_bits(tmp_path, monkeypatch, after, method):
    """Broken off in the lower bound or in the upper one: what is done is kept, and the files are gone in the end."""
    from ppl_vae.evidence.annealing.multisample_bound import Multisample

    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)
    program, x, _ = linear(5)
    path = tmp_path / "state"
    run = lambda **more: sandwich(  # noqa: E731
        program, x, 4, 12, method=method, num_samples=200, seed=3, **more
    )
    whole = run()
    calls = []

    def counted(original):
        def advance(self):
            if len(calls) >= after:
                raise KeyboardInterrupt
            calls.append(1)
            return original(self)

        return advance

    with monkeypatch.context() as patch:
        for work in (Annealing, Multisample):
            patch.setattr(work, "advance", counted(work.advance))
        try:
            run(checkpoint=path)
        except KeyboardInterrupt:
            assert list(tmp_path.iterdir())
    resumed = run(checkpoint=path, resume=True)
    assert identical(resumed.lower, whole.lower)
    assert identical(resumed.upper, whole.upper)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_named():
    program, x, _ = linear(4)
    z = program.sample_guide(x, 3)
    for change, argument in (
        ({"method": "magic"}, "method"),
        ({"num_samples": 1}, "num_samples"),
        ({"posterior": 3}, "posterior"),
        ({"posterior": z}, "posterior"),  # 3 samples for 4 chains
        ({"num_chains": 0}, "num_chains"),
    ):
        with pytest.raises(InputError) as caught:
            sandwich(program, x, **({"num_chains": 4, "num_steps": 5} | change))
        assert caught.value.argument == argument


def side(bound, values, stderr, ess=15.9):
    """16 runs that agree, as they say themselves."""
    n = len(values)
    nan, none = torch.full((n,), math.nan), torch.empty(n, 0)
    return pv.Evidence.of(
        log_evidence=torch.tensor(values),
        stderr=torch.tensor(stderr),
        elbo=nan,
        elbo_stderr=nan,
        ess=torch.full((n,), ess),
        khat=nan,
        num_samples=16,
        method="runs",
        bound=bound,
        seed=0,
        curve_k=torch.empty(0, dtype=torch.int64),
        curve_bound=none,
        curve_stderr=none,
        basis="runs",
    )


def test_an_upper_bound_that_the_lower_one_does_not_confirm_is_not_trusted(tmp_path):
    """A gap of nothing; of 1.5, 2.5 and 4 errors; of many errors, but small; of 2 errors, but large."""
    stderr = [0.03 / 2**0.5] * 4 + [0.001, 0.09]
    lower = side("lower", [-5.0] * 6, stderr)
    upper = side("upper", [-5.0, -4.955, -4.925, -4.88, -4.97, -4.75], stderr)
    both = pv.evidence.Sandwich(lower, upper)
    assert set(lower.status) == set(upper.status) == {"trust"}
    assert both.upper.status.tolist() == ["trust", "trust", "caution", "caution", "trust", "caution"]
    assert both.lower.status.tolist() == ["trust", "trust", "trust", "caution", "trust", "trust"]
    assert "does not confirm" in both.upper.reason[2]
    both.save(tmp_path / "both")
    again = pv.evidence.Sandwich.load(tmp_path / "both")
    assert again.upper.verdicts == both.upper.verdicts
    assert again.lower.verdicts == both.lower.verdicts
    # A bound from below, clearly above the one from above, is no better.
    crossed = pv.evidence.Sandwich(lower[:1], side("upper", [-5.2], stderr[:1]))
    assert crossed.lower.status.tolist() == crossed.upper.status.tolist() == ["caution"]
    # One that knows little does not excuse what the upper one's own error does not explain: 0.06 is 6 of these.
    vague = pv.evidence.Sandwich(side("lower", [-5.0], [0.08]), side("upper", [-4.94], [0.01]))
    assert vague.upper.status.tolist() == ["caution"]
    failed = pv.evidence.Sandwich(side("lower", [-5.0], [0.8], ess=1.5), upper[:1])
    assert failed.lower.status.tolist() == ["reject"]
    assert failed.upper.status.tolist() == ["caution"]


@pytest.mark.statistical
def test_no_trusted_bound_is_wrong_where_the_chains_come_close_to_failing():
    """A guide half as wide and two deviations off, 12 steps, 600 data: none beyond 5 errors and 0.03 nats."""
    program, x, log_p = linear(600, widen=0.5, shift=2.0)
    s = sandwich(program, x, 32, 12, seed=5)
    for bound in (s.lower, s.upper):
        wrong = (bound.log_evidence - log_p(s.x)).abs() > 5 * bound.stderr + 0.03
        assert not (wrong.numpy() & (bound.status == "trust")).any()


@pytest.mark.slow
@pytest.mark.statistical
def test_bounds_are_trusted_where_the_chains_do_well():
    """16 chains of 200 steps: at least 90 % of 300 data on either side."""
    program, x, _ = linear(300)
    s = sandwich(program, x, 16, 200, seed=5)
    for bound in (s.lower, s.upper):
        assert (bound.status == "trust").mean() >= 0.9

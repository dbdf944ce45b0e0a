"""What all ways of importance sampling share: exact where they should be, and the same bits however they run."""

import math
from dataclasses import dataclass

import exact_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import crossed, slow_but
from exact_models import identical, repeated

import ppl_vae as pv
from ppl_vae import InputError, Program, checkpoint
from ppl_vae.evidence import (
    Defensive,
    Guide,
    Refitted,
    Sobol,
    StudentT,
    UntilStderr,
    Widened,
    importance,
    jackknife,
    psis,
)
from ppl_vae.evidence.importance_sampling.proposals import ProposalOnData
from ppl_vae.evidence.running.simulation_check import densities
from ppl_vae.evidence.running.tiles import Tiles


@dataclass(frozen=True)
class FromPrior:
    """A proposal as a user would write it: the prior."""

    def bind(self, program, x, seed, index):
        return FromPriorOnData(program, x)


class FromPriorOnData(ProposalOnData):
    def __init__(self, program, x):
        self.program, self.x = program, x

    def log_weights(self, num_samples):
        z = self.program.sample_prior(self.x, num_samples, seed=None)
        prior = dist.Normal(0.0, 1.0).log_prob(z["z"]).sum(-1).double()
        return self.program.log_joint(z, self.x) - prior


REFITTED = Refitted(num_samples=2, max_steps=100)
VARIANTS = {
    "guide": lambda p, x, S, **kw: importance(p, x, S, proposal=Guide(), **kw),
    "defensive": lambda p, x, S, **kw: importance(p, x, S, proposal=Defensive(0.2), **kw),
    "widened": lambda p, x, S, **kw: importance(p, x, S, proposal=Widened(1.3), **kw),
    "student": lambda p, x, S, **kw: importance(p, x, S, proposal=StudentT(4.0), **kw),
    "refitted": lambda p, x, S, **kw: importance(p, x, S, proposal=REFITTED, **kw),
    "user": lambda p, x, S, **kw: importance(p, x, S, proposal=FromPrior(), **kw),
    "jackknife 1": lambda p, x, S, **kw: jackknife(p, x, S, 1, **kw),
    "jackknife 2": lambda p, x, S, **kw: jackknife(p, x, S, 2, **kw),
    "jackknife defensive": lambda p, x, S, **kw: jackknife(p, x, S, proposal=Defensive(0.2), **kw),
    "psis": psis,
    "psis student": lambda p, x, S, **kw: psis(p, x, S, proposal=StudentT(4.0), **kw),
    "sobol": lambda p, x, S, **kw: importance(p, x, S, draws=Sobol(4), **kw),
    "target": lambda p, x, S, **kw: importance(p, x, draws=UntilStderr(0.04, 700, pilot=S), **kw),
    "target widened": lambda p, x, S, **kw: importance(
        p, x, draws=UntilStderr(0.04, 700, pilot=S), proposal=Widened(1.3), **kw
    ),
    "target refitted": lambda p, x, S, **kw: importance(
        p, x, draws=UntilStderr(0.04, 700, pilot=S), proposal=REFITTED, **kw
    ),
    "target user": lambda p, x, S, **kw: importance(
        p, x, draws=UntilStderr(0.04, 700, pilot=S), proposal=FromPrior(), **kw
    ),
}


class Model:
    """A model that can be cut off at a call."""

    def __init__(self):
        self.calls, self.limit = 0, math.inf

    def __call__(self, x):
        self.calls += 1
        if self.calls > self.limit:
            raise KeyboardInterrupt
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def guide(x):
    """Its width differs from datum to datum."""
    with pyro.plate("data", len(x), dim=-1):
        width = 0.6 + 0.5 * x[:, :1].sigmoid()
        pyro.sample("z", dist.Normal(x[:, :2] / 4, width.expand(-1, 2)).to_event(1))


def data(n=40):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _small_tiles(monkeypatch):
    """Tiles of 64 samples of 16 data."""

    def plan(num_data, num_samples, width, device):
        return Tiles(num_data, num_samples, min(num_data, 16), min(64, num_samples))

    monkeypatch.setattr(Tiles, "plan", plan)
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("name", VARIANTS)
def test_chunks_and_the_rest_of_the_process_change_no_bit(name):
    x, run = data(), VARIANTS[name]
    program = Program(Model(), guide)
    torch.manual_seed(1)
    whole = run(program, x, 300, seed=3)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    identical(run(program, x, 300, seed=3, chunk_size=200), whole)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(before, state)
    other = run(program, x, 300, seed=4)
    assert (other.log_evidence != whole.log_evidence).all()


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("name", slow_but(set(VARIANTS) - {"target refitted"}, VARIANTS))
def test_resumes_to_the_same_bits_wherever_it_was_cut_off(name, tmp_path):
    x, run, path = data(), VARIANTS[name], tmp_path / "state"
    model = Model()
    program = Program(model, guide)
    whole = run(program, x, 300, seed=3)
    model.calls = 0
    run(program, x, 300, seed=3)  # the second time, less has to be found out
    calls = model.calls
    cut = 0
    for share in (0.2, 0.45, 0.7, 0.95):
        model.calls, model.limit = 0, int(share * calls)
        with pytest.raises(KeyboardInterrupt):
            run(program, x, 300, seed=3, checkpoint=path)
        model.limit = math.inf
        cut += path.exists()
        identical(run(program, x, 300, seed=3, checkpoint=path, resume=True), whole)
        assert not path.exists()
    assert cut >= 2  # the program is looked at first, and data that it makes are looked at last


@pytest.mark.usefixtures("_small_tiles")
def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    x, path = data(), tmp_path / "state"
    model = Model()
    program = Program(model, guide)
    settings = [
        {},
        {"proposal": Defensive(0.2)},
        {"proposal": Defensive(0.3)},
        {"draws": Sobol()},
        {"draws": Sobol(4)},
        {"num_samples": None, "draws": UntilStderr(0.1, pilot=300)},
        {"num_samples": None, "draws": UntilStderr(0.2, pilot=300)},
        {"num_samples": None, "draws": UntilStderr(0.2, most=512, pilot=300)},
        {"num_samples": None, "draws": UntilStderr(0.2, pilot=300), "proposal": Widened(1.5)},
    ]
    estimators = [(importance, {"num_samples": 300} | chosen) for chosen in settings]
    estimators += [(jackknife, {"num_samples": 300}), (jackknife, {"num_samples": 300, "order": 2})]
    estimators += [(psis, {"num_samples": 300})]
    for index, (estimator, chosen) in enumerate(estimators):
        model.calls = 0
        estimator(program, x, **chosen)
        model.calls, model.limit = 0, int(0.7 * model.calls)
        with pytest.raises(KeyboardInterrupt):
            estimator(program, x, checkpoint=path, **chosen)
        model.limit = math.inf
        assert path.exists()
        for other, (another, different) in enumerate(estimators):
            if other != index:
                with pytest.raises(InputError, match="a checkpoint of this run"):
                    another(program, x, checkpoint=path, resume=True, **different)
        path.unlink()


EXACT = {
    "linear VAE": lambda: models.linear_vae(3, 7, 10),
    "normal-normal": lambda: models.normal_normal(models.draw_normal_normal(10)),
    "beta-bernoulli": lambda: models.beta_bernoulli(10),
    "gamma-poisson": lambda: models.gamma_poisson(10),
}
CONSTANT = ("guide", "jackknife 1", "jackknife 2", "psis", "sobol", "target", "widened by 1")


@pytest.mark.parametrize("model_name", EXACT)
@pytest.mark.parametrize("name", CONSTANT)
def test_zero_variance_under_the_exact_posterior(name, model_name):
    """Every weight is p(x) itself, so nothing can be removed, smoothed, spread or allocated: 1e-10 for any seed."""
    run = VARIANTS.get(name, lambda p, x, S, **kw: importance(p, x, S, proposal=Widened(1.0), **kw))
    exact = EXACT[model_name]()
    for seed, num_samples in enumerate((3, 64, 1000)):
        e = run(exact.program, exact.x, num_samples, seed=seed)
        torch.testing.assert_close(e.log_evidence, exact.log_evidence, rtol=0, atol=1e-10)
        torch.testing.assert_close(e.elbo, exact.log_evidence, rtol=0, atol=1e-10)
        assert e.stderr.max() < 1e-9
    assert set(e.status) == {"trust"}


UNBIASED = ("defensive", "widened", "student", "refitted", "sobol", "target", "target widened")
MOVED = {
    "normal": lambda: models.normal_normal([1.7], widen=1.3, shift=0.4),
    "linear VAE": lambda: models.linear_vae(5, 8, 1, seed=3, widen=1.25, shift=0.2),
    "gamma": lambda: models.gamma_poisson(1, widen=1.7),
    "beta": lambda: models.beta_bernoulli(1, widen=1.7),
    "mixture": lambda: models.mixture(3, temper=3.0),
}


@pytest.mark.statistical
@pytest.mark.parametrize("model_name", MOVED)
@pytest.mark.parametrize("name", UNBIASED)
def test_the_estimate_of_p_is_unbiased(name, model_name):
    """The mean of 1,000 estimates over p(x) is 1 within 4 of its standard errors: fails for 6 seeds in 100,000."""
    if model_name == "mixture" and name != "defensive":
        pytest.skip("a discrete latent")
    if name == "refitted" and model_name != "gamma":
        pytest.skip("slow, and one is enough")
    program, x, exact = repeated(MOVED[model_name](), 1000)
    e = VARIANTS[name](program, x, 64, seed=8)
    ratio = (e.log_evidence - exact).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    print(f"mean ratio {name} {model_name}: {float(ratio.mean()):.5f} ± {error:.5f}")
    assert abs(float(ratio.mean()) - 1) < 4 * error + 1e-9
    assert error < 0.02


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "model_name"),
    crossed(
        ["defensive", "widened", "student", "jackknife 1", "jackknife 2", "psis", "target"],
        [name for name in MOVED if name != "mixture"],
        strength=1,
    ),
)
def test_nominal_95_percent_intervals_cover_92_to_98_percent(name, model_name):
    """1,000 intervals, of trusted data only: at 95 % the count leaves 92..98 % for 2 seeds in 100,000."""
    program, x, exact = repeated(MOVED[model_name](), 1000)
    e = VARIANTS[name](program, x, 512, seed=9)
    trusted = torch.from_numpy(e.status == "trust")
    low, high = e.interval(0.95)
    coverage = float(((low <= exact) & (exact <= high))[trusted].double().mean())
    print(f"coverage {name} {model_name}: {coverage:.3f} of {int(trusted.sum())}")
    assert trusted.double().mean() > 0.9
    assert 0.92 <= coverage <= 0.98


def test_arguments_that_do_not_fit():
    program, x = Program(Model(), guide), data(5)
    for wrong, message in (
        ({"proposal": Guide}, "proposal: .*object with .bind"),
        ({"proposal": "prior"}, "proposal"),
        (
            {"draws": "sobol"},
            r"draws: expected IID\(\), Sobol\(\) or UntilStderr\(target\), received 'sobol'",
        ),
        ({"draws": Sobol}, "draws"),
        ({"draws": Sobol(), "proposal": Widened()}, r"proposal: expected Guide\(\) with draws=Sobol"),
        ({"draws": Sobol(), "proposal": 3}, "proposal: .*object with .bind"),
        ({"draws": UntilStderr(0.1)}, r"num_samples: expected none with draws=UntilStderr\(.*received 10"),
        ({"draws": Sobol(), "prior_draws": 8}, "prior_draws: expected 0 with draws=Sobol"),
        ({"draws": UntilStderr(0.1), "prior_draws": 8}, "prior_draws: expected 0 with draws=UntilStderr"),
    ):
        with pytest.raises(InputError, match=message):
            importance(program, x, 10, **wrong)
    for estimator, arguments, message in (
        (jackknife, {"order": 3}, "order"),
        (jackknife, {"order": True}, "order"),
        (jackknife, {"num_samples": 1}, "num_samples"),
        (jackknife, {"num_samples": 2, "order": 2}, "num_samples"),
        (jackknife, {"num_samples": 2.5}, "num_samples"),
        (psis, {"num_samples": 0}, "num_samples"),
        (psis, {"proposal": 3}, "proposal"),
    ):
        with pytest.raises(InputError, match=message):
            estimator(**{"program": program, "x": x, "num_samples": 10} | arguments)
    for settings in (
        lambda: Defensive(0.0),
        lambda: Defensive(1.0),
        lambda: Widened(0.0),
        lambda: StudentT(-1.0),
        lambda: StudentT(3.0, 0.0),
        lambda: Refitted(max_steps=0),
    ):
        with pytest.raises(InputError):
            settings()


def test_results_say_what_they_are():
    program, x = Program(Model(), guide), data(5)
    found = {name: run(program, x, 100) for name, run in VARIANTS.items()}
    assert found["guide"].details == ""
    assert found["defensive"].details == "proposal Defensive(alpha=0.2)"
    assert found["jackknife 2"].details == "order 2"
    assert found["psis"].bound == found["jackknife 1"].bound == "consistent"
    assert found["psis"].method == "psis"
    assert found["jackknife 1"].method == "jackknife"
    assert found["sobol"].basis == "runs"
    assert found["sobol"].details == "4 scramblings of 32 Sobol points"
    assert (found["refitted"].gradient_evals >= 200).all()
    assert (found["guide"].gradient_evals == 0).all()
    assert (
        found["student"].density_evals == 200 + densities(5, 100) / 5
    ).all()  # 100 of the guide, to compare
    for name, e in found.items():
        assert e.bound == ("consistent" if name.startswith(("jackknife", "psis")) else "lower")
        assert pv.evidence.Evidence.unpack(*e.pack()).details == e.details
        assert str(e)

"""Matrix products of a lower precision: what is rounded and what is not, what it does to log p(x), and who says so."""

import copy
import math
import warnings
from dataclasses import replace
from importlib import import_module

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiled_programs import PROGRAMS, randn
from exact_models import identical
from torch import nn
from torch.nn.functional import linear

import ppl_vae as pv
from ppl_vae import InputError, Program, checkpoint
from ppl_vae.compiled import CompileWarning, LogJoint, LogWeights
from ppl_vae.compiled import precision as switches
from ppl_vae.compiled.graph import backend
from ppl_vae.compiled.precision import computing, precision_on
from ppl_vae.evidence import Evidence, PrecisionError, precision_error
from ppl_vae.evidence.annealing.path import Bridge
from ppl_vae.evidence.importance_sampling.proposals import StudentT
from ppl_vae.evidence.results.verdict import Verdict
from ppl_vae.evidence.running import blocks
from ppl_vae.program.handlers import Replayed
from ppl_vae.program.matmul_precision import BY_HAND, FULL, InFloat64, lowering, products
from ppl_vae.program.sites import site_log_prob

S = 40
ESTIMATORS = {
    "importance": lambda program, x, **more: pv.evidence.importance(program, x, 200, **more),
    "sobol": lambda program, x, **more: pv.evidence.importance(
        program, x, 64, draws=pv.evidence.Sobol(4), **more
    ),
    "target": lambda program, x, **more: pv.evidence.importance(
        program, x, draws=pv.evidence.UntilStderr(0.2, 2048, pilot=64), **more
    ),
    "psis": lambda program, x, **more: pv.evidence.psis(program, x, 200, **more),
    "jackknife": lambda program, x, **more: pv.evidence.jackknife(program, x, 200, **more),
    "annealed": lambda program, x, **more: pv.evidence.annealed(program, x, 6, 5, prior_draws=64, **more),
    "smc": lambda program, x, **more: pv.evidence.smc(program, x, 16, 5, prior_draws=64, **more),
}


def vae(likelihood=None, posterior=pv.posteriors.MeanFieldNormal, hidden=(24, 16), dim=20, **parts):
    """A small VAE whose decoder has learned nothing, but varies with z; and data."""
    made = pv.VAE(
        pv.priors.StandardNormal(3),
        likelihood or pv.likelihoods.Bernoulli(dim),
        posterior(3),
        hidden=hidden,
        **parts,
    )
    return made, pv.sample(made, 5, seed=1)


@pytest.fixture
def captured(monkeypatch):
    """Whatever the size of a job, its graphs are captured, and no compiler is started."""
    monkeypatch.setattr(blocks, "level_for", lambda compile, *_: "captured" if compile is True else "plain")  # noqa: A006


# ---- what is rounded -----------------------------------------------------------------------------------------


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


# ---- graphs --------------------------------------------------------------------------------------------------


def factor_types(function):
    """The dtypes of the factors of each product of the graphs that a `Function` has."""
    found = []
    for entries in function.cache._entries.values():
        for entry in entries:
            for graph in (entry.body, None if entry._before is None else entry._before[0]):
                nodes = [] if graph is None else graph.graph.nodes
                found += [
                    node.args[-1].meta["val"].dtype
                    for node in nodes
                    if str(node.target) in ("aten.mm.default", "aten.addmm.default", "aten.bmm.default")
                ]
    return found


@pytest.mark.parametrize("posterior", ["MeanFieldNormal", "MultivariateNormal"])
def test_a_captured_density_is_the_lowered_one(posterior):
    model, x = vae(posterior=getattr(pv.posteriors, posterior))
    program = model.program
    for precision in ("bfloat16", FULL, "bfloat16"):
        with computing(precision):
            weights = LogWeights(program, S)
            for seed in (1, 2):
                torch.manual_seed(seed)
                expected = program.log_weights(x, S, seed=None, check=False)
                torch.manual_seed(seed)
                torch.testing.assert_close(weights(x), expected, rtol=1e-5, atol=1e-3)
            assert weights.cause(x) == ""
    kinds = factor_types(weights._function(x)[0])
    assert {torch.bfloat16, torch.float32} == set(kinds)  # of the two precisions
    if posterior == "MeanFieldNormal":
        assert kinds.count(torch.bfloat16) == kinds.count(torch.float32) == 6


def test_captured_chains_are_the_lowered_ones():
    """Every product of log p(x, u) and of its gradient has factors in bfloat16."""
    model, x = vae()
    with computing("bfloat16"), torch.no_grad():
        bridge = Bridge(model.program, x)
        u = bridge.draw(S)
        joint = LogJoint(bridge.coordinates)
        expected = LogJoint(bridge.coordinates, level="plain")(u)
        for _ in range(2):
            for value, other in zip(joint(u), expected, strict=True):
                torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-3)
        assert joint.cause == ""
    assert set(factor_types(joint._function)) == {torch.bfloat16}


@pytest.mark.slow
def test_a_compiled_density_is_the_lowered_one():
    model, x = vae(dim=64)
    with computing("bfloat16"):
        weights = LogWeights(model.program, S, level="compiled")
        for seed in (1, 2):
            torch.manual_seed(seed)
            expected = model.program.log_weights(x, S, seed=None, check=False)
            torch.manual_seed(seed)
            torch.testing.assert_close(weights(x), expected, rtol=1e-5, atol=3e-3)
        assert weights.cause(x) == ""


@pytest.mark.parametrize("estimator", ["importance", "jackknife", "annealed", "smc"])
def test_estimators_run_lowered_at_every_level(captured, estimator):
    """Graph and program differ where round-off tips a factor over, plain and lowered by more; chains may part then."""
    model, x = vae()
    full, plain, graph = (
        ESTIMATORS[estimator](model.program, x, compile=how, precision=precision, progress=False)
        for how, precision in ((False, FULL), (False, "bfloat16"), (True, "bfloat16"))
    )
    assert float((graph.log_evidence - plain.log_evidence).abs().median()) < 1e-4
    assert float((full.log_evidence - plain.log_evidence).abs().max()) > 1e-5
    apart = (full.log_evidence - plain.log_evidence).abs()
    assert (apart < (0.1 if full.basis == "weights" else 4 * torch.hypot(full.stderr, plain.stderr))).all()


# ---- the option ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "sandwich"])
def test_another_word_is_refused(estimator):
    model, x = vae()
    call = ESTIMATORS.get(estimator, pv.evidence.sandwich)
    with pytest.raises(InputError, match="precision: expected one of 'full', 'bfloat16', 'tf32'"):
        call(model.program, x, precision="float16", progress=False)
    with pytest.raises(InputError, match="precision: expected one of 'bfloat16', 'tf32'"):
        precision_error(model.program, x, 10, FULL)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_default_is_full_and_lowered_results_say_so(estimator):
    model, x = vae()
    default = ESTIMATORS[estimator](model.program, x, progress=False)
    assert identical(default, ESTIMATORS[estimator](model.program, x, precision=FULL, progress=False))
    assert default.certified
    assert default.precision == FULL
    assert "bfloat16" not in str(default) + default.details
    lowered = ESTIMATORS[estimator](model.program, x, precision="bfloat16", progress=False)
    assert not torch.equal(lowered.log_evidence, default.log_evidence)
    assert lowered.bound == default.bound
    assert lowered.precision == "bfloat16"
    assert not lowered.certified
    assert lowered.details.endswith("matrix products in bfloat16")
    assert "of a model with products in bfloat16: not certified" in " ".join(str(lowered).split())
    assert "trust" not in lowered.status
    # Nothing of it is left behind.
    assert identical(default, ESTIMATORS[estimator](model.program, x, progress=False))


def test_rounded_products_are_a_reason_for_caution():
    model, x = vae()
    e = pv.evidence.importance(model.program, x, 2000, progress=False)
    trusted = [v.status == "trust" for v in e.verdicts]
    assert any(trusted)
    lowered = replace(e, certified=False, precision="bfloat16")
    for was, verdict, reason in zip(trusted, lowered.verdicts, lowered.reason, strict=True):
        assert (verdict is Verdict.ROUNDED) == was
        assert ("rounded to a lower precision" in reason) == was
    assert Verdict.HEURISTIC in replace(e, certified=False).verdicts


def test_a_sandwich_of_rounded_products_certifies_nothing(tmp_path):
    model, x = vae()
    s = pv.evidence.sandwich(model.program, x, 4, 4, precision="bfloat16", progress=False)
    assert not s.lower.certified
    assert not s.upper.certified
    assert "the bounds are not certified" in str(s)
    s.save(tmp_path / "sandwich")
    assert pv.evidence.Sandwich.load(tmp_path / "sandwich").upper.precision == "bfloat16"


def test_files_keep_the_precision_and_older_ones_are_full_ones(tmp_path):
    model, x = vae()
    e = pv.evidence.importance(model.program, x, 50, precision="bfloat16", progress=False)
    e.save(tmp_path / "evidence")
    assert identical(Evidence.load(tmp_path / "evidence"), e)
    tensors, settings = e.pack()
    del settings["precision"]
    assert Evidence.unpack(tensors, settings).precision == FULL
    with pytest.raises(InputError, match=r"parts\[1\].certified"):
        pv.evidence.concatenate([replace(e, certified=True, precision=FULL), e])


def interrupt(patch, accumulator, after):
    calls = []
    add = accumulator.add

    def stops(self, weights):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(len(weights))
        add(self, weights)

    patch.setattr(accumulator, "add", stops)


def test_a_checkpoint_of_another_precision_is_refused(tmp_path, monkeypatch):
    from ppl_vae.evidence.importance_sampling.importance import Tiles
    from ppl_vae.evidence.results.accumulator import Accumulator

    monkeypatch.setattr(Tiles, "plan", lambda n, s, width, device: Tiles(n, s, 2, 64))
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", 1e9)
    model, x = vae()
    options = {"precision": "bfloat16", "progress": False}
    whole = pv.evidence.importance(model.program, x, 300, **options)
    path = tmp_path / "state"
    with monkeypatch.context() as patch:
        interrupt(patch, Accumulator, 6)
        with pytest.raises(KeyboardInterrupt):
            pv.evidence.importance(model.program, x, 300, checkpoint=path, **options)
    assert path.exists()
    with pytest.raises(InputError, match=r"a checkpoint of this run.*precision"):
        pv.evidence.importance(model.program, x, 300, checkpoint=path, resume=True, progress=False)
    resumed = pv.evidence.importance(model.program, x, 300, checkpoint=path, resume=True, **options)
    assert identical(resumed, whole)


def test_a_lower_bound_of_another_precision_is_not_taken_up(tmp_path, monkeypatch):
    model, x = vae()
    path = tmp_path / "state"

    def stops(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module("ppl_vae.evidence.annealing.bdmc"), "run_blocks", stops)
        with pytest.raises(KeyboardInterrupt):
            pv.evidence.sandwich(model.program, x, 4, 4, checkpoint=path, progress=False)
    with pytest.raises(InputError, match="precision: expected 'full'"):
        pv.evidence.sandwich(
            model.program, x, 4, 4, checkpoint=path, resume=True, precision="bfloat16", progress=False
        )


def test_tf32_has_no_effect_on_a_cpu_and_says_so(monkeypatch):
    monkeypatch.setattr(backend, "_warned", set())
    model, x = vae()
    with pytest.warns(CompileWarning, match='precision="tf32" has no effect on cpu'):
        e = pv.evidence.importance(model.program, x, 50, precision="tf32", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        assert precision_on("tf32", torch.device("cpu")) == FULL
    assert identical(e, pv.evidence.importance(model.program, x, 50, progress=False))


def test_torchs_switches_are_put_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for on, word in ((True, "high"), (False, "highest")):
        with switches._switched(on):
            now = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert now == (word, on)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_on_a_gpu(precision):
    model, x = vae(dim=64)
    found = precision_error(model.cuda().program, x.cuda(), 500, precision)
    assert not found.by_hand
    assert found.full_error.abs().max() < 1e-4
    assert found.full_error.abs().max() < found.error.abs().max() < 1.0
    e = pv.evidence.importance(model.program, x.cuda(), 500, precision=precision, progress=False)
    assert not e.certified


# ---- the error -----------------------------------------------------------------------------------------------


def test_errors_are_what_they_are():
    model, x = vae(dim=64)
    bfloat16, tf32 = (precision_error(model.program, x, 500, p) for p in ("bfloat16", "tf32"))
    for each in (bfloat16, tf32):
        assert each.full_error.abs().max() < 1e-4
        assert each.full_error.abs().max() < each.error.abs().max() < 1.0
    assert tf32.error.square().mean() < bfloat16.error.square().mean() / 10
    assert tf32.by_hand
    assert not bfloat16.by_hand
    assert "tf32, rounded by hand" in str(tf32)
    assert f"below a tenth of the Monte Carlo error: {bfloat16.verdict}" in str(bfloat16)


def test_the_error_is_that_of_the_estimate():
    """The run's estimate, and that of its own draws with a float64 copy of the model in the place of the model."""
    model, x = vae()
    found = precision_error(model.program, x, 300, seed=4)
    exact = copy.deepcopy(model).double().program
    from ppl_vae import rng

    with rng.forked("cpu"), torch.no_grad():
        rng.reseed(torch.device("cpu"), 4, "precision error", 0)
        with lowering("bfloat16"):
            z = model.program.sample_guide(x, 300, seed=None)
            q, p = model.program.log_guide(z, x), model.program.log_joint(z, x)
            rng.reseed(torch.device("cpu"), 4, "precision error", 0)
            weights = model.program.log_weights(x, 300, seed=None, check=False)
        reference = exact.log_joint({"z": z["z"].double()}, x.double()) - q
    torch.testing.assert_close(weights, p - q, rtol=0, atol=1e-9)
    expected = weights.logsumexp(0) - reference.logsumexp(0)
    torch.testing.assert_close(found.error, expected, rtol=0, atol=1e-9)
    stderr = reference.exp().std(0) / reference.exp().mean(0) / math.sqrt(300)
    torch.testing.assert_close(found.stderr, stderr, rtol=0.05, atol=0)  # draws of the full guide


def test_chunks_are_joined(monkeypatch):
    from ppl_vae.evidence.importance_sampling.precision_error import Tiles

    model, x = vae()
    monkeypatch.setattr(Tiles, "plan", lambda n, s, width, device: Tiles(n, s, 2, 64))
    found = precision_error(model.program, x, 200)
    assert found.error.shape == found.stderr.shape == found.khat.shape == (5,)
    assert found.full_error.abs().max() < 1e-5 < found.error.abs().max() < 0.5


def error_of(error, stderr, N=4):
    values = (torch.full((N,), value, dtype=torch.float64) for value in (0.0, stderr, 0.1))
    return PrecisionError(error, *values, "bfloat16", 100, 0)


def test_the_verdict_follows_the_figures():
    apart = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    same = torch.ones(4).double()
    assert error_of(0.09 * apart, 1.0).small
    assert error_of(0.09 * apart, 1.0).share_of_mean == pytest.approx(0.0)
    assert not error_of(0.11 * apart, 1.0).small
    assert error_of(0.04 * same, 1.0).small
    assert error_of(0.06 * same, 1.0).share == pytest.approx(0.06)
    assert error_of(0.06 * same, 1.0).share_of_mean == pytest.approx(0.12)  # 4 data: twice the share of one
    assert error_of(0.06 * same, 1.0).verdict == "no"
    assert "below 0.6 nats a datum, 0.6 in the mean" in error_of(0.06 * same, 1.0).limits
    assert "0 of 4 data" in error_of(0.06 * same, 1.0).limits


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

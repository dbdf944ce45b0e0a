"""The option precision=: captured graphs, every estimator, files, checkpoints and switches."""

import warnings
from importlib import import_module

import pytest
import torch
from covering import slow_but
from exact_models import identical
from rounded_vae import ESTIMATORS, S, vae

import ppl_vae as pv
from ppl_vae import InputError, checkpoint
from ppl_vae.compiled import CompileWarning, LogJoint, LogWeights
from ppl_vae.compiled import precision as switches
from ppl_vae.compiled.graph import backend
from ppl_vae.compiled.precision import computing, precision_on
from ppl_vae.evidence import Evidence, precision_error
from ppl_vae.evidence.annealing.path import AnnealingPath
from ppl_vae.evidence.results.verdict import Verdict
from ppl_vae.evidence.running import blocks
from ppl_vae.program.matmul_precision import FULL


@pytest.fixture
def captured(monkeypatch):
    """Whatever the size of a job, its graphs are captured, and no compiler is started."""
    monkeypatch.setattr(blocks, "level_for", lambda compile, *_: "captured" if compile is True else "plain")  # noqa: A006


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
        path = AnnealingPath(model.program, x)
        u = path.draw(S)
        joint = LogJoint(path.coordinates)
        expected = LogJoint(path.coordinates, level="plain")(u)
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


@pytest.mark.parametrize("estimator", slow_but(["annealed"], ["importance", "jackknife", "annealed", "smc"]))
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
    lowered = e.replace(certified=False, precision="bfloat16")
    for was, verdict, reason in zip(trusted, lowered.verdicts, lowered.reason, strict=True):
        assert (verdict is Verdict.ROUNDED) == was
        assert ("rounded to a lower precision" in reason) == was
    assert Verdict.HEURISTIC in e.replace(certified=False).verdicts


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
        pv.evidence.concatenate([e.replace(certified=True, precision=FULL), e])


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

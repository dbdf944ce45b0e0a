"""The error that rounded products make in log p(x)."""

import copy
import math

import pytest
import torch
from rounded_vae import vae

from ppl_vae.evidence import PrecisionError, precision_error
from ppl_vae.program.matmul_precision import lowering


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
    assert "at least 0.6 nats a datum and 0.6 nats in the mean" in error_of(0.06 * same, 1.0).limits
    assert "0 of 4 data" in error_of(0.06 * same, 1.0).limits

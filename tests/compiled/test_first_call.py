"""The call that captures a graph returns that graph's numbers: no number depends on which call came first."""

import pytest
import torch

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.compiled import CompileWarning, LogWeights, TrainingLoss, clear
from ppl_vae.data import load_digits

X = load_digits().test[:20]


def make(encoder=None):
    parts = pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(64), pv.posteriors.MeanFieldNormal(2)
    return pv.VAE(*parts, hidden=(8,), encoder=encoder, seed=0)


def normalised(*_):
    layers = torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("level", ["captured", pytest.param("compiled", marks=pytest.mark.slow)])
def test_log_weights(level):
    vae = make()
    weights = LogWeights(vae.program, 50, level=level)
    found = []
    for _ in range(2):
        with rng.seeded("cpu", 1, "test"):
            found.append((weights(X), torch.get_rng_state()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("encoder", [None, normalised], ids=["plain", "batch norm"])
def test_training_loss(encoder):
    found = []
    for start in ("anew", "known"):
        vae = make(encoder)
        with rng.seeded("cpu", 2, "test"):
            for parameter in vae.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        loss = TrainingLoss(vae.program, dict(vae.named_parameters()))
        if start == "known":
            kept = {k: v.clone() for k, v in vae.state_dict().items()}
            with rng.forked():
                loss(X)
            vae.load_state_dict(kept)
        with rng.seeded("cpu", 1, "test"):
            value, gradients = loss(X)
        found.append([value, *gradients, *vae.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    clear()


@pytest.mark.slow
def test_the_same_estimate_twice():
    program = make().program
    try:
        first, second = (
            pv.evidence.importance(program, X, 20_000, compile=True, progress=False) for _ in range(2)
        )
    except CompileWarning as warning:
        pytest.skip(str(warning))
    assert torch.equal(first.log_evidence, second.log_evidence)

"""Training leaves the global random state and Pyro's store as they were."""

import math

import pyro
import pytest
import torch

from ppl_vae import checkpoint


@pytest.fixture
def _nothing_leaks():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
    assert not list(pyro.get_param_store().keys()), "Pyro's global store was written to"


@pytest.fixture
def eager(monkeypatch):
    """A checkpoint after every epoch, however fast."""
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)

"""Streams: the same seed gives the same numbers, and nothing of the process is disturbed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppl_vae import rng


@given(seed=st.integers(0, 2**63 - 1), purpose=st.text(max_size=20), index=st.integers(0, 2**40))
def test_derived_seeds_are_what_torch_uses_in_full(seed, purpose, index):
    value = rng.derive(seed, purpose, index)
    assert 0 <= value < 2**32
    assert value == rng.derive(seed, purpose, index)
    assert rng.derive(seed, purpose, index + 1) == (value + 1) % 2**32


def test_derived_seeds_are_the_same_for_ever():
    """Published numbers must be had again: a change of these is a change of every result."""
    assert [rng.derive(0, "importance"), rng.derive(1, "importance"), rng.derive(0, "simulate", 3)] == [
        238826443,
        3165278998,
        3016748829,
    ]


def test_streams_of_one_run_are_all_different():
    seeds = {rng.derive(7, "tile", index) for index in range(20_000)}
    assert len(seeds) == 20_000


def test_seed_and_purpose_are_told_apart():
    assert rng.derive(1, "1/x") != rng.derive(11, "/x")
    assert len({rng.derive(seed, purpose) for seed in range(20) for purpose in ("a", "b", "c")}) == 60


def test_streams_of_neighbouring_indices_are_uncorrelated():
    """20 pairs of 20,000 normals: |r| < 4.5 / sqrt(20,000). Fails for 1 in 7,000 choices of the seed."""
    draws = [torch.randn(20_000, generator=rng.generator(0, "tile", index)) for index in range(21)]
    correlations = np.corrcoef(torch.stack(draws).numpy())
    assert np.abs(np.diag(correlations, 1)).max() < 4.5 / 20_000**0.5


def test_seeded_draws_what_the_generator_draws():
    with rng.seeded("cpu", 3, "purpose", 2):
        inside = torch.rand(5)
    assert torch.equal(inside, torch.rand(5, generator=rng.generator(3, "purpose", 2)))


@pytest.mark.parametrize("fails", [False, True])
def test_the_state_is_put_back(fails):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    try:
        with rng.forked():
            rng.reseed("cpu", 1, "a")
            first = torch.rand(4)
            with rng.seeded("cpu", 2, "b"):
                torch.rand(7)
            second = torch.rand(4)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    # A stream within a stream takes nothing from it.
    with rng.seeded("cpu", 1, "a"):
        assert torch.equal(torch.cat([first, second]), torch.rand(8))

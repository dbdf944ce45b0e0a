"""Tiles cover every pair of datum and sample once."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_vae.evidence.importance_sampling.importance import Tiles


@given(num_data=st.integers(1, 3000), num_samples=st.integers(1, 5000), width=st.integers(1, 10**7))
@settings(deadline=None, max_examples=150)
def test_plan_covers_every_pair_once(num_data, num_samples, width):
    for device in ("cpu", "cuda"):
        tiles = Tiles.plan(num_data, num_samples, width, torch.device(device))
        rows = [list(range(num_data))[tiles.rows(block)] for block in range(tiles.blocks)]
        assert [n for part in rows for n in part] == list(range(num_data))
        assert all(rows)
        sizes = [tiles.size(tile) for tile in range(tiles.tiles)]
        assert sum(sizes) == num_samples
        assert all(size == tiles.samples for size in sizes[:-1])
        assert 0 < sizes[-1] <= tiles.samples
        assert min(map(len, rows)) >= tiles.data - tiles.blocks  # as equal as can be
        assert tiles.samples % 64 == 0 or tiles.samples == num_samples
        # About what a pass can hold (samples are rounded to 64, up as well as down); the least are 64 of one datum.
        numbers = 2**25 if device == "cuda" else 2**20
        assert tiles.data * tiles.samples * width <= max(1.5 * numbers, 64 * 4 * width)


@given(
    num_samples=st.integers(1, 5000),
    width=st.integers(1, 10**5),
    chunk=st.one_of(st.none(), st.integers(1, 10**6)),
    done=st.integers(0, 40),
)
@settings(deadline=None, max_examples=150)
def test_plan_chunks_are_what_remains(num_samples, width, chunk, done):
    tiles = Tiles.plan(10, num_samples, width, torch.device("cpu"))
    done = min(done, tiles.tiles)
    samples = min(done * tiles.samples, num_samples)
    remaining = [tile for part in tiles.chunks(samples, chunk) for tile in part]
    assert remaining == list(range(done, tiles.tiles))
    if chunk is not None:
        assert all(len(part) * tiles.samples <= max(chunk, tiles.samples) for part in tiles.chunks(0, chunk))

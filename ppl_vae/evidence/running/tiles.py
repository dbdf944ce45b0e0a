"""Tiles: how the samples of some data are cut into pieces that are evaluated in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ppl_vae.compiled.effort import Effort

_DATA = 256  # data in a tile on a CPU, at most
_SAMPLES = 64  # the accumulator's own block: a tile of samples is a multiple of it


def numbers_in_pass(device: torch.device) -> int:
    """How many numbers one pass is to hold: what fits a CPU's caches, and what keeps a GPU busy."""
    return 2**25 if device.type == "cuda" else 2**20


@dataclass(frozen=True)
class Tiles:
    """How S samples of N data are cut into pieces that are evaluated in one pass.

    A tile is a fixed unit: same shapes, same random stream, same arithmetic, whoever evaluates it and whatever
    chunks it is gathered in. That is why the results cannot depend on chunk size, on resuming, or on sharing
    blocks of data among workers.

    Attributes:
        num_data: N.
        num_samples: S.
        data: data in a tile.
        samples: samples of each of them, a multiple of 64 (or S).
    """

    num_data: int
    num_samples: int
    data: int
    samples: int

    @classmethod
    def plan(cls, num_data: int, num_samples: int, width: int, device: torch.device) -> Tiles:
        """Tiles for a program with ``width`` numbers for each sample of a datum.

        About a million numbers a pass on a CPU: small enough for its caches, large enough that Pyro's cost for
        each pass is lost in the arithmetic. A GPU wants more at a time. Blocks are as equal as can be, since each
        kind of pass that there is has to be compiled.
        """
        pairs = min(max(numbers_in_pass(device) // max(width, 1), 256), 2**16)
        # The sums keep the largest of a datum's weights, O(sqrt(S)): on a CPU few enough data for that to be little.
        data = min(num_data, max(1, pairs // _SAMPLES), num_data if device.type == "cuda" else _DATA)
        data = math.ceil(num_data / math.ceil(num_data / data))  # blocks as equal as can be
        samples = max(_SAMPLES, round(pairs / data / _SAMPLES) * _SAMPLES)
        return cls(num_data, num_samples, data, min(samples, num_samples))

    @property
    def blocks(self) -> int:
        """The number of blocks of data."""
        return math.ceil(self.num_data / self.data)

    @property
    def tiles(self) -> int:
        """The number of tiles of a block."""
        return math.ceil(self.num_samples / self.samples)

    def effort(self, numbers: float) -> Effort:
        """What all of it takes, of a program with so many numbers for each sample of a datum."""
        return Effort(self.num_data * self.num_samples, self.blocks * self.tiles, numbers)

    def rows(self, block: int) -> slice:
        """The data of a block."""
        return slice(block * self.data, min((block + 1) * self.data, self.num_data))

    def size(self, tile: int) -> int:
        """The number of samples in a tile: the last one may be smaller."""
        return min(self.samples, self.num_samples - tile * self.samples)

    def chunks(self, done: int, chunk_size: int | None) -> Iterator[range]:
        """The tiles that remain after ``done`` samples, gathered into chunks."""
        step = 1 if chunk_size is None else max(1, chunk_size // self.samples)
        started = math.ceil(done / self.samples)  # not the floor: the last tile may be smaller
        for first in range(started, self.tiles, step):
            yield range(first, min(first + step, self.tiles))

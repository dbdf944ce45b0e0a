"""Tiles: the division of the samples of some data into pieces that are evaluated in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ppl_vae.compiled.effort import Effort

_DATA = 256  # the largest number of data in a tile on a CPU
_SAMPLES = 64  # a tile of samples is a multiple of this number


def numbers_in_pass(device: torch.device) -> int:
    """The number of numbers in one pass: it fits a CPU's caches, or is large enough for a GPU."""
    return 2**25 if device.type == "cuda" else 2**20


@dataclass(frozen=True)
class Tiles:
    """The division of S samples of N data into pieces that are evaluated in one pass.

    A tile is a fixed unit with the same shapes, random stream and arithmetic in any chunk and any process. The results
    therefore do not depend on the chunk size, on resuming, or on the division of blocks among processes.

    Attributes:
        num_data: N.
        num_samples: S.
        data: the number of data in a tile.
        samples: the number of samples of each of them, a multiple of 64 (or S).
    """

    num_data: int
    num_samples: int
    data: int
    samples: int

    @classmethod
    def plan(cls, num_data: int, num_samples: int, width: int, device: torch.device) -> Tiles:
        """Tiles for a program with ``width`` numbers for each sample of a datum.

        A pass on a CPU has about a million numbers: few enough for its caches, and so many that Pyro's cost for a pass
        is small in comparison. A GPU needs more. Blocks have nearly equal sizes, because each shape is compiled.
        """
        pairs = min(max(numbers_in_pass(device) // max(width, 1), 256), 2**16)
        # The sums keep the O(sqrt(S)) largest weights of each datum, so the number of data on a CPU is limited.
        data = min(num_data, max(1, pairs // _SAMPLES), num_data if device.type == "cuda" else _DATA)
        data = math.ceil(num_data / math.ceil(num_data / data))  # blocks of nearly equal sizes
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
        """The amount of work, for a program with ``numbers`` numbers for each sample of a datum."""
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

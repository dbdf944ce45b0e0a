"""Importance sampling from the guide: the ELBO, the IWAE-K bounds and log p(x), in one pass over samples."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ppl_vae import rng
from ppl_vae.errors import check_positive_int, check_seed
from ppl_vae.evidence.engine import Block, Plan, State, begin, drive, evidence_of
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import Accumulator, Figures
from ppl_vae.program import Data, Program, device_of, num_data

_DATA = 256  # data in a tile on a CPU, at most
_SAMPLES = 64  # the accumulator's own block: a tile of samples is a multiple of it


def importance(
    program: Program,
    x: Data,
    num_samples: int = 5000,
    *,
    seed: int = 0,
    chunk_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Evidence:
    """log p(x) of each datum by importance sampling from the guide.

    With ``log w_s = log p(x, z_s) - log q(z_s|x)`` and ``z_s ~ q(z|x)``, the estimate is
    ``log (1/S) sum_s w_s``. ``(1/S) sum_s w_s`` is unbiased for p(x), so the estimate is a lower bound of log p(x)
    in expectation, tight as S grows (bias about ``-stderr**2 / 2``), and exceeds log p(x) by b nats with
    probability at most ``exp(-b)``. Each datum has its own weights; nothing is ever summed over data before the log.

    Memory does not grow with S. Work is cut into tiles of some samples for some data; a tile's size follows from
    N, S, the program's sites and the kind of device, and each tile draws from a stream of its own.

    Args:
        program: a `Program`, such as ``vae.program``.
        x: the data, where the program's parameters live.
        num_samples: S, the number of samples for each datum.
        seed: the numbers are a function of it.
        chunk_size: how many samples of a datum are drawn before the sums, the progress bar and the checkpoint are
            brought up to date (rounded to whole tiles). It never changes a number.
        checkpoint: a file that keeps the state as work goes on; removed when it is done.
        resume: continue from ``checkpoint`` if it is there.
        progress: show a bar on a terminal.

    Returns:
        `Evidence` with ``bound="lower"``: per datum in nats, ``(N,)`` float64.

    Raises:
        InputError: if an argument or the data do not fit, or ``checkpoint`` is of another run.
        ProgramError: if the evidence of the pair is not defined per datum; names the site.
        NonFiniteError: if a log weight is NaN; names the datum.

    Sources: Kloek and van Dijk (1978); Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016).
    """
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    if chunk_size is not None:
        check_positive_int("chunk_size", chunk_size)
    sites = begin(program, x)
    tiles = Tiles.plan(num_data(x), num_samples, sites.numbers_per_datum, device_of(x))
    plan = Plan("importance sampling", tiles.data, num_samples, {"num_samples": num_samples})
    figures = drive(
        program,
        x,
        plan,
        lambda block: _Sampling(program, block, tiles, seed, chunk_size),
        seed=seed,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    return evidence_of(figures, method="importance", bound="lower", seed=seed)


class _Sampling:
    """Importance sampling of one block: tiles of samples into an accumulator."""

    def __init__(
        self, program: Program, block: Block, tiles: Tiles, seed: int, chunk_size: int | None
    ) -> None:
        self.program, self.block, self.tiles, self.seed = program, block, tiles, seed
        self.chunk_size = chunk_size
        self.sums = Accumulator(block.num_data, tiles.num_samples, device_of(block.x))

    def advance(self) -> int:
        chunk = next(self.tiles.chunks(self.sums.count, self.chunk_size), range(0))
        weights = [_tile(self.program, self.block, self.tiles, self.seed, tile) for tile in chunk]
        if weights:
            self.sums.add(torch.cat(weights))
        return sum(map(len, weights))

    def state(self) -> State:
        return self.sums.state()

    def restore(self, state: State) -> int:
        self.sums = Accumulator.from_state(state, device_of(self.block.x))
        return self.sums.count

    def figures(self) -> Figures:
        return self.sums.finish(offset=self.block.offset)


def _tile(program: Program, block: Block, tiles: Tiles, seed: int, tile: int) -> torch.Tensor:
    rng.reseed(device_of(block.x), seed, "importance", block.index * tiles.tiles + tile)
    return program.log_weights(block.x, tiles.size(tile), seed=None, check=False)


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
        each pass is lost in the arithmetic. A GPU wants more at a time.
        """
        numbers = 2**25 if device.type == "cuda" else 2**20
        pairs = min(max(numbers // max(width, 1), 256), 2**16)
        # The sums keep the largest of a datum's weights, O(sqrt(S)): on a CPU few enough data for that to be little.
        data = min(num_data, max(1, pairs // _SAMPLES), num_data if device.type == "cuda" else _DATA)
        samples = max(_SAMPLES, pairs // data // _SAMPLES * _SAMPLES)
        return cls(num_data, num_samples, data, min(samples, num_samples))

    @property
    def blocks(self) -> int:
        """The number of blocks of data."""
        return math.ceil(self.num_data / self.data)

    @property
    def tiles(self) -> int:
        """The number of tiles of a block."""
        return math.ceil(self.num_samples / self.samples)

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

"""Importance sampling from the guide: the ELBO, the IWAE-K bounds and log p(x), in one pass over samples."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch

from ppl_vae import rng
from ppl_vae.checkpoint import Keeper, digest, under
from ppl_vae.errors import InputError, check_positive_int, check_seed
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import Accumulator, Figures
from ppl_vae.program import Data, Program, device_of, num_data, take
from ppl_vae.progress import bar

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
    if not isinstance(program, Program):  # what mypy sees as impossible is what a user's VAE here would be
        hint = " (its .program is one)" if isinstance(getattr(program, "program", None), Program) else ""
        raise InputError("program", "a ppl_vae.Program", f"{type(program).__name__}{hint}")
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    if chunk_size is not None:
        check_positive_int("chunk_size", chunk_size)
    n = num_data(x)
    with torch.no_grad():
        if program.check_data is not None:
            # All of x first: a block would count its bad datum from its own start.
            program.check_data(x)
        width = program.check(take(x, slice(0, 1))).numbers_per_datum
        tiles = Tiles.plan(n, num_samples, width, device_of(x))
        keeper = None if checkpoint is None else _keeper(checkpoint, program, x, num_samples, seed, resume)
        done, current = (None, None) if keeper is None else _load(keeper, device_of(x))
        start = 0 if done is None else len(done.log_evidence)
        show = bar(n * num_samples, "importance sampling", "w", unit_scale=True)
        if not progress:
            show.disable = True
        with show, rng.forked(device_of(x)):
            show.update(start * num_samples)
            for block in range(start // tiles.data, tiles.blocks):
                part = take(x, tiles.rows(block))
                size = num_data(part)
                program.check(part, offset=block * tiles.data)
                sums, current = current or Accumulator(size, num_samples, device_of(x)), None
                for chunk in tiles.chunks(sums.count, chunk_size):
                    weights = [_tile(program, part, tiles, seed, block, tile) for tile in chunk]
                    sums.add(torch.cat(weights))
                    show.update(size * sum(map(len, weights)))
                    if keeper is not None and keeper.due():
                        _save(keeper, done, sums)
                done = _join(done, sums.finish(offset=block * tiles.data))
    if keeper is not None:
        keeper.remove()
    if done is None:
        raise AssertionError("no data, though num_data found some")
    values = {field.name: getattr(done, field.name) for field in fields(done)}
    values["curve_k"] = torch.tensor(done.curve_k)
    return Evidence(**values, method="importance", bound="lower", seed=seed)


def _tile(program: Program, part: Data, tiles: Tiles, seed: int, block: int, tile: int) -> torch.Tensor:
    rng.reseed(device_of(part), seed, "importance", block * tiles.tiles + tile)
    return program.log_weights(part, tiles.size(tile), seed=None, check=False)


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


def _join(first: Figures | None, second: Figures) -> Figures:
    if first is None:
        return second
    joined: dict[str, Any] = {}
    for field in fields(Figures):
        a, b = getattr(first, field.name), getattr(second, field.name)
        joined[field.name] = torch.cat([a, b]) if isinstance(a, torch.Tensor) else a
    return Figures(**joined)


def _keeper(
    path: str | os.PathLike[str], program: Program, x: Data, num_samples: int, seed: int, resume: bool
) -> Keeper:
    # Two weights of a few data stand for the model, the guide and all their parameters.
    probe = program.log_weights(take(x, slice(0, 8)), 2, seed=0)
    identity = {"num_samples": num_samples, "seed": seed, "data": digest(x), "program": digest(probe)}
    return Keeper(path, "evidence", identity, resume)


def _save(keeper: Keeper, done: Figures | None, current: Accumulator) -> None:
    tensors = {f"current/{name}": value for name, value in current.state().items()}
    curve_k: tuple[int, ...] = ()
    if done is not None:
        curve_k = done.curve_k
        values = {field.name: getattr(done, field.name) for field in fields(done)}
        tensors |= {f"done/{name}": v for name, v in values.items() if isinstance(v, torch.Tensor)}
    keeper.write(tensors, {"curve_k": curve_k, "num_samples": current.num_samples})


def _load(keeper: Keeper, device: torch.device) -> tuple[Figures | None, Accumulator | None]:
    """What was finished, and the sums of the block that was not."""
    saved = keeper.read()
    if saved is None:
        return None, None
    tensors, state = saved
    current = Accumulator.from_state(under("current/", tensors), device)
    done = under("done/", tensors)
    if not done:
        return None, current
    return Figures(**done, num_samples=state["num_samples"], curve_k=tuple(state["curve_k"])), current

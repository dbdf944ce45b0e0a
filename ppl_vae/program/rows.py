"""Rows: guides with parameters for each datum, used with some of the data at a time.

A guide that is not amortised has a parameter of N rows, ``pyro.param("loc", torch.zeros(len(x)))`` or the locations of
an AutoNormal, and row n belongs to datum n. Estimators and training use some of the data at a time. The data then have
their row indices as another entry, and each such parameter is restricted to these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae import rng
from ppl_vae.errors import ProgramError
from ppl_vae.program.agreement import disagreement
from ppl_vae.program.blame import first_line, where_raised
from ppl_vae.program.data import Data, device_of, num_data, take
from ppl_vae.program.handlers import Given
from ppl_vae.program.marked_enumeration import with_enumerated
from ppl_vae.program.plain import SLACK, is_common, run_pair
from ppl_vae.program.program import Program
from ppl_vae.program.sites import ROWS, Sites
from ppl_vae.program.tracing import run

_ENTRY = "row of a parameter"


def with_rows(program: Program, x: Data) -> tuple[Program, Data] | None:
    """A program with parameters restricted to the rows of its data, and data with row indices; None without such rows.

    The densities of a few data, with restricted parameters, are compared with their densities among all data.

    Args:
        program: the program.
        x: all of the data that it has rows for.

    Raises:
        ProgramError: naming a parameter, if its rows are not those of the data, or if it has another number of them.
    """
    n = num_data(x)
    found = _Shapes()
    program.forget_untrained()  # an earlier check with a few data made parameters with a few rows
    try:
        with program.evaluating(), torch.no_grad(), found:
            pair = run_pair(program, x, 0, 0)
    except ProgramError as error:
        rows = {name: shape[0] for name, shape in found.shapes.items() if shape[0] != n}
        if not rows:
            raise
        name, number = next(iter(rows.items()))
        expected = (
            f"all {number} data for which parameter {name!r} has rows, if it has one for each datum "
            "(to use some of them, add their row indices to x as an entry, and index the parameter with it)"
        )
        raise ProgramError(error.argument, expected, f"{n} data; {error}") from error
    names = [name for name, shape in found.shapes.items() if shape[0] == n]
    if not names or n == 1:
        return None
    rowed = _rowed(program, n)
    entries = {"": x} if isinstance(x, Tensor) else dict(x)
    carried = {**entries, _ENTRY: torch.arange(n, device=device_of(x))}
    few = torch.tensor(sorted({0, n - 1, n // 2}), device=device_of(x))
    values = {name: value[:, few] for name, value in pair.guide.scored().items()}
    try:
        with rowed.evaluating(), torch.no_grad():
            cut = run(rowed.callable("guide"), take(carried, few), 1, pair.guide.layout, Given(values))
    except Exception as error:
        if not is_common(error):
            raise
        expected = f"a guide that can be run on some of its data (found with {n} rows: {', '.join(names)})"
        received = f"{type(error).__name__}{where_raised(error)}: {first_line(error)}"
        raise ProgramError("guide", expected, received) from error
    for site, right in pair.log_probs["guide"].items():
        if disagreement([cut.log_prob(site, {})], [right[:, few]], torch.float32, SLACK, 1.0):
            expected = (
                f"parameters whose row n belongs to datum n only (found with {n} rows: {', '.join(names)})"
            )
            raise ProgramError(f"guide site {site!r}", expected, "another density without the other data")
    return rowed, carried


def ready(program: Program, x: Data, few: int) -> tuple[Program, Data, Sites]:
    """A program that can be run on some of ``x`` at a time, its data, and its sites, after a check.

    These are the program and ``x`` themselves, unless parameters have a row for each datum (see `with_rows`), or the
    guide lacks latents that the model marks for enumeration (see `with_enumerated`).

    Args:
        program: the program.
        x: all of the data.
        few: the number of data for the check.

    Raises:
        As for `Program.check`.
    """
    set_up(program, x)
    some = take(x, slice(0, few))
    try:
        return program, x, program.check(some)
    except ProgramError as error:
        first = error
    extended = None if first.argument.startswith("guide") else with_enumerated(program, some)
    if extended is not None:
        return extended, x, extended.check(some)
    rowed = with_rows(program, x)
    if rowed is None:
        raise first
    return *rowed, rowed[0].check(take(rowed[1], slice(0, few)))


def set_up(program: Program, x: Data) -> None:
    """Run new automatic guides on all of the data, since they take their plates from the first call."""
    for role in ("guide", "model"):
        fn: Any = program.callable(role)
        if isinstance(fn, AutoGuide) and fn.prototype_trace is None:
            with program.evaluating(), torch.no_grad(), rng.seeded(device_of(x), 0, "set up"):
                fn(x)


def without_rows(x: Data) -> Data:
    """The data before `with_rows`, without their row indices."""
    if isinstance(x, Tensor) or _ENTRY not in x:
        return x
    rest = {name: value for name, value in x.items() if name != _ENTRY}
    return rest.get("", rest)


def _rowed(program: Program, total: int) -> Program:
    def cut(fn: Callable[..., Any]) -> Callable[..., Any]:
        def under(x: Data) -> Any:
            if isinstance(x, Tensor):
                raise AssertionError("data without the numbers of their rows")
            with _Rows(x[_ENTRY], total), _plates(fn, x[_ENTRY], total):
                return fn(without_rows(x))

        return under

    def checked(x: Data) -> None:
        if program.check_data is not None:
            program.check_data(without_rows(x))

    return program.derived(cut(program.callable("model")), cut(program.callable("guide")), checked)


@contextmanager
def _plates(fn: Any, rows: Tensor, total: int) -> Iterator[None]:
    """Make an automatic guide run over some rows; its own plates have the size of all data."""
    if not isinstance(fn, AutoGuide):
        yield
        return
    frames = [frame for frame in fn._prototype_frames.values() if (frame.full_size or frame.size) == total]
    before = fn.create_plates
    fn.create_plates = lambda *_, **__: [
        pyro.plate(frame.name, total, dim=frame.dim, subsample=rows) for frame in frames
    ]
    try:
        yield
    finally:
        fn.create_plates = before


class _Rows(Messenger):
    """Restricts parameters to some rows, and plates over all data to these rows."""

    def __init__(self, rows: Tensor, total: int) -> None:
        super().__init__()
        self.rows, self.total = rows, total

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ != "_Subsample" or msg["fn"].size != self.total:
            return
        # Rows in another order, or repeated rows, are selected below: a plate selects only if there are fewer rows.
        if msg["fn"].subsample_size is None and msg["value"] is None and len(self.rows) != self.total:
            msg["value"] = self.rows
        if msg["value"] is self.rows:
            msg["infer"] = {**msg["infer"], ROWS: True}

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        if not isinstance(value, Tensor) or _is_of_a_module(msg):
            return
        axes, event_dim = [0], msg["kwargs"].get("event_dim")
        frames = [frame for frame in msg["cond_indep_stack"] if frame.vectorized]
        if event_dim is not None and frames:
            if len(self.rows) < self.total and any(frame.full_size == self.total for frame in frames):
                return  # the plate selects the rows
            axes = [frame.dim - event_dim for frame in frames]
        for axis in axes:
            if value.ndim >= max(1, -axis) and value.shape[axis] == self.total:
                msg["value"] = value.index_select(axis, self.rows)
                return


class _Shapes(Messenger):
    """Records the shapes of parameters that do not belong to a module."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, torch.Size] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and msg["value"].ndim and not _is_of_a_module(msg):
            self.shapes[msg["name"]] = msg["value"].shape


def _is_of_a_module(msg: Any) -> bool:
    """Whether a parameter comes from `pyro.module`, and so is a weight of a network."""
    _, *rest = msg["args"]
    return bool(rest) and isinstance(rest[0], nn.Parameter)

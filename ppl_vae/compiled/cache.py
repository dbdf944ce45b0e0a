"""Captured graphs, kept by what they compute, of which shapes, under which settings, and by what they presuppose."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.compiled.graph.backend import Runner, compiled, interpreted, warn_once
from ppl_vae.compiled.graph.capture import Graph
from ppl_vae.compiled.graph.hoist import Split, split
from ppl_vae.compiled.graph.simplify import is_mutable
from ppl_vae.compiled.guards import Guards

SIZE = 64
"""The largest number of graphs of one program; the least recently used one is removed first."""


class Entry:
    """A graph for arguments of one kind, or the reason why there is none.

    Args:
        graph: the graph; None if the function cannot be captured.
        guards: the assumptions of the graph.
        varying: the indices of the arguments that are new in each call of a binding; None if all are.
        cause: the reason why there is no graph.
        precision: the lowest precision of its inputs.
    """

    def __init__(
        self,
        graph: Graph | None,
        guards: Guards,
        varying: Sequence[int] | None,
        cause: str = "",
        precision: torch.dtype = torch.float64,
    ) -> None:
        self.guards, self.cause, self.precision = guards, cause, precision
        self.mutates = graph is not None and graph.mutates
        self.fixed: tuple[Tensor, ...] = () if graph is None else graph.fixed
        self._before: tuple[Graph, Runner] | None = None
        self.body: Graph | None = graph
        if graph is not None and varying is not None and not graph.mutates:
            parts: Split = split(graph, varying)
            self._before, self.body = (parts.before, interpreted(parts.before)), parts.body
        self.writes = self.body is not None and any(map(is_mutable, self.body.graph.nodes))
        self._runners: dict[str, Runner] = {}
        self.dropped = False

    def bind(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The first inputs of the body: the tensors that it reads, and values computed from the fixed arguments.

        Compiled code is specialised to the strides of its first inputs, so arguments are made contiguous. The tensors
        that it reads are passed without copies, since it may write into them.
        """
        if self.body is None:
            raise AssertionError("there is no graph")
        given = [t.contiguous() for t in given]
        if self._before is None:
            return [*self.body.fixed, *given]
        graph, run = self._before
        with torch.no_grad():
            return [*self.body.fixed, *run([*graph.fixed, *given])]

    def runner(self, level: str, inputs: Sequence[Tensor]) -> Runner:
        """The runner of the body at a level, for inputs like ``inputs``; warns once if inductor fails."""
        run = self._runners.get(level)
        if run is None:
            if self.body is None:
                raise AssertionError("there is no graph")
            if level == "compiled":
                try:
                    run = compiled(self.body, inputs)
                except RuntimeError as error:
                    self.demote(str(error))
                    return self._runners[level]
            else:
                run = interpreted(self.body)
            self._runners[level] = run
        return run

    def demote(self, cause: str) -> None:
        """Run the graph uncompiled instead of compiled; warns once."""
        if self.body is None:
            raise AssertionError("there is no graph")
        warn_once("inductor", f"the captured graph runs uncompiled: {cause}")
        self._runners["compiled"] = self._runners.setdefault("captured", interpreted(self.body))


class Cache:
    """The entries of one owner: the `SIZE` most recently used."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, list[Entry]] = OrderedDict()

    def get(self, key: Hashable) -> Entry | None:
        """An entry for ``key`` whose guards hold."""
        for entry in self._entries.get(key, ()):
            if entry.guards.hold():
                self._entries.move_to_end(key)
                return entry
        return None

    def put(self, key: Hashable, entry: Entry) -> None:
        """Add an entry; the last few for each key are kept (for training mode and evaluation mode, for example)."""
        self._entries[key] = [entry, *self._entries.get(key, [])[:3]]
        self._entries.move_to_end(key)
        while len(self._entries) > SIZE:
            self._entries.popitem(last=False)

    def drop(self, key: Hashable, entry: Entry) -> None:
        """Remove an entry."""
        entry.dropped = True
        self._entries[key] = [other for other in self._entries.get(key, []) if other is not entry]

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))


_caches: weakref.WeakKeyDictionary[Any, Cache] = weakref.WeakKeyDictionary()


def cache_of(owner: object) -> Cache:
    """The cache of ``owner``, which exists as long as the owner."""
    cache = _caches.get(owner)
    if cache is None:
        cache = _caches[owner] = Cache()
    return cache


def clear(owner: object | None = None) -> None:
    """Remove the graphs of ``owner``, or of all programs."""
    if owner is None:
        _caches.clear()
    else:
        _caches.pop(owner, None)

"""Function: a function of a program that runs as its graph, captured at first use and checked once in each run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn

from ppl_vae import rng
from ppl_vae.compiled.cache import Cache, Entry, cache_of
from ppl_vae.compiled.graph.backend import LEVELS, CompileWarning, warn_once
from ppl_vae.compiled.graph.capture import CaptureError, Graph, capture, untouched
from ppl_vae.compiled.guards import Guards, Recording, signature, world
from ppl_vae.errors import check_one_of
from ppl_vae.exclusive import exclusive, give_way
from ppl_vae.program import matmul_precision
from ppl_vae.program.agreement import ROUNDED, disagreement, precision_of

Tensors = Sequence[Tensor]


class Function:
    """A function of tensors that a program computes.

    The first call for arguments of a new kind runs the program itself and captures it. The graph is then compared with
    the program on other values (rows in another order, other draws) before its first use. A graph that an earlier
    `Function` captured is compared again when this one first uses it. If the program cannot be captured, or the graph
    does not agree with it, the program itself runs, with one `CompileWarning` that names the cause.

    Args:
        owner: the owner of the graphs (a program); they exist as long as it does.
        key: identifies this function among the functions of the owner.
        plain: the program itself, ``(*tensors) -> tensors``.
        right: the reference for comparisons, if it is not ``plain``.
        traced: the same function in a form that can be captured, if ``plain`` cannot; or the reason, in words, why
            there is no such form.
        modules: modules that it may use; the modules that it calls are found.
        modeless: modules whose mode it sets itself.
        stores: the stores of its ``pyro.param`` statements.
        leaves: other tensors that it reads.
        trained: the leaves with respect to which it computes gradients, if they require them.
        complete: whether no other tensor that it reads may require a gradient.
        varying: the indices of the arguments that are new in each call of a binding (see `bind`); None if all are.
        shuffle: returns arguments of the same kind with other values.
        dead_draws: as in `capture`.
        level: one of `backend.LEVELS`.

    Attributes:
        cause: the reason why the last call ran the program itself; empty if it ran the graph.
    """

    def __init__(
        self,
        owner: object,
        key: Hashable,
        plain: Callable[..., Tensors],
        *,
        traced: Callable[..., Tensors] | str | None = None,
        right: Callable[..., Tensors] | None = None,
        modules: Iterable[nn.Module] = (),
        modeless: Iterable[nn.Module] = (),
        stores: Iterable[ParamStoreDict] = (),
        leaves: Iterable[Tensor] = (),
        trained: Iterable[Tensor] = (),
        complete: bool = False,
        varying: Sequence[int] | None = (),
        shuffle: Callable[[Tensors], list[Tensor]] | None = None,
        dead_draws: bool = True,
        level: str = "captured",
    ) -> None:
        self.level = check_one_of("level", level, LEVELS)
        self.plain, self.right = plain, right or plain
        self.traced = (lambda *_: _refuse(traced)) if isinstance(traced, str) else traced or plain
        self.varying = None if varying is None else tuple(varying)
        self.cause = ""
        self._owner, self._key = owner, key
        self._modules, self._modeless = modules, modeless  # as they are: those of a program become more
        self._stores, self._leaves = tuple(stores), tuple(leaves)
        self._trained, self._complete = tuple(trained), complete
        self._shuffle, self._dead_draws = shuffle or rolled, dead_draws
        self._checked: set[tuple[Entry, str]] = set()

    @property
    def cache(self) -> Cache:
        """The cache of the graphs."""
        return cache_of(self._owner)

    def __call__(self, *given: Tensor) -> Tensors:
        """The outputs, without autograd; draws come from torch's global generator."""
        with exclusive():
            if self.level == "plain":
                return self.plain(*given)
            key, entry = self.find(given)
            if entry is None:
                return self.make(key, given)[0]
            return self.run(key, entry, given, None)

    def bind(self, *given: Tensor) -> PartialFunction:
        """The function with fixed arguments: values that depend on them only are computed once, guards checked once.

        The program must not change while a binding is in use. If all arguments are new in each call, the values of its
        tensors may change (by an optimiser, for example).

        Args:
            given: all arguments that are not `varying`; none if all are.
        """
        return PartialFunction(self, given)

    def agree(self, *given: Tensor) -> bool:
        """Whether graph and program agree on ``given`` for the same random numbers; False if there is no graph.

        Random states and buffers are restored afterwards.
        """
        with exclusive():
            key, entry = self.find(given)
            if entry is None:
                entry = self.make(key, given)[1]
            return not entry.cause and self._compare(entry, given, self.level) is None

    # ---- for `PartialFunction`, and for callers that hold their arguments in another way ----

    def find(self, given: Tensors) -> tuple[Hashable, Entry | None]:
        """The key of arguments like ``given``, and the entry for them if there is one whose guards hold."""
        key = (self._key, signature(given), world())
        return key, self.cache.get(key)

    def make(self, key: Hashable, given: Tensors) -> tuple[Tensors, Entry]:
        """Run the program and capture it; returns the outputs, and an entry that agrees with the program.

        The outputs of the first call, too, are those of the graph, for the generator's state before the call. No number
        then depends on which call came first (in a resumed run, with several processes, or in a second run).
        """
        device = given[0].device
        before = rng.state(device)
        buffers = [(b, b.detach().clone()) for module in self._modules for b in module.buffers()]
        recording = Recording(self._modules)
        with recording.running():
            outputs = self.plain(*given)
        known = [*recording.tensors(), *self._leaves]
        graph: Graph | None = None
        cause = ""
        try:
            graph = capture(self.traced, known, given, dead_draws=self._dead_draws)
            if graph.random and not self._dead_draws:
                raise CaptureError("a density is random")
            others = {id(t) for t in graph.fixed if t.requires_grad} - {*map(id, self._trained)}
            if self._complete and others:
                raise CaptureError(
                    "a tensor that requires a gradient is not a parameter of Pyro or of a module"
                )
        except CaptureError as error:
            cause = str(error)
        fixed = () if graph is None else graph.fixed
        guards = Guards(recording, fixed, self._stores, self._modeless, self._trained)
        precision = precision_of([*fixed, *given, *outputs])
        entry = Entry(graph, guards, self.varying, cause, precision)
        if not cause:
            other = self._shuffle(given)
            with rng.forked(given[0].device):
                rng.reseed(given[0].device, 0, "agreement")
                difference = self._settle(entry, other)
            if difference is not None:
                entry = Entry(None, guards, None, f"the graph disagrees with the program: {difference}")
        if entry.cause:
            self._falls_back(entry.cause)
        elif not entry.mutates or {*map(id, entry.fixed)} <= {id(t) for t, _ in buffers} | {
            *map(id, self._leaves)
        }:
            with torch.no_grad():
                for buffer, value in buffers if entry.mutates else ():
                    buffer.copy_(value)
            rng.set_state(before, device)
            outputs = self._graph(entry, given, self.level, None)
        self._checked.add((entry, self.level))
        self.cache.put(key, entry)
        return outputs, entry

    def run(self, key: Hashable, entry: Entry, given: Tensors, head: list[Tensor] | None) -> Tensors:
        """The outputs of an entry, which is checked if this `Function` has not used it before.

        Args:
            key: the key of the entry.
            entry: the entry.
            given: all arguments.
            head: the first inputs of the body, from `Entry.bind`, if they are known.
        """
        if entry.cause:
            self.cause = entry.cause
            return self.plain(*given)
        if (entry, self.level) not in self._checked:
            difference = self._settle(entry, given, head)
            if difference is not None:
                # A decision in Python code has changed since the capture: capture it again.
                self.cache.drop(key, entry)
                return self.make(key, given)[0]
            self._checked.add((entry, self.level))
        self.cause = ""
        return self._graph(entry, given, self.level, head)

    def _settle(self, entry: Entry, given: Tensors, head: list[Tensor] | None = None) -> str | None:
        """Compare at this level; if only inductor causes the difference, continue without it."""
        difference = self._compare(entry, given, self.level, head)
        if difference is not None and self.level == "compiled":
            entry.demote(difference)
            difference = self._compare(entry, given, self.level, head)
        return difference

    def _compare(
        self, entry: Entry, given: Tensors, level: str, head: list[Tensor] | None = None
    ) -> str | None:
        changes = entry.fixed if entry.mutates else ()
        device = given[0].device
        try:
            head = self._head(entry, given) if head is None else head
            # Twice where it writes in place: into what it was given for good, it would be right in its first run alone.
            for _ in range(1 + entry.writes):
                with untouched(*changes, device=device):
                    ours = [value.clone() for value in self._graph(entry, given, level, head)]
        except CompileWarning:
            raise  # a warning filter has made it an error
        except Exception as error:
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        with untouched(*changes, device=device):
            plain = self.right(*given)
        slack = 1.0 if matmul_precision.current() == matmul_precision.FULL else ROUNDED
        return disagreement(ours, plain, entry.precision, slack)

    def _head(self, entry: Entry, given: Tensors) -> list[Tensor]:
        """The first of the body's inputs, from the arguments that stay."""
        late = () if self.varying is None else self.varying
        return entry.bind([t for i, t in enumerate(given) if i not in late])

    def _graph(self, entry: Entry, given: Tensors, level: str, head: list[Tensor] | None) -> Tensors:
        late = () if self.varying is None else self.varying
        head = self._head(entry, given) if head is None else head
        inputs = [*head, *(given[i].contiguous() for i in late)]  # as `Entry.bind` has it
        run = entry.runner(level, inputs)
        with torch.no_grad():
            if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
                with torch.autocast(given[0].device.type, enabled=False):  # the graph has its casts in it
                    return run(inputs)
            return run(inputs)

    def _falls_back(self, cause: str) -> None:
        self.cause = cause
        name = self._key[0] if isinstance(self._key, tuple) else self._key
        warn_once(f"capture: {cause}", f"{name} runs as the plain program: {cause}")


class PartialFunction:
    """A `Function` with some fixed arguments; see `Function.bind`."""

    def __init__(self, function: Function, given: Tensors) -> None:
        self._function, self._given = function, given
        self._last: tuple[Any, Hashable, Entry, list[Tensor] | None] | None = None

    def __call__(self, *varying: Tensor) -> Tensors:
        """The outputs for the arguments that are new in this call."""
        with exclusive():
            give_way()
            return self._outputs(varying)

    def _outputs(self, varying: Tensors) -> Tensors:
        function = self._function
        if function.level == "plain":
            return function.plain(*self._all(varying))
        kind = (signature(varying), world())
        if self._last is None or self._last[0] != kind or self._last[2].dropped:
            given = self._all(varying)
            key, entry = function.find(given)
            if entry is None:
                return function.make(key, given)[0]
            head = None if entry.cause or function.varying is None else entry.bind(self._given)
            self._last = (kind, key, entry, head)
        _, key, entry, head = self._last
        return function.run(key, entry, self._all(varying), head)

    def _all(self, varying: Tensors) -> list[Tensor]:
        places = self._function.varying
        if places is None:
            return [*varying]
        given, new = iter(self._given), iter(varying)
        return [next(new) if i in places else next(given) for i in range(len(self._given) + len(varying))]


def _refuse(cause: str) -> Tensors:
    raise CaptureError(cause)


def rolled(given: Tensors) -> list[Tensor]:
    """The same data in another order."""
    return [t.roll(1, 0) if t.ndim else t for t in given]

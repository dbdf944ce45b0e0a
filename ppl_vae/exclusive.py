"""Exclusive sections: a lock around the global state of Pyro and torch, and Ctrl-C between steps.

Pyro's handlers, plates and settings are global to the process, and so is torch's random generator. Two threads that run
programs at the same time would change them for each other, and a Ctrl-C in the middle of a run would leave them in an
inconsistent state. All code that runs a program therefore does it inside of `exclusive`. There

* only one thread runs; the others wait, first come first served;
* the first Ctrl-C is delayed until the section ends or until `give_way`, when the state is consistent, and then raises
  KeyboardInterrupt; a second Ctrl-C acts at once;
* the state registered by `keep` (Pyro's state) is restored exactly at the end, also after an exception.

A long run is one section from its start to its end, and calls `give_way` after each step, so that waiting threads can
run. State that the run changes for longer than a step is an `Own`: other threads do not see it when they run.

Pyro's own functions, such as `pyro.infer.SVI.step`, do not use this lock: if they run at the same time as other
threads, put ``with exclusive():`` around them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import CodeType, FrameType, TracebackType
from typing import Any, Generic, Protocol, TypeVar

_POLL = 0.05  # seconds between two checks for Ctrl-C while a thread waits
_HERE = __file__
_SHIELDED: set[CodeType] = set()

Value = TypeVar("Value")
Shielded = TypeVar("Shielded", bound=Callable[..., Any])


class Kept(Protocol):
    """Global state that is the same after a section as before it."""

    def read(self) -> Any:
        """The current state."""

    def write(self, value: Any, failed: bool) -> None:
        """Restore a state from `read`; ``failed``: whether an exception ends the section."""


class Part(Protocol):
    """Global state that a run changes for longer than a step."""

    def suspend(self) -> None:
        """Restore the state of the other threads."""

    def resume(self) -> None:
        """Restore the state of the run, as it was at `suspend`."""


_kept: list[Kept] = []


def keep(kept: Kept) -> None:
    """Register state that each section restores."""
    _kept.append(kept)


def shielded(function: Shielded) -> Shielded:
    """Delay Ctrl-C inside of ``function`` while a section is open: for short code that restores state.

    For a generator that is a context manager, this applies to its own code, not to the block inside of the context.
    """
    _SHIELDED.add(function.__code__)
    return function


class _Deferral:
    """SIGINT's handler while the main thread has a section.

    Attributes:
        previous: the user's handler.
        presses: the number of delayed Ctrl-C.
    """

    def __init__(self) -> None:
        self.previous: Any = signal.getsignal(signal.SIGINT)
        self.presses = 0
        if callable(self.previous):  # or Ctrl-C is ignored, or ends the process without asking Python
            signal.signal(signal.SIGINT, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Delay the first Ctrl-C; pass the others to the user's handler, unless state is being restored."""
        first = self.presses == 0 and self.previous is signal.default_int_handler
        if first or _is_shielded(frame):
            self.presses += 1
            return
        self.presses = 0
        self.previous(number, frame)

    def act(self) -> None:
        """Let a delayed Ctrl-C act now."""
        if self.presses:
            self.presses = 0
            self.previous(signal.SIGINT, sys._getframe())

    def remove(self) -> None:
        """Restore the user's handler, unless another handler has been set."""
        if callable(self.previous):
            last = signal.signal(signal.SIGINT, self.previous)
            if last != self.handle:
                signal.signal(signal.SIGINT, last)


def _is_shielded(frame: FrameType | None) -> bool:
    if frame is not None and frame.f_code.co_filename == contextlib.__file__:
        return True  # on the way into a section, or out of it
    while frame is not None:
        if frame.f_code.co_filename == _HERE or frame.f_code in _SHIELDED:
            return True
        frame = frame.f_back
    return False


class _Section:
    """The section of one thread, from its outermost entry to its exit."""

    __slots__ = ("deferral", "depth", "done", "outside", "owner", "parts")

    def __init__(self, deferral: _Deferral | None) -> None:
        self.owner, self.depth, self.done = threading.get_ident(), 0, False
        self.deferral = deferral
        self.parts: list[Part] = []
        self.outside = [(kept, kept.read()) for kept in _kept]


class _Process:
    """The lock. A waiting thread holds the gate, so that a thread that gives way cannot take the lock at once."""

    def __init__(self) -> None:
        self.lock, self.gate = threading.Lock(), threading.Lock()
        self.section: _Section | None = None

    def after_fork(self) -> None:
        """Release the sections of other threads in a child process, where these threads do not exist."""
        self.gate = threading.Lock()
        if self.section is None or self.section.owner != threading.get_ident():
            self.lock, self.section = threading.Lock(), None


_process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork)


class exclusive(AbstractContextManager[None]):  # noqa: N801  (used as a statement's word)
    """A section in which no other thread runs a program; sections of a thread may be nested."""

    __slots__ = ("_outermost", "_section")

    def __enter__(self) -> None:
        section = _process.section
        self._outermost = False
        if section is None or section.owner != threading.get_ident():
            section, self._outermost = _begin(), True
        section.depth += 1
        self._section = section

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        section = self._section
        if section.done:
            return  # a generator that a Ctrl-C left behind, and that is only now thrown away
        section.depth -= 1
        if self._outermost:
            _end(section, kind is not None)


class Own(AbstractContextManager["Own[Value]"], Generic[Value]):
    """Global state that a run changes: it is restored at the end, and whenever another thread runs.

    It is a section from its entry to its exit.

    Args:
        read: returns the current state.
        write: restores a state from ``read``.
        start: changes the state at the start of the run.
    """

    def __init__(
        self,
        read: Callable[[], Value],
        write: Callable[[Value], object],
        start: Callable[[], object] = lambda: None,
    ) -> None:
        self._read, self._write, self._start = read, write, start
        self._hold = exclusive()

    def __enter__(self) -> Own[Value]:
        self._hold.__enter__()
        try:
            self._other = self._read()
            self._hold._section.parts.append(self)
        except BaseException:
            self._hold.__exit__(*sys.exc_info())
            raise
        try:
            self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        section = self._hold._section
        if section.done:
            return
        try:
            section.parts.remove(self)
            self._write(self._other)
        finally:
            self._hold.__exit__(kind, error, trace)

    def suspend(self) -> None:
        """Restore the state of the other threads; see `Part.suspend`."""
        ours = self._read()
        self._write(self._other)
        self._other = ours

    resume = suspend


def give_way() -> None:
    """Between two steps of a run: raise a delayed Ctrl-C, and let a waiting thread run.

    Outside of a section it does nothing.

    Raises:
        KeyboardInterrupt: if Ctrl-C was pressed.
    """
    section = _process.section
    if section is None or section.owner != threading.get_ident():
        return
    if section.deferral is not None and section.deferral.presses:
        section.deferral.act()
    if _process.gate.locked():
        _switch(section)


def _begin() -> _Section:
    main = threading.current_thread() is threading.main_thread()
    deferral = _Deferral() if main else None
    try:
        _wait(deferral, 1)
    except BaseException:
        if deferral is not None:
            deferral.remove()
        raise
    section = _Section(deferral)
    _process.section = section
    return section


def _end(section: _Section, failed: bool) -> None:
    section.done = True
    for kept, value in section.outside:
        kept.write(value, failed)
    _process.section = None
    _process.lock.release()
    if section.deferral is not None:
        section.deferral.remove()
        section.deferral.act()


def _switch(section: _Section) -> None:
    """Let other threads run with the state from before the section, and restore the section's state afterwards."""
    inside = [(kept, kept.read()) for kept, _ in section.outside]
    for part in reversed(section.parts):
        part.suspend()
    for kept, value in section.outside:
        kept.write(value, False)
    _process.section = None
    _process.lock.release()
    try:
        _wait(
            section.deferral, 2
        )  # the first press acts when it is this thread's turn again, and nothing is amiss
    except BaseException:
        section.done = True  # what is put back on the way out is put back already
        if section.deferral is not None:
            section.deferral.remove()
        raise
    _process.section = section
    section.outside = [(kept, kept.read()) for kept, _ in inside]
    for kept, value in inside:
        kept.write(value, False)
    for part in section.parts:
        part.resume()
    if section.deferral is not None:
        section.deferral.act()


def _wait(deferral: _Deferral | None, presses: int) -> None:
    """Take the lock; while waiting, ``presses`` Ctrl-C raise an exception."""
    gate, lock = _process.gate, _process.lock
    for each in (gate, lock):
        while not each.acquire(timeout=_POLL):
            if deferral is not None and deferral.presses >= presses:
                try:
                    deferral.act()
                except BaseException:
                    if each is lock:
                        gate.release()
                    raise
    gate.release()

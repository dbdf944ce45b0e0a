"""One run at a time: a lock around the state that Pyro and torch keep for the whole process, and Ctrl-C between steps.

Pyro's handlers, its plates and its settings belong to the process, and so does torch's random generator: two threads
that run programs at the same time change them under each other's hands, and a Ctrl-C in the middle of a run leaves
them half put back. So whatever runs a program does it inside `exclusive`. There

* one thread runs at a time; the others wait for their turn, in the order of their coming;
* the first Ctrl-C is kept until the section ends or until `give_way`, when nothing is half done, and raises
  KeyboardInterrupt then; a second one acts at once;
* what `keep` was told of (Pyro's state) is put back exactly on the way out, whatever happened inside.

A long run holds one section from its start to its end, and calls `give_way` after each step: there a waiting thread
has its turn. State that the run changes for longer than a step is an `Own`: the others do not see it in their turns.

Pyro's own functions (`pyro.infer.SVI.step`, say) do not come through here: where they run beside other threads, put
``with exclusive():`` around them.
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

_POLL = 0.05  # seconds between two looks at Ctrl-C while a thread waits for its turn
_HERE = __file__
_SHIELDED: set[CodeType] = set()

Value = TypeVar("Value")
Shielded = TypeVar("Shielded", bound=Callable[..., Any])


class Kept(Protocol):
    """State of the whole process that is the same after a section as before it."""

    def read(self) -> Any:
        """The state as it is now."""

    def write(self, value: Any, failed: bool) -> None:
        """Put back what `read` returned; ``failed``: whether an exception ends the section."""


class Part(Protocol):
    """State of the whole process that a run changes for longer than a step."""

    def suspend(self) -> None:
        """Put the state back to what the others know."""

    def resume(self) -> None:
        """Put the state to what the run left in `suspend`."""


_kept: list[Kept] = []


def keep(kept: Kept) -> None:
    """From now on every section puts this state back."""
    _kept.append(kept)


def shielded(function: Shielded) -> Shielded:
    """Let no Ctrl-C act inside ``function`` while a section is open: for a few lines that put something back.

    Of a generator it is what it does itself: not the block whose context it is.
    """
    _SHIELDED.add(function.__code__)
    return function


class _Deferral:
    """SIGINT's handler while the main thread has a section.

    Attributes:
        previous: the user's handler.
        presses: how often Ctrl-C came and did not act.
    """

    def __init__(self) -> None:
        self.previous: Any = signal.getsignal(signal.SIGINT)
        self.presses = 0
        if callable(self.previous):  # or Ctrl-C is ignored, or ends the process without asking Python
            signal.signal(signal.SIGINT, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Keep the first Ctrl-C; hand the others to the user's handler, unless something is being put back."""
        first = self.presses == 0 and self.previous is signal.default_int_handler
        if first or _is_shielded(frame):
            self.presses += 1
            return
        self.presses = 0
        self.previous(number, frame)

    def act(self) -> None:
        """Let a Ctrl-C that was kept act now."""
        if self.presses:
            self.presses = 0
            self.previous(signal.SIGINT, sys._getframe())

    def remove(self) -> None:
        """Put the user's handler back, if nobody else has set one."""
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
    """What one thread has from its outermost entry to its exit."""

    __slots__ = ("deferral", "depth", "done", "outside", "owner", "parts")

    def __init__(self, deferral: _Deferral | None) -> None:
        self.owner, self.depth, self.done = threading.get_ident(), 0, False
        self.deferral = deferral
        self.parts: list[Part] = []
        self.outside = [(kept, kept.read()) for kept in _kept]


class _Process:
    """The lock. Whoever waits for it stands in the gate, so that a thread that comes back goes behind it."""

    def __init__(self) -> None:
        self.lock, self.gate = threading.Lock(), threading.Lock()
        self.section: _Section | None = None

    def after_fork(self) -> None:
        """In a child process only one thread is left: the section of another one would never end."""
        self.gate = threading.Lock()
        if self.section is None or self.section.owner != threading.get_ident():
            self.lock, self.section = threading.Lock(), None


_process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork)


class exclusive(AbstractContextManager[None]):  # noqa: N801  (used as a statement's word)
    """A section that no other thread runs beside; it may be entered again inside itself."""

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
    """State of the whole process that a run has to itself: put back at the end, and for every turn of another thread.

    It holds a section from its entry to its exit.

    Args:
        read: gives the state as it is now.
        write: puts back what ``read`` returned.
        start: what the run does with the state at first.
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
        """Put the others' state back; `Part.suspend`."""
        ours = self._read()
        self._write(self._other)
        self._other = ours

    resume = suspend


def give_way() -> None:
    """Between two steps of a run: raise the Ctrl-C that came meanwhile, and let a waiting thread have its turn.

    Outside a section it does nothing.

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
    """Let the others run, as if the section had not begun, and go on afterwards as if they had not run."""
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
    """Take the lock; without it, an exception leaves after so many presses of Ctrl-C."""
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

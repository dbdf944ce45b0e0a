"""Exit statuses of the process, and the handling of signals.

Signals are caught from the start of a command. Before the command has written any result, a signal removes what was
written, prints one line, and ends the process at once: an exception could be raised during the import of other
libraries, which may turn it into their own error. Later, a signal raises KeyboardInterrupt, and the command says how to
continue.

This module is imported before all others, so it has very few imports.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

STATUSES = """\
exit status, with one line on standard error where it is not 0:
    0  done
    2  bad input, which leaves every file as it was, or a job that failed
  130  interrupted (Ctrl-C); 143: ended by SIGTERM; 129: by SIGHUP. The same command with --resume goes on
"""

_WORDS = {"SIGINT": "interrupted", "SIGTERM": "ended by SIGTERM", "SIGHUP": "ended by SIGHUP"}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or another signal, with instructions to continue."""


class _State:
    """The state for the signal handler; there is one for the process."""

    def __init__(self) -> None:
        self.program = "ppl-vae"
        self.working = False
        self.received = 0
        self.watching = False
        self.said = False
        self.undo: list[Callable[[], object]] = []


_state = _State()


def watch() -> None:
    """Catch Ctrl-C, SIGTERM and SIGHUP from now on, in the process of a command.

    A signal that is ignored stays ignored (nohup). SIGTERM from torchrun ends a process at once, because a process that
    waits for others would not handle it.
    """
    _state.watching = True
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    for name in _WORDS:
        number = getattr(signal, name, None)
        if number is None or not (alone or name == "SIGINT"):
            continue
        try:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _caught)
        except ValueError:  # signals are handled in the main thread only
            _state.watching = False
            return


def begin(program: str) -> None:
    """Start of a command; its name is the prefix of messages."""
    _state.program, _state.working, _state.received, _state.said = program, False, 0, False
    _state.undo.clear()


def work(begun: bool = True) -> None:
    """Say that there are results to keep, so that a signal raises KeyboardInterrupt; or that there are none."""
    _state.working = begun


def on_leave(undo: Callable[[], object]) -> None:
    """Call ``undo`` if a signal ends the process at once."""
    _state.undo.append(undo)


def off_leave(undo: Callable[[], object]) -> None:
    """Do not call ``undo`` any more."""
    if undo in _state.undo:
        _state.undo.remove(undo)


def program() -> str:
    """The prefix of messages: the name of the current command."""
    return _state.program


def watching() -> bool:
    """Whether this module handles Ctrl-C."""
    return _state.watching


def received() -> int:
    """The signal that this command has received, 0 if none."""
    return _state.received


def status() -> int:
    """The exit status of an interrupted command: 128 plus the signal's number, or 130 without a signal."""
    return 128 + _state.received if _state.received else INTERRUPTED


def words() -> str:
    """The reason why a command was interrupted, in words."""
    name = signal.Signals(_state.received).name if _state.received else "SIGINT"
    return _WORDS.get(name, f"ended by {name}")


def say(line: str) -> None:
    """Print one line on standard error; errors of printing are ignored."""
    _state.said = True
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # standard error is closed


def _caught(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (a handler is given a frame)
    first = not _state.received
    _state.received = _state.received or number
    if first and _state.working:
        raise KeyboardInterrupt
    # There are no results, or this is a second signal: end at once.
    for undo in reversed(_state.undo):
        try:
            undo()
        except OSError:  # noqa: PERF203
            continue
    if not _state.said and _first():
        say(f"{_state.program}: {words()}")
    os._exit(status())


def _first() -> bool:
    """Whether no other process of the job has printed an error."""
    distributed = sys.modules.get("ppl_vae.distributed")
    first_to_fail = getattr(distributed, "first_to_fail", None)
    return True if first_to_fail is None else bool(first_to_fail())

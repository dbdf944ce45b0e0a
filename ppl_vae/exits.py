"""How the process ends: its exit statuses, and what a signal does.

Signals are caught from the first moment of a command on. Before a command has written anything that is worth keeping,
a signal undoes what was begun, says one line, and ends the process at once: an exception would pass through other
libraries that are just being imported, which may turn it into an error of their own. Once there is work to keep, a
signal raises KeyboardInterrupt, and the command says how to go on.

This file is imported before everything else, so it imports nearly nothing.
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
    """Ctrl-C or another signal, with how to go on in words."""


class _State:
    """What a signal needs to know: there is one process, and so one of these."""

    def __init__(self) -> None:
        self.program = "ppl-vae"
        self.working = False
        self.received = 0
        self.watching = False
        self.said = False
        self.undo: list[Callable[[], object]] = []


_state = _State()


def watch() -> None:
    """Catch Ctrl-C, SIGTERM and SIGHUP from now on, in a process that is the command's own.

    A signal that is ignored stays ignored (nohup). torchrun ends its processes by SIGTERM, which then ends them at
    once: a process that waits for others would not see it otherwise.
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
        except ValueError:  # not the main thread, which alone is told of signals
            _state.watching = False
            return


def begin(program: str) -> None:
    """A command begins: its name is what messages start with."""
    _state.program, _state.working, _state.received, _state.said = program, False, 0, False
    _state.undo.clear()


def work(begun: bool = True) -> None:
    """From now on there is work to keep, and a signal raises KeyboardInterrupt; or there is none any more."""
    _state.working = begun


def on_leave(undo: Callable[[], object]) -> None:
    """Call ``undo`` if a signal ends the process at once."""
    _state.undo.append(undo)


def off_leave(undo: Callable[[], object]) -> None:
    """Forget ``undo``, which has been done, or need not be."""
    if undo in _state.undo:
        _state.undo.remove(undo)


def program() -> str:
    """What messages start with: the name of the command that runs."""
    return _state.program


def watching() -> bool:
    """Whether every Ctrl-C is seen here."""
    return _state.watching


def received() -> int:
    """The signal that this command has received, 0 if none."""
    return _state.received


def status() -> int:
    """The exit status of a command that was interrupted: 128 and the signal's number, 130 where no signal came."""
    return 128 + _state.received if _state.received else INTERRUPTED


def words() -> str:
    """What happened to a command that was interrupted."""
    name = signal.Signals(_state.received).name if _state.received else "SIGINT"
    return _WORDS.get(name, f"ended by {name}")


def say(line: str) -> None:
    """One line on standard error, wherever that has gone."""
    _state.said = True
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # nobody is left to tell


def _caught(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (a handler is given a frame)
    first = not _state.received
    _state.received = _state.received or number
    if first and _state.working:
        raise KeyboardInterrupt
    # Nothing to keep, or a second signal: somebody does not want to wait.
    for undo in reversed(_state.undo):
        try:
            undo()
        except OSError:  # noqa: PERF203
            continue
    if not _state.said and _first():
        say(f"{_state.program}: {words()}")
    os._exit(status())


def _first() -> bool:
    """Whether no other process of the job has said what went wrong."""
    distributed = sys.modules.get("ppl_vae.distributed")
    first_to_fail = getattr(distributed, "first_to_fail", None)
    return True if first_to_fail is None else bool(first_to_fail())

"""Locks of output folders: one writer or several readers.

The command that writes into a folder holds a lock of the operating system on a file in the folder, ``.lock``, from
before the first file is written until the command ends. The operating system releases the lock when the process ends,
for any reason; the file itself is not a lock. Commands that only read a run hold the same lock together with other
readers, so that no one writes at the same time. On a file system without locks, there is no lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppl_vae import exits
from ppl_vae.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TRIES = 20  # a folder may be removed, by the command that had made it, while another one is opening its lock

_held: dict[tuple[str, int], int] = {}
_descriptors: set[int] = set()


@contextmanager
def owned(path: Path, argument: str = "--out") -> Iterator[None]:
    """Be the only writer of a folder, which is made if it does not exist.

    A folder that was made and is empty at the end is removed again. A thread may lock the same folder more than once.

    Args:
        path: the folder.
        argument: the option that named it, for the message.

    Raises:
        InputError: if another command writes into the folder, or reads it.
    """
    with _lock(path, argument, shared=False):
        yield


@contextmanager
def owned_file(path: Path, argument: str = "--out") -> Iterator[None]:
    """Be the only writer of a file, as `owned` for a folder; the lock is a file in the same folder."""
    with _lock(path.parent, argument, shared=False, name=f".{path.name}{LOCK}", what=path):
        yield


@contextmanager
def read(path: Path, argument: str) -> Iterator[None]:
    """Prevent others from writing into a folder while it is read; raises `InputError` if it is being written."""
    with _lock(path, argument, shared=True):
        yield


def write_free(path: Path, argument: str) -> None:
    """Refuse a folder that another command owns at this moment; raises `InputError`."""
    with _lock(path, argument, shared=True):
        return


@contextmanager
def _lock(
    path: Path, argument: str, *, shared: bool, name: str = LOCK, what: Path | None = None
) -> Iterator[None]:
    lock = path / name
    key = (os.path.realpath(lock), threading.get_ident())
    if fcntl is None or key in _held:
        yield
        return
    made: list[Path] = []
    descriptor: int | None = None

    def release() -> None:
        nonlocal descriptor
        _held.pop(key, None)
        if descriptor is not None:
            _remove(lock, descriptor, shared)
            _descriptors.discard(descriptor)
            os.close(descriptor)
            descriptor = None
        for folder in reversed(made):
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    exits.on_leave(release)
    try:
        descriptor = _acquire(lock, argument, shared, made, what or path)
        _held[key] = 1
        yield
    finally:
        release()
        exits.off_leave(release)


def _acquire(lock: Path, argument: str, shared: bool, made: list[Path], what: Path) -> int | None:
    """An open file that holds the lock; None where there can be none. ``made`` gets the folders that were made."""
    for _ in range(_TRIES):
        try:
            if not shared:
                _make(lock.parent, made)
            descriptor = _open(lock)
        except FileNotFoundError:
            if shared:
                return None
            continue  # another command, which had made the folder, has just removed it
        except OSError as error:
            if shared:
                return None  # a folder that cannot be written has no writer
            raise InputError(argument, "a place that can be written", f"{what} ({error.strerror})") from None
        _descriptors.add(descriptor)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            _close(descriptor)
            who = f"process {owner}" if owner else "another command"
            kind = "folder" if what == lock.parent else "file"
            expected = f"a {kind} that no other command is {'writing' if shared else 'using'}"
            raise InputError(argument, expected, f"{what} (in use by {who})") from None
        except OSError:
            return descriptor  # a file system without locks
        if _same(lock, descriptor):
            if not shared:
                _sign(descriptor)
            return descriptor
        _close(descriptor)  # its last owner has removed the file between our opening and our locking it
    raise InputError(
        argument, "a folder that stays where it is", f"{what} (made and removed again and again)"
    )


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # one that another user's killed process has left: it can be locked all the same
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _make(path: Path, made: list[Path]) -> None:
    """Make a folder and those that it is in, noting those that were not there."""
    missing = []
    folder = Path(os.path.realpath(path))
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another command was quicker
            folder.mkdir()
            made.append(folder)


def _same(path: Path, descriptor: int) -> bool:
    """Whether the file of this name is the one that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _sign(descriptor: int) -> None:
    """Write the owner's number into the file, for messages."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:  # a full disk; the lock holds all the same
        return


def _remove(lock: Path, descriptor: int, shared: bool) -> None:
    """Remove the lock's file, unless others hold the lock too."""
    try:
        if shared:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same(lock, descriptor):
            lock.unlink()
    except OSError:
        return


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    os.close(descriptor)


def _in_child() -> None:
    """A child process is not the owner: without this, it would hold the lock when its parent has been killed."""
    for descriptor in tuple(_descriptors):
        _close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""How a folder of output is written: checked first, owned by one command, and replaced only by what is complete.

With ``--overwrite``, the new files are written into ``.new`` inside the folder. When all of them are there, the old
ones are moved into ``.old``, the new ones into their places, and ``.old`` is removed. If one cannot be moved, the
others are put back. A process that is killed between the first move and the last leaves ``.new/complete``, a list of
the new files, by which the next command that writes into the folder ends the replacement.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ppl_vae import exits, files, locks, reading
from ppl_vae.config import difference, dump_yaml
from ppl_vae.distributed import is_main, on_main
from ppl_vae.errors import InputError, option
from ppl_vae.exits import Interrupted

NEW, OLD, COMPLETE = ".new", ".old", "complete"
_CHECKPOINT = "checkpoint.safetensors"
_OURS = (locks.LOCK, NEW, OLD)


@dataclass(frozen=True)
class OutputFolder:
    """A folder that a command writes.

    Attributes:
        path: the folder.
        marker: the name of its marker.
        owned: every file that the command writes there, the marker last.
        what: what such a folder is called in messages.
        notes: those of the files that hold no results and are written before any are.
        target: the folder whose files it is to replace, if it is a ``.new`` in there.
    """

    path: Path
    marker: str
    owned: tuple[str, ...]
    what: str
    notes: tuple[str, ...] = ()
    target: Path | None = None

    @property
    def place(self) -> Path:
        """Where its files will be when all is done."""
        return self.path if self.target is None else self.target

    @property
    def new(self) -> OutputFolder:
        """The folder that holds the successors of this one's files until they are complete."""
        return replace(self, path=self.path / NEW, target=self.path)

    # ---- before anything is written ----------------------------------------------------------------------

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Refuse a folder that must not be written, or could not be replaced; nothing is written or made.

        Raises:
            InputError: naming ``--out``.
        """
        if resume and overwrite:
            raise InputError("--resume", "one of --resume and --overwrite", "both")
        if self.path.is_symlink() and not self.path.exists():
            raise InputError("--out", "a folder", f"{self.path} (a broken link)")
        if self.path.exists() and not self.path.is_dir():
            raise InputError("--out", "a folder", f"{self.path} (a file)")
        check_writable(self.path, "--out")
        if not self.began():
            if self._other_files():
                raise InputError(
                    "--out", f"a new folder, an empty one, or {self.what}", f"{self.path} (holds other files)"
                )
        elif overwrite:
            self._check_replaceable()
        elif not resume:
            raise InputError(
                "--out",
                "a new folder, or --overwrite to replace what is there, or --resume to continue it",
                f"{self.path} (exists)",
            )

    def began(self) -> bool:
        """Whether the marker is there, or its successor is about to be."""
        return (self.path / self.marker).is_file() or self.interrupted()

    def interrupted(self) -> bool:
        """Whether a process was killed while it was replacing the folder's files."""
        return (self.path / NEW / COMPLETE).is_file()

    def settings(self) -> dict[str, Any]:
        """What the marker says; raises `InputError`, naming it, if it cannot be read."""
        return reading.read_yaml(self.path / self.marker)

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to resume what was begun with other options, naming the first that differs."""
        found = difference(settings, self.settings())
        if found is not None:
            path, ours, old = found
            names = [name for name in path if name not in ("init_args", "class_path")]
            raise InputError(
                option(".".join(names)),
                f"{old!r}, as in {self.path / self.marker}, which --resume continues",
                repr(ours),
            )

    def latest(self) -> OutputFolder:
        """What ``--resume`` goes on with, if it is of the same options: an unfinished successor, if there is one."""
        return self.new if self.new.began() else self

    def resumed(self, settings: Mapping[str, Any]) -> OutputFolder:
        """The folder that was begun with these options: this one, or its unfinished successor.

        Raises:
            InputError: naming the first option that differs.
        """
        latest = self.latest()
        both = latest is not self and self.began()
        if both and difference(settings, latest.settings()) and not difference(settings, self.settings()):
            return self
        latest.check_same(settings)
        return latest

    def _check_replaceable(self) -> None:
        """Refuse what could not be moved away when the successor is complete: known before hours are spent on it."""
        expected = "a folder whose files of an earlier command can be replaced"
        for name in (NEW, OLD):
            if os.path.lexists(self.path / name) and not (self.path / name).is_dir():
                raise InputError("--out", expected, f"{self.path / name} (a file)")
        for name in self.owned:
            file = self.path / name
            if file.is_dir() and not file.is_symlink():
                raise InputError("--out", expected, f"{file} (a folder)")
            for parent in file.relative_to(self.path).parents:
                folder = self.path / parent
                if not os.path.lexists(folder):
                    continue
                if not folder.is_dir():
                    raise InputError("--out", expected, f"{folder} (a file)")
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise InputError("--out", expected, f"{folder} (permission denied)")

    def _other_files(self) -> bool:
        if not self.path.exists():
            return False
        names = {Path(name).name for name in self.owned}
        ours = [(f".{name}.", ".tmp") for name in names]
        return any(
            entry.name not in (*_OURS, *self.notes)
            and not any(entry.name.startswith(head) and entry.name.endswith(tail) for head, tail in ours)
            for entry in self.path.iterdir()
        )

    # ---- writing ---------------------------------------------------------------------------------------------

    @contextmanager
    def owning(self, *, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
        """Be the only command that writes here, from a `check` on until the end.

        Raises:
            InputError: if another command is using the folder, or `check` refuses it.
        """
        if not is_main():
            yield
            return
        with locks.owned(self.path):
            if overwrite:  # what lies in folders of the folder is replaced too, so nobody may be writing it
                for folder in sorted({(self.path / name).parent for name in self.owned} - {self.path}):
                    if folder.is_dir():
                        locks.write_free(folder, "--out")
            if self.interrupted():
                self.new.commit()
            self.check(resume=resume, overwrite=overwrite)
            yield

    @contextmanager
    def writing(
        self,
        settings: Mapping[str, Any],
        *,
        header: str,
        go_on: str,
        resume: bool,
        overwrite: bool,
        notes: Mapping[str, str] | None = None,
    ) -> Iterator[OutputFolder]:
        """Begin the folder, or take up what was begun; what was there is replaced when all is done.

        Args:
            settings: the options that repeat what is done, for the marker.
            header: what the marker begins with.
            go_on: what to go on with after Ctrl-C, with {config} for the marker's path and {place} for the folder's.
            resume: take up what is there, if anything is.
            overwrite: replace what is there, if anything is.
            notes: small files to write before the marker: their text by their names.

        Yields:
            the folder to write: this one, or its successor.

        Raises:
            InputError: if what is to be resumed was begun with other options.
            Interrupted: on Ctrl-C, saying how to go on.
        """
        begun = not (resume and self.began())
        if begun:
            folder = self.new if overwrite and self.began() else self
        else:
            folder = self.resumed(settings)
            exits.work()
        try:
            on_main(lambda: folder.begin(settings, header=header, notes=notes) if begun else folder.sweep())
            with folder.keeping(begun):
                yield folder
                if is_main():
                    folder.commit()
        except KeyboardInterrupt:
            paths = {"place": folder.place, "config": folder.path / folder.marker}
            quoted = {name: shlex.quote(str(path)) for name, path in paths.items()}
            raise Interrupted(f"go on with{go_on.format(**quoted)}") from None

    def begin(
        self, settings: Mapping[str, Any], *, header: str, notes: Mapping[str, str] | None = None
    ) -> None:
        """Write the marker, after ``notes``: from here on ``--resume`` goes on, and a signal asks for it.

        Where files are there that are to be replaced, this is for their successors: call it on `new`.
        """
        if self.target is not None and self.path.exists():  # an unfinished one, which nobody wanted to resume
            shutil.rmtree(self.path)
        self.sweep()
        self.forget_processes()
        exits.work()
        with self.keeping(True):
            for name, text in (notes or {}).items():
                files.write_text(self.path / name, text)
            files.write_text(self.path / self.marker, header + dump_yaml(settings))

    @contextmanager
    def keeping(self, begun: bool) -> Iterator[None]:
        """Leave nothing of a command that fails before it has come to any result.

        Args:
            begun: whether this command has begun the folder: what it has only resumed stays.
        """
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException:  # a user's code may raise SystemExit
            if begun and is_main() and not self._worth_keeping():
                self.undo()
            raise

    def undo(self) -> None:
        """Remove what `begin` has written."""
        exits.work(False)
        if self.target is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for name in (*self.notes, self.marker):
            (self.path / name).unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove the half-written temporary files that a killed process left."""
        for name in self.owned:
            file = self.path / name
            for stale in file.parent.glob(f".{file.name}.*.tmp"):
                stale.unlink(missing_ok=True)

    def forget_processes(self) -> None:
        """Remove the checkpoints of processes that shared a job, which may have been others than those of today."""
        for stale in self.path.glob(f"{_CHECKPOINT}*.rank*"):
            stale.unlink(missing_ok=True)

    def _worth_keeping(self) -> bool:
        results = [name for name in self.owned if name not in (*self.notes, self.marker)]
        there = any(os.path.lexists(self.path / name) for name in results)
        return there or any(self.path.glob(f"{_CHECKPOINT}*"))

    # ---- replacing ---------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Put the files of a complete `new` in the places of the old ones; nothing to do for another folder.

        Raises:
            InputError: if an old file cannot be moved away; all are then as they were, and the new ones are kept.
        """
        if self.target is None:
            return
        target, old = self.target, self.target / OLD
        if (self.path / COMPLETE).is_file():
            names = files.read_json(self.path / COMPLETE)
        else:
            names = [name for name in self.owned if (self.path / name).is_file()]
            if old.exists():  # of a replacement that came to its end, all but this
                shutil.rmtree(old)
            files.write_json(self.path / COMPLETE, names)
        try:
            for name in self.owned:
                placed = name in names and not (self.path / name).is_file()
                if not placed and os.path.lexists(target / name):
                    _move(target / name, old / name)
            for name in names:
                if (self.path / name).is_file():
                    _move(self.path / name, target / name)
        except OSError as error:
            for name in names:
                if not (self.path / name).is_file():
                    _move(target / name, self.path / name)
            for name in self.owned:
                if os.path.lexists(old / name):
                    _move(old / name, target / name)
            (self.path / COMPLETE).unlink()
            raise InputError(
                "--out",
                f"files that can be replaced (the new ones, complete, are in {self.path}: --resume tries again)",
                f"{error.filename}: {error.strerror}",
            ) from None
        (self.path / COMPLETE).unlink()
        replace(self, path=target, target=None).forget_processes()
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        for folder in {(target / name).parent for name in self.owned} - {target}:
            with suppress(OSError):
                folder.rmdir()  # of an old result that has no successor


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def check_new_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that is there, unless it may be replaced, or could not be made; raises `InputError`: ``--out``."""
    if path.is_dir():
        raise InputError("--out", "a file", f"{path} (a folder)")
    if os.path.lexists(path) and not overwrite:
        raise InputError("--out", "a new file, or --overwrite to replace it", f"{path} (exists)")
    check_writable(path, "--out")


def check_writable(path: Path, argument: str) -> None:
    """Refuse a file or folder that could not be made, before anything is; raises `InputError`."""
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise InputError(argument, "a folder that can be written", f"{path} (permission denied)")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(argument, "a path whose parents are folders", f"{parent} (a file)")
    if not path.exists() and not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(argument, "a place that can be written", f"{parent} (permission denied)")

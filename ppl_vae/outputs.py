"""Output folders: checked before writing, locked by one command, and replaced only by complete results.

With ``--overwrite``, the new files are written into ``.new`` inside the folder. When all of them are there, the old
ones are moved into ``.old``, the new ones into their places, and ``.old`` is removed. If one cannot be moved, the
others are moved back. If a process is killed between the first move and the last, ``.new/complete``, a list of the new
files, remains, and the next command that writes into the folder completes the replacement.
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
        what: the name of such a folder in messages.
        notes: files without results, which are written first.
        target: the folder whose files it will replace, if it is a ``.new`` inside of it.
    """

    path: Path
    marker: str
    owned: tuple[str, ...]
    what: str
    notes: tuple[str, ...] = ()
    target: Path | None = None

    @property
    def place(self) -> Path:
        """The folder of its files when the command is done."""
        return self.path if self.target is None else self.target

    @property
    def new(self) -> OutputFolder:
        """The folder of the new files until they are complete."""
        return replace(self, path=self.path / NEW, target=self.path)

    # ---- before anything is written ----------------------------------------------------------------------

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Refuse a folder that must not be written, or cannot be replaced; writes nothing.

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
        """Whether there is a marker, or a replacement with a marker is being made."""
        return (self.path / self.marker).is_file() or self.interrupted()

    def interrupted(self) -> bool:
        """Whether a process was killed while it was replacing the folder's files."""
        return (self.path / NEW / COMPLETE).is_file()

    def settings(self) -> dict[str, Any]:
        """The settings in the marker; raises `InputError`, naming it, if it cannot be read."""
        return reading.read_yaml(self.path / self.marker)

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to resume a command with other options, naming the first that differs."""
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
        """The folder that ``--resume`` continues, if its options are the same: an unfinished `new`, if there is one."""
        return self.new if self.new.began() else self

    def resumed(self, settings: Mapping[str, Any]) -> OutputFolder:
        """The folder with these options: this one, or its unfinished `new`.

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
        """Refuse files that cannot be moved away at the end, before the work starts."""
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
        """Lock the folder for this command, and `check` it.

        Raises:
            InputError: if another command is using the folder, or `check` refuses it.
        """
        if not is_main():
            yield
            return
        with locks.owned(self.path):
            if overwrite:  # files in subfolders are replaced, too, so no other command may be writing them
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
        """Start or resume the folder; old files are replaced at the end.

        Args:
            settings: the options that repeat the command, for the marker.
            header: the first lines of the marker.
            go_on: the options to continue after Ctrl-C, with {config} (the marker) and {place} (the folder).
            resume: continue existing work, if there is any.
            overwrite: replace existing files, if there are any.
            notes: small files to write before the marker: texts by file name.

        Yields:
            the folder to write: this one, or `new`.

        Raises:
            InputError: if the work to resume has other options.
            Interrupted: on Ctrl-C, with instructions to continue.
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
        """Write ``notes`` and then the marker; from here ``--resume`` can continue, and a signal says so.

        If existing files will be replaced, call this on `new`.
        """
        if self.target is not None and self.path.exists():  # an unfinished one, which was not resumed
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
        """Remove the files of a command that fails before it has any result.

        Args:
            begun: whether this command started the folder; resumed work is not removed.
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
        """Remove the files that `begin` has written."""
        exits.work(False)
        if self.target is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for name in (*self.notes, self.marker):
            (self.path / name).unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove the temporary files of a killed process."""
        for name in self.owned:
            file = self.path / name
            for stale in file.parent.glob(f".{file.name}.*.tmp"):
                stale.unlink(missing_ok=True)

    def forget_processes(self) -> None:
        """Remove the checkpoints of several processes; their number may differ from that of this command."""
        for stale in self.path.glob(f"{_CHECKPOINT}*.rank*"):
            stale.unlink(missing_ok=True)

    def _worth_keeping(self) -> bool:
        results = [name for name in self.owned if name not in (*self.notes, self.marker)]
        there = any(os.path.lexists(self.path / name) for name in results)
        return there or any(self.path.glob(f"{_CHECKPOINT}*"))

    # ---- replacing ---------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Replace the old files by those of a complete `new`; does nothing for another folder.

        Raises:
            InputError: if an old file cannot be moved away; all old files are then restored, and the new ones kept.
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
    """Refuse a file or folder that cannot be made, before work starts; raises `InputError`."""
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise InputError(argument, "a folder that can be written", f"{path} (permission denied)")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(argument, "a path whose parents are folders", f"{parent} (a file)")
    if not path.exists() and not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(argument, "a place that can be written", f"{parent} (permission denied)")

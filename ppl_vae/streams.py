"""Standard output and standard error whose errors do not stop a command, because the results are in files.

A character that the terminal cannot show becomes a question mark. A closed reader (``| head``) is not an error. A full
disk with ``> file`` is an error, which is reported at the end of the command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class Stream:
    """A text stream that records the first error of writing, and then writes nothing.

    Args:
        stream: the underlying stream; None if the process was started without one.

    Attributes:
        error: the first error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write ``text``, with question marks for characters that the encoding lacks."""
        if self._stream is not None and self.error is None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding
                    self._stream.write(text.encode(encoding, "replace").decode(encoding))
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush the underlying stream."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[Stream]:
    """Replace standard output and standard error by `Stream`s inside of the context; yields the former."""
    out, err = sys.stdout, sys.stderr
    mine = Stream(out), Stream(err)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in mine)
    try:
        yield mine[0]
    finally:
        for stream in mine:
            stream.flush()
        sys.stdout, sys.stderr = out, err


def give_up(stream: Stream) -> None:
    """If this stream has failed, prevent an error of Python's own flush at the end of the process."""
    if stream.error is None:
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return  # it has no file behind it

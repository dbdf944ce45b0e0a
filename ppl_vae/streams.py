"""Standard output and standard error that never stop a command: results are in files, and printing is second to them.

A character that the terminal cannot show becomes a question mark. A reader that has gone (``| head``) is not an error.
A full disk under ``> file`` is one, said when the command has done its work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class Stream:
    """A text stream that notes an error of writing and then keeps quiet.

    Args:
        stream: where to write; None where the process was started without.

    Attributes:
        error: the first error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write ``text``, with question marks for what the encoding lacks."""
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
        """Hand on what was written."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[Stream]:
    """Standard output and standard error as `Stream`s inside; yields the former."""
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
    """Let Python's own flush at the end of the process go nowhere, if this stream has failed."""
    if stream.error is None:
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return  # it has no file behind it

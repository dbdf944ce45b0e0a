"""``--compile``, and what a compilation cost."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppl_vae.distributed import is_main
from ppl_vae.errors import check_one_of

_VALUES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
_LOGGER = "ppl_vae.compiled"


def add_option(parser: Any) -> None:
    """``--compile``, to a parser or a group of one."""
    parser.add_argument(
        "--compile",
        type=str | bool,
        default="auto",
        help="capture the program as a tensor graph and compile it: yes, no, or auto, which does it where the job is "
        "long enough to pay for it, by sizes alone; recorded, since the last bits of a number depend on it",
    )


def check(settings: dict[str, Any]) -> None:
    """Refuse another word; put words in the place of a YAML file's booleans, which yes and no are there."""
    given = settings["compile"]
    settings["compile"] = ("yes" if given else "no") if isinstance(given, bool) else given
    check_one_of("--compile", settings["compile"], _VALUES)


def choice(settings: dict[str, Any]) -> bool | str:
    """What the library's ``compile=`` is to be."""
    return _VALUES[settings["compile"]]


class _Tally(logging.Handler):
    """Adds up what ``ppl_vae.compiled`` logs."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.compiled, self.found = 0.0, 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.seconds += getattr(record, "seconds", 0.0)
        if getattr(record, "deed", "") == "compiled":
            self.compiled += 1
            self.found += bool(getattr(record, "found", False))

    def __str__(self) -> str:
        number = "" if self.compiled == 1 else f" {self.compiled} graphs"
        kept = "found on disk" if self.found == self.compiled else "kept on disk for the next run"
        return f"compiled{number} in {self.seconds:.1f} s ({kept})"


@contextmanager
def announced() -> Iterator[None]:
    """Say on standard error, once, what was compiled inside and what it took with the captures; nothing if nothing."""
    logger, tally = logging.getLogger(_LOGGER), _Tally()
    before = logger.level
    logger.addHandler(tally)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(tally)
        logger.setLevel(before)
    if tally.compiled and is_main():  # not after an error, which is one line by itself
        print(tally, file=sys.stderr)

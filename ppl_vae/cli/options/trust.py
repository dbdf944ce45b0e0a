"""``--trust``: whose classes a run's model may name, besides ppl_vae's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_option(parser: ArgumentParser) -> None:
    """``--trust``, for a command that loads a run."""
    parser.add_argument(
        "--trust",
        type=str,
        action="append",
        metavar="PACKAGE",
        help="import this package (or my_file for a file my_file.py) for the classes of your own that the run's model "
        "is made of; importing runs it. May be given more than once. Classes of ppl_vae need none",
    )


def needed(settings: Mapping[str, Any]) -> str:
    """The options that a command needs to load a model of these settings: `` --trust my_file``, or nothing."""
    roles = ("prior", "likelihood", "posterior", "network", "encoder", "decoder")
    packages = dict.fromkeys(_packages(settings[role] for role in roles))
    return "".join(f" --trust {package}" for package in packages)


def _packages(specs: Iterator[Any]) -> Iterator[str]:
    for spec in specs:
        if isinstance(spec, Mapping):
            package = str(spec["class_path"]).split(".")[0]
            if package != "ppl_vae":
                yield package

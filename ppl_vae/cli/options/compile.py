"""``--compile``."""

from __future__ import annotations

from typing import Any

from ppl_vae.errors import check_one_of

_VALUES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


def add_option(parser: Any) -> None:
    """``--compile``, to a parser or a group of one."""
    parser.add_argument(
        "--compile",
        type=str | bool,
        default="auto",
        help="compile the model's densities as a tensor graph: yes, no, or auto (where the sizes say that the job is "
        "long enough to gain from it). Recorded, because the last bits of the results depend on it",
    )


def check(settings: dict[str, Any]) -> None:
    """Refuse another word; put words in the place of a YAML file's booleans, which yes and no are there."""
    given = settings["compile"]
    settings["compile"] = ("yes" if given else "no") if isinstance(given, bool) else given
    check_one_of("--compile", settings["compile"], _VALUES)


def choice(settings: dict[str, Any]) -> bool | str:
    """What the library's ``compile=`` is to be."""
    return _VALUES[settings["compile"]]

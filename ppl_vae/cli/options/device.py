"""Where a command computes: device and threads."""

from __future__ import annotations

from typing import Any

from ppl_vae.errors import InputError, check_positive_int
from ppl_vae.outputs import OutputFolder

_MOST_THREADS = 4096


def add_options(parser: Any) -> None:
    """``--device`` and ``--threads``, to a parser or a group of one."""
    text = "auto (a GPU if there is one), cpu, cuda, or one of several GPUs: cuda:1"
    parser.add_argument("--device", type=str, default="auto", help=text)
    add_threads(parser)


def add_threads(parser: Any) -> None:
    """``--threads``, to a parser or a group of one."""
    text = (
        "number of CPU threads (default: what torch has chosen). Recorded, because the last bits depend on it"
    )
    parser.add_argument("--threads", type=int | None, help=text)


def resolve(settings: dict[str, Any], resumed: OutputFolder | None = None) -> None:
    """Put the device and the number of threads that will be used in the place of "auto" and None.

    Args:
        settings: the options, changed in place.
        resumed: a folder that is to go on, if any: what the machine would choose stays as it was there.

    Raises:
        InputError: if there is no such device, or the number of threads is not positive.
    """
    if resumed is not None and resumed.began():
        before = resumed.latest().settings()
        for name, unset, kind in (("threads", None, int), ("device", "auto", str)):
            if settings[name] == unset and isinstance(before.get(name), kind):
                settings[name] = before[name]
    threads = settings["threads"]
    if threads is not None and check_positive_int("--threads", threads) > _MOST_THREADS:
        raise InputError("--threads", f"at most {_MOST_THREADS}", threads)
    import torch

    given = settings["device"]
    if given == "auto":
        settings["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        try:
            device = torch.device(given)
        except (RuntimeError, TypeError):  # a run folder may say anything
            raise InputError("--device", "auto, cpu, cuda or cuda:N", repr(given)) from None
        if device.type not in ("cpu", "cuda"):
            raise InputError("--device", "auto, cpu, cuda or cuda:N", repr(given))
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and (device.index or 0) >= there:
            raise InputError("--device", f"cpu, or one of the {there} GPUs of this machine", repr(given))
    settings["threads"] = threads or torch.get_num_threads()

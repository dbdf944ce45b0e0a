"""The precision of a run's matrix products: which there are, where they have an effect, and torch's own switches.

* "full": every product in the precision of the program's own numbers, on a GPU too, whatever torch's settings say;
* "bfloat16": factors rounded to 8 significant bits, on a CPU and on a GPU (see `ppl_vae.program.matmul_precision`);
* "tf32": factors rounded to 11 significant bits, by NVIDIA's GPUs from Ampere on. Elsewhere it has no effect, and a
  warning says so. It is a switch of torch's that holds for every product of float32 numbers in the run, those inside
  distributions included.

A lowered product is no noise that more samples would average out: the estimate is that of a slightly different model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppl_vae.compiled.graph.backend import warn_once
from ppl_vae.errors import check_one_of
from ppl_vae.exclusive import Own
from ppl_vae.program.matmul_precision import FULL, lowering

__all__ = ["FULL", "PRECISIONS", "computing", "has_tf32", "precision_on"]

PRECISIONS = (FULL, "bfloat16", "tf32")

_AMPERE = (8, 0)


def precision_on(precision: str, device: torch.device) -> str:
    """The precision that products have on a device if ``precision`` is asked for; warns once where it has no effect.

    Raises:
        InputError: if ``precision`` is not one of `PRECISIONS`.
    """
    check_one_of("precision", precision, PRECISIONS)
    if precision != "tf32" or has_tf32(device):
        return precision
    warn_once("tf32", f'precision="tf32" has no effect on {device.type}: the products are full ones')
    return FULL


@contextmanager
def computing(precision: str, device: torch.device | None = None) -> Iterator[None]:
    """Run programs with products of a precision inside.

    Args:
        precision: what `precision_on` returned.
        device: where; torch's switches are touched for a GPU only.
    """
    with lowering(precision):
        if device is None or device.type != "cuda":
            yield
            return
        with _switched(precision == "tf32"):
            yield


def has_tf32(device: torch.device) -> bool:
    """Whether a device has products of TF32."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """torch's switches for TF32 in products and convolutions, which are as before afterwards."""

    def put(value: tuple[str, bool]) -> None:
        torch.set_float32_matmul_precision(value[0])
        torch.backends.cudnn.allow_tf32 = value[1]

    with Own(lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32), put):
        put(("high" if on else "highest", on))
        yield

"""Precision of a run's matrix products: the names of precisions, their devices, and torch's own settings.

* "full": products in the precision of the program's own numbers, also on a GPU, for any settings of torch;
* "bfloat16": factors rounded to 8 significant bits, on a CPU and on a GPU (see `ppl_vae.program.matmul_precision`);
* "tf32": factors rounded to 11 significant bits, on NVIDIA GPUs from Ampere. On other devices it has no effect, and
  there is a warning. It is a setting of torch for all products of float32 numbers in the run, also inside of
  distributions.

Rounded products are not noise that more samples average out: the estimate is that of a slightly different model.
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
    """The precision of products on a device if the user sets ``precision``; warns once if it has no effect.

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
    """Run programs with products of this precision inside of the context.

    Args:
        precision: the result of `precision_on`.
        device: the device; torch's settings are changed for a GPU only.
    """
    with lowering(precision):
        if device is None or device.type != "cuda":
            yield
            return
        with _switched(precision == "tf32"):
            yield


def has_tf32(device: torch.device) -> bool:
    """Whether a device has TF32 products."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """Set torch's TF32 settings for products and convolutions, and restore them afterwards."""

    def put(value: tuple[str, bool]) -> None:
        torch.set_float32_matmul_precision(value[0])
        torch.backends.cudnn.allow_tf32 = value[1]

    with Own(lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32), put):
        put(("high" if on else "highest", on))
        yield

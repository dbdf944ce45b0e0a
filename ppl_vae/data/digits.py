"""scikit-learn's 1,797 handwritten digits, 8 x 8, in 17 grey levels: real data that need no network."""

from __future__ import annotations

from typing import Any

import torch

from ppl_vae.data.dataset import Dataset, check_flag, random_split
from ppl_vae.data.views import binarise, dequantise
from ppl_vae.errors import InputError, check_one_of, check_seed
from ppl_vae.rng import generator

VIEWS = ("counts", "binary", "dequantised")
MAX_COUNT = 16
SIZES = (1297, 250, 250)


def load_digits(view: str = "binary", flat: bool = True, dynamic: bool = False, seed: int = 0) -> Dataset:
    """The digits of scikit-learn: 1,297 to train, 250 to validate, 250 to test, drawn at random.

    Views of the raw integers x from 0 to 16:

    - ``"counts"``: x itself, for Binomial(16);
    - ``"binary"``: Bernoulli(x / 16) draws, made once from ``seed`` (static binarisation), for Bernoulli;
    - ``"dequantised"``: ``(x + u) / 17``, u uniform, made once from ``seed``, for Gaussian.

    Args:
        view: ``"binary"``, ``"counts"`` or ``"dequantised"``.
        flat: data of shape ``(64,)`` if true, ``(1, 8, 8)`` if false.
        dynamic: with view ``"binary"``, binarise the training data anew in every batch; validation and test data
            stay the same. ``train`` then holds the grey levels x / 16, and ``resample`` is `binarise`.
        seed: of the split and of the draws above. It is part of the data's identity: hold it fixed over all
            runs that are to be compared, whatever their training seeds.

    Raises:
        InputError: for an unknown view, ``dynamic`` in a view that is not binary, or a bad seed.
    """
    check_one_of("view", view, VIEWS)
    check_flag("flat", flat)
    check_seed(seed)
    if check_flag("dynamic", dynamic) and view != "binary":
        raise InputError("dynamic", "False unless view is 'binary'", f"True with view {view!r}")
    from sklearn.datasets import (
        load_digits as sklearn_digits,
    )  # slow to import, and only this data set needs it

    images, digits = sklearn_digits(return_X_y=True)
    raw = torch.as_tensor(images, dtype=torch.float32).reshape(-1, *((64,) if flat else (1, 8, 8)))
    labels = torch.as_tensor(digits, dtype=torch.int64)
    parts: dict[str, Any] = {}
    classes: dict[str, torch.Tensor] = {}
    for split, index in zip(("train", "valid", "test"), random_split(len(raw), SIZES, seed), strict=True):
        stream = generator(seed, f"data/digits/{view}/{split}")
        x = raw[index]
        if view == "dequantised":
            x = dequantise(x, MAX_COUNT + 1, stream)
        elif view == "binary":
            x = x / MAX_COUNT
            x = x if dynamic and split == "train" else binarise(x, stream)
        parts[split], classes[split] = x, labels[index]
    return Dataset(
        name="digits",
        view="dynamic" if dynamic else view,
        values={"counts": "counts", "binary": "binary", "dequantised": "real"}[view],
        total_count=MAX_COUNT if view == "counts" else None,
        resample=binarise if dynamic else None,
        image_shape=(8, 8),
        seed=seed,
        details={"levels": MAX_COUNT + 1},
        labels=classes,
        **parts,
    )

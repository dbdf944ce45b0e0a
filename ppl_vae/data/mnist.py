"""MNIST: the classic IDX files (or any files of that form), and Larochelle's static binarisation of them.

Static and dynamic binarisation are different data: their evidences differ by about 2 nats and are not
compared.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ppl_vae import reading
from ppl_vae.data.dataset import Dataset, check_flag
from ppl_vae.data.download import SHA256, download
from ppl_vae.data.raw import parse_amat, parse_idx, read_bytes
from ppl_vae.data.views import binarise, threshold
from ppl_vae.errors import InputError, check_one_of, check_seed, describe
from ppl_vae.rng import generator

VIEWS = ("dynamic", "static", "threshold", "grey")
SPLITS = ("50k", "60k")
STATIC_SIZES = {"train": 50_000, "valid": 10_000, "test": 10_000}
SIDE = 28


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    view: str = "dynamic",
    split: str = "50k",
    flat: bool = True,
    seed: int = 0,
) -> Dataset:
    """MNIST, 28 x 28 pixels, in one of its views.

    - ``"dynamic"``: ``train`` holds grey levels in [0, 1] and ``resample`` binarises every batch anew;
      ``valid`` and ``test`` are Bernoulli draws made once, from ``seed``;
    - ``"static"``: Larochelle's published bits (no labels, always the 50k split);
    - ``"threshold"``: grey level above 0.5, or not;
    - ``"grey"``: the grey levels x / 255.

    Args:
        data_dir: a folder with the four IDX files, or with Larochelle's three for ``"static"``; each as it is
            or as ``.gz``; by default the IDX files are downloaded once into the user's cache, and their SHA-256 is
            checked. Other data in the same four files (Fashion-MNIST, say) load too; ``describe()["published"]``
            then says False.
        view: ``"dynamic"`` (binarised anew in every batch), ``"static"`` (Larochelle's files), ``"threshold"`` or
            ``"grey"`` (grey levels).
        split: ``"50k"`` keeps the last sixth of the training images, 10,000, to validate; ``"60k"`` trains on
            all, without validation data.
        flat: data of shape ``(784,)`` if true, ``(1, 28, 28)`` if false.
        seed: of the binarisation of ``valid`` and ``test``, and the default of `Dataset.subset`. It is part of the
            data's identity: hold it fixed over all runs that are to be compared, whatever their training seeds.

    Raises:
        InputError: naming the file that is missing, damaged or of another form; or a bad option.
    """
    check_one_of("view", view, VIEWS)
    check_one_of("split", split, SPLITS)
    check_flag("flat", flat)
    check_seed(seed)
    if data_dir is not None and (not isinstance(data_dir, str | os.PathLike) or not Path(data_dir).is_dir()):
        raise InputError("data_dir", "a folder that exists", describe(data_dir))
    if view == "static":
        return _static(data_dir, split, flat, seed)

    folder = download() if data_dir is None else Path(data_dir)
    train_images, train_classes, published = _read_pair(folder, "train")
    test_images, test_classes, test_published = _read_pair(folder, "t10k")
    side = train_images.shape[1:]
    if test_images.shape[1:] != side:
        raise InputError(
            str(folder), f"test images of {side} pixels, as in training", f"{test_images.shape[1:]}"
        )
    held_out = len(train_images) // 6 if split == "50k" else 0
    if split == "50k" and held_out == 0:
        raise InputError(str(folder), "at least 6 training images", len(train_images))
    cut = len(train_images) - held_out

    def seen(images: npt.NDArray[np.uint8], name: str) -> torch.Tensor:
        grey = images.reshape(len(images), *((-1,) if flat else (1, *side))).astype(np.float32)
        grey /= 255
        x = torch.from_numpy(grey)
        if view == "threshold":
            return threshold(x)
        if view == "dynamic" and name != "train":
            return binarise(x, generator(seed, f"data/mnist/{name}"))
        return x

    dynamic = view == "dynamic"
    return Dataset(
        name="mnist",
        view=view,
        values="grey" if view == "grey" else "binary",
        train=seen(train_images[:cut], "train"),
        valid=seen(train_images[cut:], "valid") if held_out else None,
        test=seen(test_images, "test"),
        labels={"train": train_classes[:cut], "test": test_classes}
        | ({"valid": train_classes[cut:]} if held_out else {}),
        resample=binarise if dynamic else None,
        image_shape=side,
        seed=seed,
        details={"split": split, "published": published and test_published},
    )


def _read_pair(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], torch.Tensor, bool]:
    """Images ``(N, H, W)``, labels ``(N,)``, and whether both are the published ones."""
    arrays, published = [], True
    for name, ndim in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1)):
        path = _find(folder, (name, name.replace("-idx", ".idx")))
        content = read_bytes(path, "an MNIST file in IDX format")
        reading.check_fits(4 * len(content), str(path), "images as float32")
        arrays.append(parse_idx(content, ndim, str(path)))
        published = published and hashlib.sha256(content).hexdigest() == SHA256[name]
    images, classes = arrays
    if len(images) != len(classes):
        expected = f"as many labels as images ({len(images)})"
        raise InputError(str(path), expected, len(classes))
    return images, torch.from_numpy(classes.astype(np.int64)), published


def _find(folder: Path, stems: tuple[str, ...]) -> Path:
    names = [stem + suffix for stem in stems for suffix in (".gz", "")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(str(folder / stems[0]), "one of the files " + ", ".join(names), "none of them")


def _static(data_dir: str | os.PathLike[str] | None, split: str, flat: bool, seed: int) -> Dataset:
    if data_dir is None:
        expected = (
            "for static binarisation, a folder with Larochelle's binarized_mnist_{train,valid,test}.amat[.gz]"
        )
        raise InputError("data_dir", expected, "None (they are not downloaded)")
    if split != "50k":
        raise InputError("split", "'50k' for static binarisation, which has no other", describe(split))
    parts: dict[str, Any] = {}
    for part, rows in STATIC_SIZES.items():
        path = _find(Path(data_dir), (f"binarized_mnist_{part}.amat",))
        bits = parse_amat(read_bytes(path, "a text file of 784 numbers 0 or 1 a line"), str(path))
        if len(bits) != rows:
            raise InputError(str(path), f"{rows} lines", len(bits))
        parts[part] = torch.from_numpy(bits if flat else bits.reshape(-1, 1, SIDE, SIDE))
    return Dataset(
        name="mnist",
        view="static",
        values="binary",
        image_shape=(SIDE, SIDE),
        seed=seed,
        details={"split": split},
        **parts,
    )

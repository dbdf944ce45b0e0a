"""Data set: three fixed splits with a description of their values and origin."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ppl_vae.errors import InputError, check_one_of, check_positive_int, check_seed, describe
from ppl_vae.likelihoods.summary import Summary
from ppl_vae.rng import generator

SPLITS = ("train", "valid", "test")
VALUES = ("binary", "counts", "grey", "real")


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A data set: a float32 tensor ``(N, *shape)`` for each split, with optional int64 labels ``(N,)``.

    Held-out splits are fixed numbers, so that two models are compared on the same bits. Only ``train`` may be redrawn.

    Args:
        name: the data set, e.g. ``"mnist"``.
        view: the transformation of its raw numbers, e.g. ``"dynamic"``.
        values: the values for the model: ``"binary"`` (0 or 1), ``"counts"`` (integers from 0), ``"grey"`` (grey
            levels in [0, 1]) or ``"real"``.
        train: training data. With ``resample`` these are the *input* of that transform, not the model's data.
        valid: validation data; None if there are none.
        test: test data.
        labels: for each split that has them, int64 classes of its data, ``(N,)``.
        total_count: the largest possible count (16 for the digits), if it is known.
        resample: ``(batch, generator) -> batch``, which is applied to each training batch (dynamic
            binarisation). None if the training data are static.
        image_shape: the image shape of a datum for plots, ``(H, W)`` or ``(C, H, W)``; None if it is not an image.
        seed: the seed of the data set's own random draws, and the default of `subset`.
        details: further facts to record, plain JSON.

    Raises:
        InputError: if the tensors' types or shapes do not fit together.
    """

    name: str
    view: str
    values: str
    train: torch.Tensor
    valid: torch.Tensor | None
    test: torch.Tensor
    labels: Mapping[str, torch.Tensor] = field(default_factory=dict)
    total_count: int | None = None
    resample: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    image_shape: tuple[int, ...] | None = None
    seed: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_one_of("values", self.values, VALUES)
        check_seed(self.seed)
        for name in self.labels:
            check_one_of("labels", name, SPLITS)
        for split in SPLITS:
            x, labels = self._parts(split)
            if x is None and split == "valid":
                if labels is not None:
                    raise InputError("labels", "none of valid, which is None", describe(labels))
                continue
            good = isinstance(x, torch.Tensor) and x.dtype == torch.float32 and x.dim() >= 2 and len(x) > 0
            if not good or x is None or x.shape[1:] != self.shape:
                raise InputError(
                    split, f"a float32 tensor (N, {', '.join(map(str, self.shape))})", describe(x)
                )
            if labels is not None and (labels.dtype != torch.int64 or labels.shape != x.shape[:1]):
                raise InputError(f"labels of {split}", f"an int64 tensor ({len(x)},)", describe(labels))
        if self.image_shape is not None:
            check_image_shape(self.image_shape, self.shape.numel())

    def __repr__(self) -> str:
        counts = "/".join(str(n) for n in self.sizes.values())
        kind = f"{self.name!r}, view={self.view!r}, values={self.values!r}"
        return f"Dataset({kind}, {counts} data of shape {tuple(self.shape)})"

    @property
    def train_labels(self) -> torch.Tensor | None:
        """The classes of the training data; None if there are none."""
        return self.labels.get("train")

    @property
    def valid_labels(self) -> torch.Tensor | None:
        """The classes of the validation data; None if there are none."""
        return self.labels.get("valid")

    @property
    def test_labels(self) -> torch.Tensor | None:
        """The classes of the test data; None if there are none."""
        return self.labels.get("test")

    @property
    def shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.train.shape[1:]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of data in each split."""
        return {split: 0 if (x := self._parts(split)[0]) is None else len(x) for split in SPLITS}

    @property
    def levels(self) -> int | None:
        """How many values the integers had that the data were dequantised from; None for other data."""
        levels = self.details.get("levels")
        return levels if self.view == "dequantised" and isinstance(levels, int) else None

    def subset(self, split: str, n: int, seed: int | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``n`` data of a split, drawn without replacement, as a model sees them, and their labels.

        Never the first n: files can be sorted (Larochelle's MNIST test file begins with a thousand zeros).
        Training data that are redrawn every batch come out redrawn once, so they lie on the likelihood's
        support.

        Args:
            split: ``"train"``, ``"valid"`` or ``"test"``.
            n: how many, from 1 to the size of the split.
            seed: of the draw; None takes the data set's own.

        Returns:
            Data ``(n, *shape)`` and labels ``(n,)``, or None where the split has none.

        Raises:
            InputError: for an unknown or empty split, or an ``n`` it does not hold.
        """
        x, labels = self._parts(check_one_of("split", split, SPLITS))
        seed = self.seed if seed is None else check_seed(seed)
        if x is None:
            raise InputError("split", f"a split that {self.name} has in this view", describe(split))
        if check_positive_int("n", n) > len(x):
            raise InputError("n", f"at most the {len(x)} data of {split}", n)
        chosen = torch.randperm(len(x), generator=generator(seed, f"data/subset/{split}"))[:n]
        out = x[chosen]
        if split == "train" and self.resample is not None:
            out = self.resample(out, generator(seed, "data/subset/resample"))
        return out, None if labels is None else labels[chosen]

    def select(
        self, split: str, n: int | None = None, seed: int | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Data of a split as a model sees them, all of them in order or ``n`` at random; and which they are.

        Args:
            split: ``"train"``, ``"valid"`` or ``"test"``.
            n: how many, as for `subset`; None for all.
            seed: of the draw; None takes the data set's own.

        Returns:
            Data ``(n, *shape)``, and what identifies them, as plain JSON.

        Raises:
            InputError: as `subset`.
        """
        check_one_of("split", split, SPLITS)
        if n is None and (split != "train" or self.resample is None) and self.sizes[split]:
            x: torch.Tensor = getattr(self, split)
        else:
            x, _ = self.subset(split, self.sizes[split] if n is None else n, seed)
        about = {
            "split": split,
            "num_data": len(x),
            "subset": n,
            "subset_seed": None if n is None else self.seed if seed is None else seed,
            "sha256": sha256(x),
            "data": self.describe(),
        }
        return x, about

    def summary(self) -> Summary | None:
        """What values a model sees, for `ppl_vae.likelihoods.Likelihood.suits`; None for grey levels."""
        if self.values == "binary":
            return Summary(0.0, 1.0, finite=True, integers=True)
        if self.values == "counts":
            most = self.total_count or max(int(x.max()) for _, x in self._splits() if x is not None)
            return Summary(0.0, most, finite=True, integers=True)
        return Summary(-math.inf, math.inf, finite=True, integers=False) if self.values == "real" else None

    def describe(self) -> dict[str, Any]:
        """What identifies the data, as plain JSON: recorded in run folders, compared before evidences are."""
        return {
            "name": self.name,
            "view": self.view,
            "values": self.values,
            "total_count": self.total_count,
            "seed": self.seed,
            "sizes": self.sizes,
            "shape": list(self.shape),
            "image_shape": None if self.image_shape is None else list(self.image_shape),
            "resampled": self.resample is not None,
            **{f"{split}_sha256": None if x is None else sha256(x) for split, x in self._splits()},
            **self.details,
        }

    def _splits(self) -> list[tuple[str, torch.Tensor | None]]:
        return [(split, self._parts(split)[0]) for split in SPLITS]

    def _parts(self, split: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return getattr(self, split), self.labels.get(split)


def sha256(x: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes, in row-major order and the machine's byte order."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().data).hexdigest()


def random_split(n: int, sizes: Sequence[int], seed: int) -> list[torch.Tensor]:
    """Disjoint random index sets of the given ``sizes``, which add up to ``n``."""
    return list(torch.randperm(n, generator=generator(seed, "data/split")).split(list(sizes)))


def check_image_shape(image_shape: Any, numel: int) -> tuple[int, ...]:
    """``image_shape`` as a tuple of positive integers whose product is ``numel``; `InputError` otherwise."""
    sizes = tuple(image_shape) if isinstance(image_shape, Sequence) else ()
    good = len(sizes) >= 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes)
    if not good or torch.Size(sizes).numel() != numel:
        raise InputError(
            "image_shape", f"at least two positive integers with product {numel}", describe(image_shape)
        )
    return sizes


def check_flag(argument: str, value: Any) -> bool:
    """``value`` if it is True or False; raises `InputError` otherwise."""
    if not isinstance(value, bool):
        raise InputError(argument, "True or False", describe(value))
    return value

"""Grids of images, each drawn as one image on a common scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.errors import InputError, check_positive_int, check_seed, describe
from ppl_vae.plots import style

Shape = tuple[int, ...]
Range = tuple[float, float]
_SPLIT = 3  # a gap between pairs is so many times a gap between images


@rc_context(style.STYLE)
def image_grid(
    images: Tensor,
    image_shape: Shape,
    *,
    columns: int | None = None,
    title: str | None = None,
    value_range: Range | None = None,
) -> Figure:
    """Images in rows, from left to right and from top to bottom.

    Args:
        images: ``(N, D)`` or ``(N, *image_shape)``, pixel values.
        image_shape: (H, W) or (C, H, W), C = 1 (grey) or 3 (red, green, blue).
        columns: the number of images in a row; about sqrt(N) by default.
        title: the title, instead of the default with N.
        value_range: the values drawn black and white; [0, 1] if it contains all values, otherwise their range.

    Raises:
        InputError: if an argument does not fit.
    """
    pixels = as_images("images", images, image_shape)
    scale = Scale.of([pixels], value_range)
    columns = _default_columns(len(pixels)) if columns is None else check_positive_int("columns", columns)
    columns = min(columns, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    width, height = _size(rows, columns, pixels)
    figure = style.new_figure(width, height)
    axes = figure.add_subplot()
    tile(axes, pixels, columns, scale)
    axes.set_xlabel(scale.caption(), fontsize=style.SMALL)
    style.heading(figure, title or f"N = {len(pixels)} image{'s' * (len(pixels) > 1)}")
    return figure


@rc_context(style.STYLE)
def prior_samples(
    draws: Tensor,
    means: Tensor,
    image_shape: Shape,
    *,
    seed: int | None = None,
    columns: int | None = None,
    title: str | None = None,
    value_range: Range | None = None,
) -> Figure:
    """Samples of the model: pixels x ~ p(x|z) and, for the same z ~ p(z), the decoder's means E[x|z].

    Args:
        draws: ``(N, D)`` or ``(N, *image_shape)``, from ``ppl_vae.sample(vae, N, seed=seed)``.
        means: the same number, from ``ppl_vae.sample(vae, N, seed=seed, mean=True)``.
        image_shape: (H, W) or (C, H, W), C = 1 or 3.
        seed: the seed of the samples, for the title.
        columns: the number of images in a row of each of the two grids.
        title: the title, instead of the default with N and the seed.
        value_range: as in `image_grid`; the same for both grids.

    Raises:
        InputError: if an argument does not fit.
    """
    sampled, decoded = as_images("draws", draws, image_shape), as_images("means", means, image_shape)
    _check_pairs("means", sampled, decoded)
    if seed is not None:
        check_seed(seed)
    scale = Scale.of([sampled, decoded], value_range)
    N = len(sampled)
    columns = min(_default_columns(N) if columns is None else check_positive_int("columns", columns), N)
    width, height = _size(math.ceil(N / columns), columns, sampled, panels=2)
    figure = style.new_figure(width, height)
    names = ("sampled pixels, x ~ p(x|z)", "decoder means, E[x|z], same z")
    for axes, pixels, name in zip(figure.subplots(1, 2), (sampled, decoded), names, strict=True):
        tile(axes, pixels, columns, scale)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(scale.caption(), fontsize=style.SMALL)
    stated = f"N = {N}" + ("" if seed is None else f", seed {seed}")
    style.heading(figure, title or f"Samples from the model: {stated}")
    return figure


@rc_context(style.STYLE)
def reconstructions(
    x: Tensor,
    reconstructed: Tensor,
    image_shape: Shape,
    *,
    columns: int | None = None,
    title: str | None = None,
    value_range: Range | None = None,
) -> Figure:
    """Data, and below each its reconstruction.

    Args:
        x: ``(N, D)`` or ``(N, *image_shape)``, the data.
        reconstructed: the same number, from ``ppl_vae.reconstruct(vae, x)``.
        image_shape: (H, W) or (C, H, W), C = 1 or 3.
        columns: the number of pairs in a row; at most 10 by default.
        title: the title, instead of the default with N.
        value_range: as in `image_grid`; the same for data and reconstructions.

    Raises:
        InputError: if an argument does not fit.
    """
    data, decoded = as_images("x", x, image_shape), as_images("reconstructed", reconstructed, image_shape)
    _check_pairs("reconstructed", data, decoded)
    scale = Scale.of([data, decoded], value_range)
    N = len(data)
    columns = min(10 if columns is None else check_positive_int("columns", columns), N)
    blocks = math.ceil(N / columns)
    # Rows by turns: data, reconstructions, data, ...; what the last pair of rows lacks stays empty.
    turns = np.full((blocks, 2, columns, *data.shape[1:]), np.nan)
    for index in range(N):
        turns[index // columns, :, index % columns] = data[index], decoded[index]
    width, height = _size(2 * blocks, columns, data, side=0.9)
    figure = style.new_figure(width, height)
    axes = figure.add_subplot()
    rows, _ = tile(axes, turns.reshape(-1, *data.shape[1:]), columns, scale, group=2)
    axes.set_yticks(rows, ["data", "E[x|z]"] * blocks)
    axes.tick_params(axis="y", length=0, labelsize=style.SMALL)
    axes.set_xlabel(scale.caption(), fontsize=style.SMALL)
    style.heading(figure, title or f"Data and reconstructions: N = {N}")
    return figure


@rc_context(style.STYLE)
def interpolation(
    paths: Tensor, image_shape: Shape, *, title: str | None = None, value_range: Range | None = None
) -> Figure:
    """Decoded points on straight lines between the posterior means of two data, one line in each row.

    Args:
        paths: ``(P, steps, D)`` or ``(P, steps, *image_shape)``, each from ``ppl_vae.interpolate``. Both ends are
            decoded too: they are reconstructions, not data.
        image_shape: (H, W) or (C, H, W), C = 1 or 3.
        title: the title, instead of the default with P and the steps.
        value_range: as in `image_grid`; the same for all.

    Raises:
        InputError: if an argument does not fit.
    """
    if not isinstance(paths, Tensor) or paths.ndim < 3 or paths.shape[1] < 2:
        raise InputError("paths", "a tensor (paths, steps, *shape) of at least 2 steps", describe(paths))
    pixels = as_images("paths", paths.flatten(0, 1), image_shape)
    P, steps = paths.shape[:2]
    scale = Scale.of([pixels], value_range)
    width, height = _size(P, steps, pixels, side=0.9)
    figure = style.new_figure(width, height + 0.65)
    axes = figure.add_subplot()
    rows, columns = tile(axes, pixels, steps, scale)
    axes.set_yticks(rows, [f"path {p + 1}" for p in range(P)])
    axes.set_xticks([columns[0], columns[-1]], ["decoded\nfirst end", "decoded\nlast end"])
    axes.tick_params(length=0, labelsize=style.SMALL)
    axes.set_xlabel(f"position between two posterior means\n{scale.caption()}", fontsize=style.SMALL)
    style.heading(
        figure, title or f"Interpolation in the latent space: {P} path{'s' * (P > 1)} of {steps} steps"
    )
    return figure


@dataclass(frozen=True)
class Scale:
    """The pixel values that are drawn black and white.

    Attributes:
        low: black, or no light.
        high: white, or full light.
        colour: whether the images are red, green and blue.
    """

    low: float
    high: float
    colour: bool

    @classmethod
    def of(cls, groups: list[NDArray[np.float64]], value_range: Range | None) -> Scale:
        """One scale for all images of ``groups``: ``value_range``, or [0, 1], or the range of the values."""
        colour = groups[0].ndim == 4
        if value_range is not None:
            good = isinstance(value_range, tuple) and len(value_range) == 2
            if not good or not all(isinstance(v, int | float) and math.isfinite(v) for v in value_range):
                raise InputError("value_range", "two finite numbers (low, high)", describe(value_range))
            if not value_range[0] < value_range[1]:
                raise InputError("value_range", "low < high", describe(value_range))
            return cls(float(value_range[0]), float(value_range[1]), colour)
        low, high = min(float(g.min()) for g in groups), max(float(g.max()) for g in groups)
        if low >= 0 and high <= 1:
            return cls(0.0, 1.0, colour)
        low = min(low, 0.0) if high > 0 else low
        return cls(low, high if high > low else low + 1, colour)

    def caption(self) -> str:
        """The scale in words."""
        low, high = f"{self.low:.4g}".replace("-", "−"), f"{self.high:.4g}".replace("-", "−")
        return f"{'each channel' if self.colour else 'pixel value'}: {low} black, {high} white"


def as_images(argument: str, images: Tensor, image_shape: Shape) -> NDArray[np.float64]:
    """Images as ``(N, H, W)`` if grey and ``(N, H, W, 3)`` if not.

    Raises:
        InputError: naming ``image_shape``, or ``argument`` if it has no images, the wrong size, or a value that
            is not finite.
    """
    good = isinstance(image_shape, tuple | list) and len(image_shape) in (2, 3)
    if not good or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in image_shape):
        raise InputError("image_shape", "(H, W) or (C, H, W) of positive integers", describe(image_shape))
    shape = tuple(image_shape)
    if len(shape) == 3 and shape[0] not in (1, 3):
        raise InputError("image_shape", "(C, H, W) with C = 1 or 3", describe(shape))
    flat, plain = (math.prod(shape),), shape[-2:]
    accepted = {flat, shape} if shape[0] == 3 and len(shape) == 3 else {flat, plain, (1, *plain)}
    if not isinstance(images, Tensor) or tuple(images.shape[1:]) not in accepted or not len(images):
        raise InputError(
            argument, f"a tensor (N, {flat[0]}) or (N, {', '.join(map(str, shape))})", describe(images)
        )
    pixels: NDArray[np.float64] = images.detach().cpu().double().numpy()
    if not np.isfinite(pixels).all():
        raise InputError(argument, "finite pixel values", f"{int((~np.isfinite(pixels)).sum())} that are not")
    if len(shape) == 3 and shape[0] == 3:
        return pixels.reshape(-1, *shape).transpose(0, 2, 3, 1)
    return pixels.reshape(-1, *plain)


def tile(
    axes: Axes,
    pixels: NDArray[np.float64],
    columns: int,
    scale: Scale,
    *,
    group: int = 0,
    border: bool = True,
    extent: tuple[float, float, float, float] | None = None,
) -> tuple[list[float], list[float]]:
    """Draw images row by row as one picture.

    Args:
        axes: the axes, which will have no ticks and no frame.
        pixels: ``(N, H, W)`` or ``(N, H, W, 3)``; images of NaN stay empty.
        columns: the number of images in a row.
        scale: the values that are drawn black and white.
        group: the number of rows after which there is more space; 0 for none.
        border: whether there is space between images.
        extent: left, right, bottom and top of the image, instead of pixels.

    Returns:
        the middle of each row and of each column, in pixels.
    """
    N, H, W = pixels.shape[:3]
    rows = math.ceil(N / columns)
    gap = max(1, round(min(H, W) / 14)) if border else 0
    tops = [r * (H + gap) + (r // group * gap * _SPLIT if group else 0) for r in range(rows)]
    lefts = [c * (W + gap) for c in range(columns)]
    picture = np.full((tops[-1] + H, lefts[-1] + W, *pixels.shape[3:]), np.nan)
    for index, image in enumerate(pixels):
        top, left = tops[index // columns], lefts[index % columns]
        picture[top : top + H, left : left + W] = image
    if scale.colour:
        light = ((picture - scale.low) / (scale.high - scale.low)).clip(0, 1)
        seen = np.isfinite(light).all(axis=-1, keepdims=True)
        picture = np.concatenate([np.where(seen, light, 1.0), seen], axis=-1)
        axes.imshow(picture, interpolation="nearest", extent=extent)
    else:
        grey = colormaps["gray"].with_extremes(bad="white")
        shown = np.ma.masked_invalid(picture)
        axes.imshow(shown, cmap=grey, vmin=scale.low, vmax=scale.high, interpolation="nearest", extent=extent)
    if extent is None:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        # A frame: a white pixel at the rim is not to run into the paper.
        corners = [(lefts[n % columns] - 0.5, tops[n // columns] - 0.5) for n in range(N)]
        full = [corner for corner, image in zip(corners, pixels, strict=True) if np.isfinite(image).any()]
        frames = PatchCollection([Rectangle(corner, W, H) for corner in full])
        frames.set(facecolor="none", edgecolor=style.GREY, linewidth=0.6)
        axes.add_collection(frames)
        axes.autoscale_view()
    return [t + (H - 1) / 2 for t in tops], [left + (W - 1) / 2 for left in lefts]


def _check_pairs(argument: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> None:
    if len(first) != len(second):
        raise InputError(argument, f"{len(first)} images, one for each", len(second))


def _default_columns(N: int) -> int:
    return N if N <= 4 else math.ceil(math.sqrt(N))


def _size(
    rows: int, columns: int, pixels: NDArray[np.float64], *, side: float = 0.4, panels: int = 1
) -> tuple[float, float]:
    """Width and height in inches of a figure that is filled by ``panels`` grids of images."""
    H, W = pixels.shape[1:3]
    cell = min(1.1, 6.4 / panels / columns, 7.0 / (rows * H / W))
    width = max(panels * (columns * cell + 0.15) + side, 4.2 if panels == 1 else 5.6)
    return width, rows * cell * H / W + (1.2 if panels > 1 else 0.95)

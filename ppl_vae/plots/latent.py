"""Two-dimensional latent space: the posterior means of data, and the decoded latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.errors import InputError, check_positive_int, describe
from ppl_vae.plots import style
from ppl_vae.plots.images import Range, Scale, Shape, as_images, tile

Extent = tuple[float, float, float, float]
_MOST_LABELS = len(style.CLASSES) * 5
_RASTER = 5000  # points from which on a vector file would be too heavy


def latent_points(extent: Extent, steps: int) -> Tensor:
    """The latents to decode for `latent_plane`: the centres of steps x steps cells that cover ``extent``.

    Args:
        extent: left, right, bottom and top.
        steps: G, cells in a row.

    Returns:
        ``(G, G, 2)`` float32: ``[i, j]`` is in row i from the bottom and column j from the left.
    """
    left, right, bottom, top = _check_extent(extent)
    check_positive_int("steps", steps)
    centres = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    across, up = left + centres * (right - left), bottom + centres * (top - bottom)
    return torch.stack([across.expand(steps, -1), up[:, None].expand(-1, steps)], dim=-1).float()


class Plane(NamedTuple):
    """A plane of the latent space, with the means of data in it.

    Attributes:
        means: ``(N, 2)`` the data's means in the plane.
        origin: ``(dim,)`` the latent at its origin.
        axes: ``(2, dim)`` orthonormal.
        extent: left, right, bottom and top that include all means.
        title: a description of the plane, if it is not the whole space.
    """

    means: Tensor
    origin: Tensor
    axes: Tensor
    extent: Extent
    title: str | None

    def points(self, steps: int) -> Tensor:
        """``(steps, steps, dim)`` the latents at the `latent_points` of the plane."""
        return self.origin + latent_points(self.extent, steps) @ self.axes


def principal_plane(means: Tensor) -> Plane:
    """The plane of the first two principal components of the means of q(z|x); with two dimensions, the whole space.

    Args:
        means: ``(N, dim)``, dim at least 2, from ``ppl_vae.generate.latent_means``.
    """
    dim, title = means.shape[1], None
    if dim == 2:
        flat, origin, axes = means, means.new_zeros(2), torch.eye(2)
    else:
        origin = means.mean(0)
        _, scales, basis = torch.linalg.svd(means - origin, full_matrices=False)
        axes = basis[:2]
        flat = (means - origin) @ axes.T
        share = float((scales[:2] ** 2).sum() / (scales**2).sum().clamp(min=1e-12))
        title = (
            f"Latent plane: the first two of {dim} principal components of the posterior means "
            f"({share:.0%} of their variance), N = {len(means)}"
        )
    reach = max(1.0, 1.05 * float(flat.abs().max()))
    return Plane(flat, origin, axes, (-reach, reach, -reach, reach), title)


@rc_context(style.STYLE)
def latent_plane(
    means: Tensor,
    labels: Tensor | Sequence[int] | Sequence[str] | None,
    grid: Tensor,
    extent: Extent,
    image_shape: Shape,
    *,
    title: str | None = None,
    value_range: Range | None = None,
) -> Figure:
    """Posterior means by class, beside the decoded images of the same part of the latent plane.

    Args:
        means: ``(N, 2)`` the means of q(z|x), from ``ppl_vae.generate.latent_means``.
        labels: a class for each datum, at most 50 different ones, or None.
        grid: ``(G, G, D)`` or ``(G, G, *image_shape)`` decoded at ``latent_points(extent, G)``: the first index
            goes from the bottom to the top, the second from left to right.
        extent: left, right, bottom and top of both panels.
        image_shape: (H, W) or (C, H, W), C = 1 or 3.
        title: the title, instead of the default with N and G.
        value_range: as in `ppl_vae.plots.image_grid`.

    Raises:
        InputError: if an argument does not fit.
    """
    left, right, bottom, top = _check_extent(extent)
    if not isinstance(means, Tensor) or means.ndim != 2 or means.shape[1] != 2 or not len(means):
        raise InputError("means", "a tensor (N, 2)", describe(means))
    if not isinstance(grid, Tensor) or grid.ndim < 3 or grid.shape[0] != grid.shape[1]:
        raise InputError("grid", "a tensor (G, G, *shape)", describe(grid))
    N, G = len(means), len(grid)
    # Pictures are filled from the top.
    pixels = as_images("grid", grid.flip(0).flatten(0, 1), image_shape)
    classes = _classes(labels, N)

    names = [name if len(name) <= 30 else name[:29] + "…" for name in classes or {}]
    # As many columns as names of this length fit into.
    columns = min(len(names), 10, int(8.8 / (0.5 + 0.085 * max(map(len, names), default=1))))
    rows = math.ceil(len(names) / columns) if names else 0
    figure = style.new_figure(9.2, 5.0 + 0.15 * (rows > 0) + 0.22 * rows)
    scatter, decoded = figure.subplots(1, 2)
    points = means.detach().cpu().double().numpy()
    options = {
        "s": 14 if N <= 2000 else 5,
        "alpha": 0.8,
        "linewidths": 0.3 if N <= 2000 else 0.0,
        "edgecolors": "#202020",
        "rasterized": N > _RASTER,
    }
    if classes is None:
        scatter.scatter(*points.T, color=style.BLUE, **options)
    for index, (name, chosen) in enumerate(zip(names, (classes or {}).values(), strict=True)):
        marker = style.MARKERS[(index + index // len(style.CLASSES)) % 5]
        colour = style.CLASSES[index % len(style.CLASSES)]
        scatter.scatter(*points[chosen].T, color=colour, marker=marker, label=name, **options)
    inside = (
        (points[:, 0] >= left) & (points[:, 0] <= right) & (points[:, 1] >= bottom) & (points[:, 1] <= top)
    )
    outside = N - int(inside.sum())
    note = f"; {outside} outside the axes" if outside else ""
    scatter.set_title(f"posterior means{' by class' if classes else ''}{note}", fontsize=10)
    scale = Scale.of([pixels], value_range)
    tile(decoded, pixels, G, scale, border=False, extent=(left, right, bottom, top))
    for part in np.arange(1, G) / G:
        decoded.axvline(left + part * (right - left), color=style.GREY, linewidth=0.5)
        decoded.axhline(bottom + part * (top - bottom), color=style.GREY, linewidth=0.5)
    decoded.set_title(f"decoder means E[x|z]; {scale.caption()}", fontsize=10)
    for axes in (scatter, decoded):
        _frame(axes, left, right, bottom, top)
    if classes:
        figure.legend(loc="outside lower center", ncols=columns, markerscale=1.6, title="class")
    style.heading(figure, title or f"Latent plane: N = {N} data, {G} × {G} decoded points")
    return figure


def _frame(axes: Axes, left: float, right: float, bottom: float, top: float) -> None:
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect((right - left) / (top - bottom))
    axes.set_xlabel("z₁ (no unit)")
    axes.set_ylabel("z₂ (no unit)")
    style.finish(axes)


def _check_extent(extent: Extent) -> Extent:
    good = isinstance(extent, tuple | list) and len(extent) == 4
    if not good or not all(isinstance(v, int | float) and math.isfinite(v) for v in extent):
        raise InputError("extent", "four finite numbers (left, right, bottom, top)", describe(extent))
    left, right, bottom, top = map(float, extent)
    if not (left < right and bottom < top):
        raise InputError("extent", "left < right and bottom < top", describe(extent))
    return left, right, bottom, top


def _classes(
    labels: Tensor | Sequence[int] | Sequence[str] | None, N: int
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] | None:
    """Which data belong to each class, in the order of the labels; None without labels."""
    if labels is None:
        return None
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.shape != (N,) or values.dtype.kind not in "iuUb":
        raise InputError("labels", f"{N} integers or names, or None", describe(labels))
    names = np.unique(values)
    if len(names) > _MOST_LABELS:
        raise InputError("labels", f"at most {_MOST_LABELS} different ones", len(names))
    return {str(name): values == name for name in names}

"""The figures of a run folder, and files of figures that are named when they cannot be written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ppl_vae import generate, plots
from ppl_vae.errors import InputError, relabel
from ppl_vae.runs import data
from ppl_vae.runs.folder import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppl_vae.data import Dataset
    from ppl_vae.history import History
    from ppl_vae.vae import VAE

_POINTS = 5000  # data drawn in the latent plane
_SIDE = 15  # decoded images a side of the latent plane


def draw_run(vae: VAE, dataset: Dataset, history: History, path: Path, *, seed: int) -> None:
    """The figures of a run folder; a picture that the data do not allow is left out, with a line that says so."""
    folder = path / FIGURES
    _try(folder / "training.png", lambda: plots.training_curve(history))
    x, _ = data.split(dataset, "test", min(_POINTS, dataset.sizes["test"]), None)
    x = x.to(next(vae.parameters()).device)
    labels = dataset.subset("test", len(x), None)[1]
    shape = dataset.image_shape
    if shape is not None:
        draws, means = generate.sample(vae, 64, seed=seed), generate.sample(vae, 64, seed=seed, mean=True)
        _try(folder / "samples.png", lambda: plots.prior_samples(draws.cpu(), means.cpu(), shape, seed=seed))
        some = x[:20]
        again = generate.reconstruct(vae, some)
        _try(folder / "reconstructions.png", lambda: plots.reconstructions(some.cpu(), again.cpu(), shape))
        pairs = min(6, len(x) // 2)
        if pairs:
            _try(
                folder / "interpolation.png",
                lambda: plots.interpolation(paths(vae, x, pairs, 9).cpu(), shape),
            )
        if vae.latent_dim > 1 and len(x) > 1:
            _try(folder / "latent_plane.png", lambda: _latent(vae, x, labels, shape))


def _latent(vae: VAE, x: torch.Tensor, labels: torch.Tensor | None, shape: tuple[int, ...]) -> Figure:
    """The latent plane; of more than two dimensions, the plane of the posterior means' principal components."""
    means = generate.latent_means(vae, x).cpu()
    if vae.latent_dim == 2:
        flat, origin, axes = means, means.new_zeros(2), torch.eye(2)
        title = None
    else:
        origin = means.mean(0)
        _, scales, basis = torch.linalg.svd(means - origin, full_matrices=False)
        axes = basis[:2]
        flat = (means - origin) @ axes.T
        share = float((scales[:2] ** 2).sum() / (scales**2).sum().clamp(min=1e-12))
        title = (
            f"Latent plane: the first two of {vae.latent_dim} principal components of the posterior means "
            f"({share:.0%} of their variance), N = {len(means)}"
        )
    reach = max(1.0, 1.05 * float(flat.abs().max()))
    extent = (-reach, reach, -reach, reach)
    z = (origin + plots.latent_points(extent, _SIDE) @ axes).to(next(vae.parameters()))
    return plots.latent_plane(flat, labels, generate.decode_means(vae, z).cpu(), extent, shape, title=title)


def save(figure: Figure, path: Path) -> None:
    """Write a figure to ``path``; raises `InputError` naming the file."""
    try:
        plots.save(figure, path)
    except InputError as error:
        raise relabel(error, {"path": str(path)}) from error


def _try(path: Path, draw: Callable[[], Figure]) -> None:

    try:
        figure = draw()
    except InputError as error:
        print(f"no {path}: {error}", file=sys.stderr)
        return
    save(figure, path)  # a file that cannot be written is an error


def paths(vae: VAE, x: torch.Tensor, pairs: int, steps: int) -> torch.Tensor:
    """Lines between the data 0 and 1, 2 and 3, and so on: ``(pairs, steps, *shape)``."""
    lines = [generate.interpolate(vae, x[2 * i], x[2 * i + 1], steps=steps) for i in range(pairs)]
    return torch.stack(lines)

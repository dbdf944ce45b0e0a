"""The figures of a run folder, and files of figures that are named when they cannot be written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ppl_vae import generate, plots
from ppl_vae.errors import InputError, relabel
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
    folder, shape = path / FIGURES, dataset.image_shape
    _try(folder / "training.png", lambda: plots.training_curve(history))
    if shape is None:
        return
    x, labels = dataset.subset("test", min(_POINTS, dataset.sizes["test"]))
    x = x.to(next(vae.parameters()).device)
    draws, means = (generate.sample(vae, 64, seed=seed, mean=mean).cpu() for mean in (False, True))
    _try(folder / "samples.png", lambda: plots.prior_samples(draws, means, shape, seed=seed))
    some = x[:20]
    again = generate.reconstruct(vae, some).cpu()
    _try(folder / "reconstructions.png", lambda: plots.reconstructions(some.cpu(), again, shape))
    pairs = min(6, len(x) // 2)
    if pairs:
        lines = paths(vae, x, pairs, 9).cpu()
        _try(folder / "interpolation.png", lambda: plots.interpolation(lines, shape))
    if vae.latent_dim > 1 and len(x) > 1:
        _try(folder / "latent_plane.png", lambda: _latent(vae, x, labels, shape))


def _latent(vae: VAE, x: torch.Tensor, labels: torch.Tensor | None, shape: tuple[int, ...]) -> Figure:
    plane = plots.principal_plane(generate.latent_means(vae, x).cpu())
    grid = generate.decode_means(vae, plane.points(_SIDE).to(next(vae.parameters()))).cpu()
    return plots.latent_plane(plane.means, labels, grid, plane.extent, shape, title=plane.title)


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
        sys.stderr.write(f"no {path}: {error}\n")
        return
    save(figure, path)  # a file that cannot be written is an error


def paths(vae: VAE, x: torch.Tensor, pairs: int, steps: int) -> torch.Tensor:
    """Lines between the data 0 and 1, 2 and 3, and so on: ``(pairs, steps, *shape)``."""
    lines = [generate.interpolate(vae, x[2 * i], x[2 * i + 1], steps=steps) for i in range(pairs)]
    return torch.stack(lines)

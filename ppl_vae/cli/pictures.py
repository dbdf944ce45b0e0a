"""Pictures of a trained VAE: those of a run folder, and those that a command is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppl_vae import files, generate, persistence
from ppl_vae.cli import datasets, drawing, exits, machine, owner, trusting
from ppl_vae.cli.outputs import OutputFolder, check_writable
from ppl_vae.cli.parsing import make_parser
from ppl_vae.cli.runfolder import DATA, FIGURES, MODEL, finished_run
from ppl_vae.errors import InputError, describe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from matplotlib.figure import Figure

    from ppl_vae.data import Dataset
    from ppl_vae.history import History
    from ppl_vae.vae import VAE

_PICTURES = (".png", ".pdf", ".svg")
_NUMBERS = (".npy", ".csv")
_POINTS = 5000  # data drawn in the latent plane
_SIDE = 15  # decoded images a side of the latent plane


def draw_run(vae: VAE, dataset: Dataset, history: History, path: Path, *, seed: int) -> None:
    """The figures of a run folder; a picture that the data do not allow is left out, with a line that says so."""
    from ppl_vae import plots

    folder = path / FIGURES
    _try(folder / "training.png", lambda: plots.training_curve(history))
    x, _ = datasets.split(dataset, "test", min(_POINTS, dataset.sizes["test"]), None)
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
    from ppl_vae import plots

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


def _try(path: Path, draw: Callable[[], Figure]) -> None:

    try:
        figure = draw()
    except InputError as error:
        print(f"no {path}: {error}", file=sys.stderr)
        return
    drawing.save(figure, path)  # a file that cannot be written is an error


def paths(vae: VAE, x: torch.Tensor, pairs: int, steps: int) -> torch.Tensor:
    """Lines between the data 0 and 1, 2 and 3, and so on: ``(pairs, steps, *shape)``."""
    lines = [generate.interpolate(vae, x[2 * i], x[2 * i + 1], steps=steps) for i in range(pairs)]
    return torch.stack(lines)


# ---- what sample, reconstruct and interpolate share -----------------------------------------------------


def picture_parser(command: str, description: str, examples: str) -> ArgumentParser:
    """The options that the three commands share."""
    parser = make_parser(command, description, examples)
    parser.add_argument("run", type=str, metavar="RUN", help="a run folder, which ppl-vae train writes")
    parser.add_argument(
        "--out",
        type=str | None,
        help="a picture (.png, .pdf, .svg), or numbers (.npy; .csv with a datum a row). "
        "Default: a .png in the run folder, a .npy for data that are no images",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    trusting.add_option(parser)
    machine.add_options(parser)
    return parser


def add_data_options(parser: ArgumentParser) -> None:
    """Options of commands that need the run's data."""
    parser.add_argument(
        "--split", type=str, default="test", help="test, valid or train: where the data come from"
    )
    parser.add_argument("--data-dir", type=str | None, help="where MNIST's files lie now, if they have moved")
    parser.add_argument("--path", type=str | None, help="where the array lies now, if it has moved")


def open_model(folder: OutputFolder, settings: Mapping[str, Any]) -> VAE:
    """The trained VAE of a run, on the device of ``settings``; raises `InputError` if they do not trust its classes."""
    made = persistence.load_trusting(folder.path / MODEL, trusting.trust(settings))
    return made.to(torch.device(settings["device"])).eval()


def check_fits(vae: VAE, x: torch.Tensor, folder: OutputFolder) -> None:
    """Refuse a run whose model is not one of its data; raises `InputError` naming the model's file."""
    try:
        vae.check_data(x)
    except InputError as error:
        raise InputError(
            str(folder.path / MODEL), f"a model of the run's data ({error.expected})", error.received
        ) from None


class Output:
    """The file that a picture command writes, checked before anything is computed.

    Args:
        settings: the command's options.
        name: the file's name where none was given, without suffix.

    Raises:
        InputError: naming ``--out``, or the run.
    """

    def __init__(self, settings: dict[str, Any], name: str) -> None:
        self.folder = finished_run(settings["run"])
        about = files.read_json(self.folder.path / DATA)
        self.image_shape = datasets.image_shape(about, self.folder.path / DATA)
        suffix = ".png" if self.image_shape is not None else ".npy"
        self.path = Path(settings["out"] or self.folder.path / f"{name}{suffix}")
        kind = self.path.suffix.lower()
        if kind not in (*_PICTURES, *_NUMBERS):
            raise InputError(
                "--out", f"a file that ends in {', '.join((*_PICTURES, *_NUMBERS))}", str(self.path)
            )
        if kind in _PICTURES and self.image_shape is None:
            raise InputError(
                "--out", "a .npy or .csv file, since the data are no images (no image_shape)", str(self.path)
            )
        self._overwrite = settings["overwrite"]
        self._check()
        machine.resolve(settings)

    def _check(self) -> None:
        if self.path.is_dir():
            raise InputError("--out", "a file", f"{self.path} (a folder)")
        if os.path.lexists(self.path) and not self._overwrite:
            raise InputError("--out", "a new file, or --overwrite to replace it", f"{self.path} (exists)")
        check_writable(self.path, "--out")

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Let no other command write the file, or the run that it is made from."""
        with owner.read(self.folder.path, f"RUN {self.folder.path}"), owner.owned_file(self.path):
            self._check()
            yield

    @property
    def pictures(self) -> bool:
        """Whether the file is a picture."""
        return self.path.suffix.lower() in _PICTURES

    def write(self, numbers: torch.Tensor, draw: Callable[[tuple[int, ...]], Figure]) -> int:
        """Write ``numbers`` ``(N, ...)``, or the picture that ``draw`` makes for an image shape."""
        import numpy as np

        exits.work()  # a half-written file is to be cleared away
        values = numbers.detach().cpu().numpy()
        kind = self.path.suffix.lower()
        if kind in _PICTURES and self.image_shape is not None:  # as the constructor made sure
            drawing.save(draw(self.image_shape), self.path)
        else:
            with files.atomic(self.path) as temporary, temporary.open("wb") as handle:
                if kind == ".npy":
                    np.save(handle, values)
                else:
                    np.savetxt(handle, values.reshape(len(values), -1), delimiter=",", fmt="%.9g")
        print(self.path)
        return 0


def load_data(
    settings: dict[str, Any], folder: OutputFolder, vae: VAE, number: int, asked: str
) -> torch.Tensor:
    """``number`` random data of the run, on the model's device; ``asked`` is the option that asks for them."""
    dataset = datasets.load_again(folder, data_dir=settings["data_dir"], path=settings["path"])
    size = dataset.sizes.get(settings["split"], number)
    if number > size > 0:
        raise InputError(asked, f"no more than the {size} data of the split can give", describe(number))
    x, _ = datasets.split(dataset, settings["split"], number, settings["seed"])
    check_fits(vae, x, folder)
    return x.to(next(vae.parameters()).device)

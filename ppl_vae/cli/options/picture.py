"""The options of commands that make one picture, or one file of numbers, from a run; and that file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppl_vae import exits, files, locks
from ppl_vae.cli.options import device, trust
from ppl_vae.cli.options.parser import make_parser
from ppl_vae.errors import InputError, describe
from ppl_vae.outputs import OutputFolder, check_writable
from ppl_vae.runs import data, figures
from ppl_vae.runs.folder import DATA, finished_run
from ppl_vae.runs.trained import check_fits

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from matplotlib.figure import Figure

    from ppl_vae.vae import VAE

_PICTURES = (".png", ".pdf", ".svg")
_NUMBERS = (".npy", ".csv")


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
    trust.add_option(parser)
    device.add_options(parser)
    return parser


def add_data_options(parser: ArgumentParser) -> None:
    """Options of commands that need the run's data."""
    parser.add_argument(
        "--split", type=str, default="test", help="test, valid or train: where the data come from"
    )
    parser.add_argument("--data-dir", type=str | None, help="where MNIST's files lie now, if they have moved")
    parser.add_argument("--path", type=str | None, help="where the array lies now, if it has moved")


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
        self.image_shape = data.image_shape(about, self.folder.path / DATA)
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
        device.resolve(settings)

    def _check(self) -> None:
        if self.path.is_dir():
            raise InputError("--out", "a file", f"{self.path} (a folder)")
        if os.path.lexists(self.path) and not self._overwrite:
            raise InputError("--out", "a new file, or --overwrite to replace it", f"{self.path} (exists)")
        check_writable(self.path, "--out")

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Let no other command write the file, or the run that it is made from."""
        with locks.read(self.folder.path, f"RUN {self.folder.path}"), locks.owned_file(self.path):
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
            figures.save(draw(self.image_shape), self.path)
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
    dataset = data.load_again(folder, data_dir=settings["data_dir"], path=settings["path"])
    size = dataset.sizes.get(settings["split"], number)
    if number > size > 0:
        raise InputError(asked, f"no more than the {size} data of the split can give", describe(number))
    x, _ = data.split(dataset, settings["split"], number, settings["seed"])
    check_fits(vae, x, folder)
    return x.to(next(vae.parameters()).device)

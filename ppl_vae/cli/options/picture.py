"""The options of commands that make one picture, or one file of numbers, from a run; and that file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppl_vae import exits, files, locks, modes
from ppl_vae.cli.options import device, results
from ppl_vae.cli.options.parser import make_parser
from ppl_vae.data import description
from ppl_vae.errors import InputError, describe, under_options
from ppl_vae.outputs import check_new_file
from ppl_vae.runs import data, figures, trained
from ppl_vae.runs.folder import DATA, finished_run

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from matplotlib.figure import Figure

    from ppl_vae.vae import VAE

_PICTURES = (".png", ".pdf", ".svg")
_KINDS = (*_PICTURES, ".npy", ".csv")


def picture_parser(command: str, description: str, examples: str, *, of_data: bool = True) -> ArgumentParser:
    """The options that such commands share; ``of_data``: also those of commands that need the run's data."""
    parser = make_parser(command, description, examples)
    parser.add_argument("run", type=str, metavar="RUN", help="a run folder, written by ppl-vae train")
    text = (
        "the file to write: a picture (.png, .pdf, .svg), or numbers (.npy; .csv with one datum per row). "
        "Default: a .png in the run folder, or a .npy if the data are no images"
    )
    parser.add_argument("--out", type=str | None, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--seed", type=int, default=0, help="the seed of everything random")
    if of_data:
        text = "the split that the data come from: test, valid or train"
        parser.add_argument("--split", type=str, default="test", help=text)
    results.add_loading_options(parser, moved=of_data)
    return parser


class Output:
    """The file that a picture command writes, checked before anything is computed.

    Args:
        settings: the command's options.
        name: the file's name where none was given, without suffix.

    Raises:
        InputError: naming ``--out``, or the run.
    """

    def __init__(self, settings: dict[str, Any], name: str) -> None:
        self.settings, self.folder = settings, finished_run(settings["run"])
        self.image_shape = description.image_shape(self.folder.path / DATA)
        suffix = ".npy" if self.image_shape is None else ".png"
        self.path = Path(settings["out"] or self.folder.path / f"{name}{suffix}")
        self.kind = self.path.suffix.lower()
        self.pictures = self.kind in _PICTURES
        if self.kind not in _KINDS:
            raise InputError("--out", f"a file that ends in {', '.join(_KINDS)}", str(self.path))
        if self.pictures and self.image_shape is None:
            expected = "a .npy or .csv file, since the data are no images (no image_shape)"
            raise InputError("--out", expected, str(self.path))
        check_new_file(self.path, overwrite=settings["overwrite"])
        device.resolve(settings)

    @contextmanager
    def opened(self) -> Iterator[VAE]:
        """The trained VAE; inside, no other command writes the file, or the run that it is made from."""
        with locks.read(self.folder.path, f"RUN {self.folder.path}"), locks.owned_file(self.path):
            check_new_file(self.path, overwrite=self.settings["overwrite"])
            with modes.threads(self.settings["threads"]):
                yield trained.open_model(self.folder, self.settings)

    def data(self, vae: VAE, number: int, asked: str) -> torch.Tensor:
        """``number`` random data of the run, on the model's device; ``asked`` is the option that asks for them."""
        settings = self.settings
        dataset = data.load_again(self.folder, data_dir=settings["data_dir"], path=settings["path"])
        size = dataset.sizes.get(settings["split"], number)
        if number > size > 0:
            raise InputError(asked, f"no more than the {size} data of the split can give", describe(number))
        with under_options(("split", "seed"), n=asked):
            x, _ = dataset.subset(settings["split"], number, settings["seed"])
        trained.check_fits(vae, x, self.folder)
        return x.to(next(vae.parameters()).device)

    def write(self, numbers: torch.Tensor, draw: Callable[[tuple[int, ...]], Figure]) -> int:
        """Write ``numbers`` ``(N, ...)``, or the picture that ``draw`` makes for an image shape."""
        exits.work()  # a half-written file is to be cleared away
        if self.pictures and self.image_shape is not None:  # as the constructor made sure
            figures.save(draw(self.image_shape), self.path)
        else:
            files.write_array(self.path, numbers.detach().cpu().numpy())
        print(self.path)
        return 0

"""``ppl-vae interpolate``: straight lines between data in the latent space."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_vae import memory
from ppl_vae.cli.options.parser import check_numbers, parse
from ppl_vae.errors import InputError

_DESCRIPTION = """\
Decode the straight lines between the posterior means of pairs of data, drawn at random from the run's data set.
Numbers (.npy) are (pairs, steps, *shape); a .csv has the steps of the first pair, then those of the second, ..."""
_EXAMPLES = """\
examples:
  ppl-vae interpolate runs/digits --pairs 4 --steps 9 --out interpolation.png
  ppl-vae interpolate runs/digits --pairs 1 --steps 50 --seed 3 --out path.npy"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    from ppl_vae.cli.options import picture

    parser = picture.picture_parser("interpolate", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--pairs", type=int, default=4, help="how many lines")
    parser.add_argument("--steps", type=int, default=9, help="points on a line, both ends included")
    picture.add_data_options(parser)
    settings = parse(parser, argv)
    check_numbers(settings, counts=("pairs", "steps"), seeds=("seed",))
    if settings["steps"] < 2:
        raise InputError("--steps", "at least 2", settings["steps"])
    output = picture.Output(settings, "interpolation")
    from ppl_vae import modes, plots
    from ppl_vae.runs import figures
    from ppl_vae.runs.trained import open_model

    with output.owning(), modes.threads(settings["threads"]):
        vae = open_model(output.folder, settings)
        x = picture.load_data(settings, output.folder, vae, 2 * settings["pairs"], "--pairs")
        numbers = settings["pairs"] * vae.shape.numel()
        memory.check_drawn("--steps", settings["steps"], numbers, pictures=output.pictures)
        lines = figures.paths(vae, x, settings["pairs"], settings["steps"])
        rows = lines.flatten(0, 1) if output.path.suffix.lower() == ".csv" else lines
        return output.write(rows, lambda shape: plots.interpolation(lines.cpu(), shape))

"""``ppl-vae interpolate``: straight lines between data in the latent space."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_vae import memory, plots
from ppl_vae.cli.options.parser import check_numbers, parse
from ppl_vae.cli.options.picture import Output, picture_parser
from ppl_vae.errors import InputError
from ppl_vae.runs.figures import paths

_DESCRIPTION = """\
Draw pairs of data at random from the run's data set, and decode the straight line between their posterior means.
Numbers (.npy) are (pairs, steps, *shape); a .csv has the steps of the first pair, then those of the second, ..."""
_EXAMPLES = """\
examples:
  ppl-vae interpolate runs/digits --pairs 4 --steps 9 --out interpolation.png
  ppl-vae interpolate runs/digits --pairs 1 --steps 50 --seed 3 --out path.npy"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    parser = picture_parser("interpolate", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--pairs", type=int, default=4, help="how many lines")
    parser.add_argument("--steps", type=int, default=9, help="points on a line, both ends included")
    settings = parse(parser, argv)
    pairs, steps = settings["pairs"], settings["steps"]
    check_numbers(settings, counts=("pairs", "steps"), seeds=("seed",))
    if steps < 2:
        raise InputError("--steps", "at least 2", steps)
    output = Output(settings, "interpolation")
    with output.opened() as vae:
        x = output.data(vae, 2 * pairs, "--pairs")
        memory.check_drawn("--steps", steps, pairs * vae.shape.numel(), pictures=output.pictures)
        lines = paths(vae, x, pairs, steps)
        rows = lines.flatten(0, 1) if output.kind == ".csv" else lines
        return output.write(rows, lambda shape: plots.interpolation(lines.cpu(), shape))

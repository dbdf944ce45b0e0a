"""``ppl-vae reconstruct``: data beside what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ppl_vae import generate, plots
from ppl_vae.cli.options.parser import check_numbers, parse
from ppl_vae.cli.options.picture import Output, picture_parser

_DESCRIPTION = """\
Reconstruct data that are drawn at random from the run's data set: E[x|z] at the mean of q(z|x).
Numbers (.npy) are (2, N, *shape): the data and their reconstructions. A .csv has the data first, then the
reconstructions."""
_EXAMPLES = """\
examples:
  ppl-vae reconstruct runs/digits --num 20 --out reconstructions.png
  ppl-vae reconstruct runs/digits --num 100 --split valid --out reconstructions.npy"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    parser = picture_parser("reconstruct", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--num", type=int, default=20, help="how many data")
    settings = parse(parser, argv)
    check_numbers(settings, counts=("num",), seeds=("seed",))
    output = Output(settings, "reconstructions")
    with output.opened() as vae:
        x = output.data(vae, settings["num"], "--num")
        again = generate.reconstruct(vae, x)
        both = torch.stack([x, again])
        numbers = both.flatten(0, 1) if output.kind == ".csv" else both
        return output.write(numbers, lambda shape: plots.reconstructions(x.cpu(), again.cpu(), shape))

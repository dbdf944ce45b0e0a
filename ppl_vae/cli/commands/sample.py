"""``ppl-vae sample``: draws from a trained model."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_vae import generate, memory, plots
from ppl_vae.cli.options.parser import check_numbers, parse
from ppl_vae.cli.options.picture import Output, picture_parser

_DESCRIPTION = "Draw data from a trained model: z ~ p(z), then x ~ p(x|z)."
_EXAMPLES = """\
examples:
  ppl-vae sample runs/digits --num 64 --out samples.png
  ppl-vae sample runs/digits --num 1000 --mean --seed 1 --out means.npy"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    parser = picture_parser("sample", _DESCRIPTION, _EXAMPLES, of_data=False)
    parser.add_argument("--num", type=int, default=64, help="how many to draw")
    text = "write the decoder's means E[x|z] instead of draws of x"
    parser.add_argument("--mean", action="store_true", help=text)
    settings = parse(parser, argv)
    check_numbers(settings, counts=("num",), seeds=("seed",))
    output = Output(settings, "samples")
    with output.opened() as vae:
        memory.check_drawn("--num", settings["num"], vae.shape.numel(), pictures=output.pictures)
        x = generate.sample(vae, settings["num"], seed=settings["seed"], mean=settings["mean"])
        kind = "decoder means" if settings["mean"] else "samples"
        title = f"{kind}: N = {len(x)}, seed {settings['seed']}"
        return output.write(x, lambda shape: plots.image_grid(x.cpu(), shape, title=title))

"""``ppl-vae sample``: draws from a trained model."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_vae import memory
from ppl_vae.cli.options.parser import check_numbers, parse

_DESCRIPTION = "Draw data from a trained model: z ~ p(z), then x ~ p(x|z)."
_EXAMPLES = """\
examples:
  ppl-vae sample runs/digits --num 64 --out samples.png
  ppl-vae sample runs/digits --num 1000 --mean --seed 1 --out means.npy"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    from ppl_vae.cli.options.picture import Output, picture_parser

    parser = picture_parser("sample", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--num", type=int, default=64, help="how many")
    parser.add_argument(
        "--mean", action="store_true", help="the decoder's means E[x|z] alone, in the place of draws of x"
    )
    settings = parse(parser, argv)
    check_numbers(settings, counts=("num",), seeds=("seed",))
    output = Output(settings, "samples")
    from ppl_vae import generate, modes, plots
    from ppl_vae.runs.trained import open_model

    with output.owning(), modes.threads(settings["threads"]):
        vae = open_model(output.folder, settings)
        memory.check_drawn("--num", settings["num"], vae.shape.numel(), pictures=output.pictures)
        x = generate.sample(vae, settings["num"], seed=settings["seed"], mean=settings["mean"])
        kind = "decoder means" if settings["mean"] else "samples"
        title = f"{kind}: N = {len(x)}, seed {settings['seed']}"
        return output.write(x, lambda shape: plots.image_grid(x.cpu(), shape, title=title))

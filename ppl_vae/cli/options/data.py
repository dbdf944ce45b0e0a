"""The options of data sets: the arguments of their loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_vae import signatures
from ppl_vae.cli.options.parser import option_type
from ppl_vae.data import LOADERS
from ppl_vae.errors import option
from ppl_vae.runs.data import ARGUMENTS, OPTIONS

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_SEED = (
    "the seed of splitting, binarising and dequantising the data (default: 0). Another seed makes another data set: "
    "keep it the same in all runs that are to be compared, and vary --seed"
)


def add_options(parser: ArgumentParser) -> None:
    """``--data`` and what goes with each data set. None stands for the loader's own default."""
    data = parser.add_argument_group("data", "each option is for the data sets in brackets")
    text = "digits (scikit-learn's, 8 x 8, no download), mnist, or array (a file of your own, with --path)"
    data.add_argument("--data", type=str, default="digits", help=text)
    known = {name: signatures.read(loader).arguments for name, loader in LOADERS.items()}
    for name in OPTIONS:
        owners = {owner: known[owner][names[name]] for owner, names in ARGUMENTS.items() if name in names}
        lines = []
        for owner, argument in owners.items():
            usual = "" if argument.default is None else f" (default: {argument.default})"
            lines.append(f"[{owner}] {argument.text}{usual}")
        text = _SEED if name == "data_seed" else "; ".join(lines)
        kind = option_type(next(iter(owners.values())))
        data.add_argument(option(name), type=kind | None, help=text)

"""The options of commands that judge a trained model: which of its data, and where what they find is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ppl_vae.cli.options import device
from ppl_vae.cli.options.parser import check_numbers
from ppl_vae.errors import check_one_of, check_seed
from ppl_vae.runs.folder import finished_run, result_folder

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ppl_vae.runs.trained import Job


def add_folder_options(parser: ArgumentParser, where: str, default: str | None = None) -> None:
    """``--out``, which ``where`` explains, ``--overwrite`` and ``--resume``."""
    parser.add_argument("--out", type=str if default else str | None, default=default, help=where)
    text = "replace the files of an earlier command there once the new ones are complete; others are kept"
    parser.add_argument("--overwrite", action="store_true", help=text)
    text = "continue a command that was stopped or killed, with the same result to the last bit"
    parser.add_argument("--resume", action="store_true", help=text)


def add_loading_options(parser: ArgumentParser, *, moved: bool = True) -> None:
    """Whose classes a run's model may name, and the machine; ``moved``: and where its data lie now."""
    if moved:
        text = "the folder of MNIST's files, if they have been moved since training"
        parser.add_argument("--data-dir", type=str | None, help=text)
        parser.add_argument(
            "--path", type=str | None, help="the array's file, if it has been moved since training"
        )
    parser.add_argument(
        "--trust",
        type=str,
        action="append",
        metavar="PACKAGE",
        help="a package with classes of your own that the run's model uses (my_file for a file my_file.py). It is "
        "imported, which runs its code. May be given more than once; the classes of ppl_vae need no --trust",
    )
    device.add_options(parser)


def add_options(parser: ArgumentParser, name: str) -> None:
    """Options of where to write, where the data lie, and the machine; ``name`` is the folder's in the run."""
    add_folder_options(parser, f"the folder to write (default: RUN/{name})")
    add_loading_options(parser)


def add_subset_options(parser: ArgumentParser, default: int | None = None) -> None:
    """Options of which data; ``default`` is how many unless told otherwise (None: all)."""
    parser.add_argument(
        "--split", type=str, default="test", help="the split that the data come from: test, valid or train"
    )
    usual = "all of them" if default is None else f"{default}, or all if they are fewer"
    text = f"how many data to draw at random from the split (default: {usual})"
    parser.add_argument("--subset", type=int | None, help=text)
    text = "the seed of that draw (default: the seed of the data set)"
    parser.add_argument("--subset-seed", type=int | None, help=text)


def subset(settings: Mapping[str, Any], usual: int | None = None) -> dict[str, Any]:
    """Which data, for `opened`, once the options of `add_subset_options` are seen to fit."""
    from ppl_vae.data.dataset import SPLITS

    check_numbers(settings, counts=("subset",), seeds=("subset_seed",))
    check_one_of("--split", settings["split"], SPLITS)
    return {
        "split": settings["split"],
        "number": settings["subset"],
        "usual": usual,
        "seed": settings["subset_seed"],
    }


@contextmanager
def opened(settings: dict[str, Any], kind: str, **which: Any) -> Iterator[Job]:
    """The run, its model and data, and the folder to write, once they and the options of all such commands fit.

    Inside, no other command writes the run or the folder. What the machine would choose stays as it was in a folder
    that is to be resumed.

    Args:
        settings: the options, changed in place: the device and the threads are resolved.
        kind: what is to be written, as `ppl_vae.runs.folder.result_folder` says.
        which: data, as `ppl_vae.runs.trained.opened` says.

    Raises:
        InputError: naming the option at fault, or the run.
    """
    from ppl_vae.runs import trained

    check_seed(settings["seed"], "--seed")
    run = finished_run(settings["run"])
    folder = result_folder(kind, settings["out"] or run.path / kind)
    how = {name: settings[name] for name in ("resume", "overwrite")}
    folder.check(**how)
    with trained.locked_for_reading(run), folder.owning(**how):
        run = finished_run(settings["run"])
        device.resolve(settings, folder if settings["resume"] else None)
        with trained.opened(settings, run, folder, **which) as job:
            yield job


def trust_needed(settings: Mapping[str, Any]) -> str:
    """The options that a command needs to load a model of these settings: `` --trust my_file``, or nothing."""
    parts = [settings[role] for role in ("prior", "likelihood", "posterior", "network", "encoder", "decoder")]
    packages = dict.fromkeys(part["class_path"].split(".")[0] for part in parts if part is not None)
    return "".join(f" --trust {package}" for package in packages if package != "ppl_vae")

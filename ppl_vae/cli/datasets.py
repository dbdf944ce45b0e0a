"""The options of data sets, and the data sets that they name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.cli.oneline import UsageError, option, relabel
from ppl_vae.cli.outputs import OutputFolder
from ppl_vae.cli.runfolder import DATA
from ppl_vae.errors import InputError, check_one_of, describe

if TYPE_CHECKING:
    import torch
    from jsonargparse import ArgumentParser

    from ppl_vae.data import Dataset

# What each data set's loader calls the option.
_ARGUMENTS: dict[str, dict[str, str]] = {
    "digits": {"view": "view", "dynamic": "dynamic", "flat": "flat", "data_seed": "seed"},
    "mnist": {
        "data_dir": "data_dir",
        "view": "binarisation",
        "split": "split",
        "flat": "flat",
        "data_seed": "test_seed",
    },
    "array": {
        "path": "path",
        "key": "key",
        "labels_key": "labels_key",
        "valid_fraction": "valid_fraction",
        "test_fraction": "test_fraction",
        "image_shape": "image_shape",
        "data_seed": "seed",
    },
}
OPTIONS = tuple(dict.fromkeys(name for names in _ARGUMENTS.values() for name in names))
SPLITS = ("train", "valid", "test")


def add_options(parser: ArgumentParser) -> None:
    """``--data`` and what goes with each data set. None stands for the loader's own default."""
    data = parser.add_argument_group("data", "each option belongs to the data sets named in brackets")
    data.add_argument(
        "--data",
        type=str,
        default="digits",
        help="digits (scikit-learn's, 8 x 8, no download), mnist, or array (a file of your own, with --path)",
    )
    data.add_argument(
        "--view",
        type=str | None,
        help="[digits] binary (the default), counts (0 to 16) or dequantised; [mnist] dynamic (binarised anew in every "
        "batch; the default), static (Larochelle's files), threshold, or none (grey levels)",
    )
    data.add_argument(
        "--dynamic",
        type=bool | None,
        help="[digits, --view binary] binarise the training data anew in every batch (default: false)",
    )
    data.add_argument(
        "--data-dir",
        type=str | None,
        help="[mnist] the folder of the four IDX files, or of Larochelle's three; without it they are downloaded",
    )
    data.add_argument(
        "--split",
        type=str | None,
        help="[mnist] 50k (the default: 10,000 training images are kept to validate) or 60k (none are)",
    )
    data.add_argument(
        "--flat",
        type=bool | None,
        help="[digits, mnist] data as vectors (the default) or as (1, H, W) (the default with a ConvNet)",
    )
    data.add_argument(
        "--path", type=str | None, help="[array] a .npy, .npz, .csv or .csv.gz file, a datum a row"
    )
    data.add_argument(
        "--key", type=str | None, help="[array] which array of an .npz (default: the only one, or x)"
    )
    data.add_argument(
        "--labels-key",
        type=str | None,
        help="[array] integer labels: an array of the .npz, or a column of the CSV",
    )
    data.add_argument(
        "--valid-fraction",
        type=float | None,
        help="[array] the share kept to validate (default: 0.1; 0 for none)",
    )
    data.add_argument(
        "--test-fraction", type=float | None, help="[array] the share kept to test (default: 0.1)"
    )
    data.add_argument(
        "--image-shape", type=list[int] | None, help='[array] how to lay a datum out in pictures: "[8, 8]"'
    )
    data.add_argument(
        "--data-seed",
        type=int | None,
        help="of splitting, binarising and dequantising the data (default: 0). It is part of what the data are: "
        "keep it over all runs that are to be compared, and vary --seed",
    )


def resolve(settings: dict[str, Any], *, convolutional: bool = False) -> None:
    """Put the loader's defaults in the place of None, and absolute paths in that of relative ones.

    Args:
        settings: the options, changed in place.
        convolutional: whether images should keep their shape unless the user says otherwise.

    Raises:
        InputError: for an unknown data set, or an option that belongs to another.
    """
    from ppl_vae.data import LOADERS

    name = settings["data"]
    arguments = _ARGUMENTS[check_one_of("--data", name, _ARGUMENTS)]
    parameters = inspect.signature(LOADERS[name]).parameters
    if convolutional and "flat" in arguments and settings["flat"] is None:
        settings["flat"] = False
    for key in OPTIONS:
        if key not in arguments:
            if settings[key] is not None:
                owners = " or ".join(owner for owner, names in _ARGUMENTS.items() if key in names)
                raise UsageError(
                    option(key), f"null with --data {name} (it belongs to {owners})", describe(settings[key])
                )
            continue
        default = parameters[arguments[key]].default
        if settings[key] is None:
            if default is inspect.Parameter.empty:
                raise UsageError(option(key), f"a value, which --data {name} needs", "none")
            settings[key] = default
    for key in ("data_dir", "path"):
        if settings[key] is not None:
            settings[key] = os.path.abspath(settings[key])  # noqa: PTH100  (a symbolic link keeps its name)


def load(settings: dict[str, Any]) -> Dataset:
    """The data set; raises `InputError` naming the option or the file."""
    from ppl_vae.data import load as load_data

    arguments = _ARGUMENTS[settings["data"]]
    try:
        return load_data(settings["data"], **{value: settings[key] for key, value in arguments.items()})
    except InputError as error:
        raise relabel(error, {value: option(key) for key, value in arguments.items()}) from error


def load_again(folder: OutputFolder, **paths: str | None) -> Dataset:
    """The data set of a run; refused if it is not the one that the run was trained on.

    Args:
        folder: the run folder.
        paths: ``data_dir`` and ``path``, where the files lie now; None leaves the place that the run knew.

    Raises:
        InputError: naming the run's file at fault, or the data's.
    """
    from ppl_vae import files

    config = folder.path / folder.marker
    settings = folder.settings()
    missing = [key for key in ("data", *OPTIONS) if key not in settings]
    if missing:
        raise InputError(str(config), "the options of a run", f"none called {missing[0]}")
    for key, value in paths.items():
        if value is not None:
            settings[key] = value
    try:
        resolve(settings)
    except UsageError as error:
        raise InputError(f"{config}: {error.argument}", error.expected, error.received) from None
    dataset = load(settings)
    known = files.read_json(folder.path / DATA)
    if not isinstance(known, dict):
        raise InputError(str(folder.path / DATA), "a description of data", describe(known))
    now = dataset.describe()
    for key in ("name", "view", "shape", "sizes", "test_sha256"):
        if known.get(key) != now[key]:
            raise InputError(
                f"--data {settings['data']}",
                f"the data that {folder.path} was trained on ({key} {_short(known.get(key))})",
                f"{key} {_short(now[key])}",
            )
    return dataset


def split(
    dataset: Dataset, name: str, number: int | None, seed: int | None, *, asked: str = "--subset"
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Data of a split as a model sees them, all of them in order or ``number`` at random; and which they are.

    Raises:
        InputError: naming ``--split``, or ``asked``, the option that asked for ``number``.
    """
    from ppl_vae.data.dataset import sha256

    check_one_of("--split", name, SPLITS)
    size = dataset.sizes[name]
    if size == 0:
        raise InputError("--split", "a split that the data have", repr(name))
    x: torch.Tensor = getattr(dataset, name)
    redrawn = name == "train" and dataset.resample is not None
    if number is not None or redrawn:
        try:
            x, _ = dataset.subset(name, size if number is None else number, seed)
        except InputError as error:
            names = {"n": asked, "seed": "--subset-seed", "split": "--split"}
            raise relabel(error, names) from None
    drawn = number is not None
    about = {
        "split": name,
        "num_data": len(x),
        "subset": number,
        "subset_seed": (dataset.seed if seed is None else seed) if drawn else None,
        "sha256": sha256(x),
        "data": dataset.describe(),
    }
    return x, about


def title(settings: dict[str, Any]) -> str:
    """The data set in a word or two: ``digits-counts``, or the name of the file."""
    if settings["data"] == "array":
        return Path(settings["path"]).name.split(".")[0]
    return f"{settings['data']}-{'dynamic' if settings['dynamic'] else settings['view']}"


def _short(value: Any) -> str:
    return describe(value, 20)

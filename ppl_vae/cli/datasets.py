"""The options of data sets, and the data sets that they name."""

from __future__ import annotations

import inspect
import math
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
        "view": "view",
        "split": "split",
        "flat": "flat",
        "data_seed": "seed",
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
_IDENTITY = (
    "name", "view", "values", "total_count", "seed", "sizes", "shape", "image_shape", "resampled", "test_sha256",
    "train_sha256", "valid_sha256",
)  # fmt: skip
_TEXT: tuple[str, tuple[type, ...]] = ("text", (str,))
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = dict.fromkeys(("data", *OPTIONS), _TEXT) | {
    "dynamic": ("true or false", (bool,)),
    "flat": ("true or false", (bool,)),
    "data_seed": ("an integer", (int,)),
    "valid_fraction": ("a number", (int, float)),
    "test_fraction": ("a number", (int, float)),
    "image_shape": ("a list", (list,)),
}
"""What the options of data sets are in a run's config.yaml."""


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
        "batch; the default), static (Larochelle's files), threshold, or grey (grey levels)",
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
    config = folder.path / folder.marker
    settings = folder.settings()
    missing = [key for key in ("data", *OPTIONS) if key not in settings]
    if missing:
        raise InputError(str(config), "the options of a run", f"none called {missing[0]}")
    for key in ("data", *OPTIONS):
        words, kinds = _TYPES[key]
        good = settings[key] is None if key != "data" else False
        if not good and (
            not isinstance(settings[key], kinds) or (bool not in kinds and isinstance(settings[key], bool))
        ):
            raise InputError(f"{config}: {option(key)}", words, describe(settings[key]))
    given = {option(key) for key, value in paths.items() if value is not None}
    settings |= {key: value for key, value in paths.items() if value is not None}
    try:
        resolve(settings)
        dataset = load(settings)
    except InputError as error:
        if error.argument.startswith("--") and error.argument not in given:  # it is not the user who said so
            raise InputError(f"{config}: {error.argument}", error.expected, error.received) from None
        raise
    check_known(folder.path / DATA, dataset, settings["data"])
    return dataset


def check_known(path: Path, dataset: Dataset, name: str) -> None:
    """Refuse data that are not those that a run's data.json describes."""
    from ppl_vae import reading

    known = reading.read_json(path, "a description of data")
    if not isinstance(known, dict):
        raise InputError(str(path), "a description of data", describe(known))
    now = dataset.describe()
    # Earlier versions knew the test split alone by its content.
    old = not any(key in known for key in ("train_sha256", "valid_sha256"))
    for key in _IDENTITY:
        if old and key in ("train_sha256", "valid_sha256"):
            continue
        if known.get(key) != now[key] or key not in known:
            found = f"{key} {_short(known[key])}" if key in known else f"no {key}"
            raise InputError(
                f"--data {name}", f"the data that {path} describes ({found})", f"{key} {_short(now[key])}"
            )


def image_shape(about: Any, path: Path) -> tuple[int, ...] | None:
    """How a description of data (the content of ``path``) lays a datum out; raises `InputError`, naming it."""
    if not isinstance(about, dict):
        raise InputError(str(path), "a description of data", describe(about))
    found, shape = about.get("image_shape"), about.get("shape")
    if found is None:
        return None
    for sizes in (shape, found):
        if not isinstance(sizes, list) or not all(type(n) is int and n > 0 for n in sizes):
            raise InputError(
                str(path), "shape and image_shape to be lists of positive integers", describe(sizes)
            )
    image = tuple(found)
    if len(image) < 2 or math.prod(image) != math.prod(shape or ()):
        raise InputError(str(path), f"an image_shape for data of shape {shape}", describe(found))
    return image


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

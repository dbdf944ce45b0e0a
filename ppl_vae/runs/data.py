"""The data of a run: what its settings name, and whether they are still the same."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from ppl_vae.data import LOADERS, Dataset, description
from ppl_vae.data import load as load_data
from ppl_vae.errors import InputError, UsageError, check_one_of, describe, option, under_options
from ppl_vae.outputs import OutputFolder
from ppl_vae.runs.folder import DATA

ARGUMENTS = {
    name: {"data_seed" if key == "seed" else key: key for key in inspect.signature(loader).parameters}
    for name, loader in LOADERS.items()
}
"""For each data set, what its loader calls each option."""

OPTIONS = tuple(dict.fromkeys(name for names in ARGUMENTS.values() for name in names))
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "dynamic": ("true or false", (bool,)),
    "flat": ("true or false", (bool,)),
    "data_seed": ("an integer", (int,)),
    "valid_fraction": ("a number", (int, float)),
    "test_fraction": ("a number", (int, float)),
    "image_shape": ("a list", (list,)),
}
"""What the options of data sets are in a run's config.yaml, where they are not text."""


def resolve(settings: dict[str, Any], *, convolutional: bool = False) -> None:
    """Put the loader's defaults in the place of None, and absolute paths in that of relative ones.

    Args:
        settings: the options, changed in place.
        convolutional: whether images should keep their shape unless the user says otherwise.

    Raises:
        InputError: for an unknown data set, or an option that belongs to another.
    """
    name = settings["data"]
    arguments = ARGUMENTS[check_one_of("--data", name, ARGUMENTS)]
    parameters = inspect.signature(LOADERS[name]).parameters
    if convolutional and "flat" in arguments and settings["flat"] is None:
        settings["flat"] = False
    for key in OPTIONS:
        if key not in arguments:
            if settings[key] is not None:
                owners = " or ".join(owner for owner, names in ARGUMENTS.items() if key in names)
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
    arguments = ARGUMENTS[settings["data"]]
    with under_options(arguments, **{arguments["data_seed"]: "--data-seed"}):
        return load_data(settings["data"], **{name: settings[key] for key, name in arguments.items()})


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
        words, kinds = _TYPES.get(key, ("text", (str,)))
        value = settings[key]
        odd = bool not in kinds and isinstance(value, bool)
        if (value is None and key == "data") or (value is not None and (odd or not isinstance(value, kinds))):
            raise InputError(f"{config}: {option(key)}", words, describe(value))
    given = {option(key) for key, value in paths.items() if value is not None}
    settings |= {key: value for key, value in paths.items() if value is not None}
    try:
        resolve(settings)
        dataset = load(settings)
    except InputError as error:
        if error.argument.startswith("--") and error.argument not in given:  # it is not the user who said so
            raise InputError(f"{config}: {error.argument}", error.expected, error.received) from None
        raise
    description.check_same(folder.path / DATA, dataset, f"--data {settings['data']}")
    return dataset


def title(settings: dict[str, Any]) -> str:
    """The data set in a word or two: ``digits-counts``, or the name of the file."""
    if settings["data"] == "array":
        return Path(settings["path"]).name.split(".")[0]
    return f"{settings['data']}-{'dynamic' if settings['dynamic'] else settings['view']}"

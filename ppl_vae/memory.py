"""Memory check before a job starts: an option is refused if the job would not fit into memory.

The estimates are lower bounds computed from sizes: they refuse jobs that would certainly exceed the memory, and may
accept others that exceed it. The limit is four fifths of the memory that the process may use.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppl_vae import reading
from ppl_vae.errors import InputError, option
from ppl_vae.trust import Trust

SHARE = 0.8  # of the memory, which the job may take: the rest is for the libraries and for others
_ADAM = 16  # bytes of a float32 parameter, its gradient, and Adam's two averages
_FLOAT, _DOUBLE = 4, 8
_PASS = 3 * _FLOAT  # bytes of a number in a training step: its value, its gradient, and one temporary copy
_CHAIN = (
    32 * _FLOAT
)  # bytes of a number of a chain: point, momentum, gradients, proposals, a decoder's layers
_TAIL = 24 * _DOUBLE  # bytes of each of the sqrt(S) largest weights: 3 sqrt(S), twice, sorted and copied
_BLOCK = 256  # data of which an estimator keeps largest weights at the same time, at most
_PIXEL = 100  # bytes of a picture's pixel: its value, and what matplotlib makes of it
_RESULT = 40 * _DOUBLE  # bytes of a datum's results
_POINTS = 30  # bits of a Sobol point
_SIZES = ("hidden", "channels", "components")  # options of classes that are sizes, whosever the class is


def available() -> int:
    """Bytes of memory that this process may use: the machine's, or a smaller limit of its control group or process."""
    found = [reading.memory()]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # noqa: PERF203  (no such limit)
            continue
    if sys.platform != "win32":
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [] if soft == resource.RLIM_INFINITY else [soft]
    return min(found)


def check(name: str, asked: int, each: float, *, power: int = 1) -> None:
    """Refuse ``asked`` items if ``asked**(1/power)`` times ``each`` bytes exceed the limit.

    Args:
        name: the option.
        asked: the number of items.
        each: bytes of one item.
        power: 2 if memory grows with the square root of the number.

    Raises:
        InputError: naming the option, the number, and the largest number that fits.
    """
    limit = available() * SHARE
    root = asked if power == 1 else math.isqrt(asked)
    if root * each <= limit:
        return
    most = int(limit / each) ** power
    raise InputError(
        name, f"at most {most:,}, which would take {_gib(limit)} of this machine's memory", f"{asked:,}"
    )


def check_model(settings: Mapping[str, Any], datum: int, num_data: int) -> None:
    """Refuse sizes of a VAE whose parameters, or whose training step, would not fit.

    Args:
        settings: the resolved options.
        datum: the number of numbers in a datum.
        num_data: the number of training data.

    Raises:
        InputError: naming the option.
    """
    dim = settings["latent_dim"]
    widths = _numbers(settings["network"]["init_args"].get("hidden"))
    last = (widths or [datum])[-1]
    outputs = _posterior_numbers(settings["posterior"], dim)
    layers = 2 * sum(a * b for a, b in pairwise([datum, *widths]))
    ends = last * (dim + outputs)  # between the last layer and the latents: the wider of the two is at fault
    parameters = {
        "--hidden": layers + (ends if last > dim else 0),
        "--latent-dim": ends if dim >= last else 0,
    }
    for role in ("prior", "posterior", "network", "encoder", "decoder"):
        for name, value in ((settings[role] or {}).get("init_args") or {}).items():
            ours = settings[role]["class_path"].startswith("ppl_vae.")
            # An integer of a user's own class may be anything, unless it is called what ours are.
            sizes = _numbers(value) if name in _SIZES or (ours and "seed" not in name) else []
            if not sizes or (role == "network" and name == "hidden"):
                continue
            if isinstance(value, int):
                count = value * max(dim, datum if role == "prior" else 1)
            else:
                count = sum(a * b for a, b in pairwise([1, *sizes, 1]))
            parameters[f"{option(role)}.{name}"] = count
    for name, count in parameters.items():
        _refuse(name, "parameters", count * _ADAM)

    batch = min(settings["batch_size"], num_data)
    numbers = 3 * datum + 2 * sum(widths) + 2 * outputs
    particles = (settings["objective"]["init_args"] or {}).get("num_particles", 1)
    particles = particles if isinstance(particles, int) and particles > 0 else 1
    _refuse("--batch-size", "training steps", batch * numbers * _PASS)
    check("--objective.num_particles", particles, batch * numbers * _PASS)
    components = settings["prior"]["init_args"].get("components")
    if settings["prior"]["class_path"].startswith("ppl_vae.") and isinstance(components, int):
        check("--prior.components", components, batch * particles * dim * _PASS)


def check_estimate(settings: Mapping[str, Any], num_data: int, width: int, latents: int) -> None:
    """Refuse numbers of samples, chains and steps whose sums would not fit.

    Args:
        settings: the resolved options; those of an estimator are checked if they are given.
        num_data: the number of data.
        width: the number of numbers in one sample of one datum.
        latents: the number of latent ones among them.

    Raises:
        InputError: naming the option.
    """
    block = min(num_data, _BLOCK)
    given = {name: value for name, value in settings.items() if isinstance(value, int) and value > 0}
    for role in ("proposal", "draws"):
        inner = (settings.get(role) or {}).get("init_args") or {}
        given |= {f"{role}.{name}": value for name, value in inner.items() if isinstance(value, int)}
    for name in ("num_samples", "draws.most", "draws.pilot", "prior_draws"):
        if name in given:
            check(option(name), given[name], block * _TAIL, power=2)
    if "draws.scrambles" in given:
        check("--draws.scrambles", given["draws.scrambles"], block * 6 * _DOUBLE)
        most = given["draws.scrambles"] * 2**_POINTS
        if given.get("num_samples", 0) > most:
            raise InputError(
                "--num-samples", f"at most {most:,}, 2**{_POINTS} a scrambling", f"{given['num_samples']:,}"
            )
    for name in ("num_chains", "num_particles", "num_islands", "proposal.num_samples"):
        if name in given:
            check(option(name), given[name], width * _CHAIN)
    if settings.get("real") and "num_chains" in given:
        check("--num-chains", given["num_chains"], 2 * num_data * latents * _FLOAT)
    if "num_steps" in given:
        check("--num-steps", given["num_steps"], block * 4 * _DOUBLE)


def check_drawn(name: str, asked: int, numbers: int, *, pictures: bool) -> None:
    """Refuse too many drawn or decoded data of ``numbers`` numbers; raises `InputError` naming the option ``name``."""
    check(name, asked, numbers * (_PIXEL if pictures else 4 * _FLOAT))


def check_simulated(name: str, asked: int, width: int) -> None:
    """Refuse too many simulated data of ``width`` numbers each; raises `InputError` naming the option ``name``."""
    check(name, asked, width * 6 * _FLOAT + _RESULT)


def check_repeated(num_data: int, repetitions: int) -> None:
    """Refuse a validation whose data, or whose results, would not fit; raises `InputError` naming the option."""
    check("--num-data", num_data, 8 * _RESULT)
    check("--repetitions", repetitions, num_data * _RESULT)


def _posterior_numbers(spec: Mapping[str, Any], dim: int) -> int:
    """The number of encoder outputs of a posterior, from its ``param_shapes``; computed without allocating it."""
    try:
        with torch.device("meta"):
            kind: Any = Trust().find(spec["class_path"], nn.Module, "--posterior")
            made = kind(dim, **spec["init_args"])
        return sum(math.prod(shape) for shape in made.param_shapes.values())
    except Exception:  # an error is reported later, when the posterior is made
        return 2 * dim


def _numbers(value: Any) -> list[int]:
    """An integer as a list, or a list of integers; empty for other values."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    good = all(isinstance(each, int) and not isinstance(each, bool) for each in values)
    return values if good else []


def _refuse(name: str, what: str, size: float) -> None:
    limit = available() * SHARE
    if size > limit:
        raise InputError(
            name, f"sizes whose {what} fit in {_gib(limit)} of this machine's memory", f"about {_gib(size)}"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"

"""All that the benchmarks call of ppl_vae, and nothing else does: what has to change when its interface does."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO

import ppl_vae as pv
from benchmarks.workloads import Architecture, Parameters

Compile = bool | str | None
"""What is passed as ``compile=``; None passes nothing."""

PLAIN, COMPILED = False, True

# Names are imported when they are first used: the second statement is what a program that does anything waits for.
IMPORT = "import ppl_vae"
IMPORT_ALL = "import ppl_vae as pv; pv.VAE, pv.fit, pv.evidence.importance"


def vae(architecture: Architecture, x: torch.Tensor) -> pv.VAE:
    """An untrained VAE with a standard normal prior, its output bias started from the data as `fit` would."""
    made = pv.VAE(
        pv.priors.StandardNormal(architecture.latent),
        pv.likelihoods.Bernoulli(architecture.data),
        pv.posteriors.MeanFieldNormal(architecture.latent),
        hidden=architecture.hidden,
        activation=architecture.activation,
    )
    made.start_from(x)
    return made


def trained(architecture: Architecture, x: torch.Tensor, epochs: int) -> pv.VAE:
    """A VAE that has learned a little: chains and weights then behave as they do in use."""
    made = vae(architecture, x)
    pv.fit(made, x, epochs=epochs, batch_size=100, progress=False, **_compile(pv.fit, PLAIN))
    return made


def parameters(model: pv.VAE) -> Parameters:
    """Its numbers, which the peers start from."""
    nets = []
    for net in (model.encoder, model.decoder):
        if not isinstance(net, pv.networks.MLP):
            raise TypeError(f"a VAE of two MLPs, not of a {type(net).__name__}")
        layers = [(part.weight, part.bias) for part in net.layers if isinstance(part, torch.nn.Linear)]
        nets.append([*layers, (net.last.weight, net.output_bias.flatten())])
    return Parameters(*nets).copy()


def compiles(what: str) -> bool:
    """Whether "fit", "importance" or "annealed" takes ``compile=``."""
    function = pv.fit if what == "fit" else getattr(pv.evidence, what)
    return "compile" in inspect.signature(function).parameters


def _compile(function: Callable[..., Any], value: Compile) -> dict[str, Any]:
    known = value is not None and "compile" in inspect.signature(function).parameters
    return {"compile": value} if known else {}


def fit(
    model: pv.VAE,
    x: torch.Tensor,
    batch_size: int,
    epochs: int,
    how: Compile,
    *,
    skip: int = 1,
    objective: ELBO | None = None,
) -> tuple[float, float]:
    """Train for ``skip + epochs`` epochs, by a single-sample ELBO or by an objective of Pyro's.

    Returns:
        Seconds of the last ``epochs`` (what comes before them, checks and a compilation included, is not counted),
        and the mean ELBO of a datum in the last epoch while it trained.
    """
    marks: list[float] = []

    def schedule(*_: int) -> float:  # called where an epoch starts
        marks.append(time.perf_counter())
        return 1.0

    history = pv.fit(
        model, x, epochs=skip + epochs, batch_size=batch_size, lr_schedule=schedule, progress=False,
        objective=objective, **_compile(pv.fit, how),
    )  # fmt: skip
    marks.append(time.perf_counter())
    return marks[-1] - marks[skip], history[-1].train_elbo


def log_weights(model: pv.VAE, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """log p(x, z) - log q(z|x) at z = loc + scale eps, ``(S, N)``, through the program's densities."""
    with torch.no_grad():
        q = model.encode(x).base_dist
        z = {"z": q.loc + q.scale * eps}
        return model.program.log_joint(z, x) - model.program.log_guide(z, x)


def importance(
    model: pv.VAE, x: torch.Tensor, num_samples: int, how: Compile, seed: int = 0, precision: str = "full"
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(x) ``(N,)`` and its standard error."""
    e = pv.evidence.importance(
        model.program, x, num_samples, seed=seed, precision=precision, progress=False,
        **_compile(pv.evidence.importance, how),
    )  # fmt: skip
    return e.log_evidence, e.stderr


def annealed(
    model: pv.VAE, x: torch.Tensor, num_chains: int, num_steps: int, how: Compile, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """log p(x) ``(N,)``, its standard error, and the gradient evaluations a datum, those of the pilot included.

    Three leapfrog steps a move; nothing is asked of the prior, which no peer asks either.
    """
    e = pv.evidence.annealed(
        model.program, x, num_chains, num_steps, transition=pv.evidence.HMC(num_leapfrog=3), prior_draws=0,
        seed=seed, progress=False, **_compile(pv.evidence.annealed, how),
    )  # fmt: skip
    return e.log_evidence, e.stderr, e.cost.gradient


def distributed_command(processes: int, num_samples: int, num_data: int) -> list[str]:
    """The command that does `importance` on ``num_data`` data in so many processes, each with one thread.

    It stands for the whole run, start-up and compilation included; `benchmarks.scaling` times it from outside.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return [*command, "-m", "benchmarks.shared", str(num_samples), str(num_data)]

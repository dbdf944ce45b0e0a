"""Groups of recorded numbers of training, with every objective that `ppl_vae.fit` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from golden_groups import BOTH, LEVELS, SEED, Results, group, of_parameters, of_training
from golden_programs import LATENTS, bits, mixture, seeded, vae
from pyro import infer
from pyro.contrib.gp.kernels import RBF

import ppl_vae as pv


def _flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A transform that draws: one pixel in ten is turned over."""
    flips = torch.rand(x.shape, generator=generator, dtype=x.dtype) < 0.1
    return torch.where(flips, 1 - x, x)


def _train(module: Any, target: Any, x: torch.Tensor, **options: Any) -> Results:
    settings = {"epochs": 3, "batch_size": 4, "lr": 0.01, "seed": SEED, "progress": False}
    return of_training(pv.fit(target, x, **settings | options), module)


_OBJECTIVES: dict[str, tuple[Callable[[], infer.ELBO], tuple[str, ...]]] = {
    "Trace_ELBO": (infer.Trace_ELBO, BOTH),
    "Trace_ELBO of 3 particles": (lambda: infer.Trace_ELBO(num_particles=3), BOTH),
    "Trace_ELBO of 3 particles at once": (
        lambda: infer.Trace_ELBO(num_particles=3, vectorize_particles=True),
        BOTH,
    ),
    "TraceMeanField_ELBO": (infer.TraceMeanField_ELBO, BOTH),
    "RenyiELBO": (lambda: infer.RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=True), BOTH),
    "RenyiELBO, one by one": (lambda: infer.RenyiELBO(alpha=0.5, num_particles=2), BOTH),
    "TraceGraph_ELBO": (infer.TraceGraph_ELBO, ("plain",)),
    "TraceEnum_ELBO": (lambda: infer.TraceEnum_ELBO(max_plate_nesting=1), ("plain",)),
    "Trace_MMD": (lambda: infer.Trace_MMD(RBF(input_dim=LATENTS).double(), num_particles=2), ("plain",)),
}


def _objective(name: str) -> None:
    make, levels = _OBJECTIVES[name]

    @group(f"VAE: training, {name}", levels)
    def _fit(level: str) -> Results:
        module = vae().module
        return _train(module, module, bits(10), objective=make(), compile=LEVELS[level])


for objective in _OBJECTIVES:
    _objective(objective)


@group("VAE: training, with everything", BOTH)
def _everything(level: str) -> Results:
    module = vae().module
    options: dict[str, Any] = {"x_valid": bits(4), "kl_warmup": 1, "clip_norm": 0.5, "patience": 2}
    options |= {"lr_schedule": "cosine", "transform": _flip, "optimiser": torch.optim.RMSprop}
    return _train(module, module, bits(10), compile=LEVELS[level], **options)


@group("VAE: training, Burda's schedule")
def _burda(level: str) -> Results:
    module = vae().module
    return _train(module, module, bits(10), lr_schedule="burda", compile=LEVELS[level])


@group("VAE: start of the networks", kind="float32")
def _start(level: str) -> Results:
    return of_parameters(seeded())


@group("float32 VAE: training", BOTH, "float32 training")
def _training_single(level: str) -> Results:
    module = vae(dtype=torch.float32).module
    return _train(module, module, bits(10).float(), compile=LEVELS[level])


def _discrete(name: str, make: Callable[[], infer.ELBO], enumerated: bool, levels: tuple[str, ...]) -> None:
    @group(f"mixture: training, {name}", levels)
    def _fit(level: str) -> Results:
        case = mixture(10, enumerated=enumerated)
        return _train(case.module, case.program, case.x, objective=make(), compile=LEVELS[level])


_discrete("Trace_ELBO", infer.Trace_ELBO, False, BOTH)
_discrete("TraceGraph_ELBO", infer.TraceGraph_ELBO, False, ("plain",))
_discrete("TraceEnum_ELBO", lambda: infer.TraceEnum_ELBO(max_plate_nesting=1), True, ("plain",))

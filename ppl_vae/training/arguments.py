"""What `fit` is given, checked: messages for what people bring from Pyro's and torch's own training loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    Trace_MMD,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
)
from torch.utils.data import DataLoader, Dataset

from ppl_vae.compiled.elbo import CompiledELBO
from ppl_vae.distributed import world
from ppl_vae.errors import InputError, describe
from ppl_vae.training.optimiser import OptimiserFactory

_UNFIT = (JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO, ReweightedWakeSleep)
_OPTIMISER = "a function (parameters, lr) that returns a torch optimiser, such as torch.optim.Adam"


def check_objective(objective: Any) -> None:
    """Refuse an objective that `fit` has no use for; None is Trace_ELBO.

    Raises:
        InputError: naming ``objective``, or ``objective.num_particles``.
    """
    if objective is None:
        return
    if isinstance(objective, CompiledELBO):
        objective = objective.objective
    if not isinstance(objective, ELBO):
        hint = f" (make one: {objective.__name__}())" if isinstance(objective, type) else ""
        expected = "a pyro.infer.ELBO such as Trace_ELBO()"
        raise InputError("objective", expected, f"{describe(objective)}{hint}")
    name = type(objective).__name__
    if isinstance(objective, _UNFIT):
        # Jit objectives read Pyro's global store; wake-sleep has two losses, for two optimisers.
        raise InputError("objective", "an ELBO with one loss that is not jitted, such as Trace_ELBO()", name)
    if isinstance(objective, TraceTailAdaptive_ELBO):
        expected = "an ELBO whose loss is a number, such as Trace_ELBO() or RenyiELBO()"
        raise InputError("objective", expected, f"{name}, whose loss Pyro gives as infinite")
    if isinstance(objective, Trace_MMD) and world().size > 1:  # a batch's is not the sum of its parts'
        raise InputError("objective", "an ELBO that is a sum over data, in more than one process", name)
    particles = getattr(objective, "num_particles", 1)
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
        raise InputError("objective.num_particles", "a positive integer", describe(particles))


def check_kind(argument: str, x: Any) -> None:
    """Refuse arrays, data sets and loaders in words that say what to give instead; raises `InputError`."""
    expected = "a tensor, or a dict of tensors, with N data on the first axis"
    if isinstance(x, np.ndarray):
        raise InputError(argument, f"{expected} (torch.from_numpy makes one)", describe(x))
    if isinstance(x, DataLoader | Dataset):
        raise InputError(argument, f"{expected} (fit makes the batches itself)", f"a {type(x).__name__}")


def checked(optimiser: Any) -> OptimiserFactory:
    """The same function, whose result is a torch optimiser that steps by gradients alone.

    Raises:
        InputError: naming ``optimiser``, if it is no such function; from the function, if it returns anything else.
    """
    if isinstance(optimiser, pyro.optim.PyroOptim):
        kind = getattr(optimiser.pt_optim_constructor, "__name__", "an optimiser")
        raise InputError("optimiser", _OPTIMISER, f"Pyro's {kind}, which makes one for each parameter")
    if isinstance(optimiser, torch.optim.Optimizer):
        raise InputError("optimiser", _OPTIMISER, f"one that is made already: {type(optimiser).__name__}")
    if not callable(optimiser):
        raise InputError("optimiser", _OPTIMISER, describe(optimiser))

    def make(parameters: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
        try:
            made = optimiser(parameters, lr)
        except (TypeError, ValueError, AttributeError, AssertionError) as error:  # another signature
            raise InputError("optimiser", _OPTIMISER, f"one that raised {error}") from error
        if isinstance(made, pyro.optim.PyroOptim) or not isinstance(made, torch.optim.Optimizer):
            raise InputError("optimiser", _OPTIMISER, f"one that returned {describe(made)}")
        if isinstance(made, torch.optim.LBFGS):
            raise InputError("optimiser", f"{_OPTIMISER}, which needs no closure", "LBFGS")
        return made

    return make


def of_uneven_batches(error: RuntimeError, objective: ELBO, size: int, batch_size: int) -> Exception:
    """What to raise for an ``error`` of a batch of ``size``: a baseline of Pyro's may have the shape of a whole one."""
    if isinstance(objective, TraceGraph_ELBO) and size != batch_size and "size of tensor" in str(error):
        expected = (
            "a divisor of the number of data, for TraceGraph_ELBO with a baseline that has a batch's shape"
        )
        return InputError("batch_size", expected, f"{batch_size}, which leaves a batch of {size}")
    return error

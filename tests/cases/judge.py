"""The law that every case is judged by, whichever estimator it is given to.

Either an error of `ppl_vae`, in one line that names a site, a parameter or a module of the program or an argument; or
values that lie within 5 standard errors + 0.03 nats of the exact ones wherever the verdict is "trust". Never an
exception of anybody else.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
import warnings
from collections.abc import Callable, Collection
from typing import Any
from unittest import mock

import pyro
import torch
from case import Case, count
from pyro.infer import Trace_ELBO
from torch import Tensor

import ppl_vae as pv
from ppl_vae import errors
from ppl_vae.compiled.graph.backend import CompileWarning
from ppl_vae.evidence.running import blocks

ev = pv.evidence
ProgramWarning = getattr(errors, "ProgramWarning", UserWarning)

_EXACT: dict[int, Tensor] = {}  # by case: they are made once, and live as long as the process

STDERRS, NATS = 5.0, 0.03
_QUIET: dict[str, Any] = {"progress": False}


def _fit(program: pv.Program, x: Any) -> pv.History:
    """Two epochs that move nothing: what is seen is the ELBO of the program as it stands."""
    return pv.fit(program, x, x_valid=x, epochs=2, lr=1e-12, batch_size=count(x), **_QUIET)


# Runs are at least 16: an error of their spread has heavy tails; of 10,000 data one is beyond 5 errors by chance.
def _captured(run: Callable[[pv.Program, Any], Any]) -> Callable[[pv.Program, Any], Any]:
    """An estimator whose densities are captured graphs, run operation by operation: no compiler is waited for."""

    def captured(program: pv.Program, x: Any) -> Any:
        with mock.patch.object(blocks, "level_for", return_value="captured"):
            return run(program, x)

    return captured


ESTIMATORS: dict[str, Callable[[pv.Program, Any], Any]] = {
    "importance": lambda p, x: ev.importance(p, x, 1000, **_QUIET),
    "defensive": lambda p, x: ev.importance(p, x, 1000, proposal=ev.Defensive(0.2), **_QUIET),
    "widened": lambda p, x: ev.importance(p, x, 1000, proposal=ev.Widened(1.3), **_QUIET),
    "student": lambda p, x: ev.importance(p, x, 1000, proposal=ev.StudentT(5.0), **_QUIET),
    "refitted": lambda p, x: ev.importance(p, x, 500, proposal=ev.Refitted(), **_QUIET),
    "sobol": lambda p, x: ev.importance(p, x, 1024, draws=ev.Sobol(), **_QUIET),
    "prior_draws": lambda p, x: ev.importance(p, x, 1000, prior_draws=512, **_QUIET),
    "target_stderr": lambda p, x: ev.importance(p, x, draws=ev.UntilStderr(0.05, 4096), **_QUIET),
    "compiled": lambda p, x: ev.importance(p, x, 1000, compile=True, **_QUIET),
    "captured": _captured(lambda p, x: ev.importance(p, x, 1000, **_QUIET)),
    "annealed_captured": _captured(lambda p, x: ev.annealed(p, x, num_chains=32, num_steps=20, **_QUIET)),
    "jackknife": lambda p, x: ev.jackknife(p, x, 1000, **_QUIET),
    "psis": lambda p, x: ev.psis(p, x, 1000, **_QUIET),
    "annealed": lambda p, x: ev.annealed(p, x, num_chains=32, num_steps=20, **_QUIET),
    "annealed_prior": lambda p, x: ev.annealed(p, x, num_chains=32, num_steps=20, start="prior", **_QUIET),
    "smc": lambda p, x: ev.smc(p, x, num_particles=128, num_steps=8, num_islands=16, **_QUIET),
    "quadrature": lambda p, x: ev.quadrature(p, x, nodes=16, **_QUIET),
    "enumerate_latents": lambda p, x: ev.enumerate_latents(p, x, **_QUIET),
    "sandwich": lambda p, x: ev.sandwich(p, x, num_chains=32, num_steps=10, **_QUIET),
    "gaps": lambda p, x: pv.analysis.gaps(p, x, num_samples=200, **_QUIET),
    "fit": _fit,
}
ALSO_FAST = ("jackknife", "annealed", "smc", "sobol", "defensive", "prior_draws", "psis", "annealed_prior")
"""Of these the fast tests give one to each case in turn; the slow ones give all of `ESTIMATORS` to every case."""

_ARGUMENTS = {"model", "guide", "x", "x_train", "x_valid"}.union(
    *(
        inspect.signature(fn).parameters
        for fn in (
            ev.importance,
            ev.jackknife,
            ev.psis,
            ev.annealed,
            ev.smc,
            ev.quadrature,
            ev.sandwich,
            pv.fit,
        )
    )
) - {"program"}  # "target" stands: a program without a parameter cannot be trained, and so it says


def judge(case: Case, estimator: str) -> str:
    """Give the case to the estimator, and apply the law; what came, in words.

    Raises:
        AssertionError: where the law is broken; says how.
    """
    pyro.clear_param_store()
    torch.manual_seed(0)
    program = case.program()
    result, error = attempt(lambda: ESTIMATORS[estimator](program, case.x))
    if error is not None:
        check_refusal(case, estimator, error)
        return f"refused: {error}"
    without_guide = case.sums and estimator == "enumerate_latents"
    assert not case.refused or estimator == "fit" or without_guide, f"accepted: {summary(result, case)}"
    if estimator == "fit":
        check_fit(case, result)
    elif estimator == "sandwich":
        check_sandwich(case, result)
    elif estimator == "gaps":
        check_gaps(case, result)
    else:
        check_values(result, exact_of(case, case.x))
        if estimator in case.accepts and not case.hard:
            trusted = float((result.status == "trust").mean())
            assert trusted >= 0.5, (
                f"only {trusted:.0%} of the data are trusted: {set(result.reason.tolist())}"
            )
    return summary(result, case)


def attempt(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What the call returns, or the library's error. A warning of the library's own is let through.

    Raises:
        AssertionError: for an exception or a warning of anybody else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category in (CompileWarning, ProgramWarning, errors.ParameterStoreWarning):
            warnings.simplefilter("ignore", category)
        try:
            return call(), None
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "ppl_vae":
                return None, error
            frames = traceback.extract_tb(error.__traceback__)
            where = " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-5:])
            text = f"foreign {type(error).__name__}: {' '.join(str(error).split())[:300]} at {where}"
            raise AssertionError(text) from error


def check_refusal(case: Case, estimator: str, error: Exception) -> None:
    """Whether a refusal is in one line, names something of the program, and was called for."""
    message = str(error)
    assert "\n" not in message, f"more than one line: {message!r}"
    assert message.strip(), f"an empty {type(error).__name__}"
    assert names_something(message, case.names), f"names neither {case.names} nor an argument: {message}"
    assert estimator not in case.accepts or case.refused, f"must be accepted, but: {message}"
    if estimator == "enumerate_latents":
        assert not case.sums, f"must be accepted, but: {message}"
        return  # a continuous latent is refused by all means, and may come first
    if case.refused and estimator != "fit":
        assert re.search(case.refused, message), f"must match {case.refused!r}: {message}"
    if case.says:
        assert re.search(case.says, message), f"must say {case.says!r}: {message}"


def names_something(message: str, names: Collection[str]) -> bool:
    """Whether a message quotes one of the names, or begins with the argument that it is about."""
    quoted = any(f"{quote}{name}{quote}" in message for name in names for quote in "'\"`")
    begins = re.match(r"(\w+)\b", message)
    too_many = re.match(
        r"program: expected .* latent dimensions", message
    )  # all latents together are at fault
    return quoted or bool(too_many) or (begins is not None and begins[1] in _ARGUMENTS)


def exact_of(case: Case, x: Any) -> Tensor | None:
    """The exact values at data; those at the case's own data are computed once."""
    if case.exact is None:
        return None
    if x is not case.x:
        return case.exact(x).detach().double()
    if id(case) not in _EXACT:
        _EXACT[id(case)] = case.exact(x).detach().double()
    return _EXACT[id(case)]


def check_values(evidence: pv.Evidence, exact: Tensor | None) -> None:
    """The law for values: no NaN, no +inf, and near the exact ones where they are trusted."""
    values = evidence.log_evidence
    assert not bool(values.isnan().any()), values
    assert not bool((values == torch.inf).any()), values
    if exact is None:
        return
    assert values.shape == exact.shape
    trusted = torch.from_numpy(evidence.status == "trust")
    allowed = STDERRS * evidence.stderr + NATS
    wrong = trusted & ~((values - exact).abs() <= allowed)
    if bool(wrong.any()):
        n = int(torch.where(wrong, (values - exact).abs(), -1.0).argmax())
        raise AssertionError(
            f"trusted and wrong at {int(wrong.sum())} of {len(values)} data: datum {n}: {float(values[n]):.4f} ± "
            f"{float(evidence.stderr[n]):.2g}, exact {float(exact[n]):.4f}"
        )


def check_sandwich(case: Case, sandwich: pv.Sandwich) -> None:
    """Both sides obey the law at the data that were simulated, and are the right way round."""
    exact = exact_of(case, sandwich.x) if case.simulates else None
    for side in (sandwich.lower, sandwich.upper):
        check_values(side, exact)
    trusted = torch.from_numpy((sandwich.lower.status == "trust") & (sandwich.upper.status == "trust"))
    crossed = trusted & (sandwich.gap < -STDERRS * sandwich.gap_stderr - NATS)
    assert not bool(crossed.any()), f"the lower bound is above the upper one: {sandwich.gap[crossed]}"


def check_gaps(case: Case, gaps: Any) -> None:
    """The evidence obeys the law, and no ELBO is above it, but where the result says that rounding spoils it."""
    exact = exact_of(case, case.x)
    check_values(gaps.evidence, exact)
    if exact is not None:
        for name in ("elbo", "refitted_elbo"):
            elbo, stderr = getattr(gaps, name), getattr(gaps, f"{name}_stderr")
            # One draw without density makes an ELBO -inf, which is below everything; it has no standard error.
            below = (elbo == -math.inf) | (elbo <= exact + STDERRS * stderr + NATS)
            assert bool((below | gaps.rounded).all()), f"{name} above the evidence"


def check_fit(case: Case, history: pv.History) -> None:
    """The ELBO in training and that in validation are both the one of plain Pyro, at most 6 of its deviations off."""
    reported = [v for epoch in history for v in (epoch.train_elbo, epoch.valid_elbo) if v is not None]
    assert all(math.isfinite(value) for value in reported), reported
    if not case.trains or case.exact is None:
        return
    pyro.clear_param_store()
    program, n = case.program(), count(case.x)
    torch.manual_seed(1)
    # Pyro's validation looks at what is under a mask, too, where NaN may stand.
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        loss = Trace_ELBO(max_plate_nesting=1).loss
        draws = torch.tensor([-loss(program._model, program._guide, case.x) / n for _ in range(100)])
    allowed = 6 * float(draws.std()) + NATS
    wrong = [value for value in reported if abs(value - float(draws.mean())) > allowed]
    assert not wrong, (
        f"plain Pyro has an ELBO of {float(draws.mean()):.3f} ± {float(draws.std()):.2g}, fit {wrong}"
    )


def summary(result: Any, case: Case) -> str:
    """A few words about a result, for the message of a failure."""
    if not isinstance(result, pv.Evidence):
        return repr(result)[:200]
    statuses = sorted(set(result.status.tolist()))
    off = exact_of(case, case.x)
    far = (
        ""
        if off is None
        else f", at most {float((result.log_evidence - off.detach()).abs().max()):.3g} nats off"
    )
    return f"{statuses}{far}"

"""Groups of recorded numbers of every estimator of `ppl_vae.evidence`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from golden_groups import BOTH, LEVELS, SEED, Results, group, of_evidence, of_result
from golden_programs import PARTS, Case, folded, gamma_poisson, linear_vae, mixture, of_parts, vae

import ppl_vae as pv

ev = pv.evidence
Estimator = Callable[..., Any]

INDEPENDENT: dict[str, Estimator] = {
    "importance": lambda p, x, **run: ev.importance(p, x, 100, **run),
    "importance in chunks": lambda p, x, **run: ev.importance(p, x, 100, chunk_size=30, **run),
    "prior draws": lambda p, x, **run: ev.importance(p, x, 60, prior_draws=128, **run),
    "sobol": lambda p, x, **run: ev.importance(p, x, 64, draws=ev.Sobol(4), **run),
    "target stderr": lambda p, x, **run: ev.importance(
        p, x, draws=ev.UntilStderr(0.06, 256, pilot=64), **run
    ),
    "psis": lambda p, x, **run: ev.psis(p, x, 100, **run),
    "jackknife of order 1": lambda p, x, **run: ev.jackknife(p, x, 100, 1, **run),
    "jackknife of order 2": lambda p, x, **run: ev.jackknife(p, x, 100, 2, **run),
    "multisample": lambda p, x, **run: ev.sandwich(p, x, method="importance", num_samples=100, **run),
}
"""Draws from the guide: for latents of any kind, but for sobol."""

PROPOSALS: dict[str, Estimator] = {
    name: lambda p, x, proposal=proposal, **run: ev.importance(p, x, 100, proposal=proposal, **run)
    for name, proposal in {
        "Defensive": ev.Defensive(0.2),
        "Widened": ev.Widened(1.3),
        "StudentT": ev.StudentT(5.0),
        "Refitted": ev.Refitted(num_samples=8, max_steps=40),
        "Refitted without a tail": ev.Refitted(num_samples=8, max_steps=40, df=None),
    }.items()
}
PROPOSALS |= {
    "psis of Widened": lambda p, x, **run: ev.psis(p, x, 60, proposal=ev.Widened(1.3), **run),
    "jackknife of StudentT": lambda p, x, **run: ev.jackknife(p, x, 60, 2, proposal=ev.StudentT(4.0), **run),
    "target stderr of StudentT": lambda p, x, **run: ev.importance(
        p, x, draws=ev.UntilStderr(0.06, 256, pilot=64), proposal=ev.StudentT(4.0), **run
    ),
}

CHAINS: dict[str, Estimator] = {}
for start in ("guide", "prior"):
    for kind, transition in {
        "HMC": None,
        "RandomWalk": ev.RandomWalk(num_moves=2),
        "langevin": ev.langevin(),
    }.items():
        CHAINS[f"annealed from the {start}, {kind}"] = (
            lambda p, x, start=start, transition=transition, **run: ev.annealed(
                p, x, 4, 6, start=start, transition=transition, **run
            )
        )
        CHAINS[f"smc from the {start}, {kind}"] = lambda p, x, start=start, transition=transition, **run: (
            ev.smc(p, x, 16, 4, num_islands=2, ess_threshold=0.9, start=start, transition=transition, **run)
        )
    CHAINS[f"sandwich from the {start}"] = lambda p, x, start=start, **run: ev.sandwich(
        p, x, 4, 6, start=start, **run
    )
CHAINS |= {
    "annealed, sigmoid": lambda p, x, **run: ev.annealed(p, x, 4, 6, schedule="sigmoid", **run),
    "annealed, linear": lambda p, x, **run: ev.annealed(p, x, 4, 6, schedule="linear", **run),
    "annealed, given schedule": lambda p, x, **run: ev.annealed(
        p, x, 4, schedule=torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64), num_steps=3, **run
    ),
    "annealed, long HMC": lambda p, x, **run: ev.annealed(
        p, x, 4, 4, transition=ev.HMC(5, 0.0, 0.1, 0.8), prior_draws=0, **run
    ),
    "sandwich, RandomWalk": lambda p, x, **run: ev.sandwich(
        p, x, 4, 6, transition=ev.RandomWalk(num_moves=2), **run
    ),
}

COMPUTED: dict[str, Estimator] = {
    "quadrature": lambda p, x, **run: ev.quadrature(p, x, 16, **run),
    "quadrature, Gauss-Hermite": lambda p, x, **run: ev.quadrature(p, x, 32, rule="gauss_hermite", **run),
    "refit": lambda p, x, **run: ev.refit(p, x, 8, max_steps=40, **run),
}


# ---- groups --------------------------------------------------------------------------------------------------------


def _estimators(
    name: str,
    make: Callable[[], Case],
    of: Mapping[str, Estimator],
    kind: str = "float64",
    compiled: bool = True,
) -> None:
    for label, estimator in of.items():

        def compute(level: str, estimator: Estimator = estimator) -> Results:
            case = make()
            run = {"compile": LEVELS[level]} if compiled else {}
            return of_result(estimator(case.program, case.x, seed=SEED, progress=False, **run))

        levels = BOTH if compiled else ("plain",)
        group(f"{name}: {label}", levels, kind)(compute)


def _some(of: Mapping[str, Estimator], *names: str) -> dict[str, Estimator]:
    return {name: of[name] for name in names}


_estimators("VAE", vae, INDEPENDENT | PROPOSALS | CHAINS)
_estimators("gamma-Poisson", gamma_poisson, INDEPENDENT | PROPOSALS)
_estimators(
    "gamma-Poisson",
    gamma_poisson,
    _some(
        CHAINS, "annealed from the guide, HMC", "smc from the prior, RandomWalk", "sandwich from the guide"
    ),
)
_estimators(
    "folded",
    folded,
    _some(INDEPENDENT, "importance", "prior draws", "sobol", "jackknife of order 1", "multisample")
    | _some(PROPOSALS, "Defensive", "StudentT", "Refitted")
    | _some(CHAINS, "annealed from the guide, HMC", "smc from the guide, HMC", "sandwich from the prior"),
)
_estimators(
    "mixture",
    mixture,
    _some(
        INDEPENDENT,
        "importance",
        "prior draws",
        "target stderr",
        "psis",
        "jackknife of order 2",
        "multisample",
    )
    | _some(PROPOSALS, "Defensive"),
)
_estimators("VAE", vae, COMPUTED, compiled=False)
_estimators("gamma-Poisson", gamma_poisson, COMPUTED, compiled=False)
_estimators("folded", lambda: dataclasses.replace(folded(), x=folded().x[:1]), COMPUTED, compiled=False)
for part in PARTS:
    _estimators(
        f"parts: {part}", lambda part=part: of_parts(part), _some(INDEPENDENT, "importance"), compiled=False
    )

_SINGLE = "float32"
_estimators(
    "float32 VAE",
    lambda: vae(dtype=torch.float32),
    _some(INDEPENDENT, "importance", "sobol", "psis") | _some(PROPOSALS, "StudentT"),
    kind=_SINGLE,
)
_estimators(
    "float32 VAE",
    lambda: vae(dtype=torch.float32),
    _some(CHAINS, "annealed from the guide, HMC"),
    "float32 chains",
)


@group("VAE: importance in bfloat16", BOTH, "bfloat16")
def _lowered(level: str) -> Results:
    case = vae(dtype=torch.float32)
    compiled = LEVELS[level]
    return of_result(
        ev.importance(
            case.program, case.x, 100, precision="bfloat16", seed=SEED, compile=compiled, progress=False
        )
    )


def _precision(name: str) -> None:
    def compute(level: str) -> Results:
        case = vae(dtype=torch.float32)
        found = ev.precision_error(case.program, case.x, 100, name, seed=SEED)
        return {n: getattr(found, n) for n in ("error", "full_error", "stderr", "khat")}

    group(f"float32 VAE: precision error of {name}", kind="bfloat16")(compute)


_precision("bfloat16")
_precision("tf32")


@group("gamma-Poisson: sandwich of given samples", BOTH)
def _given_posterior(level: str) -> Results:
    case = gamma_poisson()
    run: dict[str, Any] = {"seed": SEED, "compile": LEVELS[level], "progress": False}
    return of_result(ev.sandwich(case.program, case.x, 4, 6, posterior=case.z, **run))


@group("gamma-Poisson: concatenated, taken apart, averaged")
def _joined(level: str) -> Results:
    case = gamma_poisson()
    parts = [ev.importance(case.program, case.x[i:], 60, seed=SEED, progress=False) for i in (0, 1)]
    joined = ev.concatenate(parts)
    found = dict(of_evidence(joined[1:4]))
    for of in ("log_evidence", "elbo", "gap"):
        mean = joined.mean(of)
        found[f"mean {of}"] = [mean.value, mean.mc_stderr, mean.data_stderr]
    return found | {"curve stderr": joined.curve().stderr, "bits": joined.bits_per_dim(4).value}


@group("mixture: enumeration")
def _enumeration(level: str) -> Results:
    case = mixture()
    return of_evidence(ev.enumerate_latents(case.program, case.x, progress=False))


@group("mixture: enumerated in the model", BOTH)
def _enumerated(level: str) -> Results:
    case = mixture(enumerated=True)
    compiled = LEVELS[level]
    return of_evidence(ev.importance(case.program, case.x, 20, seed=SEED, compile=compiled, progress=False))


@group("linear VAE: closed forms")
def _linear(level: str) -> Results:
    case = linear_vae()
    mean, covariance = ev.linear_gaussian_posterior(case.module, case.x)
    bound = ev.best_mean_field_elbo(case.module, case.x)
    found = of_evidence(ev.linear_gaussian(case.module, case.x))
    return {
        **found,
        "posterior mean": mean,
        "posterior covariance": covariance,
        "best mean-field ELBO": bound,
    }


@group("VAE: generated")
def _generated(level: str) -> Results:
    case = vae()
    return {
        "sample": pv.sample(case.module, 2, seed=SEED),
        "means of samples": pv.sample(case.module, 2, seed=SEED, mean=True),
        "reconstructed": pv.reconstruct(case.module, case.x),
        "interpolated": pv.interpolate(case.module, case.x[0], case.x[1], steps=3),
    }

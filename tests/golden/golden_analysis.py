"""Groups of recorded numbers of `ppl_vae.analysis` and `ppl_vae.validation`."""

from __future__ import annotations

from collections.abc import Callable

from golden_groups import SEED, Results, group
from golden_programs import Case, gamma_poisson, vae

import ppl_vae as pv

_SURGERY = ("rate", "distortion", "information", "marginal")


def _analysis(name: str, make: Callable[[], Case]) -> None:
    @group(f"{name}: gaps")
    def _gaps(level: str) -> Results:
        case = make()
        found = pv.analysis.gaps(case.program, case.x, 60, seed=SEED, progress=False)
        names = (
            "elbo",
            "elbo_stderr",
            "refitted_elbo",
            "refitted_elbo_stderr",
            "gap_stderr",
            "approximation_stderr",
        )
        names = (*names, "amortisation_stderr", "converged", "steps", "gap", "approximation", "amortisation")
        return {n: getattr(found, n) for n in names} | {"log_evidence": found.evidence.log_evidence}

    @group(f"{name}: surgery")
    def _surgery(level: str) -> Results:
        case = make()
        found = pv.analysis.surgery(case.program, case.x, 16, seed=SEED, progress=False)
        return {n: getattr(found, n) for part in _SURGERY for n in (part, f"{part}_stderr")}

    @group(f"{name}: active units")
    def _units(level: str) -> Results:
        case = make()
        found = pv.analysis.active_units(case.program, case.x, num_samples=16, seed=SEED)
        return {"variances": found.variances, "stderr": found.stderr}

    @group(f"{name}: calibration")
    def _calibration(level: str) -> Results:
        case = make()
        found = pv.analysis.calibration(
            case.program, case.x, 25, num_draws=9, num_importance=40, bins=5, seed=SEED, progress=False
        )
        ranks = {n: getattr(found, n) for n in ("ranks", "reweighted_ranks")}
        p = {f"p of {of}": found.p_values(of) for of in ("guide", "reweighted")}
        return ranks | p | {"ess": found.ess[:6]}


_analysis("VAE", vae)
_analysis("gamma-Poisson", gamma_poisson)

_VALIDATED = {
    "gamma-poisson": (
        "importance-64",
        "psis-1000",
        "jackknife2-64",
        "sobol-1024",
        "student-t-1000",
        "quadrature",
    ),
    "mixture": ("importance-64", "defensive-1000", "enumeration", "quadrature"),
    "one-mode": ("importance-64", "annealed-16x100"),
    "linear-gaussian-2": ("importance-to-0.03", "widened-1000"),
}


def _validation(model: str) -> None:
    @group(f"validation: {model}")
    def _validate(level: str) -> Results:
        report = pv.validation.validate(
            [model], list(_VALIDATED[model]), num_data=2, repetitions=2, seed=SEED, progress=False
        )
        found = {}
        for row in report.rows:
            values = row.flat()
            del values["seconds"]
            numbers = [value for value in values.values() if not isinstance(value, str)]
            found[row.estimator] = [float(value) for value in numbers]
        return found


for model in _VALIDATED:
    _validation(model)

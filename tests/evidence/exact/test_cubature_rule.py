"""The rule of the cubature on functions of known integral."""

import math

import pytest
import torch
from covering import crossed

from ppl_vae.evidence.exact.cubature import integrate
from ppl_vae.evidence.exact.cubature_rule import Box


def normal(mean, sd):
    return lambda u, rows: (-(((u - mean) / sd) ** 2) / 2 - math.log(sd) - math.log(2 * math.pi) / 2).sum(-1)


def correlated(rho, dim):
    precision = torch.linalg.inv((1 - rho) * torch.eye(dim, dtype=torch.float64) + rho)
    constant = torch.logdet(precision) / 2 - dim * math.log(2 * math.pi) / 2
    return lambda u, rows: constant - ((u @ precision) * u).sum(-1) / 2


FUNCTIONS = {
    "normal": (lambda dim: normal(0.3, 1.0), 1e-6),
    "narrow normal": (lambda dim: normal(2.77, 0.01), 1e-6),
    "far normal": (lambda dim: normal(8.3, 0.001), 1e-6),
    "two normals": (
        lambda dim: (
            lambda u, rows: (
                torch.logaddexp(normal(2.1, 0.01)(u, rows), normal(-2.3, 0.01)(u, rows)) - math.log(2)
            )
        ),
        1e-6,
    ),
    "exponential tails": (lambda dim: lambda u, rows: -(u - 0.37).abs().sum(-1) - dim * math.log(2), 1e-3),
    "Cauchy": (lambda dim: lambda u, rows: (-(1 + (u - 0.5) ** 2).log() - math.log(math.pi)).sum(-1), 1e-6),
    "ridge": (lambda dim: correlated(0.99, dim) if dim > 1 else normal(0.0, 1.0), 1e-5),
    "sharp ridge": (lambda dim: correlated(0.999, dim) if dim > 1 else normal(0.0, 1.0), 1e-3),
}


@pytest.mark.parametrize(("name", "dim"), crossed(FUNCTIONS, [1, 2, 3], strength=1))
def test_functions_of_known_integral(name, dim):
    """All integrals are 1. The box says -3 to 3: peaks outside of it are found, too."""
    make, worst = FUNCTIONS[name]
    centre = torch.zeros(1, dim, dtype=torch.float64)
    points = torch.randn(64, 1, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = integrate(
        make(dim),
        Box(centre, centre + 3),
        points,
        nodes=64,
        tolerance=torch.full((1,), 1e-8 if dim < 3 else 1e-6, dtype=torch.float64),
        rounds=64,
    )
    print(
        f"error {float(found.log_value):.1e}, bound {float(found.error):.1e}, {float(found.evaluations):.0f}"
    )
    assert abs(float(found.log_value)) <= float(found.error) + 1e-12
    assert float(found.error) < worst

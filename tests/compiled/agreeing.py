"""What it is for captured densities to agree with a program's."""

import pytest
import test_conformance as library
import torch
from covering import tiered

from ppl_vae.compiled import LogJoint, LogWeights
from ppl_vae.evidence.annealing.path import AnnealingPath

S = 4

DTYPES = [torch.float64, torch.float32]
EVERY_PART = [
    pytest.param(row.values[:-1], row.values[-1], marks=row.marks)
    for row in tiered(*library.VARIANTS, DTYPES, allowed=library.sensible)
]


def plain(program, x, num_samples=S):
    with torch.no_grad():
        return program.log_weights(x, num_samples, seed=None, check=False)


def both(program, x, weights):
    """The two ways to the log weights from one state of the generator, which both leave in one state."""
    results, states = [], []
    for way in (lambda: plain(program, x, weights.num_samples), lambda: weights(x)):
        torch.manual_seed(5)
        results.append(way())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    return results


def check(program, x, weights=None, tolerance=1e-10):
    weights = weights or LogWeights(program, S)
    first = weights(x)  # captures
    assert first.shape == (S, first.shape[1])
    for _ in range(2):
        theirs, ours = both(program, x, weights)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert weights.cause(x) == ""


def built(combination, dtype):
    vae = library.build(combination).to(dtype)
    x = library.draw(vae)
    vae.start_from(x)
    return vae, x


def check_joint(program, x, other, tolerance=1e-10, starts=("guide", "prior"), **options):
    """Values and gradients of a path; the second data use the graph of the first."""
    for start in starts:
        for data in (x, other):
            path = AnnealingPath(program, data, start)
            u = path.draw(S).detach()
            ours = LogJoint(path.coordinates, start, **options)
            for point in (u, u * 0.9, u):
                expected = path.at(point, gradient=True)
                wanted = (
                    expected.log_start,
                    expected.log_end,
                    expected.start_gradient,
                    expected.end_gradient,
                )
                for a, b in zip(ours(point), wanted, strict=True):
                    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
            assert ours.cause == ""
            if len(starts) == 1:
                continue
            values = LogJoint(path.coordinates, start, gradient=False, **options)
            values(u)
            for a, b in zip(values(u), wanted[:2], strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

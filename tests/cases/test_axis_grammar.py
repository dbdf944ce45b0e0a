"""Decoders drawn from a grammar of axis-counting code: the density of plain Pyro, or a refusal; no other number."""

from __future__ import annotations

import contextlib
import warnings

import pyro
import pytest
import torch
from axis_grammar import ENDS, STATEMENTS, Decoder, decoders, mixes, plain_densities
from case import seeded
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from judge import attempt, names_something

FAST = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
SLOW = settings(FAST, max_examples=2000, phases=(Phase.explicit, Phase.generate, Phase.shrink))
SIZES = st.sampled_from([1, 2, 3, 5])


@st.composite
def _problems(draw):
    """A decoder, S, and data: sizes so few that S, N, D, C and K are often the same."""
    dims, outputs = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from([2, 3]))
    N, S = draw(SIZES), draw(SIZES)
    decoder = draw(decoders(dims, outputs))
    x = {
        "x": seeded(1, N, outputs, dtype=torch.float64),
        "y": seeded(2, N, draw(st.sampled_from([2, 3])), dtype=torch.float64),
    }
    return decoder, S, x


def _refused(call):
    """Whether the library refuses the call; where it does, whether it does so by the name of a site."""
    _, error = attempt(call)
    if error is not None:
        message = str(error)
        assert "\n" not in message
        assert names_something(message, ("z", "x")), f"names no site: {message}"
    return error is not None


def check_decoder(decoder: Decoder, S: int, x: dict[str, torch.Tensor]) -> str:
    """The law: the reference's density to a relative error of 1e-9, or a refusal by name; what came, in words."""
    N = len(x["x"])
    z = seeded(3, S, N, *([decoder.dims] if decoder.dims else []), dtype=torch.float64)
    with pyro.validation_enabled(True):
        reference = plain_densities(decoder, z, x)
    if reference is None:
        stopped = True
        with warnings.catch_warnings(), contextlib.suppress(Exception):  # the program's own error will do
            warnings.simplefilter("ignore")
            decoder.program().check(x)
            decoder.program().log_joint({"z": z}, x)
            stopped = False
        assert stopped, f"accepted, though plain Pyro cannot run it: {decoder}"
        return "plain Pyro cannot run it"
    if not bool(reference[0].isfinite().all()):
        return "not finite"
    program, mixed = decoder.program(), N > 1 and mixes(decoder, z, x)
    if _refused(lambda: program.check(x)):
        return (
            "refused, and its data do depend on one another" if mixed else "refused, though it could be run"
        )
    assert not mixed, f"accepted, though its data depend on one another: {decoder}"
    found, error = attempt(lambda: program.log_joint({"z": z}, x))
    assert error is None, f"checked, then refused: {error}"
    torch.testing.assert_close(found.detach(), reference[0], rtol=1e-9, atol=1e-9)
    # log_weights and sample_guide draw alike from one state of torch's generator: the weights are those of z.
    torch.manual_seed(4)
    weights, error = attempt(lambda: program.log_weights(x, S, seed=None, check=False))
    assert error is None, f"checked, then refused: {error}"
    torch.manual_seed(4)
    drawn = program.sample_guide(x, S, seed=None)["z"]
    joint, guide = plain_densities(decoder, drawn, x)
    torch.testing.assert_close(weights.detach(), joint - guide, rtol=1e-9, atol=1e-9)
    return "accepted"


@FAST
@given(_problems())
def test_decoders_have_the_density_of_plain_pyro(problem):
    event(check_decoder(*problem))


@pytest.mark.slow
@pytest.mark.exhaustive
@SLOW
@given(_problems())
def test_many_decoders_have_the_density_of_plain_pyro(problem):
    event(check_decoder(*problem))


_SINGLE = [(axes, statement, left) for axes, found in STATEMENTS.items() for statement, left in found]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("S", [1, 2, 3, 4])
@pytest.mark.parametrize(("axes", "statement", "left"), _SINGLE)
def test_each_statement(axes, statement, left, S):
    """Every statement of the grammar, alone, where N is D, and where it is not, and every end."""
    for N in (2, 4):
        for end in ENDS[left]:
            start = () if axes < 3 else ("torch.stack([h, h.tanh()], 1)",)
            decoder = Decoder((*start, statement, end), 0 if axes == 1 else 2, 3)
            x = {"x": seeded(1, N, 3, dtype=torch.float64), "y": seeded(2, N, 2, dtype=torch.float64)}
            check_decoder(decoder, S, x)


def test_what_can_be_run_is_accepted_and_what_mixes_data_is_refused():
    """The law of refusals has two sides: of the statements alone that mix nothing, at most one in ten is refused."""
    x = {"x": seeded(1, 4, 3, dtype=torch.float64), "y": seeded(2, 4, 2, dtype=torch.float64)}
    clean, mixing = [], []
    for axes, statement, left in _SINGLE:
        start = () if axes < 3 else ("torch.stack([h, h.tanh()], 1)",)
        decoder = Decoder((*start, statement, ENDS[left][0]), 0 if axes == 1 else 2, 3)
        z = seeded(3, 1, 4, *([2] if axes > 1 else []), dtype=torch.float64)
        if plain_densities(decoder, z, x) is not None:
            (mixing if mixes(decoder, z, x) else clean).append(decoder)
    assert len(clean) > 60
    assert len(mixing) > 15
    accepted = [d for d in mixing if not _refused(lambda d=d: d.program().check(x))]
    assert not accepted, [str(d) for d in accepted]
    refused = [d for d in clean if _refused(lambda d=d: d.program().check(x))]
    assert len(refused) <= 0.1 * len(clean), [str(d) for d in refused]


def test_copies_are_by_chance_as_many_as_another_axis():
    """One datum, two copies of it, and two classes: ``h + y[:, 0]`` adds along the wrong axis and raises nothing."""
    decoder = Decoder(("torch.softmax(h, 1)", "h + y[:, 0]", "h @ A[: h.shape[-1], :K]"), 2, 2)
    x = {"x": seeded(1, 1, 2, dtype=torch.float64), "y": seeded(2, 1, 2, dtype=torch.float64)}
    assert check_decoder(decoder, 1, x) == "refused, though it could be run"

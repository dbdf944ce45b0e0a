"""Programs, data and latents that are refused, in one line that names what is wrong."""

import pytest
import torch
from programs_by_hand import X3, N, randn, split_guide, split_model
from refused_programs import (
    REFUSED,
    bad_no_event_guide,
    bad_no_event_observed,
    bernoulli_model,
    binomial_model,
    good_bits,
    good_guide,
    good_model,
)

import ppl_vae as pv
from ppl_vae import InputError, NonFiniteError, Program, ProgramError


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_what_is_wrong_in_one_line(name):
    model, guide, x, error, message = REFUSED[name]
    program = Program(model, guide)
    for call in (lambda: program.check(x), lambda: program.log_weights(x, 3)):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        if error is ProgramError:
            assert type(caught.value) is ProgramError
    with pytest.raises((InputError, NonFiniteError)):  # the first datum alone may hide what the rest shows
        pv.evidence.importance(program, x, 100)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_refusals_do_not_depend_on_the_number_of_data(size):
    """As many data as latent dimensions, as pixels, or one: a forgotten to_event must show all the same."""
    for model, guide in ((bad_no_event_observed, good_guide), (good_model, bad_no_event_guide)):
        with pytest.raises(ProgramError, match=r"to_event.*site [zx] |site '[zx]'.*to_event"):
            Program(model, guide).log_weights(X3[:size], 2)
    assert Program(good_model, good_guide).log_weights(X3[:size], 2).shape == (2, size)


def test_good_programs_are_not_refused():
    for model, guide, x in (
        (good_model, good_guide, X3),
        (bernoulli_model, good_guide, good_bits()),
        (binomial_model, good_guide, 2 * good_bits()),
        (split_model, split_guide, randn(4, 5)),
    ):
        assert torch.isfinite(Program(model, guide).log_weights(x, 3)).all()


def test_errors_of_the_callables_themselves_come_through():
    class MineError(Exception):
        pass

    def model(x):
        raise MineError("as it was")

    with pytest.raises(MineError, match="as it was"):
        Program(model, good_guide).log_weights(X3, 2)

    def refuses(x):
        raise InputError("x", "something else", "this")

    with pytest.raises(InputError, match="x: expected something else, received this"):
        Program(refuses, good_guide).log_weights(X3, 2)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        ({"z": torch.zeros(N, 2)}, "shape"),
        ({"z": torch.zeros(3, N)}, r"z\['z'\]"),
        ({"z": torch.zeros(3, N, 3)}, "'z'"),
        ({"z": torch.zeros(3, N + 1, 2)}, "shape"),
        ({"z": torch.zeros(3)}, "shape"),
        ({"z": torch.zeros(3, N, 2), "w": torch.zeros(3, N, 2)}, "unknown=.'w'"),
        ({"z": torch.zeros(3, N, 2), "x": torch.zeros(3, N, 3)}, "unknown=.'x'"),
        ({"z": torch.zeros(3, N, 2), "w": torch.zeros(4, N, 2)}, "shape"),
        ({"w": torch.zeros(3, N, 2)}, "missing=.'z'"),
        ({}, "dict"),
        ({"z": 1.0}, "dict"),
        (torch.zeros(3, N, 2), "dict"),
    ],
)
def test_latents_that_do_not_fit(z, message):
    z = (
        {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in z.items()}
        if isinstance(z, dict)
        else z
    )
    program = Program(good_model, good_guide)
    with pytest.raises(InputError, match=message):
        program.log_joint(z, X3)
    with pytest.raises(InputError):
        program.log_guide(z, X3)

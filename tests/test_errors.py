"""One line a message: what was asked for, what came."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppl_vae import errors
from ppl_vae.errors import InputError, NonFiniteError, ProgramError


def test_the_message_names_argument_expectation_and_what_came():
    error = InputError("lr", "a positive number", -1)
    assert str(error) == "lr: expected a positive number, received -1"
    assert (error.argument, error.expected, error.received) == ("lr", "a positive number", "-1")


@given(st.text(max_size=50))
def test_what_came_never_breaks_the_line(received):
    assert len(str(InputError("a", "b", f"x{received}\ny")).splitlines()) == 1


@pytest.mark.parametrize("kind", [InputError, ProgramError])
def test_errors_survive_being_sent_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("a", "b", "c d")))
    assert type(error) is kind
    assert str(error) == "a: expected b, received c d"


def test_the_family_of_errors():
    assert issubclass(InputError, ValueError)
    assert issubclass(ProgramError, InputError)
    assert issubclass(NonFiniteError, ArithmeticError)
    assert not issubclass(NonFiniteError, InputError)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(2, 3), ["Tensor", "(2, 3)", "float32"]),
        (np.zeros((4, 1)), ["ndarray", "(4, 1)", "float64"]),
        ("a\nb", ["a"]),
        (None, ["None"]),
        ([1, 2], ["[1, 2]"]),
        ("x" * 10_000, ["xxx", "…"]),
        ({"a": torch.zeros(1000, 1000)}, ["a"]),
    ],
)
def test_values_are_described_in_one_short_line(value, words):
    text = errors.describe(value)
    assert len(text) <= 80
    assert "\n" not in text
    assert all(word in text for word in words)


@pytest.mark.parametrize("value", [1, 5, 10**12])
def test_positive_integers(value):
    assert errors.check_positive_int("n", value) == value


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, float("nan")])
def test_no_positive_integers(value):
    with pytest.raises(InputError, match="n: expected a positive integer"):
        errors.check_positive_int("n", value)


@pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
def test_seeds(value):
    assert errors.check_seed(value) == value


@pytest.mark.parametrize("value", [-1, 2**63, 0.0, True, False, "0", None])
def test_no_seeds(value):
    with pytest.raises(InputError, match="seed: expected an integer from 0"):
        errors.check_seed(value)


@pytest.mark.parametrize("value", [1, 0.5, 1e-300])
def test_positive_floats(value):
    assert errors.check_positive_float("lr", value) == value
    assert isinstance(errors.check_positive_float("lr", value), float)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_no_positive_floats(value):
    with pytest.raises(InputError, match="lr: expected a positive, finite number"):
        errors.check_positive_float("lr", value)


def test_one_of():
    assert errors.check_one_of("kind", "a", ("a", "b")) == "a"
    with pytest.raises(InputError, match="kind: expected one of 'a', 'b', received 'c'"):
        errors.check_one_of("kind", "c", ("a", "b"))
    with pytest.raises(InputError, match="received 3"):
        errors.check_one_of("kind", 3, ("a", "b"))

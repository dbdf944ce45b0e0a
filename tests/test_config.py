"""Configurations: differences, and objects made from a class and its arguments."""

import pytest

from ppl_vae import config
from ppl_vae.errors import InputError
from ppl_vae.priors import VampPrior


class Odd:
    """A class that raises what it is told to."""

    def __init__(self, size, error=None):
        if error is not None:
            raise error


def test_the_first_difference_is_found():
    ours = {"seed": 0, "prior": {"class_path": "a.B", "init_args": {"width": (1, 2)}}}
    assert (
        config.difference(ours, {**ours, "prior": {"class_path": "a.B", "init_args": {"width": [1, 2]}}})
        is None
    )
    theirs = {"seed": 0, "prior": {"class_path": "a.B", "init_args": {"width": [1, 3]}}}
    assert config.difference(ours, theirs) == (("prior", "init_args", "width"), [1, 2], [1, 3])
    assert config.difference({"seed": True}, {"seed": 1}) == (("seed",), True, 1)


def test_errors_are_told_under_the_users_names():
    assert config.make(VampPrior, (3,), {"components": 7}, "--prior", {}).components == 7
    names = {"components": "--prior.components"}
    with pytest.raises(InputError, match=r"--prior\.components: expected a positive integer"):
        config.make(VampPrior, (3,), {"components": 0}, "--prior", names)
    with pytest.raises(InputError, match=r"--prior\.components: expected an integer of 64 bits"):
        config.make(VampPrior, (3,), {"components": 2**70}, "--prior", names)
    with pytest.raises(InputError, match=r"--prior: .*test_config\.Odd, which raised KeyError: 'mine'"):
        config.make(Odd, (3,), {"error": KeyError("mine")}, "--prior", {})
    with pytest.raises(MemoryError):
        config.make(Odd, (3,), {"error": MemoryError()}, "--prior", {})

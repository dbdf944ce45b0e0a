"""Run options: each estimator takes those of its signature, and refuses others in one line."""

import inspect
import re
import typing

import pytest
import torch
from exact_models import gamma_poisson

import ppl_vae as pv
from ppl_vae.evidence.running.options import (
    ALL,
    ALL_BUT_CHUNKS,
    DEFAULTS,
    KEPT,
    RunOptions,
    takes_run_options,
)

OPTIONS = {
    "importance": ALL,
    "psis": ALL,
    "jackknife": ALL,
    "annealed": ALL_BUT_CHUNKS,
    "smc": ALL_BUT_CHUNKS,
    "sandwich": ALL_BUT_CHUNKS,
    "enumerate_latents": KEPT,
    "quadrature": KEPT,
    "validate": KEPT,
    "refit": KEPT,
    "precision_error": KEPT,
    "conditional": KEPT,
    "gaps": KEPT,
    "surgery": KEPT,
    "active_units": KEPT,
    "calibration": KEPT,
}
OTHER = {"compile": True, "precision": "bfloat16", "checkpoint": "state", "resume": True, "progress": False}
OTHER["chunk_size"] = 64


ROOMS = (pv.evidence, pv.analysis, pv.validation)


def estimators():
    return {name: getattr(room, name) for room in ROOMS for name in OPTIONS if hasattr(room, name)}


def test_every_option_has_a_default_and_is_documented():
    assert set(DEFAULTS) == set(typing.get_type_hints(RunOptions)) == set(OTHER)
    assert all(f"    {name}: " in RunOptions.__doc__ for name in DEFAULTS)


def test_the_table_has_every_function_that_takes_run_options():
    found = {
        name
        for room in ROOMS
        for name in room.__all__
        if getattr(getattr(room, name), "__annotations__", {}).get("run", "").startswith("Unpack[R")
    }
    assert found == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_signature_tells_the_options_and_their_defaults(name):
    parameters = inspect.signature(estimators()[name]).parameters
    own = {"precision"} if name == "precision_error" else set()  # which precision's error it is
    assert [option for option in parameters if option in DEFAULTS and option not in own] == list(
        OPTIONS[name]
    )
    assert all(parameters[option].default == DEFAULTS[option] for option in OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_docstring_tells_what_run_options_says_of_them(name):
    docstring, said = inspect.getdoc(estimators()[name]), inspect.getdoc(RunOptions)
    assert "RunOptions" not in docstring
    for option in OPTIONS[name]:
        (text,) = re.findall(rf"^    {option}: .*(?:\n {{8}}.*)*", said, flags=re.MULTILINE)
        assert text in docstring


@pytest.mark.parametrize("name", OPTIONS)
def test_a_misspelt_option_is_refused_in_one_line(name):
    with pytest.raises(TypeError) as error:
        estimators()[name](None, None, chekpoint="state")
    assert str(error.value) == f"{name}() got an unexpected keyword argument 'chekpoint'"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name, options in OPTIONS.items()
        for option in DEFAULTS
        if option not in options and (name, option) != ("precision_error", "precision")
    ],
)
def test_an_option_of_others_is_refused_in_one_line(name, option):
    with pytest.raises(pv.InputError, match=rf"^{option}: expected .*{name} has no such option") as error:
        estimators()[name](None, None, **{option: OTHER[option]})
    assert "\n" not in str(error.value)


def test_options_that_ask_for_nothing_are_taken_by_all():
    exact = gamma_poisson(3)
    run = {**DEFAULTS, "progress": False}
    plain = pv.evidence.quadrature(exact.program, exact.x, progress=False)
    assert torch.equal(pv.evidence.quadrature(exact.program, exact.x, **run).log_evidence, plain.log_evidence)


def test_a_function_of_ones_own():
    @takes_run_options("progress")
    def estimate(number, *, seed=0, **run):
        """Its docstring.

        Args:
            number: of something.
            run: see `RunOptions`.
        """
        return number, seed, run

    assert estimate(1, seed=2, progress=False, resume=False) == (1, 2, {"progress": False})
    assert str(inspect.signature(estimate)) == "(number, *, seed=0, progress: bool = True)"
    docstring = "Its docstring.\n\nArgs:\n    number: of something.\n    progress: show a progress bar"
    assert inspect.getdoc(estimate).startswith(docstring)

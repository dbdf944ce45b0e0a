"""Options from an estimator's signature and docstring: the same as Python says, without importing it."""

import inspect
import subprocess
import sys

import pytest

import ppl_vae as pv
from ppl_vae.cli.commands import evidence, gaps, sandwich
from ppl_vae.cli.options import estimators
from ppl_vae.cli.options.estimators import Estimator
from ppl_vae.cli.options.parser import make_parser, parse
from ppl_vae.errors import InputError

COMMANDS = {"evidence": evidence, "sandwich": sandwich, "gaps": gaps}
EVERY = {each.path: each for module in COMMANDS.values() for each in module.METHODS.values()}
LEFT_OUT = {"compile", "precision", "checkpoint", "resume", "progress", "chunk_size", "seed", "method"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(command):
    code = f"import sys; from ppl_vae.cli import main; main(['{command}', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[" in done.stdout


@pytest.mark.parametrize("path", EVERY)
def test_options_are_the_arguments(path):
    read = Estimator(path, compiled=False).parameters
    signature = inspect.signature(EVERY[path].load())
    values = {name: each.default for name, each in signature.parameters.items() if name not in LEFT_OUT}
    plain = {name: value for name, value in values.items() if type(value) in (int, float, str)}
    assert {name: read[name].default for name in plain} == plain
    assert set(read) <= set(values) - {"program", "x"}
    for name, parameter in read.items():
        if name in plain:
            assert type(plain[name]).__name__ in parameter.types
        assert parameter.text, name


def test_every_estimator_says_whether_it_is_a_bound(digits_program):
    for each in EVERY.values():
        if each.path.endswith("sandwich"):
            continue
        small = {"nodes": 16} if "nodes" in each.parameters else {}
        small |= dict.fromkeys({"num_chains", "num_steps", "num_islands"} & set(each.parameters), 2)
        found = each.load()(*digits_program, **small, progress=False)
        assert each.summary.endswith("a stochastic lower bound") == (found.bound == "lower")


@pytest.fixture(scope="module")
def digits_program():
    exact = pv.validation.MODELS["linear-gaussian-2"](num_data=1, seed=0)
    return exact.program, exact.x


def test_an_estimator_is_one_line():
    methods = {"new": Estimator("importance_sampling.jackknife.jackknife", only=("order",), compiled=False)}
    parser = make_parser("try", "", "")
    estimators.add_options(parser, methods, "which")
    settings = parse(parser, ["--order", "2"])
    estimators.check(settings, methods)
    assert estimators.resolve(settings, methods["new"]) == {"order": 2}
    settings = parse(parser, [])
    assert estimators.resolve(settings, methods["new"]) == {"order": 1}
    assert settings["order"] == 1
    assert "[new] 1 or 2 (default: 1)" in parser.format_help()
    with pytest.raises(InputError, match="--order: expected a positive integer, received 0"):
        estimators.check(parse(parser, ["--order", "0"]), methods)


def test_a_rehearsal_is_small():
    draws = pv.evidence.UntilStderr(0.1, most=4096)
    given = {"num_samples": 999, "draws": draws, "proposal": pv.evidence.Refitted(200), "nodes": 64}
    with estimators.reduced(given) as few:
        assert few == {
            "num_samples": 4,
            "draws": pv.evidence.UntilStderr(0.1, most=4, pilot=4),
            "proposal": pv.evidence.Refitted(4, max_steps=1),
            "nodes": 64,
        }


@pytest.mark.parametrize(("name", "told"), [("num_samples", "999"), ("nodes", "64"), ("x", "4")])
def test_errors_of_a_rehearsal_tell_what_was_given(name, told):
    given = {"num_samples": 999, "nodes": 64}
    with (
        pytest.raises(InputError, match=f"{name}: expected none, received {told}"),
        estimators.reduced(given) as few,
    ):
        raise InputError(name, "none", few.get(name, 4))

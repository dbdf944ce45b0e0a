"""What the source of a function says of its arguments."""

import inspect

import pytest

from ppl_vae import signatures
from ppl_vae.data import LOADERS
from ppl_vae.training.loop import fit


@pytest.mark.parametrize("function", [*LOADERS.values(), fit])
def test_the_same_as_python_says(function):
    read, known = signatures.read(function), inspect.signature(function).parameters
    assert read.docstring == inspect.getdoc(function)
    assert list(read.arguments) == list(known)
    for name, argument in read.arguments.items():
        assert " | ".join(argument.types) == known[name].annotation
        default = known[name].default
        if isinstance(default, int | float | str):
            assert argument.default == default
        else:
            assert argument.default is None
    assert signatures.read(f"{function.__module__}.{function.__name__}") == read


def test_texts_are_first_sentences():
    docstring = """One line.

    Args:
        program: a `Program`.
        draws: how ``z`` is drawn (see `a.b`): "iid" or
            "sobol". The rest is left out.
        share: 0.5, say

    Returns:
        other: no argument.
    """
    assert signatures.describe_arguments(inspect.cleandoc(docstring)) == {
        "program": "a Program",
        "draws": 'how z is drawn: "iid" or "sobol"',
        "share": "0.5, say",
    }

"""Every case, given to every estimator: a value within its error, or a refusal by name; never anything else."""

from __future__ import annotations

import importlib
import warnings

import pyro
import pytest
import torch
from case import by_hand, by_name
from covering import slow_but
from judge import ALSO_FAST, ESTIMATORS, NATS, STDERRS, exact_of, judge

KINDS = (
    "axes",
    "conditional",
    "masks",
    "supports",
    "circles",
    "edges",
    "stores",
    "modes",
    "guides",
    "reparam",
    "custom",
    "flows",
    "nans",
    "enumeration",
    "plates",
    "posteriors",
)
CASES = {
    f"{kind}-{name}": case
    for kind in KINDS
    for name, case in by_name(importlib.import_module(f"kind_{kind}").CASES).items()
}


@pytest.fixture(autouse=True)
def _own_parameter_store():
    with pyro.get_param_store().scope():
        yield


@pytest.mark.parametrize(
    "name",
    [name for name, case in CASES.items() if case.plain and case.exact is not None and not case.refused],
)
def test_the_exact_value_is_that_of_plain_pyro(name):
    """The cases themselves, without the library: at 5 standard errors, fewer than one in a million fails by chance."""
    case = CASES[name]
    torch.manual_seed(0)
    program, exact = case.program(), exact_of(case, case.x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimate, stderr = by_hand(program, case.x)
    assert bool(((estimate - exact).abs() <= STDERRS * stderr + NATS).all()), (estimate, stderr, exact)


@pytest.mark.parametrize("name", CASES)
def test_importance(name):
    judge(CASES[name], "importance")


# Of each kind three cases here, spread over it; the others are slow.
ONE_MORE = [(name, ALSO_FAST[i % len(ALSO_FAST)]) for i, name in enumerate(CASES)]
SPREAD = [
    row
    for kind in KINDS
    for rows in [[row for row in ONE_MORE if row[0].startswith(f"{kind}-")]]
    for row in rows[:: -(-len(rows) // 3)]
]


@pytest.mark.parametrize(("name", "estimator"), slow_but(SPREAD, ONE_MORE))
def test_one_more(name, estimator):
    judge(CASES[name], estimator)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", CASES)
def test_every_estimator(name, estimator):
    judge(CASES[name], estimator)

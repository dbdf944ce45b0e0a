"""Every program whose densities are known by hand, and an empty store."""

import pyro
import pytest
from programs_by_hand import CASES

from ppl_vae import Program


@pytest.fixture(params=CASES)
def case(request):
    case = CASES[request.param]
    case.program = Program(case.model, case.guide)
    return case


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()

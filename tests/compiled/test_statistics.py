"""Exactness and coverage once more, on graphs: every run that would be plain is run as its graph.

Where a graph could not be had there would be a `CompileWarning`, which fails a test.
"""

from __future__ import annotations

import logging

import exact_models as models
import pytest
from test_exactness import *  # noqa: F403
from test_statistical import *  # noqa: F403

import ppl_vae as pv
from ppl_vae.compiled import effort

# That a graph gives the plain program's numbers is tested faster elsewhere, for every exact model.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, params=["captured", "compiled"])
def level(request, monkeypatch):
    monkeypatch.setattr(effort, "CAPTURE_FROM", 0.0)
    if request.param == "compiled":
        monkeypatch.setattr(effort, "COMPILE_FROM", 0.0)
    return request.param


def test_a_run_is_its_graph_here(caplog, level):
    exact = models.beta_bernoulli(3)
    with caplog.at_level(logging.INFO, "ppl_vae.compiled"):
        pv.evidence.importance(exact.program, exact.x, 64)
    assert "captured a graph" in caplog.text
    assert ("compiled a graph" in caplog.text) == (level == "compiled")

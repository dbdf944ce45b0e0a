"""Exactness and coverage once more, on captured graphs: every run that would be plain is run as its graph.

Where a graph could not be had there would be a `CompileWarning`, which fails a test.
"""

from __future__ import annotations

import pytest
from test_exactness import *  # noqa: F403
from test_statistical import *  # noqa: F403

from ppl_vae.compiled import effort


@pytest.fixture(autouse=True)
def _captured(monkeypatch):
    monkeypatch.setattr(effort, "CAPTURE_FROM", 0.0)

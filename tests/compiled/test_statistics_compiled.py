"""Exactness and coverage once more, on graphs that inductor has compiled."""

from __future__ import annotations

import pytest
from test_exactness import *  # noqa: F403
from test_statistical import *  # noqa: F403

from ppl_vae.compiled import effort

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setattr(effort, "CAPTURE_FROM", 0.0)
    monkeypatch.setattr(effort, "COMPILE_FROM", 0.0)

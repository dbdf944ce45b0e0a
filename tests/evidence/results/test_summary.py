"""Summaries: a result's averages in JSON's types."""

import json
import math

import torch
from file_kinds import estimate

from ppl_vae.evidence import Mean, Sandwich


def test_what_is_not_known_is_none():
    assert Mean(1.5, math.nan, math.inf, "about").summary() == {
        "value": 1.5,
        "mc_stderr": None,
        "data_stderr": None,
        "limit": "about",
    }


def test_an_evidence_in_json():
    e = estimate()
    summary = e.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["log_evidence"] == e.mean().summary()
    assert summary["negative_log_likelihood"]["value"] == -e.mean().value
    assert summary["cost"] == {"densities": e.cost.density, "gradients": e.cost.gradient}
    assert summary["num_data"] == len(e)


def test_both_sides_in_json():
    e = estimate()
    upper = e.replace(bound="upper", log_evidence=e.log_evidence + 0.5)
    bounds = Sandwich(e, upper)
    summary = bounds.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["upper"] == bounds.upper.mean().summary()
    assert summary["gap"] == bounds.mean_gap().summary()
    assert summary["certified"] is True


def test_bits_of_dequantised_integers():
    e = estimate()
    plain, levels = e.bits_per_dim(4), e.bits_per_dim(4, 256)
    torch.testing.assert_close(levels.value - plain.value, 8.0)
    assert levels.data_stderr == plain.data_stderr

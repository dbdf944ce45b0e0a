"""The parts of a result: the same numbers by flat names, and each kind of diagnostics for its own basis."""

import dataclasses

import pytest
import torch
from file_kinds import estimate

from ppl_vae import files
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.diagnostics import KINDS, NumericalError, RunDiagnostics, WeightDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.parts import Estimate
from ppl_vae.evidence.results.verdict import Verdict


def of_basis(basis, **changes):
    tensors, settings = estimate().pack()
    return Evidence.of(**(tensors | settings | {"basis": basis} | changes))


def test_flat_names_are_the_parts_own_fields():
    e = estimate()
    for name, flat in Evidence.flat_names().items():
        assert getattr(e, name) is getattr(getattr(e, flat.part), flat.field)
    assert {flat.part for flat in Evidence.flat_names().values()} == {f.name for f in dataclasses.fields(e)}


@pytest.mark.parametrize("part", [field.name for field in dataclasses.fields(Evidence)])
def test_another_thing_in_place_of_a_part_is_refused(part):
    with pytest.raises(InputError, match=f"^{part}: expected a part of type "):
        dataclasses.replace(estimate(), **{part: torch.zeros(3)})


def test_other_values_by_flat_names():
    e = estimate()
    other = e.replace(seed=7, khat=e.khat + 1, estimate=Estimate(e.elbo, e.stderr))
    assert (other.seed, other.method, other.origin.bound) == (7, "importance", "lower")
    assert torch.equal(other.khat, e.khat + 1)
    assert torch.equal(other.log_evidence, e.elbo)
    assert torch.equal(e.khat, torch.full((3,), 0.5, dtype=torch.float64))
    with pytest.raises(TypeError, match="nothing"):
        e.replace(nothing=1)
    with pytest.raises(TypeError, match="nothing"):
        of_basis("runs", nothing=1)


@pytest.mark.parametrize(
    ("basis", "kind", "verdict", "words"),
    [
        (
            "weights",
            WeightDiagnostics,
            Verdict.HEAVY_TAIL,
            ("S = 4 samples, seed 0", "ESS", "IWAE-K", "Monte Carlo"),
        ),
        ("runs", RunDiagnostics, Verdict.SPREAD, ("S = 4 runs, seed 0", "ESS", "K runs", "Monte Carlo")),
        ("computed", NumericalError, Verdict.ROUGH, ("numerical",)),
    ],
)
def test_each_kind_judges_by_its_own_rules(basis, kind, verdict, words):
    e = of_basis(basis, hidden=torch.full((3,), 0.4 if basis == "weights" else 0.0))
    assert type(e.diagnostics) is kind is KINDS[basis]
    assert e.basis == basis
    assert set(e.verdicts) == {verdict}
    assert set(e.diagnostics.verdicts(e.estimate)) == {verdict}
    text = str(e)
    assert all(word in text for word in words)
    assert ("seed" in text) == ("median" in text) == e.diagnostics.drawn == (basis != "computed")
    low, high = e.interval()
    width = e.log_evidence - low
    assert torch.allclose(width, e.stderr) == (basis == "computed")
    assert torch.allclose(high - e.log_evidence, width) == (basis != "weights")


def test_a_file_without_what_was_not_known_then_is_read(tmp_path):
    """Findings of checks that there were not, and settings that could not be chosen."""
    estimate().save(tmp_path / "e")
    tensors, metadata = files.read_tensors(tmp_path / "e")
    left_out = ("draws", "density_evals", "gradient_evals", "missed", "expected_ess", "on_edge", "hidden")
    left_out += ("unvisited", "unconfirmed")
    older = {name: value for name, value in tensors.items() if name not in left_out}
    settings = {k: v for k, v in metadata.items() if k not in ("basis", "certified", "details", "precision")}
    files.write_tensors(tmp_path / "older", older, settings)
    read, whole = Evidence.load(tmp_path / "older"), estimate()
    for name, value in whole.pack()[0].items():
        torch.testing.assert_close(getattr(read, name), value, rtol=0, atol=0, equal_nan=True)
    assert read.pack()[1] == whole.pack()[1]

"""Results whose numbers were edited: found when they are read, by file and by field.

Here each file is written anew after the edit, with a digest that fits: an edit without that is found by the digest, as
`test_fuzzed_files` has it for every bit.
"""

import json
import math

import pytest
import torch
from file_kinds import calibration, estimate, gaps, refusal

from ppl_vae import files
from ppl_vae.analysis import Calibration, Gaps
from ppl_vae.evidence import Sandwich
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.validation import Report
from ppl_vae.validation.row import Row

NAN, INF = math.nan, math.inf


def put(value, index=0):
    """An edit of a tensor: ``value`` at ``index``."""

    def edit(tensor):
        edited = tensor.clone()
        edited[index] = value
        return edited

    return edit


def drop(_):
    return None


FIELDS = {  # of an Evidence: of 3 data, 4 draws each
    "stderr": [put(-0.1), put(-INF), torch.Tensor.float, lambda t: t[:2], lambda t: t[:, None], drop],
    "elbo_stderr": [put(-1e-9)],
    "ess": [put(-1.0), put(4.01, 2), put(INF)],
    "expected_ess": [put(5.0), put(-0.5)],
    "log_evidence": [put(NAN), put(INF), torch.Tensor.long, torch.Tensor.half, lambda t: t[:0], drop],
    "elbo": [put(INF, 1), put(-2.5), torch.Tensor.bfloat16],
    "khat": [torch.Tensor.int, lambda t: t.expand(2, 3).contiguous()],
    "draws": [put(-1), put(5), torch.Tensor.double, torch.Tensor.int],
    "density_evals": [put(-1.0), put(NAN), put(INF)],
    "gradient_evals": [put(-1.0), put(NAN)],
    "missed": [torch.Tensor.int, lambda t: t[:1]],
    "curve_k": [put(0), put(4), put(5, 1), lambda t: t.flip(0), lambda t: t[:1], torch.Tensor.double, drop],
    "curve_bound": [put(-7.0), lambda t: t.T.contiguous(), torch.Tensor.float, drop],
    "curve_stderr": [put(-0.1), lambda t: t[:2]],
    "extra": [lambda _: torch.zeros(3)],
}
SETTINGS = {
    "seed": [-1, 2**63, 0.5, "0", None, True, [0]],
    "num_samples": [0, -4, 3, 4.0, "4", True, None],
    "method": ["", 3, None],
    "bound": ["sideways", "upper ", None, 1],
    "basis": ["weight", 3, None],
    "certified": ["yes", 1, None],
    "precision": ["half", 16, None],
    "details": [3, None],
}
EDITS = [(name, edit, None) for name, edits in FIELDS.items() for edit in edits]
EDITS += [(name, None, value) for name, values in SETTINGS.items() for value in values]
EDITS += [("certified", None, {"certified": True, "precision": "tf32"}), ("kind", None, "ppl_vae.Sandwich")]


def edited(path, name, edit, value, prefix=""):
    """Change a tensor by ``edit``, or else a setting to ``value``, and write the file anew."""
    tensors, metadata = files.read_tensors(path)
    if edit is not None:
        tensors[prefix + name] = edit(tensors.get(prefix + name))
        tensors = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    else:
        settings = metadata[prefix.rstrip("/")] if prefix else metadata
        settings |= value if isinstance(value, dict) else {name: value}
    files.write_tensors(path, tensors, metadata)


OTHER_WORDS = {  # where two fields disagree, either may be the one that is named
    "log_evidence": ("log_evidence", "stderr"),
    "curve_k": ("curve_k", "curve_bound"),
    "num_samples": ("num_samples", "curve_k"),
    "kind": ("",),
}


def words(name, path, message):
    assert message is not None, "the edit went unseen"
    assert str(path) in message
    assert any(word in message for word in OTHER_WORDS.get(name, (name,))), message
    assert message.isprintable()


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_an_edited_evidence(number, tmp_path):
    name, edit, value = EDITS[number]
    path = tmp_path / "evidence"
    estimate().save(path)
    edited(path, name, edit, value)
    words(name, path, refusal(Evidence.load, path))
    for prefix, write, read in (
        ("upper/", lambda: Sandwich(estimate(), estimate("upper")).save(path), Sandwich.load),
        ("evidence/", lambda: gaps().save(path), Gaps.load),
    ):
        if (name, value) in (("kind", "ppl_vae.Sandwich"), ("bound", "upper ")) or (
            name == "log_evidence" and edit
        ):
            continue
        write()
        edited(path, name, edit, value, prefix)
        words(name, path, refusal(read, path))


OTHERS = [
    ("gaps", "elbo", lambda t: t[:2]),
    ("gaps", "gap_stderr", put(-1.0)),
    ("gaps", "converged", torch.Tensor.int),
    ("gaps", "steps", put(-1)),
    ("gaps", "refitted_elbo", drop),
    ("gaps", "num_samples", 0),
    ("gaps", "seed", "0"),
    ("gaps", "evidence", [1]),
    ("calibration", "ranks", put(10, (0, 0))),
    ("calibration", "ranks", put(-1, (0, 0))),
    ("calibration", "reweighted_ranks", torch.Tensor.int),
    ("calibration", "reweighted_ranks", lambda t: t[:1]),
    ("calibration", "ess", put(6.0)),
    ("calibration", "ess", put(NAN)),
    ("calibration", "ess", drop),
    ("calibration", "labels", ["z"]),
    ("calibration", "labels", "z"),
    ("calibration", "labels", [1, 2]),
    ("calibration", "bins", 3),
    ("calibration", "bins", 0),
    ("calibration", "num_draws", 10),
    ("calibration", "num_importance", 10**12),
    ("calibration", "alpha", 2.0),
    ("calibration", "alpha", NAN),
    ("calibration", "seed", -1),
]


@pytest.mark.parametrize(("kind", "name", "change"), OTHERS)
def test_other_edited_results(kind, name, change, tmp_path):
    path = tmp_path / kind
    made, read = {"gaps": (gaps, Gaps.load), "calibration": (calibration, Calibration.load)}[kind]
    made().save(path)
    edited(path, name, change if callable(change) else None, None if callable(change) else {name: change})
    message = refusal(read, path)
    words("bins" if name == "num_draws" else name if name != "labels" or change == "z" else "", path, message)


def test_bounds_of_other_numbers_of_data(tmp_path):
    path = tmp_path / "both"
    Sandwich(estimate()[:2], estimate("upper")[:2]).save(path)
    tensors, metadata = files.read_tensors(path)
    more, _ = estimate().pack()
    files.write_tensors(path, tensors | {f"lower/{name}": value for name, value in more.items()}, metadata)
    words("upper", path, refusal(Sandwich.load, path))


ROWS = [
    ("trust", 1.5), ("trust", -0.1), ("rmse", -1.0), ("num_data", -1), ("num_data", 2.5), ("bias", "low"),
    ("bias", None), ("bad_guide", 1), ("model", 3), ("other", 0), ("coverage", [1]),
    ("ratio", -0.5), ("repetitions", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), ROWS)
def test_an_edited_report(name, value, tmp_path):
    path = tmp_path / "report.json"
    report = Report((Row.of(model="a", estimator="b", bias=0.5, trust=0.5), Row("a", "c", "no")))
    report.save(path)
    assert Report.load(path) == report or math.isnan(report.rows[0].rmse)
    content = json.loads(path.read_text())
    content["rows"][0][name] = value
    files.write_json(path, content)
    words("digest", path, refusal(Report.load, path))
    del content["blake2b"]
    files.write_json(path, content | {"blake2b": files.digest({}, json.dumps(content))})
    words(name, path, refusal(Report.load, path))

"""Checkpoints whose numbers were edited are not resumed: the line names the file, and the field where there is one.

Here each file is written anew after the edit, with a digest that fits: an edit without that is found by the digest, as
`test_fuzzed_files` has it for every bit.
"""

import json
import math

import pytest
import torch
from file_kinds import refusal, vae

import ppl_vae as pv
from ppl_vae import checkpoint, files
from ppl_vae.checkpoint import Checkpoint
from ppl_vae.evidence import importance, refit, sandwich
from ppl_vae.validation import validate

NAN, INF = math.nan, math.inf


def words(name, path, message):
    assert message is not None, "the edit went unseen"
    assert str(path) in message
    assert name in message, message
    assert message.isprintable()


class Stopped(Exception):  # noqa: N818
    """What stops a job after its checkpoint."""


@pytest.fixture
def stopping(monkeypatch):
    """Stop each job after its first checkpoint that is worth something; ``resume()`` lets it go on."""
    write = Checkpoint.write
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)

    def stop(job, path):
        def once(self, tensors, state):
            write(self, tensors, state)
            if self.path == path:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "write", once)
            with pytest.raises(Stopped):
                job(path, False)

    return stop


X = torch.tensor([[0.0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]])


def train(path, resume):
    options = {"x_valid": X, "patience": 5, "batch_size": 2, "checkpoint": path, "resume": resume}
    return pv.fit(vae(), X, epochs=3, **options, progress=False)


def estimating(path, resume):
    return importance(vae().program, X, 600, chunk_size=100, checkpoint=path, resume=resume, progress=False)


def refitting(path, resume):
    return refit(vae().program, X, max_steps=20, checkpoint=path, resume=resume, progress=False)


def bounding(path, resume):
    options = {"checkpoint": path.with_suffix(""), "resume": resume, "progress": False}
    return sandwich(vae().program, X, method="importance", num_samples=9, **options)


def first(state, change):
    state["epochs"][0] |= change


TRAINED = {
    "NaN parameters": (
        "now/",
        lambda t, s: t.update({first_of(t, "now/param"): t[first_of(t, "now/param")] * NAN}),
    ),
    "parameters of another shape": (
        "now/",
        lambda t, s: t.update({(k := first_of(t, "now/param")): t[k].flatten()[:1]}),
    ),
    "parameters of another dtype": (
        "now/",
        lambda t, s: t.update({(k := first_of(t, "now/param")): t[k].double()}),
    ),
    "no parameter": ("now/", lambda t, s: t.pop(first_of(t, "now/param"))),
    "no best parameter": ("best/", lambda t, s: t.pop(first_of(t, "best/param"))),
    "NaN in the best": ("best/", lambda t, s: t.update({(k := first_of(t, "best/param")): t[k] + INF})),
    "a parameter more": ("now/other", lambda t, s: t.update({"now/other": torch.zeros(1)})),
    "NaN in the optimiser": (
        "optimiser/",
        lambda t, s: t.update({(k := first_of(t, "optimiser/0/exp")): t[k] * NAN}),
    ),
    "an optimiser's state of another shape": (
        "optimiser/",
        lambda t, s: t.update({"optimiser/0/exp_avg": torch.ones(1)}),
    ),
    "an optimiser's state of no parameter": (
        "optimiser/",
        lambda t, s: t.update({"optimiser/99/exp_avg": torch.ones(1)}),
    ),
    "an optimiser's state of no number": (
        "optimiser/",
        lambda t, s: t.update({"optimiser/a/exp_avg": torch.ones(1)}),
    ),
    "another step": ("step", lambda t, s: s.update(step=s["step"] + 1)),
    "a step that is text": ("step", lambda t, s: s.update(step="2")),
    "no step": ("step", lambda t, s: s.pop("step")),
    "another wait": ("wait", lambda t, s: s.update(wait=7)),
    "another best epoch": ("best_epoch", lambda t, s: s.update(best_epoch=2)),
    "no epochs": ("", lambda t, s: s.pop("epochs")),
    "epochs that are none": ("", lambda t, s: s.update(epochs="all")),
    "an epoch twice": ("epoch", lambda t, s: s["epochs"].append(s["epochs"][0])),
    "an epoch of another number": ("epoch", lambda t, s: first(s, {"epoch": 2})),
    "an epoch of other steps": ("step", lambda t, s: first(s, {"step": 5})),
    "an epoch of a negative rate": ("lr", lambda t, s: first(s, {"lr": -1.0})),
    "an epoch of another field": ("note", lambda t, s: first(s, {"note": 1})),
    "no optimiser": ("optimiser", lambda t, s: s.pop("optimiser")),
}
ESTIMATED = {
    "a sum missing": ("mean", lambda t, s: t.pop("current/mean")),
    "a sum of another shape": ("mean", lambda t, s: t.update({"current/mean": torch.zeros(9)})),
    "a sum of another dtype": ("m2", lambda t, s: t.update({"current/m2": t["current/m2"].float()})),
    "no numbers": ("", lambda t, s: s.pop("done")),
    "numbers that are none": ("", lambda t, s: s.update(done=3)),
    "figures without tensors": (
        "log_evidence",
        lambda t, s: s.update(done={"num_samples": 5, "curve_k": []}),
    ),
    "a count that is no number": ("", lambda t, s: t.update({"current/count": torch.zeros(2)})),
    "a count that is negative": ("", lambda t, s: t.update({"current/num_samples": torch.tensor(-5)})),
}
REFITTED = {
    "data of no whole block": ("whole blocks", lambda t, s: t.update({k: v[:1] for k, v in t.items()})),
    "more data than there are": (
        "blocks",
        lambda t, s: t.update({k: torch.cat([v, v]) for k, v in t.items()}),
    ),
    "no data": ("done", lambda t, s: s.pop("done")),
    "steps that are negative": ("steps", lambda t, s: t.update({"done/steps": t["done/steps"] - 10**6})),
    "figures of fewer": ("gain", lambda t, s: t.update({"done/gain": t["done/gain"][:1]})),
    "a negative error": (
        "gain_stderr",
        lambda t, s: t.update({"done/gain_stderr": -1 - t["done/gain_stderr"].abs()}),
    ),
    "NaN offsets": ("offset/", lambda t, s: t.update({(k := first_of(t, "done/offset/")): t[k] * NAN})),
    "no offsets": ("offset/", lambda t, s: t.pop(first_of(t, "done/offset/"))),
    "converged as numbers": (
        "converged",
        lambda t, s: t.update({"done/converged": t["done/converged"].float()}),
    ),
}
BOUNDED = {
    "a negative error": ("stderr", lambda t, s: t.update(stderr=-1 - t["stderr"])),
    "another bound": ("bound", lambda t, s: s.update(bound="sideways")),
    "an upper bound": ("upper", lambda t, s: s.update(bound="upper")),
    "no seed": ("seed", lambda t, s: s.pop("seed")),
}
ALL = {"importance": (estimating, ESTIMATED), "fit": (train, TRAINED), "refit": (refitting, REFITTED)}
ALL["sandwich"] = (bounding, BOUNDED)


def first_of(tensors, start):
    return next(name for name in sorted(tensors) if name.startswith(start))


@pytest.mark.parametrize(("job", "edit"), [(job, edit) for job, (_, edits) in ALL.items() for edit in edits])
def test_an_edited_checkpoint_is_not_resumed(job, edit, tmp_path, stopping):
    run, edits = ALL[job]
    path = tmp_path / "state.lower"
    stopping(run, path)
    good = path.read_bytes()
    tensors, metadata = files.read_tensors(path)
    name, change = edits[edit]
    change(tensors, metadata["state"])
    files.write_tensors(path, tensors, metadata)
    bad = path.read_bytes()
    message = refusal(lambda _: run(path, True), path)
    words(name, path, message)
    assert path.read_bytes() == bad  # it is the user's to look at
    path.write_bytes(good)
    run(path, True)


@pytest.mark.parametrize("job", ALL)
def test_a_checkpoint_without_digest_or_identity_is_not_resumed(job, tmp_path, stopping):
    from safetensors.torch import save_file

    run, path = ALL[job][0], tmp_path / "state.lower"
    stopping(run, path)
    tensors, metadata = files.read_tensors(path)
    save_file(tensors, path, {"json": json.dumps(metadata)})
    words("digest", path, refusal(lambda _: run(path, True), path))
    for name, value in (("identity", None), ("identity", {}), ("state", [1]), ("kind", "another")):
        files.write_tensors(path, tensors, metadata | {name: value})
        words(
            name if value is None or name == "state" else "", path, refusal(lambda _: run(path, True), path)
        )


def test_an_edited_validation_is_not_resumed(tmp_path, stopping):
    path = tmp_path / "state"

    def run(path, resume):
        options = {"num_data": 2, "repetitions": 1, "checkpoint": path, "resume": resume, "progress": False}
        return validate(["linear-gaussian-2"], ["importance-64", "psis-1000"], **options)

    stopping(run, path)
    tensors, metadata = files.read_tensors(path)
    for name, value in (("trust", -1.0), ("basis", 3), ("num_data", "two"), ("seconds", -1)):
        changed = json.loads(json.dumps(metadata))
        changed["state"]["rows"][0]["row"][name] = value
        files.write_tensors(path, tensors, changed)
        words(name, path, refusal(lambda _: run(path, True), path))
    files.write_tensors(path, tensors, metadata)
    run(path, True)


def test_the_identity_of_an_estimate_is_all_of_the_data_and_all_parameters(tmp_path, stopping):
    """One bit of the last datum, or of a parameter that no weight of the first data feels, makes another job."""
    x = torch.ones(40, 3)
    program = vae().program

    def run(path, resume):
        importance(program, x, 64, checkpoint=path, resume=resume, progress=False, chunk_size=9)

    path = tmp_path / "state"
    stopping(run, path)
    x[-1, -1] = 0
    assert "data" in refusal(lambda _: run(path, True), path)
    x[-1, -1] = 1
    module = torch.nn.Linear(2, 2)  # a part of the model, which it does not use
    (owner,) = program.modules
    owner.unused = module
    assert "program" in refusal(lambda _: run(path, True), path)
    del owner.unused
    owner.register_buffer("count", torch.zeros(1))
    assert "program" in refusal(lambda _: run(path, True), path)
    del owner.count
    run(path, True)


def test_history_that_disagrees_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    options = {"checkpoint": tmp_path / "state", "history_path": tmp_path / "history", "progress": False}
    pv.fit(vae(), X, epochs=2, **options)
    good = (tmp_path / "history").read_text()
    for bad in (good.splitlines()[1] + "\n", good.replace('"step": 1', '"step": 3'), "{}\n"):
        (tmp_path / "history").write_text(bad)
        words(
            "line 1",
            tmp_path / "history",
            refusal(lambda _: pv.fit(vae(), X, epochs=3, resume=True, **options), 0),
        )
        assert (tmp_path / "history").read_text() == bad
    (tmp_path / "history").write_text(good)
    assert len(pv.fit(vae(), X, epochs=3, resume=True, **options)) == 3

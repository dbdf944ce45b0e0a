"""An interrupted estimate goes on to the same bits."""

import math

import pytest
import torch
from covering import crossed
from exact_models import identical
from importance_program import data, importance, interrupt, model, program, sharp_guide, small_tiles

from ppl_vae import InputError, Program, checkpoint


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    small_tiles(monkeypatch)


@pytest.fixture
def _always_written(monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)


@pytest.mark.usefixtures("_always_written")
@pytest.mark.parametrize(
    ("after", "num_samples"), crossed([0, 1, 5, 15, 16, 17, 40, 63], [1000, 1024], strength=1)
)
def test_an_interrupted_estimate_resumes_to_the_same_bits(tmp_path, monkeypatch, after, num_samples):
    """50 data and 1,000 samples are 64 tiles. ``after``: in a block, at its end, at the start of the next, the last."""
    x, path = data(), tmp_path / "state"
    whole = importance(program(), x, num_samples, seed=5)
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            importance(program(), x, num_samples, seed=5, checkpoint=path)
    assert path.exists() == (after > 0)
    assert [file.name for file in tmp_path.iterdir()] == (["state"] if after else [])
    state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        calls = interrupt(patch, 10**6)
        resumed = importance(program(), x, num_samples, seed=5, checkpoint=path, resume=True, chunk_size=130)
    assert len(calls) == 64 - after  # nothing done twice
    assert identical(resumed, whole)
    assert not path.exists()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("_always_written")
def test_interrupted_again_and_again(tmp_path, monkeypatch):
    x, path = data(), tmp_path / "state"
    whole = importance(program(), x, 1000)
    for _ in range(9):
        with monkeypatch.context() as patch:
            interrupt(patch, 7)
            with pytest.raises(KeyboardInterrupt):
                importance(program(), x, 1000, checkpoint=path, resume=True)
    assert identical(importance(program(), x, 1000, checkpoint=path, resume=True), whole)


@pytest.mark.usefixtures("_always_written")
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 6}, "seed"),
        ({"num_samples": 1001}, "num_samples"),
        ({"x": data(seed=1)}, "data"),
        ({"x": data(49)}, "data"),
        ({"x": data().double()}, "data"),
        ({"program": Program(model, sharp_guide)}, "program"),
    ],
)
def test_a_checkpoint_of_another_estimate_is_refused(tmp_path, monkeypatch, change, word):
    path = tmp_path / "state"
    arguments = {"program": program(), "x": data(), "num_samples": 1000, "seed": 5, "checkpoint": path}
    with monkeypatch.context() as patch:
        interrupt(patch, 20)
        with pytest.raises(KeyboardInterrupt):
            importance(**arguments)
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"state: expected a checkpoint of this run.*{word}") as caught:
        importance(**arguments | change, resume=True)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    with pytest.raises(
        InputError, match="checkpoint: expected a file that does not exist yet, or resume=True"
    ):
        importance(**arguments)
    assert path.read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path):
    x, path = data(5), tmp_path / "state"
    importance(program(), x, 10).save(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="a checkpoint of evidence"):
        importance(program(), x, 10, checkpoint=path, resume=True)
    path.with_name("text").write_text("hello")
    with pytest.raises(InputError, match="safetensors"):
        importance(program(), x, 10, checkpoint=path.with_name("text"), resume=True)
    assert path.read_bytes() == before


def test_a_finished_estimate_leaves_no_file(tmp_path):
    path = tmp_path / "folder" / "state"
    with_file = importance(program(), data(), 200, checkpoint=path)
    assert identical(with_file, importance(program(), data(), 200))
    assert not path.exists()
    # resume=True with nothing to resume from is a start
    assert identical(importance(program(), data(), 200, checkpoint=path, resume=True), with_file)

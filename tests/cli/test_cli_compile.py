"""--compile: what the library is told, what is recorded, and what is said of the cost."""

import logging
from functools import wraps
from importlib import import_module

import pytest
import yaml
from cli_helpers import TINY
from covering import slow_but

from ppl_vae.compiled import CompileWarning
from ppl_vae.evidence import Sandwich
from ppl_vae.log_timing import log_timing, logger

GIVEN = {"auto": "auto", "yes": True, "no": False}
EVIDENCE = ["--subset", "4", "--seed", "1"]
METHODS = {
    "importance": ["--num-samples", "8"],
    "annealed": ["--num-chains", "2", "--num-steps", "2"],
    "smc": ["--num-particles", "8", "--num-steps", "2"],
    "psis": ["--num-samples", "64"],
    "jackknife": ["--num-samples", "8"],
}


@pytest.fixture
def told(monkeypatch):
    """What the library was told; it then runs the plain program."""
    heard = []

    def listen(room, name):
        module = import_module(f"ppl_vae.{room}")
        original = getattr(module, name)

        @wraps(original)  # the command line looks up its defaults
        def run(*args, **kwargs):
            heard.append(kwargs.pop("compile", "nothing"))
            return original(*args, compile=False, **kwargs)

        monkeypatch.setattr(module, name, run)

    listen("training", "fit")
    for method in ("importance", "jackknife", "psis", "annealed", "smc", "sandwich"):
        listen("evidence", method)
    return heard


@pytest.mark.parametrize("word", GIVEN)
def test_training_is_told_and_the_config_says_it(call, tmp_path, told, word):
    assert call("train", *TINY, "--compile", word, "--out", tmp_path / "a").status == 0
    assert yaml.safe_load((tmp_path / "a/config.yaml").read_text())["compile"] == word
    assert call("train", "--config", tmp_path / "a/config.yaml", "--out", tmp_path / "b").status == 0
    assert told == [GIVEN[word]] * 2
    changed = "auto" if word == "no" else "no"
    refused = call("train", *TINY, "--compile", changed, "--out", tmp_path / "a", "--resume")
    assert refused.status == 2
    assert refused.err.startswith("ppl-vae train: error: --compile: expected ")


@pytest.mark.parametrize(
    ("written", "word"), [("yes", "yes"), ("no", "no"), ("true", "yes"), ("auto", "auto")]
)
def test_a_yaml_files_own_words(call, tmp_path, written, word):
    """Bare yes and no are booleans in YAML."""
    (tmp_path / "c.yaml").write_text(f"compile: {written}\n")
    printed = call("train", "--config", tmp_path / "c.yaml", "--print-config")
    assert yaml.safe_load(printed.out)["compile"] == word


@pytest.mark.parametrize("method", slow_but(["importance", "smc"], METHODS))
def test_estimators_are_told(call, trained, tmp_path, told, method):
    line = ["evidence", trained, "--method", method, *METHODS[method], *EVIDENCE]
    assert call(*line, "--out", tmp_path / "a").status == 0
    assert call(*line, "--compile", "no", "--out", tmp_path / "b").status == 0
    told = [each for each in told if each != "nothing"]  # a rehearsal on one datum says nothing
    assert told == ["auto", False]
    assert yaml.safe_load((tmp_path / "b/evidence.yaml").read_text())["compile"] == "no"


def test_quadrature_has_nothing_to_compile(call, trained, tmp_path):
    line = ["evidence", trained, "--method", "quadrature", "--nodes", "16", *EVIDENCE]
    assert call(*line, "--out", tmp_path / "a", "--compile", "no").status == 0


def test_a_sandwich_is_told(call, trained, tmp_path, told):
    line = ["sandwich", trained, "--num-chains", "2", "--num-steps", "2", "--num-data", "3"]
    assert call(*line, "--compile", "yes", "--out", tmp_path / "a").status == 0
    assert next(each for each in told if each != "nothing") is True
    assert yaml.safe_load((tmp_path / "a/sandwich.yaml").read_text())["compile"] == "yes"
    assert Sandwich.load(tmp_path / "a/sandwich.safetensors").lower.num_samples == 2


def test_the_demo_passes_it_on(call, tmp_path, told):
    result = call("demo", "--quick", "--compile", "no", "--out", tmp_path / "demo")
    assert result.status == 0
    assert result.out.count(" --compile no") == 2
    assert [each for each in told if each != "nothing"] == [False, False]


def compiling(times, found):
    """A stand-in for `training.fit`'s inside that compiles."""

    def run(*args, **kwargs):
        for _ in range(times):
            logger.info("captured", extra={"deed": "captured", "seconds": 1.0, "found": False})
            logger.info("compiled", extra={"deed": "compiled", "seconds": 2.0, "found": found})
        return run.fit(*args, **kwargs)

    return run


@pytest.mark.parametrize(
    ("times", "found", "line"),
    [
        (0, False, ""),
        (1, False, "compiled in 3.0 s (kept on disk for the next run)\n"),
        (2, False, "compiled 2 graphs in 6.0 s (kept on disk for the next run)\n"),
        (1, True, "compiled in 3.0 s (found on disk)\n"),
    ],
)
def test_the_cost_is_said_once(call, tmp_path, monkeypatch, times, found, line):
    from ppl_vae import training

    stand_in = compiling(times, found)
    stand_in.fit = training.fit
    monkeypatch.setattr("ppl_vae.training.fit", stand_in)
    level = logger.level
    result = call("train", *TINY, "--out", tmp_path / "run")
    assert result.status == 0
    assert result.err == line
    assert logger.level == level
    assert not logger.handlers


def test_no_word_of_it_after_an_error(call, tmp_path, monkeypatch):
    def fails(*_, **__):
        logger.info("compiled", extra={"deed": "compiled", "seconds": 2.0, "found": False})
        raise MemoryError

    monkeypatch.setattr("ppl_vae.training.fit", fails)
    result = call("train", *TINY, "--out", tmp_path / "run")
    assert result.status == 2
    assert result.err.count("\n") == 1


def test_the_log_of_the_library(caplog):
    """Users of the library read the same through Python's logging."""

    @log_timing("compiled")
    def work(value):
        if value is None:
            raise RuntimeError
        return value

    with caplog.at_level(logging.INFO, logger="ppl_vae.compiled"):
        assert work(3) == 3
        with pytest.raises(RuntimeError):
            work(None)
    (record,) = caplog.records
    assert record.deed == "compiled"
    assert 0 <= record.seconds < 1
    assert record.getMessage().startswith("compiled a graph in 0.0 s")


def test_captures_are_logged(caplog):
    import torch

    from ppl_vae.compiled import capture

    with caplog.at_level(logging.INFO, logger="ppl_vae.compiled"):
        capture(lambda x: [x + 1], [], [torch.zeros(2)])
    assert [record.deed for record in caplog.records] == ["captured"]


@pytest.mark.slow
def test_a_real_compilation(call, tmp_path):
    """The one line on standard error is that of the cost; where there is no compiler, a warning comes instead."""
    try:
        result = call("train", *TINY, "--compile", "yes", "--out", tmp_path / "run")
    except CompileWarning as warning:
        pytest.skip(str(warning))
    assert result.status == 0
    assert result.err.startswith("compiled ")
    assert result.err.count("\n") == 1

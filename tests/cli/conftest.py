import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_helpers import OWN, TINY
from matplotlib.figure import Figure

from ppl_vae.cli import main


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def call(capsys):
    """Run a command in this process."""

    def run(*argv):
        capsys.readouterr()
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run on binary digits: never written to."""
    path = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--data", "digits", *TINY, "--out", str(path)]) == 0
    return path


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with a user's own file in it."""
    (tmp_path / "own_parts.py").write_text(textwrap.dedent(OWN))
    (tmp_path / "own_broken.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Leave figures out, but in tests that ask for them by the fixture ``drawn``: they take most of the time.

    Those of a training run are not there at all; any other is made, and a few bytes stand for its file.
    """
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("ppl_vae.runs.figures.draw_run", lambda *_, **__: None)
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_bytes(b"a figure"))


@pytest.fixture
def drawn():
    """Figures are wanted."""

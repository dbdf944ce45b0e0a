"""Every exit is one line and a documented status, whatever ends a command."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from cli_helpers import TINY, snapshot

from ppl_vae import distributed
from ppl_vae.cli import main
from ppl_vae.errors import InputError

TRAIN = ["train", *TINY]
GOOD = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
PART = '''
    """A prior of a user's own that misbehaves."""
    import sys
    import torch
    import pyro.distributions as dist
    from ppl_vae.priors import Prior

    {imported}

    class Mine(Prior):
        calls = 0

        def __init__(self, dim):
            super().__init__(dim)
            self.loc = torch.nn.Parameter(torch.zeros(dim))
            {made}

        def forward(self):
            {used}
            return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
'''
MISBEHAVIOUR = {
    "sys.exit(0)": "sys.exit(0)",
    "sys.exit": "sys.exit(None)",
    "sys.exit with text": "sys.exit('done')",
    "BaseException": "raise BaseException('mine')",
    "GeneratorExit": "raise GeneratorExit",
    "RecursionError": "f = lambda: f(); f()",
    "MemoryError": "raise MemoryError",
    "no message": "raise RuntimeError",
    "two lines": "raise ValueError('one' + chr(10) + 'two')",
    "OSError": "raise OSError(28, 'No space left on device')",
    "BrokenPipeError": "raise BrokenPipeError",
    "StopIteration": "raise StopIteration",
    "assert": "assert False",
}


def refused(result):
    """One line, status 2."""
    assert result.status == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("ppl-vae train: error: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("where", ["imported", "made", "used", "used late"])
@pytest.mark.parametrize("what", MISBEHAVIOUR)
def test_a_users_module_that_misbehaves(call, tmp_path, monkeypatch, what, where):
    """Imported, made, used in the rehearsal, or used when the run has begun: nothing is left of it."""
    places = dict.fromkeys(("imported", "made", "used"), "pass")
    deed = MISBEHAVIOUR[what]
    if where == "used late":
        deed = f"Mine.calls += 1\n        if Mine.calls > 20: exec({deed!r})"
    places[where.split()[0]] = deed
    name = f"misbehaving_{abs(hash((what, where)))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(PART).format(**places))
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    result = call(*TRAIN, "--batch-size", "40", "--prior", f"{name}.Mine", "--out", "new/run")
    refused(result)
    if what.startswith("sys.exit"):
        assert "sys.exit" in result.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["def f(:\n", "x = 'unclosed\n", "x = 1\0\n", "\xff\xfe"])
def test_a_module_that_is_no_python(call, tmp_path, monkeypatch, text):
    name = f"no_python_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_bytes(text.encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    for line in (["--prior", f"{name}.Mine"], ["--objective", f"{name}.Mine"]):
        refused(call(*TRAIN, *line, "--out", "new"))
    assert not (tmp_path / "new").exists()


def test_help_of_a_users_own_parser_is_no_success(call, tmp_path, monkeypatch):
    (tmp_path / "own_main.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['-h'])\n")
    monkeypatch.chdir(tmp_path)
    assert call(*TRAIN, "--prior", "own_main.Mine", "--out", "new").status == 2


BAD = [
    *(("WORLD_SIZE", value) for value in ("-1", "0", "two", "", "1.5", "99999999999")),
    *(("RANK", value) for value in ("abc", "-1", "2", "", None)),
    *(("LOCAL_RANK", value) for value in ("abc", "-1", "7", "")),
    *(("MASTER_PORT", value) for value in ("http", "0", "65536", "-1", "", None)),
    *(("MASTER_ADDR", value) for value in ("", " ", None, "no-such-host.invalid")),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_torchruns_variables(call, monkeypatch, name, value):
    for each, good in GOOD.items():
        monkeypatch.setenv(each, good)
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    result = call("--version")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert f"environment variable {name}: expected" in result.err
    with pytest.raises(InputError, match=name), distributed.joined():
        pass


def test_one_process_of_torchrun_needs_no_other_variable(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "abc")
    assert main(["--version"]) == 0


def test_the_help_says_every_status(call):
    out = call("--help").out
    statuses = out[out.index("exit status,") :].partition("\n")[2]
    assert [int(number) for number in re.findall(r"\b(\d+)[: ]", statuses)] == [0, 2, 130, 143, 129]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_a_character(trained, tmp_path, monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    out = tmp_path / "estimate"
    assert main(["evidence", str(trained), "--num-samples", "32", "--subset", "3", "--out", str(out)]) == 0
    stream.seek(0)
    assert "log evidence" in stream.read()
    assert "±" in (out / "evidence.txt").read_text(encoding="utf-8")


class Closed(io.StringIO):
    """A stream that cannot be written."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


def test_a_reader_that_has_gone_does_not_stop_the_work(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed(BrokenPipeError(32, "Broken pipe")))
    assert main(["demo", "--quick", "--threads", "1", "--out", str(tmp_path / "demo")]) == 0
    assert (tmp_path / "demo/evidence/summary.json").exists()


def test_a_full_disk_under_standard_output_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed(OSError(28, "No space left on device")))
    assert main([*TRAIN, "--out", str(tmp_path / "run")]) == 2
    assert (tmp_path / "run/vae.safetensors").exists()
    assert capsys.readouterr().err == (
        "ppl-vae: error: standard output: No space left on device "
        "(the command has done its work; its files are whole)\n"
    )


def test_closed_streams(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["no-such-command"]) == 2


def process(*line, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ppl_vae", *map(str, line)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **options)


LONG = "train --latent-dim 2 --hidden 8 --epochs 5000 --batch-size 500 --threads 1 --compile no"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_while_work_is_done_says_how_to_go_on(tmp_path, name, status):
    running = process(*LONG.split(), "--out", tmp_path / "run")
    while not (tmp_path / "run/checkpoint.safetensors").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(getattr(signal, name))
    err = running.communicate()[1]
    assert running.returncode == status
    assert err.count("\n") == 1
    assert "--resume" in err
    assert not (tmp_path / "run/.lock").exists()


@pytest.mark.slow
def test_twenty_ctrl_c_from_the_first_moment_on(tmp_path):
    """At random times. Before the first line of ours runs, which takes Python some 50 ms, the end is Python's own."""
    rng = random.Random(20261126)  # noqa: S311  (no secret)
    ours = 0
    for number in range(20):
        out = tmp_path / str(number)
        running = process(*LONG.split(), "--out", out / "run")
        time.sleep(rng.uniform(0.0, 0.3) if number % 2 else rng.uniform(0.0, 6.0))
        running.send_signal(signal.SIGINT)
        err = running.communicate()[1]
        python = running.returncode in (-2, 1) and "ppl_vae/" not in err.replace("__editable__", "")
        if not python:
            ours += 1
            assert running.returncode == 130, err
            assert err.count("\n") == 1, err
        begun = (out / "run/config.yaml").exists()
        assert begun == ("--resume" in err)
        assert begun or not out.exists()
    assert ours >= 12


@pytest.mark.slow
def test_ignored_signals_stay_ignored(tmp_path):
    running = process(
        *LONG.replace("5000", "40").split(),
        "--out",
        tmp_path / "run",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as nohup does
    )
    while not (tmp_path / "run/config.yaml").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGHUP)
    assert "interrupted" not in running.communicate()[1]
    assert running.returncode == 0

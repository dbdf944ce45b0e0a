"""More than one process: two real ones by torchrun, on gloo. What one process says, they say to the last bit."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed_jobs as jobs
import pytest
import torch
from covering import slow_but

import ppl_vae as pv
from ppl_vae import InputError, distributed, files
from ppl_vae.evidence.running.block_files import own_file

HERE = Path(__file__).parent
TIMEOUT = 120


def torchrun(*argv, processes=2, cwd=None):
    """A command under torchrun, in a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, argv)]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=True,
    )


def finish(process):
    """Its status, output and errors; everything that it started is ended if it hangs."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def run_job(names, folder, **options):
    return finish(torchrun(HERE / "distributed_jobs.py", names, folder, **options))


def done(names, folder, **options):
    status, _, err = run_job(names, folder, **options)
    assert status == 0, err


@pytest.fixture(scope="module")
def plain_jobs(tmp_path_factory):
    """What two processes left behind of several jobs at the level at which nothing is captured, run in one go."""
    folder = tmp_path_factory.mktemp("jobs")
    done("messages,plain_evidence,plain_training,analysis", folder)
    return folder


@pytest.fixture(scope="module")
def captured_jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    done("captured_evidence,captured_training", folder)
    return folder


@pytest.fixture(params=["plain", pytest.param("captured", marks=pytest.mark.slow)])
def level(request):
    return request.param


@pytest.fixture
def jobs_folder(request, level):
    """The folder of the jobs of a level."""
    return request.getfixturevalue(f"{level}_jobs")


def command(*argv, **options):
    return finish(torchrun("-m", "ppl_vae", *argv, **options))


def alone(*argv):
    """The same command in one process."""
    done = subprocess.run(
        [sys.executable, "-m", "ppl_vae", *map(str, argv)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def own_lines(err):
    """The lines on standard error that are ours, not torchrun's."""
    return [line for line in err.splitlines() if line.startswith("ppl-vae")]


def same(a, b):
    return a.keys() == b.keys() and all(a[k].equal(b[k]) or (a[k] != a[k]).equal(b[k] != b[k]) for k in a)


# ---- without torchrun ------------------------------------------------------------------------------------------


def test_nothing_happens_without_torchrun(monkeypatch):
    for name in distributed._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with distributed.joined() as ours:
        assert ours == distributed.World(0, 1) == distributed.world()
        assert not torch.distributed.is_initialized()
        value = torch.ones(2)
        assert distributed.all_reduce(value) is value
        assert distributed.gather({"a": value}, 3) == [({"a": value}, 3)]
        distributed.broadcast([value])
        distributed.barrier()
        assert distributed.first_to_fail()


def test_one_process_of_torchrun_is_one_process(monkeypatch):
    for name in distributed._VARIABLES:
        monkeypatch.setenv(name, "1")
    assert not distributed.launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.launched()
    monkeypatch.delenv("LOCAL_RANK")
    assert not distributed.launched()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 5, 20])
def test_shares_are_all_of_it(size, number):
    parts = [list(range(number))[distributed.World(rank, size).share(number)] for rank in range(size)]
    assert [each for part in parts for each in part] == list(range(number))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert number == 0 or parts[0]


def test_a_checkpoint_of_another_number_of_processes(tmp_path):
    path, one, two = tmp_path / "c", distributed.World(), distributed.World(1, 2)
    assert own_file(path, True, one) == path
    assert own_file(path, True, two) == tmp_path / "c.rank1"
    path.touch()
    with pytest.raises(InputError, match="resume: expected as many processes as in the checkpoint"):
        own_file(path, True, two)
    path.unlink()
    (tmp_path / "c.rank0").touch()
    with pytest.raises(InputError, match="resume"):
        own_file(path, True, one)
    assert own_file(path, False, one) == path


# ---- the library -----------------------------------------------------------------------------------------------


def test_messages(plain_jobs):
    assert len(list(plain_jobs.glob("messages.*"))) == 2


def test_evidence_is_that_of_one_process_to_the_last_bit(jobs_folder, level):
    torch.set_num_threads(1)
    original = pv.evidence.running.blocks.level_for
    try:
        for name, expected in jobs.evidences(level):
            tensors, _ = expected.pack()
            for rank in (0, 1):
                found, _ = files.read_tensors(jobs_folder / f"{level} {name}.{rank}")
                assert same(found, tensors), (level, name, rank)
    finally:
        pv.evidence.running.blocks.level_for = original


def test_analyses_are_those_of_one_process_to_the_last_bit(plain_jobs):
    torch.set_num_threads(1)
    for name, expected in jobs.analyses():
        tensors = {k: v for k, v in vars(expected).items() if isinstance(v, torch.Tensor)}
        for rank in (0, 1):
            found, _ = files.read_tensors(plain_jobs / f"{name}.{rank}")
            assert same(found, tensors), (name, rank)


@pytest.mark.slow
def test_three_processes(tmp_path):
    """A number that does not divide the blocks, at the level at which nothing is captured."""
    done("plain_evidence", tmp_path, processes=3)
    for name in ("plain importance", "plain annealed", "plain upper"):
        first, second, third = (files.read_tensors(tmp_path / f"{name}.{rank}")[0] for rank in range(3))
        assert same(first, second)
        assert same(first, third)
    whole = pv.evidence.importance(jobs.vae().program, jobs.DIGITS.train[:600], 128, seed=5, progress=False)
    assert files.read_tensors(tmp_path / "plain importance.2")[0]["log_evidence"].equal(whole.log_evidence)


def test_training(jobs_folder, level, tmp_path, monkeypatch):
    """All processes end with the same parameters; where draws do not matter, with those of one process.

    The VAE's own draws differ from one process's: its ELBO after 3 epochs has a standard deviation of 0.053 nats over
    seeds (measured, 8 seeds of one process), so that two runs are 0.375 apart, 5 of their difference's, once in 1e6.
    """
    monkeypatch.setattr("ppl_vae.training.loop.level_for", None)  # put back afterwards
    alone = jobs.fitted_pixels(level)
    _, history = jobs.fitted_vae(tmp_path, level)
    pixels, vaes = (
        [files.read_tensors(jobs_folder / f"{what} {level}.{rank}")[0] for rank in (0, 1)]
        for what in ("pixels", "vae")
    )
    assert same(*pixels)
    assert same(*vaes)
    for name, value in alone.items():
        torch.testing.assert_close(pixels[0][name], value, rtol=1e-9, atol=1e-9)
    elbos = vaes[0].pop("elbos")
    assert elbos[-1, 1] > elbos[0, 1] + 0.05
    assert abs(float(elbos[-1, 1]) - history[-1].valid_elbo) < 0.375
    assert len((jobs_folder / level / "history.jsonl").read_text().splitlines()) == 3
    assert not list((jobs_folder / level).glob("*.rank*"))
    for rank in (0, 1):
        text = (jobs_folder / f"refused.{rank}").read_text()
        assert text.startswith("objective: expected an ELBO that is a sum over data")


@pytest.mark.slow
def test_training_killed_and_resumed(tmp_path):
    status, _, err = run_job("killed", tmp_path)
    assert status != 0
    assert "Signal 9" in err
    assert (tmp_path / "checkpoint").exists()
    done("resumed", tmp_path)
    states = [files.read_tensors(tmp_path / f"{n}.{r}")[0] for n in ("resumed", "whole") for r in (0, 1)]
    assert all(same(states[0], other) for other in states[1:])
    with pytest.raises(InputError, match="settings processes 2"):
        jobs.fitted_vae(tmp_path, epochs=5, resume=True)


@pytest.mark.parametrize("what", slow_but(["training"], ["training", "evidence"]))
def test_an_error_in_one_process_ends_all(tmp_path, what):
    folder = tmp_path / what
    folder.mkdir()
    start = time.monotonic()
    status, _, err = run_job("failing", folder)
    assert status != 0
    assert time.monotonic() - start < 60  # 5 s on an idle machine
    assert "ZeroDivisionError: only here" in err


# ---- the command line ------------------------------------------------------------------------------------------

TINY = "--latent-dim 2 --hidden 8 --epochs 2 --batch-size 64 --threads 1"
TRAIN = ["train", "--data", "digits", *TINY.split()]
ANNEALED = ["--method", "annealed", "--num-chains", "300", "--threads", "1"]

OWN = '''
import os

from ppl_vae.evidence import Guide


class Fails(Guide):
    """A proposal that fails in one process, late."""

    def bind(self, program, x, seed, index):
        if os.environ.get("RANK") == "1" and len(x) > 1:
            raise ZeroDivisionError("in my bind")
        return Guide().bind(program, x, seed, index)
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run by two processes, and its figures."""
    path = tmp_path_factory.mktemp("distributed") / "run"
    status, out, err = command(*TRAIN, "--out", path)
    assert status == 0, err
    assert out.count("trained for 2 epochs") == 1
    return path


@pytest.mark.slow
def test_train_writes_a_run_folder_once(trained):
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert names == {"config.yaml", "data.json", "checkpoint.safetensors", "history.jsonl", "vae.safetensors"}
    header = (trained / "config.yaml").read_text().splitlines()[1]
    assert header.startswith("#   torchrun --standalone --nproc-per-node 2 -m ppl_vae train --config")
    assert len((trained / "history.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_evidence_of_the_command_line_killed_and_resumed(trained, tmp_path):
    """Two processes, killed when both have begun and resumed, write the files that one process writes."""
    line = ["evidence", trained, *ANNEALED, "--num-steps", "40"]
    process = torchrun("-m", "ppl_vae", *line, "--out", tmp_path / "two")
    deadline = time.monotonic() + TIMEOUT
    while len(list((tmp_path / "two").glob("checkpoint.safetensors.rank?"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    for pid in workers(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    status, out, err = command(*line, "--out", tmp_path / "two", "--resume")
    assert status == 0, err
    assert out.count("figures and numbers in") == 1
    alone(*line, "--out", tmp_path / "one")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two


def workers(session):
    """The processes of a session that are left: torchrun gives each worker a group of its own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and int(entry.name) != session:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_resuming_in_another_number_of_processes_is_refused(trained, tmp_path):
    out = tmp_path / "e"
    alone("evidence", trained, "--num-samples", "64", "--threads", "1", "--out", out)
    (out / "evidence.safetensors").unlink()
    (out / "checkpoint.safetensors").touch()
    status, _, err = command(
        "evidence", trained, "--num-samples", "64", "--threads", "1", "--out", out, "--resume"
    )
    assert status == 1  # torchrun's own
    (told,) = own_lines(err)
    expected = "--resume: expected as many processes as in the checkpoint, received 2 (and "
    assert told == f"ppl-vae evidence: error: {expected}{out / 'checkpoint.safetensors'} exists)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evidence {run} --num-samples 0", "--num-samples: expected a positive integer, received 0"),
        ("sandwich {run}", "torchrun: expected one of train, evidence, received 'sandwich'"),
    ],
)
def test_bad_input_is_told_once(trained, tmp_path, line, said):
    status, out, err = command(*line.format(run=trained).split(), "--out", tmp_path / "new")
    assert status == 1  # torchrun's own; ours is in what it says
    assert re.findall(r"exitcode +: (-?\d+)", err)[-1] == "2"
    (told,) = own_lines(err)
    assert said in told
    assert out == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_error_of_one_process_is_told_once(trained, tmp_path):
    (tmp_path / "own_late.py").write_text(OWN)
    line = ["evidence", trained, "--proposal", "own_late.Fails", "--split", "train", "--num-samples", "64"]
    status, out, err = command(*line, "--out", tmp_path / "new", cwd=tmp_path)
    assert status == 1
    assert re.findall(r"exitcode +: (-?\d+)", err)[-1] == "2"
    (told,) = own_lines(err)
    assert "own_late.Fails.bind raised ZeroDivisionError: in my bind" in told
    assert out == ""

"""Bad values of every option that takes a number or a word: status 2, one line that names it, nothing changed."""

import shutil

import pytest
from cli_helpers import TINY, snapshot

HUGE = "1000000000000000000"  # of a thing that takes memory
BEYOND = "100000000000000000000000000000"  # of more than 64 bits
COUNT = ("0", "-1", "1.5", "many", "true", "[3]", BEYOND)
RATE = ("0", "-0.5", ".nan", ".inf", "fast", "[0.1]")
SEED = ("-1", "0.5", "lucky", BEYOND)
WORD = ("no-such-word", "3")
TRAIN = "train --out new"
EVIDENCE = "evidence run --out new"

# A command, its options, and values that none of them takes.
TABLE = [
    (TRAIN, ["--latent-dim", "--epochs", "--batch-size", "--patience", "--threads"], COUNT),
    (TRAIN, ["--latent-dim", "--hidden", "--objective.num_particles"], (HUGE,)),
    (TRAIN, ["--lr", "--clip-norm"], RATE),
    (TRAIN, ["--seed", "--data-seed"], SEED),
    (TRAIN, ["--kl-warmup"], ("-1", "1.5", "long", BEYOND)),
    (TRAIN, ["--data", "--view", "--lr-schedule", "--device", "--compile"], WORD),
    (
        TRAIN,
        ["--objective", "--prior", "--likelihood", "--posterior", "--network", "--encoder"],
        ("NoSuchClass", "math.pi"),
    ),
    (TRAIN, ["--activation"], WORD),
    (TRAIN, ["--hidden"], ("0", "-5", "[0]", "[8,-8]", "[8,wide]", "1.5", "[100000000,100000000]")),
    (TRAIN, ["--objective.num_particles"], ("0", "-1", "1.5", "few", BEYOND)),
    (f"{TRAIN} --objective RenyiELBO", ["--objective.num_particles"], ("0", "-3", HUGE)),
    (f"{TRAIN} --objective TraceMeanField_ELBO", ["--objective.num_particles"], ("0", "-3", HUGE)),
    (f"{TRAIN} --prior VampPrior", ["--prior.components"], ("0", "-3", "2.5", HUGE, BEYOND)),
    (f"{TRAIN} --prior MixtureOfGaussians", ["--prior.components"], ("0", "-3", "2.5", HUGE)),
    (f"{TRAIN} --network ConvNet", ["--network.channels"], ("[0]", "[-3]", "[10000000,10000000]")),
    (EVIDENCE, ["--num-samples", "--subset"], COUNT),
    (EVIDENCE, ["--num-samples", "--prior-draws"], (HUGE,)),
    (EVIDENCE, ["--prior-draws"], ("-1", "1.5", "some", BEYOND)),
    (EVIDENCE, ["--seed", "--subset-seed"], SEED),
    (EVIDENCE, ["--method", "--split", "--draws", "--precision", "--compile", "--device"], WORD),
    (f"{EVIDENCE} --draws until-stderr", ["--draws.target"], RATE),
    (
        f"{EVIDENCE} --draws until-stderr --draws.target 0.1",
        ["--draws.most", "--draws.pilot"],
        (*COUNT, HUGE),
    ),
    (f"{EVIDENCE} --draws sobol", ["--draws.scrambles"], (*COUNT, HUGE, "1")),
    (f"{EVIDENCE} --draws sobol", ["--num-samples"], (HUGE, "1000000000000", BEYOND)),
    (f"{EVIDENCE} --method annealed", ["--num-chains", "--num-steps"], (*COUNT, HUGE)),
    (f"{EVIDENCE} --method annealed", ["--start", "--schedule"], WORD),
    (f"{EVIDENCE} --method smc", ["--num-particles", "--num-islands", "--num-steps"], (*COUNT, HUGE)),
    (f"{EVIDENCE} --method jackknife", ["--order", "--num-samples"], (*COUNT, HUGE)),
    (f"{EVIDENCE} --method psis", ["--num-samples"], (*COUNT, HUGE)),
    (f"{EVIDENCE} --method quadrature", ["--nodes"], (*COUNT, HUGE, "17", "272")),
    ("sandwich run --out new", ["--num-data", "--num-chains", "--num-steps"], (*COUNT, HUGE)),
    ("sandwich run --out new --method importance", ["--num-samples"], (*COUNT, HUGE, "1")),
    ("sandwich run --out new", ["--seed"], SEED),
    ("gaps run --out new", ["--num-samples", "--subset"], (*COUNT, "1")),
    ("gaps run --out new", ["--num-samples"], (HUGE,)),
    ("gaps run --out new --method annealed", ["--num-chains", "--num-steps"], (*COUNT, HUGE)),
    ("validate --out new", ["--num-data", "--repetitions", "--threads"], (*COUNT, HUGE)),
    ("sample run --out new.npy", ["--num"], (*COUNT, HUGE)),
    ("sample run --out new.png", ["--num"], (HUGE,)),
    ("interpolate run --out new.npy", ["--pairs", "--steps"], (*COUNT, HUGE)),
    ("reconstruct run --out new.npy", ["--num"], (*COUNT, HUGE)),
    ("demo --out new", ["--threads"], COUNT),
    ("demo --out new", ["--seed"], SEED),
]
OBJECTIVES = "JitTrace_ELBO JitTraceGraph_ELBO JitTraceEnum_ELBO TraceTailAdaptive_ELBO ReweightedWakeSleep"
ATTEMPTS = [
    *(
        (f"{line} {name} {value}", name)
        for line, names, values in TABLE
        for name in names
        for value in values
    ),
    *((f"{TRAIN} --objective {name}", "--objective") for name in OBJECTIVES.split()),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained):
    """A folder with a finished run, which no attempt may change."""
    here = tmp_path_factory.mktemp("attempts")
    shutil.copytree(trained, here / "run")
    return here


def check(result, named):
    """A command that has refused its input."""
    assert result.status == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("ppl-vae")
    assert "Traceback" not in result.err
    assert named in result.err
    assert result.out == ""


@pytest.mark.parametrize(("line", "named"), ATTEMPTS)
def test_attempt(call, place, monkeypatch, line, named):
    monkeypatch.chdir(place)
    before = snapshot(place)
    check(call(*line.split()), named)
    assert snapshot(place) == before


def test_there_are_enough_attempts():
    assert len(set(ATTEMPTS)) == len(ATTEMPTS) >= 200


def test_the_corrected_command_is_not_refused(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("train", *TINY, "--objective", "JitTrace_ELBO", "--out", "new/run").status == 2
    assert call("train", *TINY, "--objective.num_particles", "0", "--out", "new/run").status == 2
    assert snapshot(tmp_path) == {}
    assert call("train", *TINY, "--out", "new/run").status == 0
    sobol = ["--draws", "sobol", "--subset", "3", "--out", "estimate"]
    assert call("evidence", "new/run", *sobol, "--num-samples", "1000000000000").status == 2
    assert not (tmp_path / "estimate").exists()
    assert call("evidence", "new/run", *sobol, "--num-samples", "64").status == 0

"""One estimate, whatever the chunks, the interruptions and the rest of the process: the same to the last bit."""

import math
import os
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_models import identical
from hypothesis import given, settings
from hypothesis import strategies as st

import ppl_vae as pv
from ppl_vae import InputError, NonFiniteError, Program, ProgramError, checkpoint
from ppl_vae.evidence.importance_sampling.importance import Tiles

importance = pv.evidence.importance


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x
        )


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2] / 3, 0.8).to_event(1))


def sharp_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2] / 3, 0.7).to_event(1))


def program():
    return Program(model, guide)


def data(n=50, dtype=torch.float32, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(autouse=True)
def _small_tiles(request, monkeypatch):
    """Tiles of 64 samples of 16 data, so that 50 data and 1,000 samples are 4 blocks of 16 tiles."""
    if "plan" in request.node.name or "real" in request.node.name:
        return

    def plan(num_data, num_samples, width, device):
        return Tiles(num_data, num_samples, min(num_data, 16), min(64, num_samples))

    monkeypatch.setattr(Tiles, "plan", plan)


# ---- chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 63, 64, 1000])
def test_the_chunk_size_changes_no_bit(num_samples):
    x = data()
    whole = importance(program(), x, num_samples, seed=3)
    assert whole.num_samples == num_samples
    for chunk_size in (1, 7, 64, 1000, 10**9):
        assert identical(importance(program(), x, num_samples, seed=3, chunk_size=chunk_size), whole)


def test_real_tiles_too():
    """With the tiles that are used in earnest: more than one block of data, more than one tile of samples."""
    x = data(1100)
    tiles = Tiles.plan(1100, 700, 5, x.device)
    assert tiles.blocks > 1
    assert tiles.tiles > 1
    whole = importance(program(), x, 700)
    assert identical(importance(program(), x, 700, chunk_size=10**9), whole)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17])
@pytest.mark.parametrize("num_samples", [1, 2, 65])
def test_any_number_of_data_and_samples(n, num_samples):
    evidence = importance(program(), data(n), num_samples)
    assert evidence.log_evidence.shape == (n,)
    assert torch.isfinite(evidence.log_evidence).all()
    assert int(evidence.curve_k[-1]) == num_samples


def test_blocks_of_data_have_streams_of_their_own():
    """The same datum 50 times: no two estimates agree, within a block or between blocks."""
    evidence = importance(program(), data(1).expand(50, 3), 100)
    assert len(evidence.log_evidence.unique()) == 50


def test_tiles_of_samples_have_streams_of_their_own():
    """If two tiles drew the same numbers, twice the samples would give the same estimate."""
    x = data(5)
    one, two = importance(program(), x, 64), importance(program(), x, 128)
    assert (one.log_evidence != two.log_evidence).all()
    assert torch.equal(one.curve_k, two.curve_k[:-1])


@given(num_data=st.integers(1, 3000), num_samples=st.integers(1, 5000), width=st.integers(1, 10**7))
@settings(deadline=None, max_examples=150)
def test_plan_covers_every_pair_once(num_data, num_samples, width):
    for device in ("cpu", "cuda"):
        tiles = Tiles.plan(num_data, num_samples, width, torch.device(device))
        rows = [list(range(num_data))[tiles.rows(block)] for block in range(tiles.blocks)]
        assert [n for part in rows for n in part] == list(range(num_data))
        assert all(rows)
        sizes = [tiles.size(tile) for tile in range(tiles.tiles)]
        assert sum(sizes) == num_samples
        assert all(size == tiles.samples for size in sizes[:-1])
        assert 0 < sizes[-1] <= tiles.samples
        assert min(map(len, rows)) >= tiles.data - tiles.blocks  # as equal as can be
        assert tiles.samples % 64 == 0 or tiles.samples == num_samples
        # About what a pass can hold (samples are rounded to 64, up as well as down); the least are 64 of one datum.
        numbers = 2**25 if device == "cuda" else 2**20
        assert tiles.data * tiles.samples * width <= max(1.5 * numbers, 64 * 4 * width)


@given(
    num_samples=st.integers(1, 5000),
    width=st.integers(1, 10**5),
    chunk=st.one_of(st.none(), st.integers(1, 10**6)),
    done=st.integers(0, 40),
)
@settings(deadline=None, max_examples=150)
def test_plan_chunks_are_what_remains(num_samples, width, chunk, done):
    tiles = Tiles.plan(10, num_samples, width, torch.device("cpu"))
    done = min(done, tiles.tiles)
    samples = min(done * tiles.samples, num_samples)
    remaining = [tile for part in tiles.chunks(samples, chunk) for tile in part]
    assert remaining == list(range(done, tiles.tiles))
    if chunk is not None:
        assert all(len(part) * tiles.samples <= max(chunk, tiles.samples) for part in tiles.chunks(0, chunk))


# ---- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def _always_written(monkeypatch):
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)


def interrupt(monkeypatch, after):
    """Ctrl-C in the tile after ``after`` of them."""
    module = sys.modules["ppl_vae.evidence.importance_sampling.importance"]
    original, calls = module._tile, []

    def tile(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(module, "_tile", tile)
    return calls


@pytest.mark.usefixtures("_always_written")
@pytest.mark.parametrize("num_samples", [1000, 1024])
@pytest.mark.parametrize("after", [0, 1, 5, 15, 16, 17, 40, 63])
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


# ---- randomness ---------------------------------------------------------------------------------------------


def test_the_global_generator_is_neither_read_nor_changed():
    x = data()
    torch.manual_seed(1)
    first = importance(program(), x, 200, seed=2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert identical(importance(program(), x, 200, seed=2), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = importance(program(), x, 200, seed=3)
    assert (other.log_evidence != first.log_evidence).all()
    assert (other.seed, first.seed) == (3, 2)


def test_the_generator_is_put_back_after_an_error(monkeypatch):
    state = torch.get_rng_state()
    interrupt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        importance(program(), data(), 1000)
    assert torch.equal(torch.get_rng_state(), state)


# ---- kinds of data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    x = data(20, dtype)
    evidence = importance(program(), x, 2000)
    covariance = torch.eye(3, dtype=torch.float64) + 2
    exact = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x.double())
    assert evidence.log_evidence.dtype == torch.float64
    assert (
        (evidence.log_evidence - exact).abs() < 5 * evidence.stderr
    ).all()  # 20 data: fails for 1 in 90,000
    assert not evidence.log_evidence.requires_grad


def test_a_dict_of_data_is_cut_like_a_tensor():
    x = data()
    extra = {"x": x, "size": torch.ones(50), "label": torch.arange(50)}

    def dict_model(d):
        assert torch.equal(d["x"], x[d["label"]])  # rows stay together
        model(d["x"] * d["size"][:, None])

    both = importance(Program(dict_model, lambda d: guide(d["x"])), extra, 300)
    other = importance(program(), x, 300)
    # What is observed is computed from the dict: it cannot be simulated, so what looks after it costs something else.
    cost = {"density_evals": other.density_evals, "gradient_evals": other.gradient_evals}
    assert identical(both.replace(**cost), other)


def test_parameters_get_no_gradient():
    linear = torch.nn.Linear(3, 2)

    def learned(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(linear(x), 1.0).to_event(1))

    evidence = importance(Program(model, learned), data(), 100)
    assert not evidence.log_evidence.requires_grad
    assert linear.weight.grad is None


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 7, 16, 33, 49])
def test_a_nan_datum_is_named_wherever_it_is(index):
    x = data()
    x[index, 1] = math.nan
    with pytest.raises(InputError, match=rf"observed site 'x'.*datum {index}$"):
        importance(program(), x, 100)

    def check_data(x):
        bad = x.isnan().any(1).nonzero()
        if len(bad):
            raise InputError("x", "numbers", f"NaN at datum {int(bad[0])}")

    with pytest.raises(InputError, match=rf"received NaN at datum {index}$"):
        importance(Program(model, guide, check_data=check_data), x, 100)


@pytest.mark.parametrize("index", [0, 20, 49])
def test_a_parameter_that_makes_nan_names_the_datum(index):
    x = data()
    bad = x[index].clone()

    def broken(x):
        with pyro.plate("data", len(x), dim=-1):
            loc = torch.where((x == bad).all(1), math.nan, 0.0)[:, None].expand(-1, 2)
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(NonFiniteError, match=rf"guide site 'z': NaN at datum {index} "):
        importance(Program(model, broken), x, 100)


@pytest.mark.parametrize("index", [3, 40])
def test_a_rare_nan_names_the_datum(index):
    """Not in the two samples of the check, but among many: a log density that breaks down in the tails."""
    x = data()
    odd = x[index].clone()

    def brittle(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = torch.where((x == odd).all(1) & (z[..., 0] > 1.8 + odd[0] / 3), math.nan, z[..., 0])
            pyro.sample("x", dist.Normal(loc.unsqueeze(-1).expand(*loc.shape, 3), 1.0).to_event(1), obs=x)

    with pytest.raises(NonFiniteError, match=rf"datum {index}\b"):
        importance(Program(brittle, guide), x, 3000)


def test_a_vae_gets_a_hint():
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(3), pv.posteriors.MeanFieldNormal(2))
    with pytest.raises(
        InputError, match=r"program: expected a ppl_vae.Program, received VAE \(its .program is one\)"
    ):
        importance(vae, data(), 10)
    assert importance(vae.program, data(), 10).num_samples == 10
    with pytest.raises(InputError, match=r"received function$"):
        importance(model, data(), 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": -1}, "num_samples"),
        ({"num_samples": 1.5}, "num_samples"),
        ({"num_samples": True}, "num_samples"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": None}, "seed"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 2.0}, "chunk_size"),
        ({"x": data()[:0]}, "x: .*at least one datum"),
        ({"x": [1.0]}, "x: "),
        ({"x": {"a": data(), "b": data(3)}}, "x: .*same positive number"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        importance(**{"program": program(), "x": data(), "num_samples": 10} | arguments)


def test_what_is_no_program_is_refused_before_anything_is_written(tmp_path):
    def shared(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        model(x)

    with pytest.raises(ProgramError, match="'w'"):
        importance(Program(shared, guide), data(), 10, checkpoint=tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_the_result_says_what_it_is():
    evidence = importance(program(), data(30), 500, seed=4)
    assert (evidence.method, evidence.bound, evidence.seed, evidence.num_samples) == (
        "importance",
        "lower",
        4,
        500,
    )
    torch.testing.assert_close(evidence.curve_bound[:, 0], evidence.elbo)
    assert (evidence.elbo <= evidence.log_evidence).all()  # Jensen, for any numbers
    assert ((evidence.ess >= 1) & (evidence.ess <= 500)).all()


# ---- memory ---------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
import torch, ppl_vae as pv
torch.manual_seed(0)
vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(2), pv.posteriors.MeanFieldNormal(2), hidden=(4,))
evidence = pv.evidence.importance(vae.program, torch.randn(10_000, 2), int(sys.argv[1]), progress=False)
assert len(evidence) == 10_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples():
    """10,000 data: the peak for many samples within 1.2 times that for 1,000.

    Many: 20,000, about a minute on one core; 100,000 with PPL_VAE_FULL=1, a thousand million weights, about 7 minutes.
    """
    many = 100_000 if os.environ.get("PPL_VAE_FULL") == "1" else 20_000
    few, most = (
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, str(num_samples)],
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            ).stdout
        )
        for num_samples in (1000, many)
    )
    print(f"peak memory: {few / 1024:.0f} MiB for 1,000 samples, {most / 1024:.0f} MiB for {many}")
    assert most < 1.2 * few

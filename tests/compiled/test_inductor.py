"""Inductor computes what the program does, from the same draws; and what happens where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import test_conformance as library
import torch
from agreeing import S, built, check, check_joint
from compiled_programs import PROGRAMS, Net

from ppl_vae import rng
from ppl_vae.compiled import CompileWarning, LogWeights
from ppl_vae.compiled.graph import backend
from ppl_vae.program import Program


@pytest.fixture(autouse=True)
def _quiet():
    """Every fall-back is an error here, unless a test expects it; global state is as before."""
    backend._warned.clear()
    with rng.forked():
        yield
    pyro.clear_param_store()


@pytest.mark.slow
@pytest.mark.parametrize(
    "combination", library.COMBINATIONS[:: len(library.COMBINATIONS) // 4], ids=library.words
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_inductor_agrees(combination, dtype):
    vae, x = built(combination, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    check(vae.program, x, LogWeights(vae.program, S, level="compiled"), tolerance)
    if library.unconstrained(combination):
        check_joint(vae.program, x, x.flip(0), tolerance, level="compiled")
    assert not backend._warned


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROGRAMS, ids=lambda kind: kind.__name__)
def test_inductor_agrees_on_a_users_own_program(kind):
    own = kind()
    program = Program(own.model, own.guide)
    check(program, own.x, LogWeights(program, S, level="compiled"))
    assert not backend._warned


def test_inductor_draws_what_the_program_draws():
    own = Net()
    program = Program(own.model, own.guide)
    check(program, own.x, LogWeights(program, S, level="compiled"))
    assert not backend._warned


LAYOUTS = {
    "transposed": lambda x: x.T.contiguous().T,
    "repeated": lambda x: x[:1].expand(len(x), -1),
    "windows": lambda x: x.flatten().unfold(0, x.shape[1], 1)[: len(x)],
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_of_any_strides(layout):
    own = Net()
    program = Program(own.model, own.guide)
    x = LAYOUTS[layout](own.x)
    assert x.shape == own.x.shape
    assert x.stride() != own.x.stride()
    check(program, x, LogWeights(program, S, level="compiled"))
    assert not backend._warned


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # its first import
def test_without_a_compiler_the_graph_runs_uncompiled(monkeypatch):
    import torch._inductor.compile_fx as inductor

    def fails(*args, **kwargs):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(inductor, "compile_fx", fails)
    own = Net()
    program = Program(own.model, own.guide)
    weights = LogWeights(program, S, level="compiled")
    with pytest.warns(CompileWarning, match="uncompiled: RuntimeError: no compiler$"):
        weights(own.x)
    check(program, own.x, weights)
    check(program, own.x[:3], LogWeights(program, S, level="compiled"))  # no second warning


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("level", ["captured", "compiled"])
def test_on_a_gpu(level):
    vae, x = built(library.COMBINATIONS[0], torch.float64)
    vae, x = vae.cuda(), x.cuda()
    check(vae.program, x, LogWeights(vae.program, S, level=level))
    check_joint(vae.program, x, x.flip(0), starts=("guide",), level=level)


_PROCESS = """
import torch, pyro, warnings
from compiled_programs import Net
from ppl_vae.compiled import LogWeights
from ppl_vae.program import Program
from torch._dynamo.utils import counters
own = Net()
program = Program(own.model, own.guide)
LogWeights(program, 4, level="compiled")(own.x)
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", _PROCESS],
            cwd=Path(__file__).parents[1],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(run.stdout.split())
    assert found == [["0", "1"], ["1", "0"]]

"""Every example runs, at a tiny size, as a program that a user would start from."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from covering import slow_but

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONG = ("evidence_ladder", "sandwich", "why_is_my_elbo_loose")


def load(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "path",
    slow_but([each for each in EXAMPLES if each.stem not in LONG], EXAMPLES),
    ids=lambda path: path.stem,
)
def test_example_runs(path, capsys):
    result = load(path).main(epochs=1, num_samples=64)
    for evidence in result.values() if isinstance(result, dict) else [result]:
        assert torch.isfinite(evidence.log_evidence).all()
    assert "nats" in capsys.readouterr().out


def test_own_program_agrees_with_the_exact_answer():
    """The example's claim: 200 data within 4.5 standard errors (chance of a false alarm about 1e-3)."""
    module = load(ROOT / "examples" / "own_pyro_program.py")
    torch.manual_seed(0)
    program = module.pv.Program(module.model, module.Guide())
    _, x = program.simulate(torch.zeros(1000, module.CLASSES), seed=1)
    module.pv.fit(program, x, epochs=20, batch_size=50, lr=1e-2, lr_schedule="cosine", seed=0)
    evidence = module.pv.evidence.importance(program, x[:200], num_samples=5000)
    error = (evidence.log_evidence - module.exact(x[:200])) / evidence.stderr
    assert (evidence.status == "trust").mean() > 0.75
    assert float(error.abs().max()) < 4.5


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    """Every Python block of the README, in order, in one namespace: what a reader would paste."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    for block in blocks:
        small = re.sub(r"epochs=\d+", "epochs=1", re.sub(r"num_samples=\d+", "num_samples=64", block))
        exec(compile(small, "README.md", "exec"), namespace)  # noqa: S102

"""Annealed importance sampling in many steps and of many data."""

import subprocess
import sys

import exact_models as models
import pytest

from ppl_vae.evidence import annealed


@pytest.mark.slow
def test_1000_steps_in_50_dimensions_are_within_a_twentieth_of_a_nat():
    """A guide 30 % too narrow, 20 data: the mean error below 0.05 nat, where its standard error is 0.01."""
    exact = models.linear_vae(50, 60, 20, seed=3, widen=0.7)
    e = annealed(exact.program, exact.x, 16, 1000, seed=1)
    error = e.log_evidence - exact.log_evidence
    print(f"mean {float(error.mean()):+.4f}, root mean square {float(error.square().mean().sqrt()):.4f}")
    assert abs(float(error.mean())) < 0.05
    assert float(error.square().mean().sqrt()) < 0.1
    assert (e.status == "trust").mean() > 0.9


@pytest.mark.slow
def test_memory_on_1000_images():
    """16 chains of 1,000 data of a 784-200-200-50 decoder: under 2 GiB, interpreter and all, whatever the steps."""
    code = (
        "import resource, torch, ppl_vae as pv\n"
        "vae = pv.VAE(pv.priors.StandardNormal(50), pv.likelihoods.Bernoulli(784), pv.posteriors.MeanFieldNormal(50))\n"
        "x = torch.bernoulli(torch.full((1000, 784), 0.13), generator=torch.Generator().manual_seed(0))\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "pv.evidence.annealed(vae.program, x, 16, 2)\n"
        "few = peak()\n"
        "pv.evidence.annealed(vae.program, x, 16, 12)\n"
        "print(few, peak())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = map(float, done.stdout.split())
    print(f"peak memory: {few:.2f} GiB after 2 steps, {many:.2f} after 12 more")
    assert many < 2
    assert many < few + 0.1

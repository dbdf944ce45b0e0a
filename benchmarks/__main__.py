"""``python -m benchmarks``: training speed as a ratio to Pyro's recipe; writes benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import pyro
import torch

import ppl_vae as pv
from benchmarks.pyro_recipe import Recipe
from benchmarks.timing import interleaved, ratio

HEADER = """# Benchmarks

Made by `make bench`. Ratios of times measured in one run, the contestants taking turns; the median over
{rounds} rounds, and in brackets the smallest and the largest. Above 1, ppl_vae is faster.

torch {torch}, pyro {pyro}, Python {python}, {threads} threads.

## Training

`fit` against Pyro's VAE recipe (`pyro.optim.Adam`, `SVI`, `Trace_ELBO`, default validation), both
784-400-50 softplus on the same binary data, {epochs} epochs of {num_data} data a round. `fit`'s time includes its
checks of the data and the program and the making of its optimiser.

| batch size | fit / recipe | recipe, examples/s | fit, examples/s |
|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-data", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2, help="in a round")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "RESULTS.md")
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((options.num_data, 784), 0.13), generator=generator)
    text = HEADER.format(
        rounds=options.rounds, torch=torch.__version__, pyro=pyro.__version__, python=platform.python_version(),
        threads=torch.get_num_threads(), num_data=options.num_data,
        epochs=options.epochs,
    )  # fmt: skip
    for batch_size in (20, 128, 256):
        vae = pv.VAE(
            pv.priors.StandardNormal(50), pv.likelihoods.Bernoulli(784), pv.posteriors.MeanFieldNormal(50),
            hidden=(400,), activation="softplus",
        )  # fmt: skip

        def ours(vae: pv.VAE = vae, batch_size: int = batch_size) -> None:
            pv.fit(vae, x, epochs=options.epochs, batch_size=batch_size, progress=False)

        seconds = interleaved({"ours": ours, "recipe": Recipe(x, batch_size, options.epochs)}, options.rounds)
        median, low, high = ratio(seconds, "ours", "recipe")
        speed = {
            name: options.epochs * options.num_data / sorted(times)[len(times) // 2]
            for name, times in seconds.items()
        }
        row = f"| {batch_size} | {median:.2f} [{low:.2f}, {high:.2f}] | {speed['recipe']:.0f} | {speed['ours']:.0f} |"
        print(row, flush=True)
        text += row + "\n"
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

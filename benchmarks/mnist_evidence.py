"""Every estimator on a trained run: the ladder, the certificate, and what each figure cost. Can be stopped and resumed.

    python -m benchmarks.mnist_evidence RUN --out FOLDER [--num-data 100] [--only annealed]

Each estimate is kept as a file in FOLDER; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ppl_vae as pv
from ppl_vae import files
from ppl_vae.cli import datasets
from ppl_vae.cli.runfolder import MODEL, finished_run
from ppl_vae.evidence import Evidence, Sandwich

STEPS = (10, 100, 1000)
LONGEST, FEWER = 10_000, 20  # the longest chains, both ways, for some of the data


def estimates(program: pv.Program, x: torch.Tensor) -> dict[str, Callable[[Path], Evidence | Sandwich]]:
    """Every estimate by name; each is called with the file for its checkpoint."""
    ev = pv.evidence

    def kept(estimate: Callable[..., Evidence | Sandwich], x: torch.Tensor = x, **settings: Any) -> Any:
        return lambda file: estimate(program, x, **settings, checkpoint=file, resume=True)

    made = {f"importance-{size}": kept(ev.importance, num_samples=size) for size in (100, 5000, 100_000)}
    for order in (1, 2):
        made[f"jackknife-{order}-5000"] = kept(ev.jackknife, num_samples=5000, order=order)
    made["psis-5000"] = kept(ev.psis, num_samples=5000)
    for name, proposal in (
        ("defensive", ev.Defensive(0.1)),
        ("student-t", ev.StudentT(5)),
        ("refitted", ev.Refitted()),
    ):
        made[f"{name}-5000"] = kept(ev.importance, num_samples=5000, proposal=proposal)
    made["sobol-5000"] = kept(ev.importance, num_samples=5000, draws="sobol")
    for steps in STEPS:
        for start in ("guide", "prior"):
            made[f"annealed-{start}-{steps}"] = kept(ev.annealed, num_chains=16, num_steps=steps, start=start)
            made[f"sandwich-{start}-{steps}"] = kept(ev.sandwich, num_chains=16, num_steps=steps, start=start)
    made["smc-100"] = kept(ev.smc, num_particles=256, num_steps=100)
    made[f"sandwich-guide-{LONGEST}"] = kept(ev.sandwich, x[:FEWER], num_chains=16, num_steps=LONGEST)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-data", type=int, default=100)
    parser.add_argument("--only", default="", help="names that contain this")
    options = parser.parse_args()

    run = finished_run(options.run)
    dataset = datasets.load_again(run, data_dir=None, path=None)
    x, about = datasets.split(dataset, "test", options.num_data, None)
    program = pv.load(run.path / MODEL).program
    for name, estimate in estimates(program, x).items():
        file = options.out / f"{name}.safetensors"
        if options.only not in name or file.exists():
            continue
        start = time.perf_counter()
        result = estimate(options.out / f"{name}.checkpoint")
        seconds = time.perf_counter() - start
        result.save(file)
        files.write_json(options.out / f"{name}.json", {"seconds": seconds, "data": about})
        print(f"{name} ({seconds:.0f} s)\n{result}\n", flush=True)
    times = {path.stem: json.loads(path.read_text())["seconds"] for path in options.out.glob("*.json")}
    print(f"seconds: {times}")


if __name__ == "__main__":
    main()

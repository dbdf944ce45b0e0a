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

import torch

import ppl_vae as pv
from ppl_vae import files
from ppl_vae.cli import datasets
from ppl_vae.cli.runfolder import MODEL, finished_run
from ppl_vae.evidence import Evidence, Sandwich

STEPS = (10, 100, 1000, 10_000)


def estimates(program: pv.Program, x: torch.Tensor) -> dict[str, Callable[[Path], Evidence | Sandwich]]:
    """Every estimate by name; each is called with the file for its checkpoint."""
    ev = pv.evidence
    made: dict[str, Callable[[Path], Evidence | Sandwich]] = {
        "importance-100": lambda file: ev.importance(program, x, 100, checkpoint=file, resume=True),
        "importance-5000": lambda file: ev.importance(program, x, 5000, checkpoint=file, resume=True),
        "importance-100000": lambda file: ev.importance(program, x, 100_000, checkpoint=file, resume=True),
    }
    for steps in STEPS:
        for start in ("guide", "prior"):
            if (start, steps) == ("prior", 10):
                continue
            made[f"annealed-{start}-{steps}"] = lambda file, steps=steps, start=start: ev.annealed(
                program, x, 16, steps, start=start, checkpoint=file, resume=True
            )
        made[f"sandwich-{steps}"] = lambda file, steps=steps: ev.sandwich(
            program, x, 16, steps, checkpoint=file, resume=True
        )
    made["smc-100"] = lambda file: ev.smc(program, x, 256, 100, checkpoint=file, resume=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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

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
from ppl_vae.evidence import Evidence, Sandwich
from ppl_vae.runs import data as datasets
from ppl_vae.runs.folder import MODEL, finished_run

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
    made["sobol-5000"] = kept(ev.importance, num_samples=5000, draws=ev.Sobol())
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
    x, about = dataset.select("test", options.num_data)
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
    report(options.out)


LADDER = {
    "IWAE-100": "importance-100",
    "importance, S = 5,000": "importance-5000",
    "importance, S = 100,000": "importance-100000",
    "jackknife 1, S = 5,000": "jackknife-1-5000",
    "jackknife 2, S = 5,000": "jackknife-2-5000",
    "PSIS, S = 5,000": "psis-5000",
    "Sobol, S = 5,000": "sobol-5000",
    "defensive, S = 5,000": "defensive-5000",
    "Student-t, S = 5,000": "student-t-5000",
    "refitted, S = 5,000": "refitted-5000",
    "AIS from the prior, 100": "annealed-prior-100",
    "AIS from the prior, 1,000": "annealed-prior-1000",
    "AIS from the guide, 10": "annealed-guide-10",
    "AIS from the guide, 100": "annealed-guide-100",
    "AIS from the guide, 1,000": "annealed-guide-1000",
    "SMC, 100": "smc-100",
}


def report(folder: Path) -> None:
    """The ladder, the certificate and the table, from what is in the folder."""
    found = {label: folder / f"{name}.safetensors" for label, name in LADDER.items()}
    results = {label: Evidence.load(file) for label, file in found.items() if file.exists()}
    seconds = {
        label: json.loads(file.with_suffix(".json").read_text())["seconds"]
        for label, file in found.items()
        if file.exists()
    }
    first = next(iter(results.values()))
    widest = results.get("importance, S = 100,000", first)
    elbo = pv.plots.Rung(widest.mean("elbo"), "lower", passes=widest.cost.passes, num_data=len(first))
    rows = {"ELBO": elbo}
    pv.plots.save(
        pv.plots.evidence_ladder(
            {**rows, **results}, title=f"MNIST, 784-200-200-50, {len(first)} random test images"
        ),
        folder / "ladder.png",
    )
    lines = ["| estimator | mean log p(x) ± Monte Carlo | trust / caution / reject | passes | seconds |"]
    lines.append("|---|---|---|---|---|")
    for label, e in results.items():
        mean, shares = e.mean(), e.status_fractions()
        verdict = " / ".join(f"{shares[name]:.0%}" for name in ("trust", "caution", "reject"))
        lines.append(
            f"| {label} | {mean.value:.3f} ± {mean.mc_stderr:.3f} | {verdict} | {e.cost.passes:,.0f} | "
            f"{seconds[label]:.0f} |"
        )
    lines += ["", "| chains from | steps | data | lower | upper | gap |", "|---|---|---|---|---|---|"]
    curves: dict[str, dict[int, Sandwich]] = {"guide": {}, "prior": {}}
    for start, curve in curves.items():
        for steps in (*STEPS, LONGEST):
            file = folder / f"sandwich-{start}-{steps}.safetensors"
            if file.exists():
                both = Sandwich.load(file)
                if steps != LONGEST:
                    curve[steps] = both
                low, high, gap = both.lower.mean(), both.upper.mean(), both.mean_gap()
                lines.append(
                    f"| {start} | {steps:,} | {len(both)} | {low.value:.3f} ± {low.mc_stderr:.3f} | "
                    f"{high.value:.3f} ± {high.mc_stderr:.3f} | {gap.value:.3f} ± {gap.mc_stderr:.3f} |"
                )
        if curve:
            pv.plots.save(pv.plots.sandwich_curve(curve), folder / f"sandwich-{start}.png")
    files.write_text(folder / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""What a root mean squared error of 0.05 nat a datum costs, by estimator: passes through the decoder, and seconds.

    python -m benchmarks.time_to_accuracy [--run RUN] --out FOLDER

Two exact models (50-dimensional linear-Gaussian, guide 30 % too narrow; a small nonlinear decoder by quadrature), and,
with --run, a trained run on real data, whose reference is annealing of 3,000 steps under another seed (its own error
is stated and is part of what is measured). Each estimator is run at growing sizes until it gets there or becomes too
dear; the estimators take turns, so that a machine that slows down slows them all. Times are of one interleaved run of
the plain programs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import ppl_vae as pv
from ppl_vae import files
from ppl_vae.evidence import (
    Defensive,
    Evidence,
    Refitted,
    Sobol,
    StudentT,
    annealed,
    importance,
    jackknife,
    psis,
    smc,
)
from ppl_vae.validation import MODELS

TARGET = 0.05
SEEDS = (1, 2)
PLAIN: dict[str, Any] = {"compile": False, "progress": False}  # seconds of the programs, not of compilers
Estimator = Callable[[pv.Program, torch.Tensor, int, int], Evidence]


def estimators() -> dict[str, tuple[Estimator, list[int]]]:
    """Each estimator as a function of its size, and the sizes, smallest first."""
    samples = [4**k for k in range(3, 10)]
    steps = [1, 3, 10, 30, 100, 300, 1000, 3000]
    return {
        "importance": (lambda p, x, size, seed: importance(p, x, size, seed=seed, **PLAIN), samples),
        "PSIS": (lambda p, x, size, seed: psis(p, x, size, seed=seed, **PLAIN), samples),
        "jackknife": (lambda p, x, size, seed: jackknife(p, x, size, seed=seed, **PLAIN), samples),
        "Sobol": (
            lambda p, x, size, seed: importance(p, x, size, draws=Sobol(), seed=seed, **PLAIN), samples,
        ),
        "defensive": (
            lambda p, x, size, seed: importance(
                p, x, size, proposal=Defensive(0.1), seed=seed, **PLAIN
            ), samples,
        ),
        "Student-t": (
            lambda p, x, size, seed: importance(
                p, x, size, proposal=StudentT(5), seed=seed, **PLAIN
            ), samples,
        ),
        "refitted": (
            lambda p, x, size, seed: importance(p, x, size, proposal=Refitted(), seed=seed, **PLAIN),
            samples,
        ),
        "AIS": (lambda p, x, size, seed: annealed(p, x, 8, size, seed=seed, **PLAIN), steps),
        "SMC": (
            lambda p, x, size, seed: smc(p, x, 64, size, num_islands=8, seed=seed, **PLAIN),
            steps[1:-1],
        ),
    }  # fmt: skip


@dataclass
class Track:
    """One estimator on one model: (size, passes, seconds, rmse, its standard error) as the sizes grow."""

    points: list[tuple[int, float, float, float, float]] = field(default_factory=list)

    def reached(self) -> bool:
        return bool(self.points) and self.points[-1][3] <= TARGET

    def at_target(self, column: int) -> float:
        """Cost at the target, between the last two sizes on logarithmic axes; infinite if it was not reached."""
        if not self.reached():
            return math.inf
        if len(self.points) == 1:
            return self.points[0][column]
        (*_, before), after = self.points[:-1], self.points[-1]
        share = math.log(before[3] / TARGET) / math.log(before[3] / after[3])
        return math.exp((1 - share) * math.log(before[column]) + share * math.log(after[column]))


def measure(
    program: pv.Program, x: torch.Tensor, reference: torch.Tensor, most_passes: float, most_seconds: float
) -> dict[str, Track]:
    tracks = {name: Track() for name in estimators()}
    longest = max(len(sizes) for _, sizes in estimators().values())
    for index in range(longest):
        for name, (estimate, sizes) in estimators().items():
            track = tracks[name]
            if index >= len(sizes) or track.reached():
                continue
            if track.points and (track.points[-1][1] > most_passes or track.points[-1][2] > most_seconds):
                continue
            squares, passes, seconds = [], 0.0, 0.0
            for seed in SEEDS:
                start = time.perf_counter()
                found = estimate(program, x, sizes[index], seed)
                seconds += (time.perf_counter() - start) / len(SEEDS)
                passes += found.cost.passes / len(SEEDS)
                squares.append((found.log_evidence - reference).square())
            square = torch.cat(squares)
            rmse = float(square.mean().sqrt())
            error = float(square.std()) / math.sqrt(len(square)) / (2 * rmse) if rmse > 0 else 0.0
            track.points.append((sizes[index], passes, seconds, rmse, error))
            print(
                f"  {name} {sizes[index]}: {passes:.0f} passes, {seconds:.1f} s, rmse {rmse:.4f}", flush=True
            )
    return tracks


def table(tracks: dict[str, Track]) -> str:
    lines = [
        "| estimator | passes a datum | seconds | cheaper than importance | smallest error seen |",
        "|---|---|---|---|---|",
    ]
    plain = tracks["importance"]
    limit = plain.at_target(1) if plain.reached() else plain.points[-1][1]
    for name, track in tracks.items():
        passes, seconds = track.at_target(1), track.at_target(2)
        best = min(track.points, key=lambda point: point[3])
        reached = math.isfinite(passes)
        gain = f"{'' if plain.reached() else '> '}{limit / passes:.3g} x" if reached else "-"
        lines.append(
            f"| {name} | {f'{passes:,.0f}' if reached else f'not at {track.points[-1][1]:,.0f}'} | "
            f"{f'{seconds:.1f}' if reached else f'not in {track.points[-1][2]:.1f}'} | {gain} | "
            f"{best[3]:.3f} at {best[1]:,.0f} passes |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="a run folder; its test data are used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-data", type=int, default=20)
    parser.add_argument(
        "--most-passes", type=float, default=3e5, help="no larger size after one that cost more"
    )
    parser.add_argument("--most-seconds", type=float, default=60.0, help="likewise")
    options = parser.parse_args()

    problems: dict[str, tuple[pv.Program, torch.Tensor, torch.Tensor, str]] = {}
    for name in ("linear-gaussian-50", "decoder-2"):
        model = MODELS[name](num_data=options.num_data, seed=0)
        problems[name] = (model.program, model.x, model.log_evidence, "exact")
    if options.run:
        from ppl_vae.runs import data as datasets
        from ppl_vae.runs.folder import MODEL, finished_run

        run = finished_run(options.run)
        dataset = datasets.load_again(run, data_dir=None, path=None)
        x, _ = dataset.select("test", options.num_data)
        program = pv.load(run.path / MODEL).program
        reference = annealed(program, x, 16, 3000, seed=999)
        words = f"annealing of 3,000 steps, error {float(reference.stderr.square().mean().sqrt()):.3f} nat a datum"
        problems["trained run"] = (program, x, reference.log_evidence, words)

    text, rows = [], {}
    for name, (program, x, reference, words) in problems.items():
        print(name, flush=True)
        tracks = measure(program, x, reference, options.most_passes, options.most_seconds)
        text.append(
            f"### {name}\n\nReference: {words}; {len(x)} data, {len(SEEDS)} seeds.\n\n{table(tracks)}\n"
        )
        rows[name] = {
            label: [(passes, rmse, error) for _, passes, _, rmse, error in track.points]
            for label, track in tracks.items()
        }
        files.write_text(options.out / "time_to_accuracy.md", "\n".join(text))
        pv.plots.save(pv.plots.error_against_cost(rows, target=TARGET), options.out / "time_to_accuracy.png")
    print("\n".join(text))


if __name__ == "__main__":
    main()

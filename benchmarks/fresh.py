"""Jobs for a fresh process, whose memory and start-up are to be measured: ``python -m benchmarks.fresh JOB ARGS``."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import AbsentError

ROOT = Path(__file__).parents[1]


def call(job: str, environment: dict[str, str] | None = None, **args: Any) -> dict[str, Any]:
    """Run a job in a fresh process; its answer, with ``seconds`` from its start to its end.

    Raises:
        AbsentError: if it fails; with the last line of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", job, json.dumps(args)]
    start = time.perf_counter()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=os.environ | (environment or {})
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise AbsentError(f"failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return answer | {"seconds": seconds}


def peak() -> int:
    """The most memory that this process has held, in bytes.

    From /proc where there is one: the maximum that getrusage tells survives exec, and would be the harness's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def nothing() -> None:
    """Only the import."""
    from benchmarks import ours  # noqa: F401


def evidence(num_samples: int, num_data: int, how: bool | str) -> None:
    """Importance sampling of some data."""
    from benchmarks import ours, workloads

    x = workloads.binary_data(num_data)
    ours.importance(ours.vae(workloads.TWO_LAYER, x), x, num_samples, how)


def training(num_data: int, batch_size: int, how: bool | str, epochs: int = 1) -> None:
    """Some epochs."""
    from benchmarks import ours, workloads

    x = workloads.binary_data(num_data)
    ours.fit(ours.vae(workloads.ONE_LAYER, x), x, batch_size, epochs, how, skip=0)


def by_hand(batch_size: int, compiled: bool) -> None:
    """One step of the hand-written peer."""
    import torch

    from benchmarks import handwritten, workloads

    nets = ([(torch.randn(m, n) / n**0.5, torch.zeros(m)) for n, m in layers]
            for layers in (workloads.ONE_LAYER.encoder, workloads.ONE_LAYER.decoder))  # fmt: skip
    x = workloads.binary_data(batch_size)
    start = workloads.Parameters(*nets)
    made = handwritten.Training(start, workloads.ONE_LAYER.activation, x, batch_size, compiled=compiled)
    made.epochs(1)


JOBS: dict[str, Callable[..., None]] = {
    "nothing": nothing,
    "evidence": evidence,
    "training": training,
    "by_hand": by_hand,
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"peak": peak()}))

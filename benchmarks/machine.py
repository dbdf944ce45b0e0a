"""What this machine can do at best: matrix products and memory traffic, measured beside the contestants."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from benchmarks.timing import AbsentError, Job

ADAM_FLOATS = 7  # a parameter: p, g, m and v are read, p, m and v are written


def products(shapes: list[tuple[int, int, int]], repeats: int = 1) -> Job:
    """float32 matrix products ``(m, k) @ (k, n)`` by `torch.mm` into memory that is there, ``repeats`` times."""
    # Weights lie as (out, in): the second factor is a transposed view, as in a linear layer.
    triples = [(a, b.t(), torch.empty(len(a), len(b))) for a, b in _factors(shapes)]

    def job() -> None:
        for _ in range(repeats):
            for a, b, out in triples:
                torch.mm(a, b, out=out)

    return job


def onednn_products(shapes: list[tuple[int, int, int]], repeats: int = 1) -> Job:
    """The same by oneDNN, which torch has but does not use for float32 products unless it is told to.

    Where torch's BLAS does not know the processor (MKL on one that is not Intel's), it is twice as fast.
    """
    pairs = _factors(shapes)

    def job() -> None:
        if not has_onednn():
            raise AbsentError("torch has no oneDNN here")
        for _ in range(repeats):
            for a, b in pairs:
                torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    return job


def has_onednn() -> bool:
    """Whether this torch can call oneDNN's products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _factors(shapes: list[tuple[int, int, int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(m, k, generator=generator), torch.rand(n, k, generator=generator)) for m, k, n in shapes
    ]


def triad(numbers: int, repeats: int = 1) -> Job:
    """c = a + 2 b over arrays of so many float32, ``repeats`` times: `triad_bytes` moved."""
    a, b, c = torch.zeros(numbers), torch.zeros(numbers), torch.zeros(numbers)

    def job() -> None:
        for _ in range(repeats):
            torch.add(a, b, alpha=2.0, out=c)

    return job


def triad_bytes(numbers: int, repeats: int = 1) -> int:
    """Bytes that `triad` reads and writes."""
    return 12 * numbers * repeats


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

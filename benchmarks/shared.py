"""What one process of several does: its blocks of `importance`. Started by `ours.distributed_command`."""

from __future__ import annotations

import sys

import torch

from benchmarks import ours, workloads
from benchmarks.workloads import TWO_LAYER
from ppl_vae import distributed


def main(num_samples: int, num_data: int) -> None:
    """Estimate, with all processes of torchrun."""
    torch.set_num_threads(1)  # as torchrun has it for more than one: processes are what is compared
    x = workloads.binary_data(num_data)
    with distributed.joined():
        ours.importance(ours.vae(TWO_LAYER, x), x, num_samples, ours.COMPILED)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    distributed.end()

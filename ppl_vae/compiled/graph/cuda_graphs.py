"""CUDA graphs: a compiled graph on a GPU, recorded once and launched as a whole.

A recording contains the addresses of its tensors. It reads the program's own tensors at their addresses, and is made
again if one of them has moved. Inputs that are new in each call are copied into buffers of the recording, and results
are copied from its buffers. Draws continue from the state of torch's generator, which torch handles for recordings.
CUDA graphs are used if the environment has PPL_VAE_CUDA_GRAPHS=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.compiled.graph.capture import untouched

Run = Callable[[list[Tensor]], Sequence[Any]]
Recorder = Callable[[Callable[[], Sequence[Any]]], tuple[Sequence[Any], Callable[[], None]]]
"""Records a call: what it returned, and what runs it again, with the results in the same tensors."""

_WARM_UP = 2  # runs before a recording: kernels are loaded, and libraries take their memory


def wanted(device: torch.device) -> bool:
    """Whether graphs on this device are to be recorded."""
    return device.type == "cuda" and os.environ.get("PPL_VAE_CUDA_GRAPHS") == "1"


def cuda_recorder(call: Callable[[], Sequence[Any]]) -> tuple[Sequence[Any], Callable[[], None]]:
    """A `Recorder` by `torch.cuda.CUDAGraph`."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return outputs, graph.replay


class Replayed:
    """A runner that records its first call, and replays it.

    Args:
        run: tensors in, tensors out, always of the same shapes.
        live: how many of the first inputs are the program's own.
        record: how a call is recorded.
    """

    def __init__(self, run: Run, live: int, record: Recorder = cuda_recorder) -> None:
        self._run, self._live, self._record = run, live, record
        self._addresses: list[int] = []
        self._places: list[Tensor] = []
        self._outputs: Sequence[Any] = ()
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: list[Tensor]) -> list[Any]:
        """The outputs for ``inputs``, in new tensors."""
        own, given = inputs[: self._live], inputs[self._live :]
        addresses = [t.data_ptr() for t in own]
        if self._replay is None or addresses != self._addresses:
            self._places = [t.clone() for t in given]
            # Warming up and recording run the graph; neither may change tensors or the random state.
            with untouched(*own, device=inputs[0].device if inputs else None):
                self._outputs, self._replay = self._record(lambda: self._run([*own, *self._places]))
            self._addresses = addresses
        for place, value in zip(self._places, given, strict=True):
            place.copy_(value)
        self._replay()
        return [value.clone() if isinstance(value, Tensor) else value for value in self._outputs]

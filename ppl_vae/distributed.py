"""Several processes: processes started by torchrun that work on one job.

    torchrun --standalone --nproc-per-node 4 -m ppl_vae evidence runs/mnist
    torchrun --standalone --nproc-per-node 4 my_script.py   # with pv.distributed.joined(): pv.fit(...); then .end()

This module has no effect outside of `joined`, or if torchrun started only one process. Inside, all processes make the
same calls: `fit` divides each batch, and estimators divide the blocks of data. Tensors are sent by Gloo on the CPU, and
by NCCL on GPUs, with one GPU for each process. torchrun sets OMP_NUM_THREADS=1 unless it is set, so each process has
one thread. Run folders and checkpoints must be in a file system that all processes share.

An error in one process ends the job: the process ends with a status that is not 0, and torchrun ends the others.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from ppl_vae.errors import InputError, describe

if TYPE_CHECKING:  # the command line uses this module before it knows whether torch is needed
    import torch
    from torch import Tensor

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=30)  # processes wait for the slowest one; torchrun ends them if one has failed
_NOTE = "note"


@dataclass(frozen=True)
class World:
    """The rank of this process, and the number of processes.

    Attributes:
        rank: from 0; the process of rank 0 is the main one.
        size: the number of processes.
    """

    rank: int = 0
    size: int = 1

    def share(self, number: int) -> slice:
        """This process's part of ``number`` consecutive items, in nearly equal parts; the first ones are larger."""
        return slice(-(-number * self.rank // self.size), -(-number * (self.rank + 1) // self.size))


_world = World()
_store: Any = None


def world() -> World:
    """The rank and number of processes inside of `joined`; a single process outside."""
    return _world


def is_main() -> bool:
    """Whether this is the main process, which prints and writes files."""
    return _world.rank == 0


def launched() -> bool:
    """Whether torchrun started this process together with others.

    This is the case if LOCAL_RANK is set and WORLD_SIZE is not 1; the other variables of torchrun must then be set.

    Raises:
        InputError: naming the variable that is missing or invalid.
    """
    given = {name: os.environ.get(name) for name in _VARIABLES}
    if given["LOCAL_RANK"] is None or given["WORLD_SIZE"] in (None, "1"):
        return False
    size = _number("WORLD_SIZE", given["WORLD_SIZE"], "a number of processes, 1 or more", 1)
    rank = f"this process's number, 0 to {size - 1} (WORLD_SIZE is {size})"
    _number("RANK", given["RANK"], rank, 0, size - 1)
    _number("LOCAL_RANK", given["LOCAL_RANK"], rank, 0, size - 1)
    _number("MASTER_PORT", given["MASTER_PORT"], "a port, 1 to 65535", 1, 65535)
    if not (given["MASTER_ADDR"] or "").strip():
        raise InputError(
            "environment variable MASTER_ADDR", "the main process's host", _shown(given["MASTER_ADDR"])
        )
    return size > 1


def _number(name: str, value: str | None, expected: str, least: int, most: int = 2**31 - 1) -> int:
    """An environment variable's number; raises `InputError`."""
    # int() takes "1_0" and digits of other scripts as well, which torch.distributed does not.
    if value is None or not re.fullmatch(r"[0-9]{1,10}", value.strip()) or not least <= int(value) <= most:
        raise InputError(f"environment variable {name}", f"{expected}, as torchrun sets it", _shown(value))
    return int(value)


def _shown(value: str | None) -> str:
    return "none" if value is None else describe(value)


@contextmanager
def joined() -> Iterator[World]:
    """Work together with the other processes of torchrun inside of the context; without torchrun, as one process.

    An existing process group of torch.distributed is used, and not destroyed.
    """
    global _world, _store
    if not launched() or _world.size > 1:
        yield _world
        return
    host = os.environ["MASTER_ADDR"].strip()
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        expected = "a host that can be found, as torchrun sets it"
        raise InputError("environment variable MASTER_ADDR", expected, f"{host!r} ({error})") from None
    import torch
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    ours = not dist.is_initialized()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if ours:
        dist.init_process_group(
            _backend(),
            store=dist.PrefixStore("ppl_vae", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=_PATIENCE,
        )
    _world, _store = World(rank, size), store
    try:
        yield _world
    except BaseException:
        first_to_fail()  # claimed before the others can notice
        raise
    finally:
        _world, _store = World(), None
        if ours:
            dist.destroy_process_group()


def end(status: int = 0) -> NoReturn:
    """End this process; at once if torchrun started it. Use it at the end of a script.

    Threads of torch.distributed may continue after its groups are destroyed, and abort a process that ends slowly.
    """
    for stream in (sys.stdout, sys.stderr):
        # A full disk or a closed stream: the work is done anyway.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun's, however bad its other variables are
        os._exit(status)
    sys.exit(status)


def _backend() -> str:
    """Gloo, together with NCCL if each process of this machine has its own GPU."""
    import torch

    if not torch.cuda.is_available():
        return "gloo"
    own = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])) <= torch.cuda.device_count()
    return f"cpu:gloo,cuda:{'nccl' if own and torch.distributed.is_nccl_available() else 'gloo'}"


def first_to_fail() -> bool:
    """Whether no other process has called this before: only the first process that fails prints its error."""
    if _store is None:
        return True
    try:
        return bool(_store.add("ppl_vae failed", 1) == 1)
    except RuntimeError:  # the store has gone with the process that kept it
        return False


def barrier() -> None:
    """Wait until all processes are here."""
    if _world.size > 1:
        import torch

        all_reduce(torch.zeros(1))  # torch's own barrier may choose a GPU that is not this process's


def on_main(act: Callable[[], object]) -> None:
    """Call ``act`` in the main process when all processes are here; they continue when it is done."""
    barrier()
    if is_main():
        act()
    barrier()


def all_reduce(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place; the same bits in each."""
    if _world.size > 1:
        import torch.distributed as dist

        dist.all_reduce(value)
    return value


def broadcast(values: Iterable[Tensor]) -> None:
    """Replace the values of tensors by those of the main process, in place."""
    if _world.size > 1:
        import torch
        import torch.distributed as dist

        with torch.no_grad():
            for value in values:
                whole = value.detach().contiguous()
                dist.broadcast(whole, 0)
                value.copy_(whole)


def gather(tensors: Mapping[str, Tensor], note: Any = None) -> list[tuple[dict[str, Tensor], Any]]:
    """The tensors and notes of all processes, in the order of ranks, on the CPU; shapes may differ.

    Args:
        tensors: any number of tensors.
        note: additional data in JSON's types.
    """
    if _world.size == 1:
        return [(dict(tensors), note)]
    import torch
    import torch.distributed as dist
    from safetensors.torch import load, save

    words = torch.frombuffer(bytearray(json.dumps(note).encode()), dtype=torch.uint8)
    given = {f"tensor/{name}": value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    message = torch.frombuffer(bytearray(save({**given, _NOTE: words})), dtype=torch.uint8)
    sizes = torch.zeros(_world.size, dtype=torch.int64)
    sizes[_world.rank] = len(message)
    longest = int(all_reduce(sizes).max())
    padded = torch.cat([message, message.new_zeros(longest - len(message))])
    everyone = [torch.empty_like(padded) for _ in range(_world.size)]
    dist.all_gather(everyone, padded)
    result = []
    for content, size in zip(everyone, sizes.tolist(), strict=True):
        found = load(content[:size].numpy().tobytes())
        their_note = json.loads(found.pop(_NOTE).numpy().tobytes())
        result.append(({name.removeprefix("tensor/"): value for name, value in found.items()}, their_note))
    return result


class GradientSum:
    """The sum of parameters' gradients over processes.

    A parameter without a gradient counts as zero, and has a gradient afterwards.

    Args:
        parameters: the same in all processes, in the same order.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in parameters:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self._flat = [_Flat(some) for some in kinds.values()]

    def __call__(self) -> None:
        """Replace the gradients by their sums."""
        for flat in self._flat:
            flat.sum()


class _Flat:
    """One buffer for the gradients of all parameters of one dtype and device, sent as one message."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.buffer = parameters[0].new_zeros(sum(p.numel() for p in parameters)).detach()
        pieces = self.buffer.split([p.numel() for p in parameters])
        self.views = [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]

    def sum(self) -> None:
        for view, parameter in zip(self.views, self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        all_reduce(self.buffer)
        for view, parameter in zip(self.views, self.parameters, strict=True):
            parameter.grad = view

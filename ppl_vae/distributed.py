"""More than one process: what torchrun starts, working on one job.

    torchrun --standalone --nproc-per-node 4 -m ppl_vae evidence runs/mnist
    torchrun --standalone --nproc-per-node 4 my_script.py   # with pv.distributed.joined(): pv.fit(...); then .end()

Nothing here has any effect outside of `joined`, nor where torchrun started no more than one process. Inside, every
process makes the same calls: `fit` splits each batch, and the estimators of evidence share out the blocks of data. Gloo
carries tensors on the CPU, NCCL those on a GPU, one GPU to a process. torchrun sets OMP_NUM_THREADS=1 unless it is set:
one thread a process. Files are shared: run folders and checkpoints must be in a place that all processes see.

An error in one process ends the job: that process ends with a status that is not 0, and torchrun ends the others.
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

if TYPE_CHECKING:  # the command line asks here before it knows whether torch is needed
    import torch
    from torch import Tensor

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=30)  # processes wait for the slowest; of one that has ended, torchrun tells them
_NOTE = "note"


@dataclass(frozen=True)
class World:
    """Which process this is.

    Attributes:
        rank: from 0; the process of rank 0 is the main one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, number: int) -> slice:
        """This process's part of ``number`` consecutive things, in parts as equal as can be: the first get more."""
        return slice(-(-number * self.rank // self.size), -(-number * (self.rank + 1) // self.size))


_world = World()
_store: Any = None


def world() -> World:
    """Which process this is of the job that `joined` joined; the only one, outside."""
    return _world


def is_main() -> bool:
    """Whether this is the process that prints and writes files."""
    return _world.rank == 0


def launched() -> bool:
    """Whether torchrun started this process and others with it.

    LOCAL_RANK is there, and WORLD_SIZE is not 1: then the other variables of torchrun must be there as well.

    Raises:
        InputError: naming the variable that is missing, or is not what torchrun sets.
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
    """Work with the other processes of torchrun inside; alone, where there is no torchrun.

    A process group of torch.distributed that is there already is used and left as it is.
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
    """End this process; at once where torchrun started it, which is best for a script that has done its work.

    Threads of torch.distributed may outlive its groups, and abort a process that takes its time to end.
    """
    for stream in (sys.stdout, sys.stderr):
        # A full disk, or nobody who listens: the work is done all the same.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun's, however bad its other variables are
        os._exit(status)
    sys.exit(status)


def _backend() -> str:
    """Gloo, with NCCL where each process of this machine has a GPU of its own."""
    import torch

    if not torch.cuda.is_available():
        return "gloo"
    own = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])) <= torch.cuda.device_count()
    return f"cpu:gloo,cuda:{'nccl' if own and torch.distributed.is_nccl_available() else 'gloo'}"


def first_to_fail() -> bool:
    """Whether no other process has called this: the first says what went wrong, and those that it stops do not."""
    if _store is None:
        return True
    try:
        return bool(_store.add("ppl_vae failed", 1) == 1)
    except RuntimeError:  # the store has gone with the process that kept it
        return False


def barrier() -> None:
    """Wait until every process is here."""
    if _world.size > 1:
        import torch

        all_reduce(torch.zeros(1))  # torch's own barrier may choose a GPU that is not this process's


def on_main(act: Callable[[], object]) -> None:
    """Let the main process do something when all are here; they go on when it is done."""
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
    """Make tensors those of the main process, in place."""
    if _world.size > 1:
        import torch
        import torch.distributed as dist

        with torch.no_grad():
            for value in values:
                whole = value.detach().contiguous()
                dist.broadcast(whole, 0)
                value.copy_(whole)


def gather(tensors: Mapping[str, Tensor], note: Any = None) -> list[tuple[dict[str, Tensor], Any]]:
    """What every process gave, in the order of ranks, on the CPU; shapes may differ.

    Args:
        tensors: any number of tensors.
        note: something besides, in JSON's types.
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
        said = json.loads(found.pop(_NOTE).numpy().tobytes())
        result.append(({name.removeprefix("tensor/"): value for name, value in found.items()}, said))
    return result


class GradientSum:
    """The gradients of parameters, summed over processes.

    A parameter that has no gradient here counts as zero, and has one afterwards.

    Args:
        parameters: the same in every process, in the same order.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in parameters:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self._flat = [_Flat(some) for some in kinds.values()]

    def __call__(self) -> None:
        """Put the sums in the place of the gradients."""
        for flat in self._flat:
            flat.sum()


class _Flat:
    """One buffer for the gradients of parameters of one kind: one message for all of them."""

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

"""Several processes that make one pretraining together, as torchrun starts them. The home of torch.distributed.

Rank 0 does all that a process on its own does. The other ranks wait for the spec of a pretraining, take part in it, and
wait again, until rank 0 ends.

``rank`` and ``world_size`` answer as for one process unless such a pretraining is under way (``on_all_ranks``), so that
nothing else needs to know of ranks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import torchrun
from .errors import RankError, RossbenchError, expect, one_line

TIMEOUT = timedelta(minutes=10)
"""Of a collective, and so of the other ranks' arrival at a pretraining, for which they load its images."""
LONGEST_RUN = timedelta(days=365)
"""How long the other ranks wait for rank 0, which finetunes and evaluates meanwhile."""
POLL = 0.1
"""Seconds between two looks at whether all ranks have arrived."""

_waiting_room: Any = None
"""All ranks, for what rank 0 tells them; None outside ``process_group``."""
_training = False


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, the processes that torchrun started are connected.

    If one is lost, RankError on rank 0, while the other ranks leave quietly: torchrun ends them, and says if rank 0 is
    the lost one. An error of rank 0 ends the others too; one of another rank is a RankError that names it.
    """
    global _waiting_room
    rank, world_size, _ = torchrun.place()
    if world_size == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        _waiting_room = dist.new_group(backend="gloo", timeout=LONGEST_RUN)
        yield
        if not rank:
            _tell(None)
        dist.destroy_process_group()  # not after an error: the other ranks may not be there to end it
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        if not rank:
            raise RankError(f"expected {world_size} ranks to the end, lost one: {one_line(str(error)):.200}") from error
    except RossbenchError as error:
        if not rank:
            raise
        raise RankError(f"rank {rank}: {error}") from error
    finally:
        _waiting_room = None


@contextlib.contextmanager
def on_all_ranks(spec: object = None) -> Iterator[None]:
    """A pretraining on all ranks, whose spec rank 0 gives to the others; a process on its own just makes it."""
    global _training
    if _waiting_room is None:
        yield
        return
    if dist.get_rank() == 0:
        _tell(spec)
    _training = True
    try:
        yield
    finally:
        _training = False


def received() -> Iterator[Any]:
    """On a rank other than 0: what rank 0 gives to ``on_all_ranks``, until rank 0 is done."""
    while (spec := _tell(None)) is not None:
        yield spec


def _tell(spec: object) -> Any:
    """Rank 0's spec, on every rank, once all have arrived. Signals are felt meanwhile."""
    arrival = dist.barrier(_waiting_room, async_op=True)
    while not arrival.is_completed():
        time.sleep(POLL)
    arrival.wait()
    told = [spec]
    dist.broadcast_object_list(told, 0, _waiting_room)
    return told[0]


def check_batch(spec: object, batch: int) -> None:
    """InvalidValue unless all ranks get equal parts of a batch of so many images."""
    ranks = 1 if _waiting_room is None else dist.get_world_size()
    equal = f"a number of images a batch that {ranks} ranks share equally"
    expect(batch % ranks == 0, str(spec), equal, f"{batch} (pretraining.batch_size)")


def rank() -> int:
    """This process among those of a pretraining; 0 on its own."""
    return dist.get_rank() if _training else 0


def world_size() -> int:
    """Processes of a pretraining; 1 on its own."""
    return dist.get_world_size() if _training else 1


def own_part(batch: int) -> slice:
    """This rank's images of a batch, see check_batch."""
    part = batch // world_size()
    return slice(rank() * part, (rank() + 1) * part)


def all_gather(tensor: Tensor) -> Tensor:
    """Each rank's tensor, of one shape on all: [ranks, ...]. Without gradients; lightly's ``gather`` has them."""
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts)


def broadcast(state: Any) -> Any:
    """Rank 0's state, of whatever can be pickled, on every rank."""
    states = [state]
    if world_size() > 1:
        dist.broadcast_object_list(states, 0)
    return states[0]

"""Several processes that make one pretraining together, as torchrun starts them. The home of torch.distributed.

Rank 0 does all that a process on its own does. The others serve: they wait until rank 0 calls them to a pretraining,
join in it, and wait again. A wait is a look at the store that torchrun keeps for its processes, now and then, as it may
last for hours; only what is done together is a collective, which fails when it lasts ``TIMEOUT``.

Functions of what is done together answer as for one process unless it is under way (``joined``), so that nothing else
needs to know of ranks. torch is loaded by those that need it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import InvalidValue, RankError, RossbenchError, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT = timedelta(minutes=10)
"""Of a collective, and of the others' arrival at a pretraining, for which they load its data."""
POLL = 0.1
"""Seconds between two looks at the store."""
LEAVE = 2.0
"""Seconds that rank 0 waits for the others to see that it ends."""


@dataclass
class _Company:
    """All processes, as one of them sees them."""

    rank: int
    size: int
    local: int
    store: Any
    calls: int = 0
    """To pretrainings, so far."""
    joined: bool = False

    def until(self, there: Callable[[], bool], seconds: float) -> bool:
        """Whether it comes to be within some seconds. Signals are felt meanwhile."""
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end:
                return False
            time.sleep(POLL)
        return True

    @property
    def key(self) -> str:
        return f"call {self.calls}"


_company: _Company | None = None


def environment() -> tuple[int, int, int]:
    """Rank, number of ranks and place among those on this machine, as torchrun tells them; (0, 1, 0) without."""
    try:
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError):
        return 0, 1, 0
    return (rank, size, local) if size > 1 and "MASTER_ADDR" in os.environ else (0, 1, 0)


def leads() -> bool:
    """Whether this process is rank 0, or alone."""
    return environment()[0] == 0


@contextlib.contextmanager
def together() -> Iterator[bool]:
    """Inside, processes that torchrun started know each other; gives whether this one leads.

    When rank 0 leaves, for whatever reason, the others are told to. An error of another rank is a RankError.
    """
    global _company
    rank, size, local = environment()
    if size == 1:
        yield True
        return
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    _company = company = _Company(rank, size, local, PrefixStore("rossbench", store))
    try:
        yield rank == 0
        if dist.is_initialized():  # after an error the others may not be there to end it
            dist.destroy_process_group()
    except RossbenchError as error:
        if not rank or isinstance(error, RankError):
            raise
        raise RankError(f"rank {rank}: {error}") from error
    finally:
        _company = None
        if not rank:
            company.calls += 1
            company.store.set(company.key, "null")
            company.until(lambda: int(company.store.add("gone", 0)) == size - 1, LEAVE)


def called() -> Iterator[dict[str, Any]]:
    """Of a rank that serves: what rank 0 calls it to, as it was given to ``joined``, until rank 0 leaves."""
    company = _company
    assert company is not None
    while True:
        company.calls += 1
        while not company.store.check([company.key]):
            time.sleep(POLL)
        task = json.loads(company.store.get(company.key))
        if task is None:
            company.store.add("gone", 1)
            return
        yield task


@contextlib.contextmanager
def joined(task: dict[str, Any] | None = None) -> Iterator[None]:
    """What is done together. Rank 0 calls the others to a task, of JSON; a process on its own just does it.

    RankError if a rank is lost meanwhile.
    """
    company = _company
    if company is None:
        yield
        return
    import torch.distributed as dist

    if not company.rank:
        company.calls += 1
        company.store.set(company.key, json.dumps(task or {}))
    try:
        _meet(company)
        company.joined = True
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        if company.rank and company.store.check([f"call {company.calls + 1}"]):
            return  # rank 0 has left, and said why
        raise RankError(
            f"expected {company.size} ranks to the end, rank {company.rank} lost another: {one_line(str(error)):.200}"
        ) from error
    finally:
        company.joined = False


def _meet(company: _Company) -> None:
    """Wait for the others, who may have data to load, and make the process group once all are there."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore

    place = f"at {company.key}"
    company.store.add(place, 1)
    if not company.until(lambda: int(company.store.add(place, 0)) >= company.size, TIMEOUT.total_seconds()):
        came = int(company.store.add(place, 0))
        raise RankError(f"expected {company.size} ranks within {TIMEOUT}, got {came}")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store = PrefixStore("group", company.store)
        dist.init_process_group(backend, store=store, rank=company.rank, world_size=company.size, timeout=TIMEOUT)


def check(what: object, batch: int) -> None:
    """InvalidValue unless a global batch of so many images can be split over the ranks."""
    count = 1 if _company is None else _company.size
    if batch % count:
        raise InvalidValue(
            f"{what}: expected a number of images a batch that {count} ranks share equally, got {batch} "
            "(pretraining.batch_size)"
        )


def local() -> int:
    """Which of its machine's devices is this process's; 0 for one on its own."""
    return 0 if _company is None else _company.local


def rank() -> int:
    """Among those that do something together; 0 on its own."""
    return _company.rank if _company is not None and _company.joined else 0


def size() -> int:
    """Processes that do something together; 1 on its own."""
    return _company.size if _company is not None and _company.joined else 1


def share(batch: int) -> slice:
    """This rank's images of a global batch."""
    check("ranks", batch)
    own = batch // size()
    return slice(rank() * own, (rank() + 1) * own)


def gathered(tensor: Tensor) -> Tensor:
    """Each rank's tensor, [ranks, ...], without gradients."""
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(tensor) for _ in range(size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def summed(tensor: Tensor) -> Tensor:
    """The sum of all ranks' tensors, without gradients."""
    import torch.distributed as dist

    every = tensor.contiguous().clone()
    dist.all_reduce(every)
    return every


def same(state: Any) -> Any:
    """Rank 0's state, of tensors, numbers, strings, lists and dictionaries, on every rank."""
    if size() == 1:
        return state
    import torch
    import torch.distributed as dist

    buffer = io.BytesIO()
    torch.save(state, buffer)  # of the others nothing is kept of it
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    length = torch.tensor(len(content))
    dist.broadcast(length, 0)
    content = content if rank() == 0 else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True, map_location="cpu")


def averaging(model: nn.Module) -> nn.Module:
    """The model, whose parameters get the mean of all ranks' gradients.

    Of a loss that is a mean over a rank's rows, that is the gradient of the mean over all ranks' rows, if what ranks
    give each other going forward is summed going backward (encoders.stacked, lightly's gather). Attacks are aimed at
    the model itself: they ask for no gradients of parameters, which this would wait for. Buffers are rank 0's.
    """
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model)

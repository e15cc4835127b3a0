"""What torchrun tells each process it starts, by environment variables. Loads no torch."""

from __future__ import annotations

import os
from typing import NamedTuple


class Place(NamedTuple):
    """Where a process is among those of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among the processes of this machine: the number of its GPU."""


def place() -> Place:
    """Of this process; that of a process on its own where torchrun started none or only one."""
    try:
        found = Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError):
        return Place()
    return found if found.world_size > 1 and "MASTER_ADDR" in os.environ else Place()


def is_rank_zero() -> bool:
    """Whether this process is rank 0, or on its own."""
    return place().rank == 0

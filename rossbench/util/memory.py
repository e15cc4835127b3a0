"""Work that may not fit the memory of its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import OutOfMemory

Made = TypeVar("Made")


def attempt(work: Callable[[], Made]) -> Made | None:
    """What the work gives; None if memory does not suffice, and then what it had allocated is free again."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory does not suffice; on the CPU torch's is a RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class AutoBatch:
    """Work on many rows, ``at_once`` of them: half as many, from there on, where memory does not suffice."""

    def __init__(self, at_once: int, least: int = 1) -> None:
        self.at_once, self.least = at_once, least

    def of(self, work: Callable[[Tensor], Made], rows: Any) -> Iterator[tuple[Tensor, Made]]:
        """Parts of the rows, in order, each with what the work gives for it; OutOfMemory if ``least`` do not fit."""
        start = 0
        while start < len(rows):
            piece = rows[start : start + self.at_once]
            made = attempt(partial(work, piece))
            if made is not None:
                yield piece, made
                start += len(piece)
            elif len(piece) // 2 >= self.least:
                self.at_once = len(piece) // 2
            else:
                raise OutOfMemory(f"expected {len(piece)} images to fit the memory of {rows.device}, got out of memory")

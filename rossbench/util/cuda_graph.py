"""A training step as one CUDA graph, recorded once and replayed for every batch: one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before the recording: in the first ones libraries choose algorithms and allocate, which a graph cannot hold."""
Found = TypeVar("Found")


class Replayed(Generic[Found]):
    """``step`` of a batch, tensors of n rows each: on CUDA recorded after some batches, elsewhere called as it is.

    All it does has to be work on the device whose tensors stay where they are, random numbers included: those of the
    global generator, which may be seeded anew before every call. What it returns is overwritten by the next call.
    Batches of another size than the first are not replayed.
    """

    def __init__(self, step: Callable[..., Found]) -> None:
        self.step = step
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *batch: Tensor) -> Found:
        if not batch[0].is_cuda:
            return self.step(*batch)
        if not self.calls:
            self.batch, self.stream = [part.clone() for part in batch], torch.cuda.Stream()
        if len(batch[0]) != len(self.batch[0]):
            return self.step(*batch)
        self.calls += 1
        for mine, part in zip(self.batch, batch, strict=True):
            mine.copy_(part)
        if self.calls <= WARM_UP:
            return self._aside()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):  # records, and does not compute
                self.found = self.step(*self.batch)
        self.graph.replay()
        return self.found

    def _aside(self) -> Found:
        """On the stream of the recording, as autograd remembers the stream that it saw a parameter on."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = self.step(*self.batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

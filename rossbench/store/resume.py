"""The state of an unfinished stage, to and from a file."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .store import read_state, write_atomically

log = logging.getLogger(__name__)


class Saving(contextlib.AbstractContextManager["Saving"]):
    """Saves states into one file, each in place of the one before, on a thread of its own: to sync a disk takes longer
    than to make a state. None for a file: saves nothing. StoreError, with the next state, if one cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __exit__(self, kind: object, error: object, at: object) -> None:
        self._thread.shutdown()
        if self._writing is not None and error is None:
            self._writing.result()

    def save(self, state: Mapping[str, Any]) -> None:
        """The state as it is now: tensors, numbers, strings, lists and dictionaries of them."""
        if self.path is not None:
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            if self._writing is not None:
                self._writing.result()
            self._writing = self._thread.submit(write_atomically, self.path, buffer.getvalue())


def load(path: Path | None) -> dict[str, Any] | None:
    """The state in a file, on the CPU; None if there is none, or a damaged one, which is said."""
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(read_state(path)), weights_only=True, map_location="cpu")
        return state
    except Exception as error:  # torch.load too has many words for a damaged file; none is worth more than a new start
        log.warning("%s cannot be read (%r); the stage starts anew", path, error)
        return None

"""Where a command writes to: nothing that happens there ends what it computes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from rich import console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from ..util.encoding import ERRORS, spelled


class Console(console.Console):
    """rich's, for any encoding: what that lacks is spelled before it is measured, so that columns stay aligned."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(spelled(text, self.encoding), **options)

    def status(self, status: Any, **options: Any) -> Status:
        return super().status(status, **{"spinner": "dots" if self.encoding.startswith("utf") else "line", **options})


def table(left: Sequence[str], right: Sequence[str], rows: Iterable[Iterable[str]]) -> Table:
    """Columns of texts, of which the first is not broken, then of numbers."""
    made = Table(*left, show_edge=False)
    made.columns[0].no_wrap = True
    for title in right:
        made.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def now() -> str:
    """As a page shows when it was made."""
    return datetime.now(UTC).isoformat(" ", "minutes").removesuffix("+00:00") + " UTC"


class _Tolerant:
    """A text stream that drops what it cannot write, and remembers the first reason."""

    buffer = None  # or click would write UTF-8 to it, past this, wherever the encoding is ASCII

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            with contextlib.suppress(OSError):  # what is in its buffers goes there when the process ends
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def tolerant() -> Iterator[_Tolerant | None]:
    """sys.stdout (given; None where it is closed) and sys.stderr drop what they cannot write."""
    before = sys.stdout, sys.stderr
    made = [_Tolerant(stream) if stream else None for stream in before]
    sys.stdout, sys.stderr = cast(list[TextIO], made)
    try:
        yield made[0]
    finally:
        for stream in made:
            if stream:
                stream.flush()
        sys.stdout, sys.stderr = before


def lost(stream: _Tolerant | None) -> str | None:
    """Why output is missing; None where none is, or where its reader went away, such as head."""
    failure = stream and stream.failure
    return failure.strerror if failure and failure.errno != errno.EPIPE else None

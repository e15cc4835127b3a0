"""A run's progress: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from ..config.specs import PretrainSpec
from ..stages.train_loop import Tick
from .progress import Observer, Progress

LIVE_EVERY = 0.25
PLAIN_EVERY = 10.0
"""Seconds between two signs of life."""


@contextlib.contextmanager
def showing(console: Console) -> Iterator[Observer]:
    """An observer that shows a run on the console while the context lasts.

    It shows what finishes an artifact, and else no more than one update in so many seconds: whatever is shown reads the
    loss from the device, so showing all would slow the run down.
    """
    bar = _LiveBar(console) if console.is_terminal else None
    every, last = LIVE_EVERY if bar else PLAIN_EVERY, time.monotonic()
    warned = set[PretrainSpec]()

    def observe(progress: Progress) -> None:
        nonlocal last
        spec, tick = progress.spec, progress.tick
        if tick and isinstance(spec, PretrainSpec) and spec not in warned and _is_collapsed(tick):
            warned.add(spec)
            console.print(Text(_warning(spec, tick), "yellow"), soft_wrap=True)
        if progress.tick is None or time.monotonic() - last >= every:
            last = time.monotonic()
            if bar and progress.tick:
                bar.show(progress)
            else:
                console.print(_line([*_fields(progress), *_left(progress)]), soft_wrap=True)

    with bar or contextlib.nullcontext():
        yield observe


def _is_collapsed(tick: Tick) -> bool:
    return bool(tick.history and tick.history[-1].get("collapsed"))


def _warning(spec: PretrainSpec, tick: Tick) -> str:
    entry, seed = tick.history[-1], f" seed {spec.seed}" if spec.seed else ""
    return (
        f"{spec}{seed}: the loss of epoch {entry['epoch']}, {entry['loss']:.3f}, is that of constant features, so "
        f"nothing is learned yet; if it stays there, try {spec.collapse_remedies}"
    )


class _LiveBar(Bar):
    """What is built now, on one line that fits the terminal, above a bar of the whole run."""

    def __init__(self, console: Console) -> None:
        self.line = Text()
        columns = BarColumn(bar_width=None), TextColumn("{task.fields[left]}")
        super().__init__(*columns, console=console, auto_refresh=False, transient=True, expand=True)
        self.run = self.add_task("run", total=1.0, left="", visible=False)

    def show(self, progress: Progress) -> None:
        self.line = _line(_fields(progress), self.console.width)
        left = "".join(text for text, _ in _left(progress))
        self.update(self.run, completed=progress.fraction, left=left, visible=True, refresh=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.line
        yield from super().get_renderables()


def _fields(progress: Progress) -> list[tuple[str, str]]:
    """What is told, each with its style, the most important first."""
    tick, width = progress.tick, len(str(progress.total))
    seed = f" seed {progress.spec.seed}" if progress.spec.seed else ""
    others = f" and {progress.others} more" if progress.others else ""
    fields = [(f"[{progress.number:>{width}}/{progress.total}] {progress.spec}{seed}{others}", "")]
    if tick is None:
        done = "done by another run" if progress.elsewhere else f"done in {_duration(progress.seconds)}"
        return [*fields, (done, "green")]
    fields.append((tick.position, "cyan"))
    if not progress.elsewhere:
        if tick.loss is not None:
            fields.append((f"loss {float(tick.loss):.3f}", ""))
        fields.append((f"{progress.rate:,.0f} images/s", ""))
    return fields


def _left(progress: Progress) -> list[tuple[str, str]]:
    if progress.tick is None or progress.seconds_left is None:
        return []
    return [(f"{_duration(progress.seconds_left)} left", "")]


def _line(fields: list[tuple[str, Any]], width: float = math.inf) -> Text:
    """The fields on a line, without the last ones where they are too long together."""
    while len(fields) > 1 and cell_len("  ".join(text for text, _ in fields)) > width:
        fields = fields[:-1]
    return Text("  ", overflow="ellipsis", no_wrap=True).join(Text(*field) for field in fields)


def _duration(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole:02}s" if minutes else f"{seconds:.1f}s"

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
from ..util.encoding import spelled
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
    bar: _LiveBar | None = _NotebookBar(console) if console.is_jupyter else None
    if console.is_terminal and not console.is_dumb_terminal:
        bar = _LiveBar(console)
    every, last = LIVE_EVERY if bar else PLAIN_EVERY, time.monotonic()
    warned = set[PretrainSpec]()

    def observe(progress: Progress) -> None:
        nonlocal last
        spec, tick = progress.spec, progress.tick
        ended = tick.history if tick else ()
        if isinstance(spec, PretrainSpec) and spec not in warned and ended and ended[-1].get("collapsed"):
            warned.add(spec)
            console.print(Text(spelled(_warning(spec, ended[-1]), console.encoding), "yellow"), soft_wrap=True)
        if tick is None or time.monotonic() - last >= every:
            last = time.monotonic()
            if bar and tick:
                bar.show(progress)
            elif isinstance(bar, _NotebookBar):
                bar.count()
            else:
                left = _left(progress)
                parts = [*_parts(progress), *([(0, f"  {left}", "")] if left else [])]
                console.print(_line(parts, console.encoding), soft_wrap=True)

    with bar or contextlib.nullcontext():
        yield observe


@contextlib.contextmanager
def by_default(observe: Observer | None) -> Iterator[Observer]:
    """The observer that a caller from Python gave; if none, a notebook shows the run, and elsewhere nothing does."""
    console = Console()
    if observe is not None:
        yield observe
    elif console.is_jupyter:
        with showing(console) as shown:
            yield shown
    else:
        yield lambda progress: None


def _warning(spec: PretrainSpec, entry: dict[str, float]) -> str:
    seed = f" seed {spec.seed}" if spec.seed else ""
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
        self.line = _line(_parts(progress), self.console.encoding, self.console.width)
        self.update(self.run, completed=progress.fraction, left=_left(progress), visible=True, refresh=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.line
        yield from super().get_renderables()


class _NotebookBar(_LiveBar):
    """The same as one output of a notebook's cell, which is made anew with every update and needs no widgets."""

    def __init__(self, console: Console) -> None:
        self.output: Any = None
        self.finished_artifacts, self.began = 0, time.monotonic()
        super().__init__(console)

    def start(self) -> None:
        from IPython.display import display

        self.output = display(Text(""), display_id=True)  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        if self.output is not None:
            self.output.update(self)

    def count(self) -> None:
        """One more artifact is finished."""
        self.finished_artifacts += 1

    def stop(self) -> None:
        seconds = _duration(time.monotonic() - self.began)
        several = "s" * (self.finished_artifacts != 1)
        self.output.update(Text(f"{self.finished_artifacts} artifact{several} built in {seconds}", "green"))


Part = tuple[int, str, str]
"""Of a line: its rank, from 0 for the most important, its text with the space before it, and its style."""


def _parts(progress: Progress) -> list[Part]:
    """What is told, in reading order."""
    tick, width = progress.tick, len(str(progress.total))
    stage, _, what = str(progress.spec).partition(" ")
    parts = [(0, f"[{progress.number:>{width}}/{progress.total}] {stage}", ""), (2, f" {what}", "")]
    parts += [(3, f" seed {progress.spec.seed}", "")] if progress.spec.seed else []
    parts += [(4, f" and {progress.others} more", "")] if progress.others else []
    if tick is None:
        done = "done by another run" if progress.elsewhere else f"done in {_duration(progress.seconds)}"
        return [*parts, (1, f"  {done}", "green")]
    parts.append((1, f"  {tick.position}", "cyan"))
    if not progress.elsewhere:
        parts += [] if tick.loss is None else [(5, f"  loss {float(tick.loss):.3f}", "")]
        parts.append((6, f"  {progress.rate:,.0f} images/s", ""))
    return parts


def _left(progress: Progress) -> str:
    if progress.tick is None or progress.seconds_left is None:
        return ""
    return f"{_duration(progress.seconds_left)} left"


def _line(parts: list[Part], encoding: str, width: float = math.inf) -> Text:
    """The parts on a line, without the least important ones where they are too long together."""
    told = [(rank, spelled(text, encoding), style) for rank, text, style in parts]
    while len(told) > 1 and cell_len("".join(text for _, text, _ in told)) > width:
        told.remove(max(told))
    return Text("", overflow="ellipsis", no_wrap=True).join(Text(text, style) for _, text, style in told)


def _duration(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole:02}s" if minutes else f"{seconds:.1f}s"

"""A run's progress: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .progress import Observer, Progress

LIVE_EVERY = 0.25
PLAIN_EVERY = 10.0
"""Seconds between two signs of life."""


@contextlib.contextmanager
def showing(console: Console) -> Iterator[Observer]:
    """An observer that shows a run on the console while the context lasts."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield _Throttle(LIVE_EVERY, lambda progress: _show_live(live, progress))
    else:
        yield _Throttle(PLAIN_EVERY, lambda progress: _show_plain(console, progress))


class _Throttle:
    """Passes on what finishes an artifact, and else no more than one call in so many seconds.

    Whatever is shown reads the loss from the device, so showing all would slow the run down.
    """

    def __init__(self, seconds: float, show: Observer) -> None:
        self.seconds, self.show = seconds, show
        self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.tick is None or now - self.last >= self.seconds:
            self.last = now
            self.show(progress)


def _show_plain(console: Console, progress: Progress) -> None:
    line = _line(progress)
    if progress.tick is not None:
        line.append(f"  {_left(progress)}")
    console.print(line, soft_wrap=True)


def _show_live(live: Live, progress: Progress) -> None:
    if progress.tick is None:
        live.console.print(_line(progress))
        return
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    bar.add_row(ProgressBar(total=1, completed=progress.fraction), _left(progress))
    live.update(Group(_line(progress), bar), refresh=True)


def _line(progress: Progress) -> Text:
    tick = progress.tick
    width = len(str(progress.total))
    text = Text(f"[{progress.number:>{width}}/{progress.total}] {progress.spec}", no_wrap=True, overflow="ellipsis")
    if progress.spec.seed:
        text.append(f" seed {progress.spec.seed}")
    if progress.others:
        text.append(f" and {progress.others} more")
    if tick is None:
        return text.append(
            "  done by another run" if progress.elsewhere else f"  done in {_duration(progress.seconds)}", style="green"
        )
    text.append(f"  {tick.position}", style="cyan")
    if progress.elsewhere:
        return text
    if tick.loss is not None:
        text.append(f"  loss {float(tick.loss):.3f}")
    return text.append(f"  {progress.rate:,.0f} images/s")


def _left(progress: Progress) -> str:
    return "" if progress.seconds_left is None else f"{_duration(progress.seconds_left)} left"


def _duration(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole:02}s" if minutes else f"{seconds:.1f}s"

"""How far a run is: what its observers are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..config.specs import AnySpec
from ..stages.train_loop import Tick


@dataclass(frozen=True)
class Progress:
    """How far a run is, told while an artifact is built and when it is finished."""

    spec: AnySpec
    number: int
    """Of this artifact among those that were missing, from 1."""
    total: int
    tick: Tick | None
    """Where its stage is; None: the artifact is finished."""
    seconds: float
    """Since its stage began, in this run; of artifacts that were built together, each one's share."""
    rate: float
    """Images a second, a mean over these seconds."""
    fraction: float
    """Of the whole run's work, in [0, 1]."""
    seconds_left: float | None
    """For the whole run; None before there is anything to tell it from."""
    others: int = 0
    """So many artifacts after this one are built together with it."""
    elsewhere: bool = False
    """Whether another run builds it, or has built it."""


Observer = Callable[[Progress], None]


class Task:
    """Artifacts that are built together, and how far they are."""

    def __init__(self, tracker: Tracker, specs: Sequence[AnySpec]) -> None:
        self.tracker, self.specs = tracker, specs
        self.work = sum(spec.passes for spec in specs)
        self.began = time.perf_counter()
        self.images = 0
        self.fraction = 0.0

    def update(self, tick: Tick) -> None:
        """Called by the stage after every step."""
        if tick.resumed:
            self.tracker.skipped += (tick.fraction - self.fraction) * self.work
        self.images += tick.images
        self.fraction = tick.fraction
        self.tracker.tell(self, self.specs[0], tick)

    def finish(self, elsewhere: bool = False) -> None:
        """All of them are in the store."""
        self.fraction = 1.0
        for spec in self.specs:
            self.tracker.tell(self, spec, None, elsewhere)
            self.tracker.finished += 1
        self.tracker.tasks.remove(self)
        self.tracker.done += self.work

    def give_up(self) -> None:
        self.tracker.tasks.remove(self)


class Tracker:
    """Adds up the tasks of a run for its observer. Passes are the unit of work; see specs.passes."""

    def __init__(self, specs: Sequence[AnySpec], observe: Observer) -> None:
        self.count, self.observe = len(specs), observe
        self.work = sum(spec.passes for spec in specs)
        self.began = time.perf_counter()
        self.finished = 0
        self.done = 0  # work of finished tasks
        self.skipped = 0.0  # work that other runs did, or an earlier one
        self.tasks: list[Task] = []
        """Those under way."""

    def start(self, specs: Sequence[AnySpec]) -> Task:
        self.tasks.append(Task(self, specs))
        return self.tasks[-1]

    def finished_elsewhere(self, specs: Sequence[AnySpec]) -> None:
        """Tell that another run has built them."""
        task = self.start(specs)
        self.skipped += task.work
        task.finish(elsewhere=True)

    def wait(self, spec: AnySpec, holder: str) -> None:
        """Tell that nothing is left to do but to wait for another run."""
        self.tell(Task(self, [spec]), spec, Tick(0.0, f"waiting for {holder}", 0), elsewhere=True)

    def tell(self, task: Task, spec: AnySpec, tick: Tick | None, elsewhere: bool = False) -> None:
        now = time.perf_counter()
        seconds = max(now - task.began, 1e-9)
        share = spec.passes / task.work if tick is None and task.work else 1
        done = self.done + sum(one.fraction * one.work for one in self.tasks)
        worked = done - self.skipped
        progress = Progress(
            spec=spec,
            number=self.finished + 1,
            total=self.count,
            tick=tick,
            seconds=seconds * share,
            rate=task.images / seconds,
            fraction=done / self.work,
            seconds_left=(self.work - done) * (now - self.began) / worked if worked > 0 else None,
            others=0 if tick is None else len(task.specs) - 1,
            elsewhere=elsewhere,
        )
        self.observe(progress)

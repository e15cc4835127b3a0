"""How far a run is: what an observer is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .specs import AnySpec
from .training import Tick


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    spec: AnySpec
    number: int
    """Of this artifact among those that were missing, from 1."""
    total: int
    tick: Tick | None
    """None: the artifact is finished."""
    seconds: float
    """Since this stage began, in this run; of artifacts that were made together, each one's share."""
    rate: float
    """Images a second, a mean over these seconds."""
    fraction: float
    """Of the whole run's work, in [0, 1]."""
    seconds_left: float | None
    """For the whole run; None before there is anything to tell it from."""
    others: int = 0
    """So many artifacts after this one are being made together with it."""
    elsewhere: bool = False
    """Whether another run makes it, or has made it."""


Observer = Callable[[Progress], None]


class Clock:
    """Turns a stage's ticks into the progress of the run. Passes are the unit of work; see specs.passes."""

    def __init__(self, specs: list[AnySpec], observe: Observer) -> None:
        self.specs, self.observe = specs, observe
        self.total = sum(spec.passes for spec in specs)
        self.began = time.perf_counter()
        self.finished = 0
        self.before = 0.0  # passes of the artifacts before this one
        self.skipped = 0.0  # those of them that an earlier run had done

    def start(self, specs: list[AnySpec]) -> None:
        self.making = specs
        self.work = sum(spec.passes for spec in specs)
        self.stage_began = time.perf_counter()
        self.images = 0
        self.fraction = 0.0

    def tick(self, tick: Tick) -> None:
        if tick.resumed:
            self.skipped += (tick.fraction - self.fraction) * self.work
        self.images += tick.images
        self.fraction = tick.fraction
        self._tell(self.making[0], tick, len(self.making) - 1)

    def finish(self) -> None:
        self.fraction = 1.0
        for spec in self.making:
            self._tell(spec, None, share=spec.passes / self.work if self.work else 1)
            self.finished += 1
        self.before += self.work

    def made_elsewhere(self, specs: list[AnySpec]) -> None:
        """Tell that another run has made them."""
        self.start(specs)
        self.skipped += self.work
        self.before += self.work
        for spec in specs:
            self._tell(spec, None, elsewhere=True)
            self.finished += 1

    def wait(self, spec: AnySpec, holder: str) -> None:
        """Tell that nothing is left to do but to wait for another run."""
        self.start([spec])
        self._tell(spec, Tick(0.0, f"waiting for {holder}", 0), elsewhere=True)

    def _tell(
        self, spec: AnySpec, tick: Tick | None, others: int = 0, share: float = 1, elsewhere: bool = False
    ) -> None:
        now = time.perf_counter()
        done = self.before + self.fraction * self.work
        worked = done - self.skipped
        seconds = max(now - self.stage_began, 1e-9)
        progress = Progress(
            spec=spec,
            number=self.finished + 1,
            total=len(self.specs),
            tick=tick,
            seconds=seconds * share,
            rate=self.images / seconds,
            fraction=done / self.total,
            seconds_left=(self.total - done) * (now - self.began) / worked if worked > 0 else None,
            others=others,
            elsewhere=elsewhere,
        )
        self.observe(progress)

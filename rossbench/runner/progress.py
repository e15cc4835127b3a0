"""How far a run is: what an observer is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..config.specs import AnySpec
from ..stages.train_loop import Tick


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


class Making:
    """Artifacts that are made together, and how far they are."""

    def __init__(self, clock: Clock, specs: list[AnySpec]) -> None:
        self.clock, self.specs = clock, specs
        self.work = sum(spec.passes for spec in specs)
        self.began = time.perf_counter()
        self.images = 0
        self.fraction = 0.0

    def tick(self, tick: Tick) -> None:
        if tick.resumed:
            self.clock.skipped += (tick.fraction - self.fraction) * self.work
        self.images += tick.images
        self.fraction = tick.fraction
        self.clock.tell(self, self.specs[0], tick, others=len(self.specs) - 1)

    def finish(self) -> None:
        self.fraction = 1.0
        for spec in self.specs:
            self.clock.tell(self, spec, None, share=spec.passes / self.work if self.work else 1)
            self.clock.finished += 1
        self.leave(self.work)

    def leave(self, done: int = 0) -> None:
        """Made, or given up."""
        self.clock.making.remove(self)
        self.clock.before += done


class Clock:
    """Turns ticks into the progress of the run. Passes are the unit of work; see specs.passes."""

    def __init__(self, specs: list[AnySpec], observe: Observer) -> None:
        self.specs, self.observe = specs, observe
        self.total = sum(spec.passes for spec in specs)
        self.began = time.perf_counter()
        self.finished = 0
        self.before = 0.0  # passes of what is made
        self.skipped = 0.0  # those of them that others did, or an earlier run
        self.making: list[Making] = []

    def start(self, specs: list[AnySpec]) -> Making:
        self.making.append(Making(self, specs))
        return self.making[-1]

    def made_elsewhere(self, specs: list[AnySpec]) -> None:
        """Tell that another run has made them."""
        made = Making(self, specs)
        self.skipped += made.work
        self.before += made.work
        for spec in specs:
            self.tell(made, spec, None, elsewhere=True)
            self.finished += 1

    def wait(self, spec: AnySpec, holder: str) -> None:
        """Tell that nothing is left to do but to wait for another run."""
        self.tell(Making(self, [spec]), spec, Tick(0.0, f"waiting for {holder}", 0), elsewhere=True)

    def tell(
        self,
        making: Making,
        spec: AnySpec,
        tick: Tick | None,
        others: int = 0,
        share: float = 1,
        elsewhere: bool = False,
    ) -> None:
        now = time.perf_counter()
        done = self.before + sum(one.fraction * one.work for one in self.making)
        worked = done - self.skipped
        seconds = max(now - making.began, 1e-9)
        progress = Progress(
            spec=spec,
            number=self.finished + 1,
            total=len(self.specs),
            tick=tick,
            seconds=seconds * share,
            rate=making.images / seconds,
            fraction=done / self.total,
            seconds_left=(self.total - done) * (now - self.began) / worked if worked > 0 else None,
            others=others,
            elsewhere=elsewhere,
        )
        self.observe(progress)

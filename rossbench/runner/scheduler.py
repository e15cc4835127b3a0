"""What a store lacks, built in order: whatever is ready and nobody else builds, parents first."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..config.specs import AnySpec, AuditSpec, EvaluateSpec, FinetuneSpec, MeasureSpec, PretrainSpec
from ..models import encoders
from ..stages import audit, evaluate, finetune, measure, pretrain
from ..stages.context import Context
from ..stages.train_loop import Hooks
from ..util import distributed
from ..util.errors import Damaged
from ..util.seeds import derive, seeded
from .progress import Observer, Task, Tracker

POLL = 1.0
"""Seconds between two looks at what others are building, when nothing else is left."""
BUILDERS: Mapping[type[AnySpec], Callable[[Sequence[Any], Context, Hooks], None]] = {
    PretrainSpec: pretrain.build,
    FinetuneSpec: finetune.build,
    EvaluateSpec: evaluate.build,
    AuditSpec: audit.build,
    MeasureSpec: measure.build,
}

Result = TypeVar("Result")


def build(specs: Sequence[AnySpec], context: Context, hooks: Hooks) -> None:
    """Build artifacts that differ in nothing but an evaluation's epsilon.

    Code of a user's own may draw from global generators: what it draws hangs on nothing that was done before.
    """
    with seeded(derive(specs[0].seed, specs[0].stage), context.device):
        BUILDERS[type(specs[0])](specs, context, hooks)


class Executor:
    """Builds what a scheduler hands it, and then lets go of the locks: this one in this process, at once."""

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return False

    def submit(self, specs: Sequence[AnySpec], context: Context, task: Task) -> None:
        """Build artifacts that differ in nothing but an evaluation's epsilon; their parents are in the store, and
        their locks are held."""
        try:
            build(specs, context, Hooks(task.update, context.store.resume_path(specs[0])))
            task.finish()
        finally:
            for spec in specs:
                context.store.locks.give(spec.key)

    def wait(self) -> None:
        """Wait a moment for what is under way."""

    def check(self) -> None:
        """Raise RossbenchError for what could not be built and was not raised by ``submit``."""


class Scheduler:
    """Finds what is missing, ready and not locked, and has an executor build it.

    Several schedulers on one store share the work by that alone, and one takes over what a dead one was building.
    """

    def __init__(self, context: Context, executor: Executor, observe: Observer) -> None:
        self.context, self.executor, self.observe = context, executor, observe
        self.store = context.store

    def check(self, wanted: Sequence[AnySpec]) -> None:
        """Raise now what would else be raised after days of pretraining: no such data, no such encoder."""
        missing = self.store.missing(wanted)
        pretrainings = [spec for spec in missing if isinstance(spec, PretrainSpec)]
        for name, size in {(one.encoder, one.pixels) for one in pretrainings if not one.weights}:
            encoders.build(name, size, seed=0)
        for spec in missing:
            if isinstance(spec, PretrainSpec) and spec.weights:
                self.context.given(spec)
                continue
            if isinstance(spec, FinetuneSpec) and spec.pretrain.weights in self.context.encoders:
                finetune.check(spec, self.context.encoders[spec.pretrain.weights].encoder)
            elif isinstance(spec, FinetuneSpec) and not spec.pretrain.weights:
                finetune.check_batch_norm(spec, None)
            data = self.context.data(spec)
            if isinstance(spec, PretrainSpec):
                distributed.check_batch(spec, min(spec.recipe.batch_size, len(data.images)))

    def build(self, wanted: Iterable[AnySpec], read: Callable[[], Result]) -> Result:
        """What ``read`` returns once all that is wanted is in the store.

        What is found damaged, while building or reading, is set aside and built again, once.
        """
        wanted, damaged = list(wanted), set[Path]()
        while True:
            try:
                while missing := self.store.missing(wanted):
                    self._discard_stale(missing)
                    tracker = Tracker(missing, self.observe)
                    for specs in self._claimed(missing, tracker):
                        self.executor.submit(specs, self.context, tracker.start(specs))
                    self.executor.check()
                return read()
            except Damaged as damage:
                self.context.forget_classifier()
                if damage.place in damaged or not self.store.set_aside(damage):  # a bad disk would keep us for ever
                    raise
                damaged.add(damage.place)

    def _discard_stale(self, missing: Sequence[AnySpec]) -> None:
        for spec in missing:
            if spec in self.store and self.store.locks.take(spec.key):
                if self.store.is_stale(spec):  # still: another run may have built both by now
                    self.store.discard(spec)
                self.store.locks.give(spec.key)

    def _claimed(self, missing: Sequence[AnySpec], tracker: Tracker) -> Iterator[list[AnySpec]]:
        """Groups of what is missing as they become ready, each locked for us, until all is built, here or by others.

        What lacks a part that failed is left out.
        """
        waiting = _groups(missing)
        while waiting or self.executor.busy:
            left = []
            for specs in waiting:
                built, claimed, rest = self._claim(specs)
                if built:
                    tracker.finished_elsewhere(built)
                if claimed:
                    yield claimed
                if rest:
                    left.append(rest)
            if self.executor.busy:
                self.executor.wait()
            elif left == waiting:
                coming = {spec.key for specs in left for spec in specs}
                left = [specs for specs in left if not any(self._lacks(spec, coming) for spec in specs)]
                if left:
                    tracker.wait(left[0][0], self.store.locks.holder(left[0][0].key))
                    time.sleep(POLL)
            waiting = left

    def _lacks(self, spec: AnySpec, coming: Collection[str]) -> bool:
        return any(parent not in self.store and parent.key not in coming for parent in spec.parents)

    def _claim(self, specs: Sequence[AnySpec]) -> tuple[list[AnySpec], list[AnySpec], list[AnySpec]]:
        """Of a group: what another run has built, what is now locked for us, and what has to wait."""
        ready = [spec for spec in specs if all(parent in self.store for parent in spec.parents)]
        locked = [spec for spec in ready if self.store.locks.take(spec.key)]
        built = [spec for spec in specs if spec in self.store]  # looked up with the locks held
        for spec in locked:
            if spec in built:
                self.store.locks.give(spec.key)
        claimed = [spec for spec in locked if spec not in built]
        return built, claimed, [spec for spec in specs if spec not in built and spec not in claimed]


def _groups(specs: Sequence[AnySpec]) -> list[list[AnySpec]]:
    """Evaluations in a row that differ in their epsilon alone are one piece of work; all else is one by one."""

    def work(spec: AnySpec) -> object:
        return (spec.finetune.key, spec.limit, spec.recipe) if isinstance(spec, EvaluateSpec) else spec.key

    return [list(alike) for _, alike in itertools.groupby(specs, work)]


def shard_of(wanted: Sequence[EvaluateSpec | MeasureSpec], number: int, total: int) -> list[EvaluateSpec | MeasureSpec]:
    """The part of one of ``total`` shards, from 1: whole models, those of one pretraining next to each other."""
    pretrainings = list(dict.fromkeys(spec.parents[0].key for spec in wanted))
    found = {spec.parents[-1].key: spec.parents[0].key for spec in wanted}
    models = sorted(found, key=lambda model: pretrainings.index(found[model]))
    mine = set(models[len(models) * (number - 1) // total : len(models) * number // total])
    return [spec for spec in wanted if spec.parents[-1].key in mine]

"""What is asked of a store, and its making: whatever is missing and nobody else builds, parents first."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from .. import registry
from ..config.scenarios import Place, Row, Scenario
from ..config.specs import AnySpec, AuditSpec, EvaluateSpec, FinetuneSpec, PretrainSpec
from ..data import datasets
from ..models import encoders
from ..models.checkpoints import Given
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..stages import audit
from ..stages.evaluate import evaluate, save_cell
from ..stages.finetune import finetune
from ..stages.pretrain import pretrain
from ..stages.train_loop import Hooks, Tick
from ..store import artifacts, records
from ..store.records import Audit, Record
from ..store.results import ResultMatrix
from ..store.store import Store
from ..util import distributed
from ..util.errors import Damaged, InvalidValue
from ..util.values import encode
from .progress import Clock, Making, Observer

POLL = 1.0
"""Seconds between two looks at what others are building, when nothing else is left."""

Read = TypeVar("Read")
Records = dict[Place, Record]
"""(pretraining epsilon, finetuning epsilon, evaluation epsilon) -> Record."""


class Crew(Protocol):
    """Who builds what a job finds missing, and gives the locks back."""

    @property
    def busy(self) -> bool:
        """Whether something is under way."""

    def build(self, specs: list[AnySpec], making: Making) -> None:
        """Build them, or see to it; their parents are in the store, and their locks are held."""

    def collect(self) -> None:
        """Wait a moment for what is under way."""

    def check(self) -> None:
        """Raise RossbenchError for what could not be built."""


class Here:
    """This process."""

    busy = False

    def __init__(self, job: Job) -> None:
        self.job = job

    def build(self, specs: list[AnySpec], making: Making) -> None:
        try:
            self.job.build(specs, making.tick)
            making.finish()
        finally:
            self.job.release(specs)

    def collect(self) -> None:
        """Nothing is ever under way."""

    def check(self) -> None:
        """What could not be built was raised at once."""


@dataclass
class Job:
    """What is asked of a store, and what it takes to make it."""

    scenarios: Sequence[Scenario]
    store: Store
    device: torch.device
    data_dir: Path
    given: dict[str, Given] = field(default_factory=dict)
    """Encoders that were trained elsewhere, by their ``weights``."""
    hire: Callable[[Job], Crew] = Here
    _data: dict[tuple[str, str, int | None], datasets.Data] = field(default_factory=dict)
    _classifier: tuple[str, Classifier] | None = None
    """The last one used, by its key: the cells of a row share theirs."""

    def __post_init__(self) -> None:
        self.crew = self.hire(self)

    def run(self, observe: Observer, shard: tuple[int, int] = (1, 1)) -> dict[str, Records]:
        """A record for every cell of a shard."""
        wanted = _part([cell for scenario in self.scenarios for cell in scenario.cells.values()], *shard)
        self._check(self.store.missing(wanted))
        for scenario in self.scenarios:
            self.store.write_note(scenario.name, scenario.protocol, encode(_note(scenario)))
        return self._made(wanted, lambda: self._records(wanted), observe)

    def audit(self, matrices: Sequence[ResultMatrix], observe: Observer) -> dict[tuple[str, str, Row], Audit]:
        wanted = {
            (matrix.name, matrix.protocol, row): spec
            for matrix in matrices
            for row, spec in matrix.audit_specs().items()
        }

        def read() -> dict[tuple[str, str, Row], Audit]:
            return {place: records.read_audit(self.store.audit_path(spec)) for place, spec in wanted.items()}

        return self._made(wanted.values(), read, observe)

    def _check(self, missing: Sequence[AnySpec]) -> None:
        """What is not to be had should be said now, not after days of pretraining."""
        if missing:
            for name, size in {(s.encoder, datasets.facts(s.source).size) for s in self.scenarios if not s.weights}:
                encoders.build(name, size, seed=0)
            for spec in missing:
                if isinstance(spec, PretrainSpec) and spec.weights:
                    self._given(spec)
                else:
                    _, data = self.data_of(spec)
                    if isinstance(spec, PretrainSpec):
                        distributed.check(spec, min(spec.recipe.batch_size, len(data.images)))

    def _records(self, wanted: Collection[EvaluateSpec]) -> dict[str, Records]:
        there = {spec.key for spec in wanted}
        names = [scenario.name for scenario in self.scenarios]
        keys = [one.name if names.count(one.name) == 1 else f"{one.name} seed {one.seed}" for one in self.scenarios]
        return {
            key: {
                place: records.read_record(self.store.record_path(spec.key))
                for place, spec in scenario.cells.items()
                if spec.key in there
            }
            for key, scenario in zip(keys, self.scenarios, strict=True)
        }

    def _made(self, wanted: Iterable[AnySpec], read: Callable[[], Read], observe: Observer) -> Read:
        """What is read when all that is wanted is there: built, and what is found damaged set aside and built again."""
        wanted, found = list(wanted), set[Path]()
        while True:
            try:
                while missing := self.store.missing(wanted):
                    self._discard_stale(missing)
                    self._make(missing, observe)
                return read()
            except Damaged as damage:
                self._classifier = None
                if damage.place in found or not self.store.set_aside(damage):  # else a bad disk would keep us for ever
                    raise
                found.add(damage.place)

    def _discard_stale(self, missing: Sequence[AnySpec]) -> None:
        for spec in missing:
            if spec in self.store and self.store.locks.take(spec.key):
                if self.store.is_stale(spec):  # still: another run may have built both by now
                    self.store.discard(spec)
                self.store.locks.give(spec.key)

    def _make(self, missing: list[AnySpec], observe: Observer) -> None:
        """Build what nobody else is building, and wait for the rest. What lacks a part that is lost is left out."""
        clock, waiting = Clock(missing, observe), list(_together(missing))
        while waiting or self.crew.busy:
            left = [rest for specs in waiting if (rest := self._attend(specs, clock))]
            if self.crew.busy:
                self.crew.collect()
            elif left == waiting:
                known = {spec.key for specs in left for spec in specs}
                left = [specs for specs in left if not any(self._lacks(spec, known) for spec in specs)]
                if left:
                    clock.wait(left[0][0], self.store.locks.holder(left[0][0].key))
                    time.sleep(POLL)
            waiting = left
        self.crew.check()

    def _lacks(self, spec: AnySpec, coming: Collection[str]) -> bool:
        return any(parent not in self.store and parent.key not in coming for parent in spec.parents)

    def _attend(self, specs: Sequence[AnySpec], clock: Clock) -> list[AnySpec]:
        """Have a piece of work built, but for what others have built or are building; returns what is left to them."""
        ready = [spec for spec in specs if all(parent in self.store for parent in spec.parents)]
        locked = [spec for spec in ready if self.store.locks.take(spec.key)]
        there = [spec for spec in specs if spec in self.store]
        if there:
            clock.made_elsewhere(there)
        mine = [spec for spec in locked if spec not in there]
        for spec in locked:
            if spec in there:
                self.store.locks.give(spec.key)
        if mine:
            self.crew.build(mine, clock.start(mine))
        return [spec for spec in specs if spec not in there and spec not in mine]

    def build(self, specs: list[AnySpec], tick: Callable[[Tick], None]) -> None:
        """Build artifacts that differ in nothing but an evaluation's epsilon, from what the store holds."""
        self._build(specs, Hooks(tick, self.store.resume_path(specs[0])))

    def release(self, specs: Sequence[AnySpec]) -> None:
        for spec in specs:
            self.store.locks.give(spec.key)

    def _build(self, specs: list[AnySpec], hooks: Hooks) -> None:
        spec = specs[0]
        if isinstance(spec, EvaluateSpec):
            self._evaluate([one for one in specs if isinstance(one, EvaluateSpec)], hooks)
        elif isinstance(spec, AuditSpec):
            self._judge(spec, hooks)
        elif isinstance(spec, PretrainSpec) and spec.weights:
            given = self._given(spec)
            provenance = {**self.provenance, "weights": given.account}
            artifacts.save_trained(self.store, spec, given.encoder, [], 0.0, provenance)
        else:
            self._train(spec, hooks)

    def _evaluate(self, specs: list[EvaluateSpec], hooks: Hooks) -> None:
        (_, data), classifier = self.data_of(specs[0]), self._classifier_of(specs[0].finetune)
        began = time.perf_counter()
        found = evaluate(specs, classifier, data.images, data.labels, hooks)
        seconds = time.perf_counter() - began
        for spec, ranked in zip(specs, found.attacked, strict=True):
            owner = next(one for one in self.scenarios if spec in one.cells.values())
            save_cell(
                self.store,
                spec,
                ranked,
                found.natural,
                data.labels.cpu(),
                scenario=owner.name,
                deviations=owner.deviations(_registered(owner)),
                seconds=seconds * spec.passes / sum(one.passes for one in specs),
                provenance={**self.provenance, "data": data.fingerprint},
            )

    def _judge(self, spec: AuditSpec, hooks: Hooks) -> None:
        (_, data), classifier, began = self.data_of(spec), self._classifier_of(spec.finetune), time.perf_counter()
        stored = {cell.epsilon: artifacts.load_predictions(self.store, cell)[0][:, 0] for cell in spec.cells}
        found = audit.judge(classifier, data.images, data.labels, stored, spec.recipe, spec.seed, hooks)
        seconds, images = time.perf_counter() - began, len(audit.audited(data.labels))
        artifacts.save_audit(self.store, spec, found, images, seconds, self.provenance)

    def _train(self, spec: PretrainSpec | FinetuneSpec, hooks: Hooks) -> None:
        (_, data), began = self.data_of(spec), time.perf_counter()
        module: nn.Module
        precision = "float32"
        if isinstance(spec, PretrainSpec):
            precision = spec.recipe.precision
            with distributed.joined(dataclasses.asdict(spec)):
                module, history = pretrain(spec, data.images, hooks, self.device)
        else:
            encoder = self._encoder_of(spec).to(self.device)
            classes = datasets.facts(spec.target).classes
            classifier, history = finetune(spec, encoder, data.images, data.labels, classes, hooks)
            module = classifier.trained(spec.recipe)
        # After an interruption the epochs' own times are the better account.
        seconds = max(time.perf_counter() - began, sum(entry["seconds"] for entry in history))
        provenance = {**self.provenance, "dtype": precision, "data": data.fingerprint}
        if any(number > 1 for number in hooks.ranks):
            provenance["ranks"] = list(hooks.ranks)
        artifacts.save_trained(self.store, spec, module, history, seconds, provenance)

    def _classifier_of(self, spec: FinetuneSpec) -> Classifier:
        if self._classifier is None or self._classifier[0] != spec.key:
            classifier = artifacts.load_classifier(self.store, spec, self._encoder_of(spec))
            self._classifier = spec.key, classifier.to(self.device)
        return self._classifier[1]

    def _encoder_of(self, spec: FinetuneSpec) -> Encoder:
        """Given in this run, since only then a Python module is to be had, or from the store."""
        given = self.given.get(spec.pretrain.weights)
        # Copied, since a full finetuning trains it.
        return artifacts.load_encoder(self.store, spec.pretrain) if given is None else copy.deepcopy(given.encoder)

    def _given(self, spec: PretrainSpec) -> Given:
        if spec.weights not in self.given:
            raise InvalidValue(
                f"{spec}: expected that encoder, which the store lacks, got none; give it to run --encoder-weights or "
                "rossbench.evaluate_encoder"
            )
        return self.given[spec.weights]

    def data_of(self, spec: AnySpec) -> tuple[tuple[str, str, int | None], datasets.Data]:
        """The images that a spec is made with, and what names them: data set, split and limit."""
        if isinstance(spec, PretrainSpec):
            place: tuple[str, str, int | None] = spec.source, "train", spec.limit
        elif isinstance(spec, FinetuneSpec):
            place = spec.target, "train", spec.limit
        else:
            place = spec.finetune.target, "test", spec.limit
        if place not in self._data:
            self.keep(place, datasets.load(*place, self.data_dir))
        return place, self._data[place]

    def keep(self, place: tuple[str, str, int | None], data: datasets.Data) -> None:
        """Have these images for those of a name, split and limit."""
        self._data[place] = data.to(self.device)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        device = self.device.type
        if device == "cuda":
            device = f"cuda ({torch.cuda.get_device_name(self.device)})"
        deterministic = torch.are_deterministic_algorithms_enabled()
        return records.provenance(device, "float32", torch.get_num_threads(), deterministic)


def _part(cells: Sequence[EvaluateSpec], number: int, total: int) -> list[EvaluateSpec]:
    """The cells of one of ``total`` parts, from 1: whole models, those of one pretraining next to each other."""
    encoders = {key: k for k, key in enumerate(dict.fromkeys(cell.finetune.pretrain.key for cell in cells))}
    heads = {cell.finetune.key: encoders[cell.finetune.pretrain.key] for cell in cells}
    models = sorted(heads, key=lambda head: heads[head])
    mine = set(models[len(models) * (number - 1) // total : len(models) * number // total])
    return [cell for cell in cells if cell.finetune.key in mine]


def _together(specs: Sequence[AnySpec]) -> Iterator[list[AnySpec]]:
    """Evaluations in a row that differ in their epsilon alone are one piece of work; all else is one by one."""

    def work(spec: AnySpec) -> object:
        return (spec.finetune.key, spec.limit, spec.recipe) if isinstance(spec, EvaluateSpec) else spec.key

    for _, alike in itertools.groupby(specs, work):
        yield list(alike)


def _registered(scenario: Scenario) -> Scenario:
    return registry.get(scenario.name) if scenario.name in registry.names() else scenario


def _note(scenario: Scenario) -> records.RunNote:
    registered = _registered(scenario)
    return records.RunNote(
        name=scenario.name,
        source=scenario.source,
        target=scenario.target,
        protocol=scenario.protocol,
        family=scenario.family,
        seed=scenario.seed,
        deviations=scenario.deviations(registered),
        registered_seed=registered.seed,
        registered_rows=tuple(registered.rows),
        registered_columns=registered.eval_epsilons,
        cells=tuple((*place, spec.key) for place, spec in scenario.cells.items()),
    )

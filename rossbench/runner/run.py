"""Runs and audits, as Python and the command line call for them."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from torch import nn

from .. import registry
from ..config.kinds import ATTACK
from ..config.scenarios import Place, Row, Scenario, Suite
from ..config.specs import EvaluateSpec, MeasureSpec
from ..data import datasets
from ..models import pretrained
from ..models.classifier import Classifier
from ..models.pretrained import RGB, PretrainedEncoder
from ..stages.context import Context
from ..store import artifacts, records, results
from ..store.records import Audit, Record
from ..store.store import Store
from ..util.devices import resolve_device
from ..util.epsilons import check_models
from ..util.errors import InvalidValue
from ..util.torch_settings import check_settings
from . import overrides
from .display import by_default
from .progress import Observer
from .scheduler import Executor, Scheduler, shard_of

log = logging.getLogger(__name__)
Records = dict[Place, Record]
"""(pretraining epsilon, finetuning epsilon, evaluation epsilon) -> Record."""


def run(
    scenario: Scenario | str,
    *,
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    observe: Observer | None = None,
    kinds: Sequence[str] = (ATTACK,),
) -> Records:
    """Do what is missing of a scenario's matrix, and return all of it: a record for each place in it.

    ``scenario``: one of the registry, by name, or a value of your own; a value that shares its name with a
    registered one and differs from it is recorded as deviating. ``data_dir``: default ROSSBENCH_DATA, then
    ``~/.cache/rossbench/data``. ``device``: auto, cpu, cuda, cuda:N or mps. May be interrupted at any time; the
    next call goes on from the last finished epoch. ``observe``: is told how far the run is; by default a notebook shows
    it, see rossbench.runner.display. Several calls at once, from several processes or machines, share
    the work of a store. ``kinds``: of evaluation, as for ``run_suite``. Raises RossbenchError.
    """
    one = _scenario(scenario)
    return run_suite([one], store=store, data_dir=data_dir, device=device, observe=observe, kinds=kinds)[one.name]


def run_suite(
    suite: Suite | str | Sequence[Scenario | str],
    *,
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    observe: Observer | None = None,
    encoders: Sequence[PretrainedEncoder] = (),
    shard: tuple[int, int] = (1, 1),
    executor: Executor | None = None,
    kinds: Sequence[str] = (ATTACK,),
) -> dict[str, Records]:
    """``run`` for a suite, by its name or as a value, or for any scenarios; what they share is built once.

    Returns the records of each by its name; of one that comes under several seeds, by "NAME seed N". ``encoders``:
    those that scenarios with ``weights`` name, unless the store holds them. ``shard``: (k, n) does the
    k-th of n parts of the models, from 1, and returns their records alone. ``executor``: where to build, by default in
    this process; see rossbench.runner.cluster. ``kinds``: of evaluation, such as "features" or "knn,neighbours=20",
    beside or in place of the "attack", whose records are returned; ``rossbench.results`` has those of the others.
    """
    given = [suite] if isinstance(suite, (str, Suite)) else suite
    if not isinstance(given, Sequence):
        raise InvalidValue(f"run_suite: expected a suite or its name, or a list of scenarios, got {suite!r:.200}")
    scenarios = [one for item in given for one in ([item] if isinstance(item, Scenario) else registry.members(item))]
    if len({(one.name, one.seed) for one in scenarios}) < len(scenarios):
        names = [one.name for one in scenarios]
        raise InvalidValue(f"run: expected scenarios of different names or seeds, got {names}")
    context = _context(store, data_dir, device, encoders, _origins(scenarios))
    if isinstance(kinds, str) or not kinds:
        raise InvalidValue(f"kinds: expected a list of evaluation kinds, at least one, got {kinds!r}")
    for kind in kinds:
        registry.check_kind(kind)
    wanted = shard_of([spec for scenario in scenarios for spec in _wanted(scenario, kinds)], *shard)
    known, keys = {one.weights: one.account.get("zoo", "") for one in encoders}, {spec.key for spec in wanted}
    with by_default(observe) as watch:
        scheduler = Scheduler(context, executor or Executor(), watch)
        scheduler.check(wanted)
        notes = [note_of(scenario, known.get(scenario.weights, ""), kinds) for scenario in scenarios]
        for note in _named(context.store, notes):
            context.store.write_note(note.name, note.protocol, note.encoded())
        return scheduler.build(wanted, lambda: _read(context.store, scenarios, keys))


def _wanted(scenario: Scenario, kinds: Sequence[str]) -> list[EvaluateSpec | MeasureSpec]:
    cells = list(scenario.cells.values()) if ATTACK in kinds else []
    return [*cells, *(spec for kind in kinds for spec in scenario.measures(kind).values())]


def audit(
    names: Sequence[str] = (),
    *,
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    protocol: str | None = None,
    observe: Observer | None = None,
    encoders: Sequence[PretrainedEncoder] = (),
    executor: Executor | None = None,
) -> dict[tuple[str, str, Row], Audit]:
    """Verdicts on every classifier that a store has evaluations of, or on those of some scenarios and suites.

    What was audited before, with the same evaluations, is not again; what an audit needs and the store lacks is built.
    Returns the audits by the scenario's name, its protocol and the model's epsilons. ``encoders``, ``executor``: as for
    ``run_suite``. Raises RossbenchError.
    """
    store = store if isinstance(store, Store) else Store(store)
    matrices = results.load(store, [names] if isinstance(names, str) else names, protocol)
    wanted = {(one.name, one.protocol, row): spec for one in matrices for row, spec in one.audit_specs().items()}
    origins = {cell.key: (cell.scenario, cell.deviations) for one in matrices for cell in one.records}
    context = _context(store, data_dir, device, encoders, origins)
    with by_default(observe) as watch:
        return Scheduler(context, executor or Executor(), watch).build(
            wanted.values(),
            lambda: {place: records.read_audit(store.audit_path(spec)) for place, spec in wanted.items()},
        )


def evaluate_encoder(
    module: nn.Module,
    *,
    mean: RGB | float = 0.0,
    std: RGB | float = 1.0,
    scenario: Scenario | str = "cifar10-to-cifar100",
    name: str = "",
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    observe: Observer | None = None,
    **options: Any,
) -> Records:
    """``run`` with an encoder that was trained elsewhere in place of pretraining; its pretraining epsilon is 0.

    ``module``: maps float [n, 3, size, size], of the size of the scenario's images, to features [n, d]. It gets images
    in [0, 1] less ``mean``, over ``std``, channel by channel (or one number for all), and is copied, so it stays as it
    is. It is tried on a few images before any work: see models.probe. What is in the store is known by the module's
    weights, buffers, attributes, code and features of these images: see models.fingerprint. It is audited too:
    ``rossbench report`` and ``audit`` show it, as ``name``, which changes no result; see Scenario.encoder_name.

    ``options``, as on the command line: ``attack`` (such as "autoattack-standard" or "pgd,steps=100"), ``attacked``,
    ``epsilons`` and ``finetune_eps`` (numbers), ``finetuning`` ("SLF", "ALF", "AFF"), ``finetune_epochs``,
    ``train_limit``, ``test_limit``, ``seed``, and ``settings``, a dictionary of any fields that ``rossbench show``
    lists. Raises RossbenchError.
    """
    one = overrides.with_options(_scenario(scenario), options)
    given = pretrained.of_module(module, one.pixels, (mean, std))
    one = dataclasses.replace(one, encoder=given.name, weights=given.weights, train_epsilons=(0.0,), encoder_name=name)
    where: dict[str, Any] = {"store": store, "data_dir": data_dir, "device": device, "observe": observe}
    found = run_suite([one], encoders=[given], **where)[one.name]
    audit([one.name], protocol=one.protocol, encoders=[given], **where)
    return found


def load_classifier(
    store: Store | Path | str,
    scenario: Scenario | str,
    row: Row | float,
    *,
    protocol: str | None = None,
    module: nn.Module | None = None,
    mean: RGB | float = 0.0,
    std: RGB | float = 1.0,
) -> Classifier:
    """A stored classifier, for attacks from elsewhere: float [n, 3, size, size] in [0, 1] -> logits [n, classes].

    On the CPU, in eval mode, frozen. ``row``: the epsilons of its pretraining and its finetuning, or one for both.
    ``protocol``: which run of the scenario, where there are several; a Scenario says it by itself. ``module``,
    ``mean``, ``std``: what evaluate_encoder was given, which no store holds. InvalidValue lists the rows there are.
    """
    store = store if isinstance(store, Store) else Store(store)
    name, protocol = (scenario.name, scenario.protocol) if isinstance(scenario, Scenario) else (scenario, protocol)
    found, encoder = results.load(store, [name], protocol), None
    if module is not None:
        given = pretrained.of_module(module, _scenario(scenario).pixels, (mean, std))
        found, encoder = [one for one in found if one.weights == given.weights], given.encoder
        if not found:
            raise InvalidValue(f"load_classifier: expected a module that {name} was run with, got another one")
    (matrix,) = results.one_protocol(found)
    specs = matrix.audit_specs()
    try:
        first, second = map(float, (row, row) if isinstance(row, (int, float, str)) else row)
    except (TypeError, ValueError) as error:
        expected = "an epsilon, or those of pretraining and finetuning"
        raise InvalidValue(f"row: expected {expected}, got {row!r:.200}") from error
    check_models([(first, second)], specs)
    return artifacts.load_classifier(store, specs[first, second].finetune, encoder).requires_grad_(False)


def _scenario(given: Scenario | str) -> Scenario:
    return given if isinstance(given, Scenario) else registry.get(given)


def _context(
    store: Store | Path | str,
    data_dir: Path | str | None,
    device: str,
    encoders: Sequence[PretrainedEncoder],
    origins: Mapping[str, tuple[str, dict[str, Any]]],
) -> Context:
    check_settings()
    if not isinstance(data_dir, (str, Path, NoneType)):
        raise InvalidValue(f"data_dir: expected the path of a folder, or None, got {data_dir!r:.200}")
    return Context(
        store if isinstance(store, Store) else Store(store),
        resolve_device(device),
        datasets.default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir)),
        {one.weights: one for one in encoders},
        origins,
    )


def _origins(scenarios: Sequence[Scenario]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By the key of a cell, the first scenario that has it, and how that deviates from the registered one."""
    origins: dict[str, tuple[str, dict[str, Any]]] = {}
    for scenario in scenarios:
        origin = scenario.name, scenario.deviations(_registered(scenario))
        for cell in scenario.cells.values():
            origins.setdefault(cell.key, origin)
    return origins


def _read(store: Store, scenarios: Sequence[Scenario], keys: Collection[str]) -> dict[str, Records]:
    """The records of the cells with these keys, by scenario."""
    names = [scenario.name for scenario in scenarios]
    return {
        one.name if names.count(one.name) == 1 else f"{one.name} seed {one.seed}": {
            place: records.read_record(store.record_path(spec.key))
            for place, spec in one.cells.items()
            if spec.key in keys
        }
        for one in scenarios
    }


def _registered(scenario: Scenario) -> Scenario:
    return registry.get(scenario.name) if scenario.name in registry.names() else scenario


def note_of(scenario: Scenario, zoo: str = "", kinds: Sequence[str] = (ATTACK,)) -> records.RunNote:
    registered, cells = _registered(scenario), scenario.cells if ATTACK in kinds else {}
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
        cells=tuple((*place, spec.key) for place, spec in cells.items()),
        measures=tuple((*row, spec.key) for kind in kinds for row, spec in scenario.measures(kind).items()),
        zoo=zoo,
        encoder_name=scenario.encoder_name,
        weights=scenario.weights if scenario.encoder_name else "",
    )


def _named(store: Store, notes: Sequence[records.RunNote]) -> Iterator[records.RunNote]:
    """The notes, each name with its time: that of an earlier run that gave the same, else now. A new name is said."""
    if not any(note.encoder_name for note in notes):
        yield from notes
        return
    known = records.names_of_encoders(note for _, note in records.read_notes(store))
    for note in notes:
        before = known.get(records.place_of_name(note))
        if note.encoder_name and before is not None and before.encoder_name == note.encoder_name:
            note = dataclasses.replace(note, named=before.named)
        elif note.encoder_name:
            if before is not None:
                log.warning("%s: its encoder %s is named %s now", note.name, before.encoder_name, note.encoder_name)
            note = dataclasses.replace(note, named=datetime.now(UTC).isoformat(timespec="microseconds"))
            known[records.place_of_name(note)] = note
        yield note

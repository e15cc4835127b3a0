"""What a store holds of each scenario: a matrix of records, by the epsilons of its models and attacks."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from .. import registry
from ..config.kinds import Kind
from ..config.recipes import MODULE, Evaluation
from ..config.scenarios import Place, Row
from ..config.specs import AuditSpec, PretrainSpec
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.errors import InvalidValue, StoreError, UnknownName, check_known, one_line
from .metrics import METRICS, MISSING
from .records import (
    Audit,
    Measurement,
    Record,
    RunNote,
    names_of_encoders,
    read_audit,
    read_measurement,
    read_notes,
    read_record,
)
from .store import Store


@dataclass(frozen=True)
class ResultMatrix:
    """One scenario under one protocol: a record, or None where it is missing, for every row and column."""

    name: str
    source: str
    target: str
    protocol: str
    family: str
    """What matrices of other seeds under the same protocol have too."""
    seed: int
    deviations: dict[str, tuple[Any, Any]]
    registered_seed: int
    registered_rows: tuple[Row, ...]
    registered_columns: tuple[float, ...]
    cells: dict[Place, Record | None]
    encoder_name: str = ""
    """As it was given; a part of the hash behind it where another encoder of these has the same name."""
    conflicts: tuple[str, ...] = ()
    """Of several encoders or stores."""
    audits: dict[Row, Audit] = field(default_factory=dict)
    """Of those models whose evaluations, as they are now, have been audited."""
    zoo: str = ""
    """The known encoder that was given; empty where none was named."""
    measures: dict[tuple[Kind, Row], Measurement] = field(default_factory=dict)
    """By other evaluation kinds."""

    @cached_property
    def rows(self) -> list[Row]:
        return sorted({(first, second) for first, second, _ in self.cells})

    @cached_property
    def columns(self) -> list[float]:
        return sorted({column for _, _, column in self.cells})

    @property
    def records(self) -> list[Record]:
        return [record for record in self.cells.values() if record is not None]

    @property
    def weights(self) -> str:
        """The hash of an encoder that was given, not pretrained; empty for others."""
        return next((spec.weights for spec in self.pretrainings), "")

    @property
    def pretrainings(self) -> list[PretrainSpec]:
        """Of every record and measurement."""
        measured = [one.spec.pretrain for one in self.measures.values()]
        return [record.spec.finetune.pretrain for record in self.records] + measured

    @cached_property
    def encoder_id(self) -> str:
        """What the matrices of one encoder agree in: its weights, or its pretraining but for seed and epsilon."""
        specs = self.pretrainings
        if self.weights or not specs:
            return self.weights
        return replace(max(specs, key=lambda spec: spec.epsilon), seed=0, epsilon=1.0).key

    @property
    def is_named(self) -> bool:
        """Whether its models are told by a name or a hash, not by their epsilons alone."""
        return bool(self.encoder_name or self.weights)

    @property
    def encoder(self) -> str:
        """The encoder's name; else the architecture, with the first half of the hash of given weights."""
        if self.encoder_name or not self.pretrainings:
            return self.encoder_name or "encoder"
        return encoder_of(self.pretrainings[0])

    def model(self, row: Row) -> str:
        """What a model is called: ``mine-v3``, or ``resnet18 ε=1`` where it was pretrained here."""
        return model_of(self.encoder, bool(self.weights), row)

    @property
    def task(self) -> str:
        return f"RoSS {self.source} → {self.target}"

    @property
    def metric(self) -> str:
        """What its cells were made for: top1, or robust where not all images were attacked."""
        partly = any(record.top1_right is None and record.robust_right is not None for record in self.records)
        return "robust" if partly else "top1"

    def value(self, row: Row, column: float, metric: str) -> float | None:
        """A metric of METRICS as it is shown, in percent if that is its unit; None if the cell or metric is missing."""
        record = self.cells.get((*row, column))
        value = None if record is None else METRICS[metric].of(record)
        return None if value is None else METRICS[metric].scale * value

    @cached_property
    def evaluation(self) -> Evaluation:
        """How its cells were attacked; one at epsilon 0 may come from a run with another attack."""
        return max(self.records, key=lambda record: record.spec.epsilon).spec.recipe

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        """Models of one pretraining, with an adversarial and with a standard head (study, section 5.4.3)."""
        return [(row, (row[0], 0.0)) for row in self.rows if row[1] > 0 and (row[0], 0.0) in self.rows]

    def audit_specs(self) -> dict[Row, AuditSpec]:
        """For each evaluated model, what audits all of its evaluations, beside the first model or, itself, the last."""
        found: dict[Row, AuditSpec] = {}
        rows = {row: [r.spec for c in self.columns if (r := self.cells.get((*row, c)))] for row in self.rows}
        evaluated = [row for row in self.rows if rows[row]]
        for row in evaluated:
            cells, beside = rows[row], evaluated[-1 if row == evaluated[0] else 0]
            other = rows[beside][0].finetune if beside != row else None
            epsilons = tuple(cell.epsilon for cell in cells)
            recipe = cells[-1].recipe
            measured = "minimal", recipe.attack.norm, row
            measures = (one.spec for (kind, of), one in self.measures.items() if (kind.name, kind.norm, of) == measured)
            others = other, next(measures, None)
            found[row] = AuditSpec(cells[-1].finetune, cells[-1].limit, epsilons, recipe, *others)
        return found

    def notes(self) -> list[str]:
        """How this matrix differs from the registered one; empty only for the whole, full protocol."""
        notes = []
        if self.deviations:
            notes.append(f"REDUCED OR CHANGED PROTOCOL: {differences(self.deviations)}")
        if self.seed != self.registered_seed:
            notes.append(f"seed {self.seed} (registered: {self.registered_seed})")
        rows, columns = sorted(self.registered_rows), list(self.registered_columns)
        if self.cells and self.rows != rows and not self.weights:  # an encoder that is given has one row
            shown, expected = (", ".join(format_model(*row) for row in some) for some in (self.rows, rows))
            notes.append(f"rows {shown} (registered: {expected})")
        if self.cells and self.columns != columns:
            shown, expected = (", ".join(map(format_epsilon, some)) for some in (self.columns, columns))
            notes.append(f"columns {shown} (registered: {expected})")
        if self.records and self.evaluation.attack_version != self.evaluation.attack.version:
            notes.append("attacked by another version of the attack than today's: run it again, numbers may differ")
        notes += [*self.collapse_notes(), *self.conflicts]
        missing = len(self.cells) - len(self.records)
        if missing:
            notes.append(f"{missing} of {len(self.cells)} cells are missing, shown as {MISSING}")
        return notes

    def collapse_notes(self) -> list[str]:
        """Which encoders must not be taken for robust ones."""
        collapsed = sorted({record.spec.finetune.pretrain.epsilon for record in self.records if record.collapsed})
        return [
            f"encoder {EPS}={format_epsilon(one)} of seed {self.seed} COLLAPSED: its loss is that of constant features"
            for one in collapsed
        ]

    def caption(self) -> str:
        """How the numbers were made, from the records themselves."""
        if not self.records:
            return "nothing evaluated yet"
        called = f"{self.encoder_name}: " if self.encoder_name else ""
        images, how = self.how().split(", ", 1)
        told = f"{images}, {called}{self.architecture}, {how}"
        return f"{self.name}, protocol {self.protocol}, seed {self.seed}: {told}"

    @property
    def architecture(self) -> str:
        """The encoder, with the hash of given weights; and what of it was finetuned."""
        finetune = next((record.spec.finetune for record in self.records), None)
        if finetune is None:
            return "nothing evaluated yet"
        given = f" of given weights {self.weights}" if self.weights else ""
        how = {"full": ", finetuned in full", "linear+statistics": ", with BatchNorm statistics of the finetuning"}
        return finetune.pretrain.encoder + given + how.get(finetune.recipe.trained, "")

    def how(self) -> str:
        """How many test images, and how they were attacked."""
        record = self.records[-1]
        spec = record.spec
        how = str(spec.recipe.attack) if spec.epsilon else "no attack"
        if spec.epsilon and spec.recipe.attacked == "correct":
            how += ", of images right without it"
        return f"{record.n} test images, {how}"


_OF_NOTE = {field.name for field in fields(RunNote)} - {"cells", "measures", "encoder_name"}


def encoder_of(spec: PretrainSpec) -> str:
    """What an encoder without a name is called: its architecture, with the first half of the hash of given weights."""
    return f"{spec.encoder.removeprefix(MODULE)} {spec.weights[:8]}".rstrip()


def model_of(encoder: str, is_given: bool, row: Row) -> str:
    """What a model of an encoder is called, by the epsilons of its training; a given one has none of pretraining."""
    if not is_given:
        return f"{encoder} {EPS}={format_model(*row)}"
    return encoder + (f", finetuned {EPS}={format_epsilon(row[1])}" if row[1] else "")


def differences(deviations: Mapping[str, tuple[Any, Any]], other: str = "registered") -> str:
    """Deviations from a registered scenario, or ``other``, field -> (here, there), as one line."""
    told = (
        f"{name.removeprefix('recipe.')} {_plain(here)} ({other}: {_plain(there)})"
        for name, (here, there) in deviations.items()
    )
    return one_line(", ".join(told))


def _plain(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, (list, tuple)):
        value = ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value) or "none"


def load(
    store: Store, names: Sequence[str] = (), protocol: str | None = None, apart: bool = True
) -> list[ResultMatrix]:
    """The matrices in a store: all, or those of some scenarios and suites in their order, or of one protocol.

    Runs of a scenario that differ in their grids alone are one matrix. One without a record, as a failed try leaves,
    is left out where it is neither asked for nor all there is. Raises StoreError if the store holds none at
    all, UnknownName for a name or protocol of which it holds none. ``apart``: see told_apart.
    """
    runs: dict[tuple[str, str], list[RunNote]] = {}
    notes = [note for _, note in read_notes(store)]
    for note in notes:
        runs.setdefault((note.name, note.protocol), []).append(note)
    if not runs:
        raise StoreError(f"nothing to report in {store.root}: expected a store that rossbench run has written")
    stored = {name for name, _ in runs}
    wanted = list(dict.fromkeys(one for name in names for one in _stored(name, stored, store))) or sorted(stored)
    chosen = [place for one in wanted for place in runs if place[0] == one]
    if protocol is not None:
        for one in wanted if names else [None]:
            hashes = {known for name, known in chosen if one in (None, name)}
            check_known(f"protocol of {one}" if one else "protocol", protocol, hashes)
        chosen = [place for place in chosen if place[1] == protocol]
    named = names_of_encoders(notes)
    matrices = [_merged(store, runs[place], named) for place in chosen]
    if apart:
        matrices = told_apart(matrices)
    filled = {matrix.name for matrix in matrices if matrix.records or matrix.measures}
    if protocol is not None or not filled:
        return matrices
    return [one for one in matrices if one.records or one.measures or (names and one.name not in filled)]


def _stored(name: str, stored: set[str], store: Store) -> list[str]:
    """The scenarios in the store that a name stands for."""
    if name not in stored:
        with contextlib.suppress(UnknownName):
            if found := [one.name for one in registry.members(name) if one.name in stored]:
                return found
    check_known(f"scenario in {store.root}", name, stored)
    return [name]


def told_apart(matrices: Sequence[ResultMatrix]) -> list[ResultMatrix]:
    """The matrices; where different encoders have one name, with a part of a hash behind it, and a note of that."""
    found = []
    for one in matrices:
        alike = [other for other in matrices if one.encoder_name and other.encoder_name == one.encoder_name]
        alike = [other for other in alike if other.name == one.name or (other.weights and one.weights)]
        if len({other.encoder_id for other in alike}) > 1:
            note = f"different encoders are named {one.encoder_name}; a hash behind it tells them apart"
            name = f"{one.encoder_name} {one.weights[:8] or one.protocol}"
            one = replace(one, encoder_name=name, conflicts=(*one.conflicts, note))
        found.append(one)
    return found


def _merged(store: Store, runs: list[RunNote], named: Mapping[str, RunNote]) -> ResultMatrix:
    note = max(runs, key=lambda run: len(run.deviations))  # of notes that disagree, the one that warns
    if note.name in registry.names():  # registered anew since, perhaps
        now = replace(registry.get(note.name), seed=note.seed)
        if now.protocol == note.protocol:
            note = replace(note, deviations={}, registered_rows=tuple(now.rows), registered_columns=now.eval_epsilons)
    keys = {(first, second, column): key for run in runs for first, second, column, key in run.cells}
    rows, columns = {(first, second) for first, second, _ in keys}, {column for _, _, column in keys}
    cells: dict[Place, Record | None] = {}
    for row, column in itertools.product(sorted(rows), sorted(columns)):
        place = (*row, column)
        path = store.record_path(keys[place]) if place in keys else None
        cells[place] = store.intact(read_record, path) if path is not None and path.exists() else None
    told = {field.name: getattr(note, field.name) for field in fields(ResultMatrix) if field.name in _OF_NOTE}
    told["zoo"] = next((run.zoo for run in runs if run.zoo), "")  # the same weights, with and without --zoo
    paths = {(key, (first, second)): store.measurement_path(key) for run in runs for first, second, key in run.measures}
    measured = [(row, store.intact(read_measurement, path)) for (_, row), path in paths.items() if path.exists()]
    known = [(row, one) for row, one in measured if one is not None]
    measures = {(one.spec.kind, row): one for row, one in sorted(known, key=lambda both: both[1].created)}  # the newest
    matrix = ResultMatrix(**told, cells=cells, measures=measures)
    naming = named.get(matrix.weights or f"{matrix.name}-{matrix.family}")
    if naming is not None:
        matrix = replace(matrix, encoder_name=naming.encoder_name)
    if (store.root / "audit").is_dir():
        specs = {row: spec for row, spec in matrix.audit_specs().items() if spec in store}
        audits = {row: store.intact(read_audit, store.audit_path(spec)) for row, spec in specs.items()}
        matrix.audits.update({row: audit for row, audit in audits.items() if audit is not None})
    return matrix


def one_protocol(matrices: Sequence[ResultMatrix]) -> list[ResultMatrix]:
    """The matrices; InvalidValue, with what to choose from, if a scenario of them ran under several protocols."""
    by_name = {one.name: [other for other in matrices if other.name == one.name] for one in matrices}
    for name, runs in by_name.items():
        if len(runs) > 1:
            named = [f"{one.encoder}; " if one.is_named else "" for one in runs]
            told = [start + ("; ".join(one.notes()) or "as registered") for start, one in zip(named, runs, strict=True)]
            choices = "; ".join(f"{one.protocol} ({text})" for one, text in zip(runs, told, strict=True))
            raise InvalidValue(f"{name}: expected runs under one protocol, got several; choose: {choices}")
    return list(matrices)

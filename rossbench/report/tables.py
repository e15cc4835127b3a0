"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.7."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, get_type_hints

from .. import registry
from ..config.epsilons import EPS, format_epsilon, format_model
from ..config.recipes import Attack
from ..config.scenarios import NAME, Place
from ..config.specs import AuditSpec, EvaluateSpec
from ..config.values import build, expect
from ..store.records import NOTE_SCHEMA, Audit, Record, read_audit, read_record
from ..store.store import Store
from ..util.errors import InvalidValue, StoreError, UnknownName, of_file, one_line, unknown
from ..util.statistics import mean_deviation

METRICS = {
    "top1": "Top-1 accuracy (%)",
    "top5": "Top-5 accuracy (%)",
    "robust": "Robust accuracy (%)",
    "mcc": "MCC",
    "precision": "Macro precision (%)",
    "recall": "Macro recall (%)",
    "f1": "Macro F1 (%)",
}
RATES = ("top1", "top5", "robust")
MISSING = "—"
FAILED = "!"
"""Behind the numbers of a model whose audit failed."""
Row = tuple[float, float]
"""A model: the epsilons of its pretraining and its finetuning."""


@dataclass(frozen=True)
class Matrix:
    """One scenario under one protocol: a record, or None where it is missing, for every row and column."""

    name: str
    source: str
    target: str
    protocol: str
    family: str | None
    """What matrices of other seeds under the same protocol have too; None where an old note does not say."""
    seed: int
    deviations: dict[str, list[Any]]
    registered_seed: int
    registered_rows: list[list[float]]
    registered_columns: list[float]
    cells: dict[Place, Record | None]
    audits: dict[Row, Audit] = field(default_factory=dict)
    """Of those models whose evaluations, as they are now, have been audited."""

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
        return next((record.spec["finetune"]["pretrain"].get("weights", "") for record in self.records), "")

    @property
    def task(self) -> str:
        return f"RoSS {self.source} → {self.target}"

    @property
    def metric(self) -> str:
        """What its cells were made for: top1, or robust where not all images were attacked."""
        partly = any(record.top1_right is None and record.robust_right is not None for record in self.records)
        return "robust" if partly else "top1"

    def value(self, row: Row, column: float, metric: str) -> float | None:
        """In percent for rates, None where the cell or the metric is missing."""
        record = self.cells.get((*row, column))
        value = None if record is None else record.metric(metric)
        return value if value is None or metric == "mcc" else 100 * value

    def values(self, row: Row, metric: str) -> list[float | None]:
        return [self.value(row, column, metric) for column in self.columns]

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        """Models of one pretraining, with an adversarial and with a standard head (study, section 5.4.3)."""
        return [(row, (row[0], 0.0)) for row in self.rows if row[1] > 0 and (row[0], 0.0) in self.rows]

    def audit_specs(self) -> dict[Row, AuditSpec]:
        """For each evaluated model, what audits all of its evaluations."""
        found = {}
        for row in self.rows:
            given = (self.cells.get((*row, column)) for column in self.columns)
            cells = [build(EvaluateSpec, record.spec) for record in given if record is not None]
            if cells:
                strongest = max(cells, key=lambda cell: cell.epsilon)  # at epsilon 0 no attack is told
                epsilons = tuple(cell.epsilon for cell in cells)
                found[row] = AuditSpec(strongest.finetune, strongest.limit, epsilons, strongest.recipe)
        return found

    def notes(self) -> list[str]:
        """How this matrix differs from the registered one; empty only for the whole, full protocol."""
        notes = []
        if self.deviations:
            notes.append(f"REDUCED OR CHANGED PROTOCOL: {self.differences()}")
        if self.seed != self.registered_seed:
            notes.append(f"seed {self.seed} (registered: {self.registered_seed})")
        registered = sorted((first, second) for first, second in self.registered_rows)
        if registered != self.rows:
            shown, expected = (", ".join(format_model(*row) for row in rows) for rows in (self.rows, registered))
            notes.append(f"rows {shown} (registered: {expected})")
        if self.registered_columns != self.columns:
            shown, expected = (
                ", ".join(map(format_epsilon, columns)) for columns in (self.columns, self.registered_columns)
            )
            notes.append(f"columns {shown} (registered: {expected})")
        missing = len(self.cells) - len(self.records)
        if missing:
            notes.append(f"{missing} of {len(self.cells)} cells are missing, shown as {MISSING}")
        return notes

    def differences(self) -> str:
        """The deviations from the registered scenario, as one line."""
        told = (
            f"{name.removeprefix('recipe.')} {_plain(here)} (registered: {_plain(registered)})"
            for name, (here, registered) in self.deviations.items()
        )
        return one_line(", ".join(told))

    def caption(self) -> str:
        """How the numbers were made, from the records themselves."""
        if not self.records:
            return "nothing evaluated yet"
        record = max(self.records, key=lambda record: record.spec["epsilon"])  # at epsilon 0 no attack was made
        spec = record.spec
        how = str(build(Attack, spec["recipe"]["attack"])) if spec["epsilon"] else "no attack"
        if spec["epsilon"] and spec["recipe"].get("attacked") == "correct":
            how += ", of images right without it"
        encoder = spec["finetune"]["pretrain"]["encoder"] + (
            f" of given weights {self.weights}" if self.weights else ""
        )
        if spec["finetune"]["recipe"].get("trained") == "full":
            encoder += ", finetuned in full"
        return f"{self.name}, protocol {self.protocol}, seed {self.seed}: {record.n} test images, {encoder}, {how}"


def _plain(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, list):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value) or "none"


def load(store: Store, names: Sequence[str] = (), protocol: str | None = None) -> list[Matrix]:
    """The matrices in a store: all, or those of some scenarios and suites in their order, or of one protocol.

    Runs of a scenario that differ in their grids alone are one matrix. Raises StoreError if the store holds none at
    all, UnknownName for a name or protocol of which it holds none.
    """
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path, content in store.matrices():
        with of_file(path):
            note = _upgraded(content)
            if not isinstance(note, dict) or note.get("schema") != NOTE_SCHEMA or set(note) != _FIELDS:
                raise InvalidValue(f"expected the note of a run, of schema {NOTE_SCHEMA}")
            expect(note, _TYPES, seed=(0, 2**62), cells=(0, math.inf))
            for field, spelling in _SPELLED.items():
                if note[field] is not None and not re.fullmatch(spelling, note[field]):
                    raise InvalidValue(f"{field}: expected {spelling}, got {note[field]!r:.50}")
            for *_, key in note["cells"]:
                if not re.fullmatch("[0-9a-f]{16}", key):  # which is a folder's name
                    raise InvalidValue(f"cells: expected keys of 16 hex digits, got {key!r:.50}")
        runs.setdefault((note["name"], note["protocol"]), []).append(note)
    if not runs:
        raise StoreError(f"nothing to report in {store.root}: expected a store that rossbench run has written")
    stored = {name for name, _ in runs}
    wanted = list(dict.fromkeys(one for name in names for one in _stored(name, stored, store))) or sorted(stored)
    chosen = [place for one in wanted for place in runs if place[0] == one]
    if protocol is not None:
        for one in wanted if names else [None]:
            hashes = {known for name, known in chosen if one in (None, name)}
            if protocol not in hashes:
                raise unknown(f"protocol of {one}" if one else "protocol", protocol, hashes)
        chosen = [place for place in chosen if place[1] == protocol]
    return [_merged(store, runs[place]) for place in chosen]


def _stored(name: str, stored: set[str], store: Store) -> list[str]:
    """The scenarios in the store that a name stands for."""
    if name in stored:
        return [name]
    try:
        found = [one.name for one in registry.members(name) if one.name in stored]
    except UnknownName:
        found = []
    if not found:
        raise unknown(f"scenario in {store.root}", name, stored)
    return found


_FIELDS = {spec.name for spec in fields(Matrix)} - {"audits"} | {"schema"}
_TYPES = {name: hint for name, hint in get_type_hints(Matrix).items() if name in _FIELDS} | {
    "deviations": dict[str, tuple[Any, Any]],
    "registered_rows": list[Row],
    "cells": list[tuple[float, float, float, str]],
}
_SPELLED = {**dict.fromkeys(("name", "source", "target"), NAME), **dict.fromkeys(("protocol", "family"), "[0-9a-f]{8}")}
_OLD_TYPES = {"registered_train_epsilons": list[float], "cells": list[tuple[float, float, str]]}
_NEW, _OLD = {"registered_rows", "registered_columns"}, {"registered_train_epsilons", "registered_eval_epsilons"}


def _upgraded(note: Any) -> Any:
    """A note of schema 1, when finetuning had the epsilon of its pretraining, or 2, without a family, as one of 3."""
    if not isinstance(note, dict):
        return note
    if note.get("schema") == 1 and set(note) == _FIELDS - _NEW - {"family"} | _OLD:
        expect(note, _OLD_TYPES)
        note = {
            **{name: value for name, value in note.items() if name not in _OLD},
            "schema": 2,
            "registered_rows": [[row, row] for row in note["registered_train_epsilons"]],
            "registered_columns": note["registered_eval_epsilons"],
            "cells": [[row, row, column, key] for row, column, key in note["cells"]],
        }
    if note.get("schema") == 2 and set(note) == _FIELDS - {"family"}:
        note = {**note, "schema": 3, "family": None if note["seed"] else note["protocol"]}
    return note


def _merged(store: Store, runs: list[dict[str, Any]]) -> Matrix:
    note = max(runs, key=lambda run: len(run["deviations"]))  # of notes that disagree, the one that warns
    if note["name"] in registry.names():  # registered anew since, perhaps
        now = dataclasses.replace(registry.get(note["name"]), seed=note["seed"])
        if now.protocol == note["protocol"]:
            grids = {"registered_rows": now.rows, "registered_columns": list(now.eval_epsilons)}
            note = {**note, "deviations": {}, **grids}
    note = {**note, "family": next((run["family"] for run in runs if run["family"]), None)}
    keys = {(first, second, column): key for run in runs for first, second, column, key in run["cells"]}
    rows, columns = {(first, second) for first, second, _ in keys}, {column for _, _, column in keys}
    cells: dict[Place, Record | None] = {}
    for row, column in itertools.product(sorted(rows), sorted(columns)):
        place = (*row, column)
        path = store.record_path(keys[place]) if place in keys else None
        cells[place] = store.intact(read_record, path) if path is not None and path.exists() else None
    matrix = Matrix(**{name: value for name, value in note.items() if name != "schema"} | {"cells": cells})
    if (store.root / "audit").is_dir():
        specs = {row: spec for row, spec in matrix.audit_specs().items() if spec in store}
        audits = {row: store.intact(read_audit, store.audit_path(spec)) for row, spec in specs.items()}
        matrix.audits.update({row: audit for row, audit in audits.items() if audit is not None})
    return matrix


def only(matrices: Sequence[Matrix]) -> Matrix:
    """The one matrix of a scenario; InvalidValue, with what there is to choose from, if there are several."""
    if len(matrices) > 1:
        choices = "; ".join(f"{one.protocol} ({'; '.join(one.notes()) or 'as registered'})" for one in matrices)
        raise InvalidValue(f"{matrices[0].name}: expected runs under one protocol, got several; choose: {choices}")
    return matrices[0]


# --- tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A table as texts, ready for every format; its columns are evaluation epsilons."""

    title: str
    labels: list[str]
    """Titles of the first columns, which say what a line is of."""
    columns: list[str]
    lines: list[tuple[list[str], list[str]]]
    """Labels and cells of each line."""
    bold: set[tuple[int, int]] = field(default_factory=set)
    """Cells, as (line, column)."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know before the numbers."""
    caption: str = ""


def grid(matrix: Matrix, metric: str) -> Grid:
    """A matrix as a table: a line a model, the best of a column bold; then what adversarial finetuning improved.

    Audits have a column, and mark the numbers of a model whose audit failed.
    """
    return over_seeds([matrix], metric)


def over_seeds(family: Sequence[Matrix], metric: str, intervals: bool = False) -> Grid:
    """The table of matrices that differ in their seed alone: where there are several, means and sample deviations.

    ``intervals``: each rate of a single matrix with its 95 % Wilson interval; InvalidValue for what is no rate.
    """
    first = family[0]
    rows = sorted({row for matrix in family for row in matrix.rows})
    columns = sorted({column for matrix in family for column in matrix.columns})
    if intervals and (len(family) > 1 or metric not in RATES):
        raise InvalidValue(f"intervals: expected {', '.join(RATES)} of one seed, got {metric} of {_seeds(family)}")
    split, audited = any(row[0] != row[1] for row in rows), any(matrix.audits for matrix in family)
    lines, bold = [], set()
    for row in rows:
        failed = any(matrix.audits[row].verdict == "fail" for matrix in family if row in matrix.audits)
        shown = [_cell(family, row, column, metric, intervals) + FAILED * failed for column in columns]
        labels = [format_epsilon(epsilon) for epsilon in (row if split else row[:1])]
        lines.append((labels + [_audited(family, row)] * audited, shown))
    for k, column in enumerate(columns):
        means = {
            i: statistics.fmean(found) for i, row in enumerate(rows) if (found := _known(family, row, column, metric))
        }
        best = text(max(means.values()), metric) if means else None
        bold |= {(i, k) for i, mean in means.items() if text(mean, metric) == best}
    pairs = sorted({pair for matrix in family for pair in matrix.pairs})
    for robust, standard in pairs:
        several = sum(one[0][0] == robust[0] for one in pairs) > 1
        what = f"improvement, {format_epsilon(robust[1])}" if several else "improvement"
        gains = [
            _over([_gain(one, robust, standard, column, metric) for one in family], metric, "+") for column in columns
        ]
        lines.append(([format_epsilon(robust[0]), what] + [""] * audited, gains))
    labels = ([f"pretrained {EPS}", f"finetuned {EPS}"] if split else [f"model {EPS}"]) + ["audit"] * audited
    notes = _notes(family)
    heads = list(map(format_epsilon, columns))
    return Grid(f"{METRICS[metric]}, {first.task}", labels, heads, lines, bold, notes, _caption(family))


def families(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """Matrices of one scenario and protocol but for the seed together, by seed; in the order of the first of each."""
    groups: dict[object, list[Matrix]] = {}
    for matrix in matrices:
        groups.setdefault((matrix.name, matrix.family) if matrix.family else matrix.protocol, []).append(matrix)
    return [sorted(group, key=lambda matrix: matrix.seed) for group in groups.values()]


def _known(family: Sequence[Matrix], row: Row, column: float, metric: str) -> list[float]:
    values = [matrix.value(row, column, metric) for matrix in family]
    return [value for value in values if value is not None]


def _cell(family: Sequence[Matrix], row: Row, column: float, metric: str, interval: bool) -> str:
    record = family[0].cells.get((*row, column)) if interval else None
    bounds = None if record is None else record.interval(metric)
    shown = _over([matrix.value(row, column, metric) for matrix in family], metric)
    return shown if bounds is None else f"{shown} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def _over(values: Sequence[float | None], metric: str, sign: str = "") -> str:
    """One number, or the mean and deviation of several."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return text(known[0] if known else None, metric, sign)
    mean, deviation = mean_deviation(known)
    return f"{text(mean, metric, sign)} ± {text(deviation, metric)}"


def _gain(matrix: Matrix, robust: Row, standard: Row, column: float, metric: str) -> float | None:
    ours, theirs = (matrix.value(row, column, metric) for row in (robust, standard))
    return None if ours is None or theirs is None else ours - theirs


def _audited(family: Sequence[Matrix], row: Row) -> str:
    """The worst audit of a row."""
    found = [matrix.audits[row] for matrix in family if row in matrix.audits]
    return min(found, key=lambda audit: ("fail", "warn", "pass").index(audit.verdict)).summary if found else MISSING


def _notes(family: Sequence[Matrix]) -> list[str]:
    notes = list(dict.fromkeys(note for matrix in family for note in matrix.notes()))
    if len(family) > 1:
        notes = [note for note in notes if not note.startswith("seed ")]
        if len({frozenset(place for place in one.cells if one.cells[place]) for one in family}) > 1:
            notes.append("the seeds have different cells; each mean is over the seeds that have it")
    if any(audit.verdict == "fail" for matrix in family for audit in matrix.audits.values()):
        why = f"rossbench audit {family[0].name} says why"
        notes.append(f"AUDIT FAILED where numbers have {FAILED}: do not trust them; {why}")
    return notes


def _caption(family: Sequence[Matrix]) -> str:
    if len(family) == 1:
        return family[0].caption()
    told = family[0].caption().replace(f"protocol {family[0].protocol}, seed {family[0].seed}", _seeds(family), 1)
    return f"{told}; mean ± sample deviation over {len(family)} seeds"


def _seeds(family: Sequence[Matrix]) -> str:
    return f"seed{'s' * (len(family) > 1)} {', '.join(str(matrix.seed) for matrix in family)}"


def text(value: float | None, metric: str, sign: str = "") -> str:
    """A number of a metric as the study prints it; ``sign`` "+" for differences."""
    return MISSING if value is None else f"{value:{sign}.{3 if metric == 'mcc' else 2}f}"

"""Several stores in one report: their matrices merged, and where they contradict each other said. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..config.scenarios import Place
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import UnknownName
from .metrics import METRICS
from .records import Record
from .results import ResultMatrix, load, told_apart
from .store import Store


def load_several(stores: Sequence[Store], names: Sequence[str] = (), protocol: str | None = None) -> list[ResultMatrix]:
    """``results.load`` of several stores: runs of a scenario under one protocol are one matrix, whatever their stores.

    Where a cell has other numbers in a later store, or an encoder another name, those of the first are shown and a note
    says so. Raises as ``load``, for a name or protocol if no store has it, for a store if there is none.
    """
    merged: dict[tuple[str, str], ResultMatrix] = {}
    seen: dict[str, Record] = {}
    for store in stores:
        for matrix in _of_one(store, stores, names, protocol):
            matrix = _with_conflicts(matrix, store, seen)
            for record in matrix.records:
                seen.setdefault(record.key, record)
            place = matrix.name, matrix.protocol
            merged[place] = _joined(merged[place], matrix, store) if place in merged else matrix
    return told_apart(sorted(merged.values(), key=lambda one: _order(one, list(merged))))


def _order(matrix: ResultMatrix, places: list[tuple[str, str]]) -> tuple[int, int]:
    """By scenario, as it came first, so that runs of one are together."""
    names = list(dict.fromkeys(name for name, _ in places))
    return names.index(matrix.name), places.index((matrix.name, matrix.protocol))


def _of_one(store: Store, stores: Sequence[Store], names: Sequence[str], protocol: str | None) -> list[ResultMatrix]:
    """What one store holds of these; nothing where another store has them."""
    found: dict[tuple[str, str], ResultMatrix] = {}
    for wanted in [[name] for name in names] or [[]]:
        try:
            matrices = load(store, wanted, protocol, apart=False)
        except UnknownName:
            if not any(_has(other, wanted, protocol) for other in stores if other is not store):
                raise
            continue
        found |= {(one.name, one.protocol): one for one in matrices}
    return list(found.values())


def _has(store: Store, names: Sequence[str], protocol: str | None) -> bool:
    try:
        return bool(load(store, names, protocol))
    except UnknownName:
        return False


def _with_conflicts(matrix: ResultMatrix, store: Store, seen: dict[str, Record]) -> ResultMatrix:
    """The matrix with the records of an earlier store where the numbers differ, and a note of it."""
    cells: dict[Place, Record | None] = dict(matrix.cells)
    told = []
    for place, record in matrix.cells.items():
        if record is not None and record.key in seen and _numbers(record) != _numbers(seen[record.key]):
            cells[place] = first = seen[record.key]
            where = f"{matrix.model(place[:2])} at {EPS}={format_epsilon(place[2])}"
            told.append(f"{where}, {record.robust_right} of {record.n} robustly right, not {first.robust_right}")
    if not told:
        return matrix
    note = f"{store.root} has other numbers of {len(told)} cells, which are not shown: {'; '.join(told[:3])}"
    return replace(matrix, cells=cells, conflicts=(*matrix.conflicts, note + "; ..." * (len(told) > 3)))


def _numbers(record: Record) -> tuple[Any, ...]:
    return record.n, record.right_by_class, *(metric.of(record) for metric in METRICS.values())


def _joined(first: ResultMatrix, second: ResultMatrix, store: Store) -> ResultMatrix:
    """Both, with the first's cells, audits and name where both have them."""
    known = {place: record for place, record in first.cells.items() if record is not None}
    conflicts = dict.fromkeys((*first.conflicts, *second.conflicts))
    if first.encoder_name and second.encoder_name not in ("", first.encoder_name):
        conflicts[f"{first.encoder_name} is named {second.encoder_name} in {store.root}"] = None
    told = max(first, second, key=lambda one: len(one.deviations))  # of those that disagree, the one that warns
    return replace(
        told,
        cells={**first.cells, **second.cells, **known},
        audits={**second.audits, **first.audits},
        encoder_name=first.encoder_name or second.encoder_name,
        conflicts=tuple(conflicts),
    )

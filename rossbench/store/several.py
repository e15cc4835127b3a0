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
    held: list[dict[tuple[str, str], ResultMatrix]] = [{} for _ in stores]
    for wanted in [[name] for name in names] or [[]]:
        refused = []
        for store, there in zip(stores, held, strict=True):
            try:
                there.update({(one.name, one.protocol): one for one in load(store, wanted, protocol, apart=False)})
            except UnknownName as error:  # another store may have it
                refused.append(error)
        if len(refused) == len(stores):
            raise refused[0]
    merged: dict[tuple[str, str], ResultMatrix] = {}
    seen: dict[str, Record] = {}
    for store, there in zip(stores, held, strict=True):
        for place, matrix in there.items():
            matrix = _with_conflicts(matrix, store, seen)
            for record in matrix.records:
                seen.setdefault(record.key, record)
            merged[place] = _joined(merged[place], matrix, store) if place in merged else matrix
    order = [name for name, _ in merged]  # so that runs of a scenario are together
    return told_apart(sorted(merged.values(), key=lambda one: order.index(one.name)))


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

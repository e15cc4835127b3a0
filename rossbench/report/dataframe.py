"""Results as a pandas DataFrame. The home of pandas, imported when it is asked: that takes as long as a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.kinds import ATTACK
from ..store.metrics import METRICS
from ..store.records import Record
from ..store.results import ResultMatrix, differences, encoder_of, load, model_of
from ..store.store import Store
from ..util.errors import InvalidValue

if TYPE_CHECKING:
    import pandas

_LAST = ("top1_low", "top1_high", "audit", "collapsed", "key", "deviations")
_ROW = ("pretrain_epsilon", "finetune_epsilon")
_MODEL = ("scenario", "protocol", "seed", "source", "target", "model", "encoder", *_ROW)
COLUMNS = (*_MODEL, "eval_epsilon", "attack", "n", *METRICS, *_LAST)
MEASURED = (*_MODEL, "kind", "measure", "column", "value", "n", "key")
"""Of an evaluation kind that is not the attack; the column is NaN for a number of all columns together."""


def results(
    store_or_records: Store | Path | str | Mapping[Any, Any] | Iterable[Record],
    names: Sequence[str] = (),
    protocol: str | None = None,
    kind: str = ATTACK,
) -> pandas.DataFrame:
    """A row for each evaluated cell of a store, or of the records that ``rossbench.run`` or ``run_suite`` returns.

    ``names``, ``protocol``: of a store, only these scenarios and suites, and this protocol. Rates are in [0, 1], mcc in
    [-1, 1], NaN where not all images were attacked; ``docs/records.md`` describes the columns. Records alone know
    neither their protocol, nor their audit, nor an encoder's name. ``kind``: of a store, another evaluation kind, such
    as "features": a row for each number, with its measure and column. Raises RossbenchError.
    """
    import pandas

    if not isinstance(store_or_records, (Store, Path, str)):
        if kind != ATTACK:
            raise InvalidValue(f"results: expected a store with kind={kind!r:.50}, got {store_or_records!r:.100}")
        return pandas.DataFrame([_row(one) for one in _records(store_or_records)], columns=COLUMNS)
    store = store_or_records if isinstance(store_or_records, Store) else Store(store_or_records)
    matrices = load(store, names, protocol)
    if kind != ATTACK:
        return pandas.DataFrame(_measured(matrices, kind), columns=MEASURED)
    return pandas.DataFrame([_row(one, matrix) for matrix in matrices for one in matrix.records], columns=COLUMNS)


def _measured(matrices: Iterable[ResultMatrix], kind: str) -> Iterator[list[Any]]:
    for matrix in matrices:
        for row, one in [(row, one) for (known, row), one in matrix.measures.items() if known.name == kind]:
            place = [matrix.name, matrix.protocol, matrix.seed, matrix.source, matrix.target]
            place += [matrix.model(row), one.spec.pretrain.encoder, *row, str(one.spec.kind)]
            numbers = [
                (title, *both) for title, some in one.rows.items() for both in zip(one.spec.columns, some, strict=True)
            ]
            numbers += [(title, math.nan, number) for title, number in one.summary.items()]
            for title, column, number in numbers:
                yield [*place, title, column, math.nan if number is None else number, one.n, one.spec.key]


def _records(given: Any) -> Iterator[Record]:
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise InvalidValue(f"results: expected a store or records, got {given!r:.100}")
    for item in given.values() if isinstance(given, Mapping) else given:
        if isinstance(item, Record):
            yield item
        else:
            yield from _records(item)


def _row(record: Record, matrix: ResultMatrix | None = None) -> list[Any]:
    """Of a record, and of the matrix of the store that it is in."""
    spec, finetune, pretrain = record.spec, record.spec.finetune, record.spec.finetune.pretrain
    row = pretrain.epsilon, finetune.epsilon
    audit = matrix.audits.get(row) if matrix else None
    encoder = matrix.encoder if matrix else encoder_of(pretrain)
    numbers = [metric.of(record) for metric in METRICS.values()]
    numbers += record.interval("top1") or (None, None)
    return [
        *((matrix.name, matrix.protocol) if matrix else (record.scenario, None)),
        *(record.seed, pretrain.source, finetune.target, model_of(encoder, bool(pretrain.weights), row)),
        *(pretrain.encoder, *row, spec.epsilon, str(spec.recipe.attack) if spec.epsilon else "none", record.n),
        *(math.nan if number is None else number for number in numbers),
        *(audit.verdict if audit else None, record.collapsed, record.key),
        differences(matrix.deviations if matrix else record.deviations),
    ]

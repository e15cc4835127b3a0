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

_EPSILONS = ("pretrain_epsilon", "finetune_epsilon", "eval_epsilon")
_LAST = ("top1_low", "top1_high", "audit", "collapsed", "key", "deviations")
COLUMNS = (
    "scenario",
    "protocol",
    "seed",
    "source",
    "target",
    "model",
    "encoder",
    *_EPSILONS,
    "attack",
    "n",
    *METRICS,
    *_LAST,
)

_MODEL = ("scenario", "protocol", "seed", "source", "target", "model", "encoder", *_EPSILONS[:2])
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

    if kind != ATTACK:
        if not isinstance(store_or_records, (Store, Path, str)):
            raise InvalidValue(f"results: expected a store with kind={kind!r:.50}, got {store_or_records!r:.100}")
        matrices = load(_store(store_or_records), names, protocol)
        return pandas.DataFrame(_measured(matrices, kind), columns=MEASURED)
    if isinstance(store_or_records, (Store, Path, str)):
        rows = list(_of_store(_store(store_or_records), names, protocol))
    else:
        rows = [_row(one, one.scenario, None, None, one.deviations, None) for one in _records(store_or_records)]
    return pandas.DataFrame(rows, columns=COLUMNS)


def _store(given: Store | Path | str) -> Store:
    return given if isinstance(given, Store) else Store(given)


def _measured(matrices: Iterable[ResultMatrix], kind: str) -> Iterator[list[Any]]:
    for matrix in matrices:
        for (known, row), one in matrix.measures.items():
            if known.name == kind:
                model = matrix.model(row), one.spec.pretrain.encoder, *row
                place = [matrix.name, matrix.protocol, matrix.seed, matrix.source, matrix.target, *model, str(known)]
                for title, numbers in one.rows.items():
                    for column, number in zip(one.spec.columns, numbers, strict=True):
                        yield [*place, title, column, math.nan if number is None else number, one.n, one.spec.key]
                for title, value in one.summary.items():
                    yield [*place, title, math.nan, math.nan if value is None else value, one.n, one.spec.key]


def _of_store(store: Store, names: Sequence[str], protocol: str | None) -> Iterator[list[Any]]:
    for matrix in load(store, names, protocol):
        for (*row, _), record in matrix.cells.items():
            if record is not None:
                audit = matrix.audits.get((row[0], row[1]))
                verdict = audit.verdict if audit else None
                yield _row(record, matrix.name, matrix.protocol, verdict, matrix.deviations, matrix.encoder)


def _records(given: Any) -> Iterator[Record]:
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise InvalidValue(f"results: expected a store or records, got {given!r:.100}")
    for item in given.values() if isinstance(given, Mapping) else given:
        if isinstance(item, Record):
            yield item
        else:
            yield from _records(item)


def _row(
    record: Record,
    scenario: str,
    protocol: str | None,
    verdict: str | None,
    deviations: Mapping[str, tuple[Any, Any]],
    encoder: str | None,
) -> list[Any]:
    spec, finetune, pretrain = record.spec, record.spec.finetune, record.spec.finetune.pretrain
    model = model_of(encoder or encoder_of(pretrain), bool(pretrain.weights), (pretrain.epsilon, finetune.epsilon))
    numbers = [metric.of(record) for metric in METRICS.values()]
    numbers += record.interval("top1") or (None, None)
    return [
        *(scenario, protocol, record.seed, pretrain.source, finetune.target, model, pretrain.encoder),
        *(pretrain.epsilon, finetune.epsilon, spec.epsilon),
        *(str(spec.recipe.attack) if spec.epsilon else "none", record.n),
        *(math.nan if number is None else number for number in numbers),
        *(verdict, record.collapsed, record.key, differences(deviations)),
    ]

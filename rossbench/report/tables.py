"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.7."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..config.scenarios import Row
from ..store.results import METRICS, MISSING, Metric, ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue
from ..util.statistics import mean_deviation

FAILED = "!"
"""Behind the numbers of a model whose audit failed."""


@dataclass(frozen=True)
class Table:
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


def over_seeds(family: Sequence[ResultMatrix], metric: str, intervals: bool = False) -> Table:
    """The table of matrices that differ in their seed alone: where there are several, means and sample deviations.

    A line a model, the best of a column bold; then what adversarial finetuning improved. Audits have a column, and mark
    the numbers of a model whose audit failed. ``intervals``: each rate of a single matrix with its 95 % Wilson
    interval; InvalidValue for what is no rate.
    """
    shown = METRICS[metric]
    if intervals and (len(family) > 1 or not shown.is_count):
        rates = ", ".join(name for name, one in METRICS.items() if one.is_count)
        raise InvalidValue(f"intervals: expected {rates} of one seed, got {metric} of {_seeds(family)}")
    rows = sorted({row for matrix in family for row in matrix.rows})
    columns = sorted({column for matrix in family for column in matrix.columns})
    split, audited = any(row[0] != row[1] for row in rows), any(matrix.audits for matrix in family)
    lines, means = [], {}
    for i, row in enumerate(rows):
        summary, failed = _audit(family, row)
        cells = []
        for k, column in enumerate(columns):
            known = [value for matrix in family if (value := matrix.value(row, column, metric)) is not None]
            interval = _interval(family[0], row, column, metric) if intervals else ""
            cells.append(_over(known, shown) + interval + FAILED * failed)
            if known:
                means[i, k] = statistics.fmean(known)
        lines.append(([format_epsilon(one) for one in (row if split else row[:1])] + [summary] * audited, cells))
    for robust, standard in sorted({pair for matrix in family for pair in matrix.pairs}):
        several = sum(row[0] == robust[0] and row[1] > 0 for row in rows) > 1
        what = f"improvement, {format_epsilon(robust[1])}" if several else "improvement"
        gains = [_over(_gains(family, robust, standard, column, metric), shown, "+") for column in columns]
        lines.append(([format_epsilon(robust[0]), what] + [""] * audited, gains))
    return Table(
        title=f"{shown.label}, {family[0].task}",
        labels=([f"pretrained {EPS}", f"finetuned {EPS}"] if split else [f"model {EPS}"]) + ["audit"] * audited,
        columns=list(map(format_epsilon, columns)),
        lines=lines,
        bold=_best(means, shown),
        notes=_notes(family),
        caption=_caption(family),
    )


def families(matrices: Sequence[ResultMatrix]) -> list[list[ResultMatrix]]:
    """Matrices of one scenario and protocol but for the seed together, by seed; in the order of the first of each."""
    groups: dict[tuple[str, str], list[ResultMatrix]] = {}
    for matrix in matrices:
        groups.setdefault((matrix.name, matrix.family), []).append(matrix)
    return [sorted(group, key=lambda matrix: matrix.seed) for group in groups.values()]


def _over(values: Sequence[float], metric: Metric, sign: str = "") -> str:
    """One number, or the mean and deviation of several."""
    if len(values) < 2:
        return metric.text(values[0] if values else None, sign)
    mean, deviation = mean_deviation(values)
    return f"{metric.text(mean, sign)} ± {metric.text(deviation)}"


def _interval(matrix: ResultMatrix, row: Row, column: float, metric: str) -> str:
    record = matrix.cells.get((*row, column))
    bounds = record.interval(metric) if record else None
    return f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else ""


def _gains(family: Sequence[ResultMatrix], robust: Row, standard: Row, column: float, metric: str) -> list[float]:
    pairs = [(one.value(robust, column, metric), one.value(standard, column, metric)) for one in family]
    return [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]


def _best(means: dict[tuple[int, int], float], metric: Metric) -> set[tuple[int, int]]:
    """The largest of each column, by (line, column), and what is shown as the same number."""
    most: dict[int, float] = {}
    for (_, column), mean in means.items():
        most[column] = max(mean, most.get(column, mean))
    return {place for place, mean in means.items() if metric.text(mean) == metric.text(most[place[1]])}


def _audit(family: Sequence[ResultMatrix], row: Row) -> tuple[str, bool]:
    """The worst audit of a model, and whether it failed."""
    found = [matrix.audits[row] for matrix in family if row in matrix.audits]
    if not found:
        return MISSING, False
    worst = min(found, key=lambda audit: ("fail", "warn", "pass").index(audit.verdict))
    return worst.summary, worst.verdict == "fail"


def _notes(family: Sequence[ResultMatrix]) -> list[str]:
    notes = list(dict.fromkeys(note for matrix in family for note in matrix.notes()))
    if len(family) > 1:
        notes = [note for note in notes if not note.startswith("seed ")]
        if len({frozenset(place for place in one.cells if one.cells[place]) for one in family}) > 1:
            notes.append("the seeds have different cells; each mean is over the seeds that have it")
    if any(audit.verdict == "fail" for matrix in family for audit in matrix.audits.values()):
        why = f"rossbench audit {family[0].name} says why"
        notes.append(f"AUDIT FAILED where numbers have {FAILED}: do not trust them; {why}")
    return notes


def _caption(family: Sequence[ResultMatrix]) -> str:
    first = family[0]
    if len(family) == 1:
        return first.caption()
    told = first.caption().replace(f"protocol {first.protocol}, seed {first.seed}", _seeds(family), 1)
    return f"{told}; mean ± sample deviation over {len(family)} seeds"


def _seeds(family: Sequence[ResultMatrix]) -> str:
    return f"seed{'s' * (len(family) > 1)} {', '.join(str(matrix.seed) for matrix in family)}"

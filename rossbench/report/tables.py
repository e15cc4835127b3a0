"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.7."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..config.scenarios import Row
from ..store.results import MISSING, Matrix
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue
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
FAILED = "!"
"""Behind the numbers of a model whose audit failed."""


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

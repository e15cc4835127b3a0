"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.7."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from ..config.scenarios import Row
from ..store.metrics import METRICS, MISSING, Metric
from ..store.records import Record
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.errors import InvalidValue
from ..util.statistics import mean_deviation, wilson_over
from ..util.values import encode

FAILED = "!"
"""Behind the numbers of a model whose audit failed."""
BOLD = "bold: no other is better by more than noise, so that 95 % Wilson intervals do not overlap"
Key = TypeVar("Key")


@dataclass(frozen=True)
class Table:
    """A table as texts, ready for every format."""

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
    links: dict[int, str] = field(default_factory=dict)
    """Of lines whose audit is no pass, where a page says why; see ``audit_place``."""
    over: str = f"evaluation {EPS}"
    """What stands above the columns, which are then epsilons; empty where they are not."""

    @property
    def heads(self) -> list[str]:
        """Of all columns, each by itself."""
        return [*self.labels, *(f"{EPS}={column}" if self.over else column for column in self.columns)]


def over_seeds(
    matrices: Sequence[ResultMatrix], metric: str, intervals: bool = False, sort: float | None = None
) -> Table:
    """The table of matrices that ``together`` puts side by side: a line a model, over seeds its mean and deviation.

    Of rates the best of a column are bold, see ``best_beyond_noise``, of models that can be trusted; after the models
    comes what adversarial finetuning improved. Audits have a column, and mark the numbers of a model whose audit
    failed. ``intervals``: each rate with its 95 % Wilson interval; InvalidValue for what is no rate or of several
    seeds. ``sort``: the evaluation epsilon whose column orders the models, best first; InvalidValue if there is none.
    """
    shown, group = METRICS[metric], families(matrices)
    if intervals and (len(group) < len(matrices) or not shown.is_count):
        rates = ", ".join(name for name, one in METRICS.items() if one.is_count)
        several = next((family for family in group if len(family) > 1), matrices)
        raise InvalidValue(f"intervals: expected {rates} of one seed, got {metric} of {_seeds(several)}")
    models = [(family, row) for family in group for row in sorted({row for matrix in family for row in matrix.rows})]
    columns = sorted({column for matrix in matrices for column in matrix.columns})
    known = {
        (i, k): _known(*model, column, metric) for i, model in enumerate(models) for k, column in enumerate(columns)
    }
    means = {place: statistics.fmean(values) for place, values in known.items() if values}
    order = list(range(len(models)))
    if sort is not None:
        k = _column(columns, sort)
        order.sort(key=lambda i: -means.get((i, k), -math.inf))
    audited, split = any(matrix.audits for matrix in matrices), any(first != second for _, (first, second) in models)
    named = any(matrix.is_named for matrix in matrices)
    lines: list[tuple[list[str], list[str]]] = []
    links = {}
    for i in order:
        family, row = models[i]
        summary, failed, place = _audit(family, row)
        if place:
            links[len(lines)] = place
        cells = [
            mean_text(known[i, k], shown)
            + (_interval(family[0], row, column, metric) if intervals else "")
            + FAILED * failed
            for k, column in enumerate(columns)
        ]
        label = [family[0].model(row)] if named else [format_epsilon(one) for one in (row if split else row[:1])]
        lines.append((label + [summary] * audited, cells))
    for family in group:
        lines += [
            (
                label + [""] * audited,
                [mean_text(_gains(family, *pair, column, metric), shown, "+") for column in columns],
            )
            for label, pair in _improvements(family, named)
        ]
    epsilons = [f"pretrained {EPS}", f"finetuned {EPS}"] if split else [f"model {EPS}"]
    bold = {
        (order.index(i), k)
        for k, column in enumerate(columns)
        for i in best_beyond_noise(_trusted(models, column, metric))
    }
    return Table(
        title=f"{shown.label}, {matrices[0].task}",
        labels=(["model"] if named else epsilons) + ["audit"] * audited,
        columns=list(map(format_epsilon, columns)),
        lines=lines,
        bold=bold,
        notes=notes_of(group),
        caption=_caption(group) + f"; {BOLD}" * bool(bold),
        links=links,
    )


def without_audits(table: Table) -> Table:
    """The table without its column of audits; a failed one still marks its numbers."""
    kept = [k for k, label in enumerate(table.labels) if label != "audit"]
    lines = [([labels[k] for k in kept], cells) for labels, cells in table.lines]
    return replace(table, labels=[table.labels[k] for k in kept], lines=lines)


def together(matrices: Sequence[ResultMatrix]) -> list[list[ResultMatrix]]:
    """Matrices of one scenario that were finetuned and evaluated alike, for one table: all encoders, all seeds.

    Those pretrained here come first. Encoders without a name that differ in their pretraining would not be told apart,
    so each has a table of its own.
    """
    groups: dict[tuple[Any, ...], list[ResultMatrix]] = {}
    nameless: dict[tuple[Any, ...], str] = {}
    for matrix in sorted(matrices, key=lambda one: bool(one.weights)):  # stable: else as they come
        place: tuple[Any, ...] = (matrix.name, matrix.family)
        if matrix.records:
            place = (matrix.name, *how_tested(matrix))
            if not matrix.is_named and nameless.setdefault(place, matrix.encoder_id) != matrix.encoder_id:
                place = (*place, matrix.encoder_id)
        groups.setdefault(place, []).append(matrix)
    first = {matrix.name: i for i, matrix in reversed([*enumerate(matrices)])}
    return sorted(groups.values(), key=lambda group: first[group[0].name])


def how_tested(matrix: ResultMatrix) -> tuple[Any, ...]:
    """What matrices agree in that were finetuned and evaluated alike, whatever their encoder and target."""
    finetune = max((record.spec.finetune for record in matrix.records), key=lambda spec: spec.epsilon)
    how = encode([asdict(finetune.recipe), asdict(matrix.evaluation)])
    return how, finetune.limit, finetune.pretrain.size, matrix.records[0].spec.limit


def _column(columns: Sequence[float], wanted: float) -> int:
    for k, column in enumerate(columns):
        if math.isclose(column, wanted):
            return k
    known = ", ".join(map(format_epsilon, columns))
    raise InvalidValue(f"--sort: expected an evaluation epsilon of the table, {known}, got {format_epsilon(wanted)}")


def _known(family: Sequence[ResultMatrix], row: Row, column: float, metric: str) -> list[float]:
    return [value for matrix in family if (value := matrix.value(row, column, metric)) is not None]


def _improvements(family: Sequence[ResultMatrix], named: bool) -> Iterator[tuple[list[str], tuple[Row, Row]]]:
    """Labels of the lines that say what adversarial finetuning improved, and the models that each compares."""
    pairs = sorted({pair for matrix in family for pair in matrix.pairs})
    for robust, standard in pairs:
        several = sum(other[0][0] == robust[0] for other in pairs) > 1
        what = f"improvement, {format_epsilon(robust[1])}" if several else "improvement"
        yield (
            [f"{family[0].model(robust)}, improvement"] if named else [format_epsilon(robust[0]), what],
            (
                robust,
                standard,
            ),
        )


def families(matrices: Sequence[ResultMatrix]) -> list[list[ResultMatrix]]:
    """Matrices of one scenario and protocol but for the seed together, by seed; in the order of the first of each."""
    groups: dict[tuple[str, str], list[ResultMatrix]] = {}
    for matrix in matrices:
        groups.setdefault((matrix.name, matrix.family), []).append(matrix)
    return [sorted(group, key=lambda matrix: matrix.seed) for group in groups.values()]


def mean_text(values: Sequence[float], metric: Metric, sign: str = "") -> str:
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


def best_beyond_noise(intervals: Mapping[Key, tuple[float, float]]) -> set[Key]:
    """Those that no other is better than by more than noise: whose (low, high) reaches the highest low.

    Empty where that is so of all: then none is the best.
    """
    most = max((low for low, _ in intervals.values()), default=0.0)
    tied = {key for key, (_, high) in intervals.items() if high >= most}
    return tied if len(tied) < len(intervals) else set()


def score_over(records: Iterable[Record], metric: str) -> tuple[float, float, float] | None:
    """A rate's mean over records, one a seed, and its 95 % interval, see wilson_over, in [0, 1].

    None where no record has the rate, or where ``metric`` is no share of the test images.
    """
    known = [(record, rate) for record in records if (rate := record.metric(metric)) is not None]
    if not known or not METRICS[metric].is_count:
        return None
    rates = [rate for _, rate in known]
    mean = statistics.fmean(rates)
    return mean, *wilson_over(mean, min(record.n for record, _ in known), rates)


def trusted_score(
    family: Sequence[ResultMatrix], row: Row, column: float, metric: str
) -> tuple[float, float, float] | None:
    """See score_over; None also for a model that must not be called the best, see distrust."""
    records = [record for matrix in family if (record := matrix.cells.get((*row, column))) is not None]
    return None if distrust(family, row) else score_over(records, metric)


def _trusted(
    models: Sequence[tuple[Sequence[ResultMatrix], Row]], column: float, metric: str
) -> dict[int, tuple[float, float]]:
    scores = [trusted_score(*model, column, metric) for model in models]
    return {i: score[1:] for i, score in enumerate(scores) if score}


def distrust(family: Sequence[ResultMatrix], row: Row) -> str:
    """Why a model must not be taken for a robust one; empty where nothing speaks against it."""
    if _audit(family, row)[1]:
        return "failed audit"
    collapsed = any(
        r is not None and r.collapsed for one in family for place, r in one.cells.items() if place[:2] == row
    )
    return "collapsed encoder" if collapsed else ""


def _audit(family: Sequence[ResultMatrix], row: Row) -> tuple[str, bool, str]:
    """The worst audit of a model, whether it failed, and where a page says why; empty where it passed."""
    audited = [matrix for matrix in family if row in matrix.audits]
    if not audited:
        return MISSING, False, ""
    matrix = min(audited, key=lambda one: ("fail", "warn", "pass").index(one.audits[row].verdict))
    worst = matrix.audits[row]
    return worst.summary, worst.verdict == "fail", audit_place(matrix, row) if worst.verdict != "pass" else ""


def audit_place(matrix: ResultMatrix, row: Row) -> str:
    """The id of what a page says of a model's audit."""
    return f"audit-{matrix.name}-{matrix.protocol}-{format_model(*row)}"


def notes_of(group: Sequence[Sequence[ResultMatrix]]) -> list[str]:
    """What a reader must know before the numbers of some families; what not all have, with their encoders."""
    of: dict[str, list[str]] = {}
    for family in group:
        for note in dict.fromkeys(_of_family(family)):
            of.setdefault(note, []).append(family[0].encoder)
    notes = [note if len(who) == len(group) else f"{', '.join(dict.fromkeys(who))}: {note}" for note, who in of.items()]
    if any(audit.verdict == "fail" for family in group for matrix in family for audit in matrix.audits.values()):
        why = f"rossbench audit {group[0][0].name} says why"
        notes.append(f"AUDIT FAILED where numbers have {FAILED}: do not trust them; {why}")
    return notes


def _of_family(family: Sequence[ResultMatrix]) -> list[str]:
    by_label = ("encoder", "weights") if family[0].is_named else ()
    told = [{name: item for name, item in one.deviations.items() if name not in by_label} for one in family]
    notes = [
        note
        for one, deviations in zip(family, told, strict=True)
        for note in replace(one, deviations=deviations).notes()
    ]
    if len(family) > 1:
        notes = [note for note in notes if not note.startswith("seed ")]
        if len({frozenset(place for place in one.cells if one.cells[place]) for one in family}) > 1:
            notes.append("the seeds have different cells; each mean is over the seeds that have it")
    return notes


def _caption(group: Sequence[Sequence[ResultMatrix]]) -> str:
    """How the numbers were made; of several encoders each, with its protocol and seeds."""
    first = group[0][0]
    if len(group) == 1:
        told = first.caption()
        if len(group[0]) > 1:
            told = told.replace(f"protocol {first.protocol}, seed {first.seed}", _seeds(group[0]), 1)
    else:
        of = (f"{one[0].encoder} is {one[0].architecture}, protocol {one[0].protocol}, {_seeds(one)}" for one in group)
        told = "; ".join([f"{first.name}, {first.how()}", *of])
    most = max(map(len, group))
    return told + (f"; mean ± sample deviation over {most} seeds" if most > 1 else "")


def _seeds(family: Sequence[ResultMatrix]) -> str:
    return f"seed{'s' * (len(family) > 1)} {', '.join(str(matrix.seed) for matrix in family)}"

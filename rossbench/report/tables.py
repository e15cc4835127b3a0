"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.7."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..config.scenarios import Row
from ..store.metrics import METRICS, Metric
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, check_epsilon, format_epsilon, format_model
from ..util.errors import InvalidValue
from ..util.statistics import mean_deviation
from .model import FAILED, RATES, Model, Score, families, how_tested, models_of, notes_of

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
    shown, group, models = METRICS[metric], families(matrices), models_of(matrices)
    if intervals and (len(group) < len(matrices) or not shown.is_count):
        several = next((family for family in group if len(family) > 1), matrices)
        raise InvalidValue(f"intervals: expected {RATES} of one seed, got {metric} of {_seeds(several)}")
    columns = sorted({column for matrix in matrices for column in matrix.columns})
    if sort is not None:
        by = next((column for column in columns if math.isclose(column, sort)), sort)
        check_epsilon("--sort: expected an evaluation epsilon of the table", by, columns)
        models.sort(key=lambda model: -statistics.fmean(model.values(by, metric) or [-math.inf]))
    named, audited = any(matrix.is_named for matrix in matrices), any(matrix.audits for matrix in matrices)
    split = any(first != second for first, second in (model.row for model in models))
    lines: list[tuple[list[str], list[str]]] = []
    for model in models:
        label = [model.name] if named else [format_epsilon(one) for one in (model.row if split else model.row[:1])]
        cells = [
            mean_text(model.values(column, metric), shown) + _interval(model, column, metric) * intervals + model.mark
            for column in columns
        ]
        lines.append((label + [model.summary] * audited, cells))
    for family in group:
        for label, robust, standard in _improvements(family, named):
            cells = [mean_text(_gains(family, robust, standard, column, metric), shown, "+") for column in columns]
            lines.append((label + [""] * audited, cells))
    epsilons = [f"pretrained {EPS}", f"finetuned {EPS}"] if split else [f"model {EPS}"]
    bold = {(i, k) for k, column in enumerate(columns) for i in best_of(models, column, metric)}
    return Table(
        title=f"{shown.label}, {matrices[0].task}",
        labels=(["model"] if named else epsilons) + ["audit"] * audited,
        columns=list(map(format_epsilon, columns)),
        lines=lines,
        bold=bold,
        notes=notes_of_all(group),
        caption=_caption(group) + f"; {BOLD}" * bool(bold),
        links={i: place for i, model in enumerate(models) if (place := _why(model))},
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
    names = [matrix.name for matrix in matrices]
    return sorted(groups.values(), key=lambda group: names.index(group[0].name))


def _improvements(family: Sequence[ResultMatrix], named: bool) -> Iterator[tuple[list[str], Row, Row]]:
    """Of the lines that say what adversarial finetuning improved: labels, and the two models that each compares."""
    pairs = sorted({pair for matrix in family for pair in matrix.pairs})
    for robust, standard in pairs:
        several = sum(other[0] == robust[0] for other, _ in pairs) > 1
        what = "improvement" + f", {format_epsilon(robust[1])}" * several
        label = [f"{family[0].model(robust)}, improvement"] if named else [format_epsilon(robust[0]), what]
        yield label, robust, standard


def mean_text(values: Sequence[float], metric: Metric, sign: str = "") -> str:
    if len(values) < 2:
        return metric.text(values[0] if values else None, sign)
    mean, deviation = mean_deviation(values)
    return f"{metric.text(mean, sign)} ± {metric.text(deviation)}"


def _interval(model: Model, column: float, metric: str) -> str:
    bounds = next((bounds for record in model.cells(column) if (bounds := record.interval(metric))), None)
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


def trusted(models: Sequence[Model], column: float, metric: str) -> dict[int, Score]:
    """The scores of those models, by their places, that may be called the best; see Model.doubt."""
    scores = {i: model.score(column, metric) for i, model in enumerate(models) if not model.doubt}
    return {i: score for i, score in scores.items() if score}


def best_of(models: Sequence[Model], column: float, metric: str) -> set[int]:
    """The places of the best beyond noise of those models that can be trusted."""
    return best_beyond_noise({i: (one.low, one.high) for i, one in trusted(models, column, metric).items()})


def _why(model: Model) -> str:
    """Where a page says why the worst audit is none that passed; empty where it is."""
    worst = model.audit
    if worst is None or worst.verdict == "pass":
        return ""
    return next(audit_place(one, model.row) for one in model.matrices if one.audits.get(model.row) is worst)


def audit_place(matrix: ResultMatrix, row: Row) -> str:
    """The id of what a page says of a model's audit."""
    return f"audit-{matrix.name}-{matrix.protocol}-{format_model(*row)}"


def shared_notes(told: Sequence[tuple[str, Iterable[str]]]) -> list[str]:
    """The notes of several, who are named, each note once; what not all have with the names of those that have it."""
    of: dict[str, list[str]] = {}
    for name, notes in told:
        for note in dict.fromkeys(notes):
            of.setdefault(note, []).append(name)
    return [note if len(who) == len(told) else f"{', '.join(dict.fromkeys(who))}: {note}" for note, who in of.items()]


def notes_of_all(group: Sequence[Sequence[ResultMatrix]]) -> list[str]:
    """What a reader must know before the numbers of some families; what not all have, with their encoders."""
    notes = shared_notes([(family[0].encoder, _of_family(family)) for family in group])
    if any(audit.verdict == "fail" for family in group for matrix in family for audit in matrix.audits.values()):
        why = f"rossbench audit {group[0][0].name} says why"
        notes.append(f"AUDIT FAILED where numbers have {FAILED}: do not trust them; {why}")
    return notes


def _of_family(family: Sequence[ResultMatrix]) -> list[str]:
    by_label = ("encoder", "weights") if family[0].is_named else ()
    notes = [note for one in family for note in notes_of(one, by_label)]
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

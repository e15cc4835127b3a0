"""All tables of a store's matrices: of the attack, and of every other evaluation kind."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from ..config.kinds import Kind
from ..store.metrics import MISSING, Metric
from ..store.records import Measurement
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from ..util.statistics import kendall
from .model import families, models_of
from .tables import Table, mean_text, notes_of_all, over_seeds, together


def tables(
    matrices: Sequence[ResultMatrix], metric: str | None = None, intervals: bool = False, sort: float | None = None
) -> list[Table]:
    """Of each group of matrices the table under attack, see ``over_seeds``, then those of its other evaluation kinds.

    ``metric``: None for each group's own. ``sort``: of the groups that have this column; InvalidValue if none has.
    """
    groups, found = together(matrices), []
    sorted_ones = [group for group in groups if any(sort in matrix.columns for matrix in group)] or groups
    for group in groups:
        if any(matrix.cells for matrix in group):
            by = sort if any(group is one for one in sorted_ones) else None
            found.append(over_seeds(group, metric or group[0].metric, intervals, by))
        found += of_kinds(group)
    return found


def of_kinds(group: Sequence[ResultMatrix]) -> list[Table]:
    """Tables of the evaluation kinds of matrices that ``together`` puts side by side: a line a measure and model."""
    kinds = dict.fromkeys(kind for matrix in group for kind, _ in matrix.measures)
    return [table for kind in kinds for table in _of_kind(group, kind)]


def _of_kind(group: Sequence[ResultMatrix], kind: Kind) -> Iterator[Table]:
    measured = _measured(group, kind)
    whole = [one for found in measured.values() for one in found]
    columns = sorted({column for one in whole for column in one.spec.columns})
    head = f"{EPS}={{}}" if EPS in kind.row.over else "{}"
    seeds = max(map(len, measured.values()))
    caption = f"{group[0].name}, {max(one.n for one in whole)} test images"
    caption += f"; mean ± sample deviation over {seeds} seeds" if seeds > 1 else ""
    over = "" if EPS in kind.row.over else f", by {kind.row.over}"
    titles = dict.fromkeys(title for one in whole for title in one.rows)
    yield Table(
        title=f"{kind}{over}, {group[0].task}",
        labels=["measure", "model"],
        columns=[head.format(format_epsilon(column)) for column in columns],
        lines=[
            ([title, model], [_text(title, [_at(one, title, column) for one in found]) for column in columns])
            for title in titles
            for model, found in measured.items()
        ],
        notes=notes_of_all(families(group)),
        caption=caption,
        over="",
    )
    if summaries := list(dict.fromkeys(title for one in whole for title in one.summary)):
        yield Table(
            title=f"{kind}, summary, {group[0].task}",
            labels=["model"],
            columns=summaries,
            lines=[
                ([model], [_summary(title, [one.summary.get(title) for one in found]) for title in summaries])
                for model, found in measured.items()
            ],
            caption=caption,
            over="",
        )
    if kind.name == "features":
        yield from _foretold(group, kind)


def _measured(group: Sequence[ResultMatrix], kind: Kind) -> dict[str, list[Measurement]]:
    """By model, what was measured of it, one a seed."""
    found: dict[str, list[Measurement]] = {}
    for model in models_of(group, lambda one: [row for known, row in one.measures if known == kind]):
        some = [one.measures[kind, model.row] for one in model.matrices if (kind, model.row) in one.measures]
        found.setdefault(model.called(), []).extend(some)
    return found


def _at(one: Measurement, title: str, column: float) -> float | None:
    """The number of a row in a column, None where it has none."""
    return dict(zip(one.spec.columns, one.rows.get(title, ()), strict=False)).get(column)


def _text(title: str, values: Sequence[float | None]) -> str:
    shown = Metric(title, "%" if title.endswith("(%)") else "", lambda record: None)
    return mean_text([value for value in values if value is not None], shown)


def _summary(title: str, values: Sequence[float | None]) -> str:
    """As _text, but a count, the same for all seeds, as such."""
    counts = {value for value in values if value is not None and not title.endswith("(%)")}
    if len(counts) == 1 and all(value.is_integer() and value > 1 for value in counts):
        return f"{counts.pop():.0f}"
    return _text(title, values)


def _foretold(group: Sequence[ResultMatrix], kind: Kind) -> Iterator[Table]:
    """Beside the first row of a label-free kind the accuracy under attack, and the rank correlation over models."""
    pairs = list(_displacement_and_accuracy(group, kind))
    columns = sorted({column for _, numbers in pairs for column in numbers})
    if len(pairs) < 2 or not columns:
        return
    lines = []
    for model, numbers in pairs:
        for k, title in enumerate(("displacement", "accuracy under attack (%)")):
            cells = [_text(title, [numbers[column][k]] if column in numbers else []) for column in columns]
            lines.append(([model, title], cells))
    correlations = []
    for column in columns:
        both = [numbers[column] for _, numbers in pairs if column in numbers]
        tau = kendall(*zip(*both, strict=True)) if len(both) > 2 else None
        correlations.append(MISSING if tau is None else f"{tau:.2f}")
    lines.append((["all models", "rank correlation"], correlations))
    yield Table(
        title=f"Does displacement foretell accuracy? {group[0].task}",
        labels=["model", "measure"],
        columns=[f"{EPS}={format_epsilon(column)}" for column in columns],
        lines=lines,
        caption=f"Kendall's rank correlation over {len(pairs)} models; -1: the less displaced, the more accurate",
        over="",
    )


def _displacement_and_accuracy(
    group: Sequence[ResultMatrix], kind: Kind
) -> Iterator[tuple[str, dict[float, list[float]]]]:
    """For each classifier, by epsilon, its encoder's displacement and its accuracy, means over seeds."""
    for model in models_of(group):
        found: dict[float, list[tuple[float, float]]] = {}
        for matrix in model.matrices:
            measured = matrix.measures.get((kind, (model.row[0], model.row[0])))
            if measured is None or not measured.rows:
                continue
            for column in filter(None, matrix.columns):
                accuracy = matrix.value(model.row, column, matrix.metric)
                displacement = _at(measured, next(iter(measured.rows)), column)
                if accuracy is not None and displacement is not None:
                    found.setdefault(column, []).append((displacement, accuracy))
        if found:
            yield model.called(), {k: list(map(statistics.fmean, zip(*both, strict=True))) for k, both in found.items()}

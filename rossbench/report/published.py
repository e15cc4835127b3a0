"""The study's published tables, beside the same tables of a store."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from pydantic import TypeAdapter

from .. import registry
from ..config.scenarios import Row
from ..store.metrics import METRICS, MISSING
from ..store.results import ResultMatrix, differences
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.errors import InvalidValue
from ..util.statistics import kendall
from .tables import Table


@dataclass(frozen=True)
class Line:
    """A row of a published table: of a model, or of what one model has more than another."""

    scenario: str
    model: Row
    values: tuple[float, ...]
    """In percent, or MCC; one a column of the table."""
    minus: Row | None = None
    """The model whose values are taken away: rows "robustness improvement" of tables 5.6 and 5.7."""


@dataclass(frozen=True)
class Published:
    """One table of the study, every cell as printed."""

    number: str
    section: str
    """Number and heading of the section that the table stands in."""
    heading: str
    """What stands above the table."""
    metric: str
    columns: tuple[float, ...]
    rows: tuple[Line, ...]

    @property
    def scenarios(self) -> set[str]:
        return {line.scenario for line in self.rows}


@functools.cache
def published() -> tuple[Published, ...]:
    """Tables 5.1 to 5.7 of the study."""
    content = resources.files(__package__).joinpath("published.json").read_bytes()
    return TypeAdapter(tuple[Published, ...]).validate_json(content)


@dataclass(frozen=True)
class Comparison:
    """A published table beside what runs under one protocol and seed gave."""

    table: Published
    matrices: dict[str, ResultMatrix]
    """By scenario."""
    refusal: str | None
    """Why the two must not be compared; None if the protocol is the study's."""

    def ours(self, line: Line) -> list[float | None]:
        """Our values for a row of the table; None where a cell was not run."""
        matrix = self.matrices.get(line.scenario)
        if matrix is None:
            return [None] * len(self.table.columns)
        models = [line.model, *([line.minus] if line.minus else [])]
        values = [[matrix.value(model, column, self.table.metric) for model in models] for column in self.table.columns]
        return [None if None in found else found[0] - sum(found[1:]) for found in values]  # type: ignore[operator,arg-type]

    def within(self, tolerance: float) -> tuple[int, int]:
        """How many of our cells differ from the published ones by at most so much, and how many we have."""
        return within(tolerance, [differences_of(self.ours(line), line.values) for line in self.table.rows])

    def agreement(self) -> list[float | None]:
        """Kendall's tau-b between our order of the models and the published one, in [-1, 1], for each column.

        None where it is not defined: fewer than two models, or all equal.
        """
        both = [(self.ours(line), line.values) for line in self.table.rows if line.minus is None]
        taus: list[float | None] = []
        for k in range(len(self.table.columns)):
            pairs = [(value, theirs[k]) for ours, theirs in both if (value := ours[k]) is not None]
            taus.append(kendall([ours for ours, _ in pairs], [theirs for _, theirs in pairs]))
        return taus


def differences_of(ours: Iterable[float | None], theirs: Iterable[float | None]) -> list[float | None]:
    """Ours less theirs, None where either is missing."""
    return [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)]


def within(tolerance: float, differences: Iterable[Iterable[float | None]]) -> tuple[int, int]:
    """How many numbers of some lines of differences are at most so large, and how many there are."""
    known = [abs(one) for line in differences for one in line if one is not None]
    return sum(one <= tolerance + 1e-9 for one in known), len(known)


def _refusal(matrix: ResultMatrix) -> str | None:
    """Nothing is taken from the notes of a run alone: every record has to be of the cell that is registered now."""
    if matrix.deviations:
        return f"reduced or changed protocol: {differences(matrix.deviations)}"
    first, second = (tuple(sorted({row[k] for row in matrix.rows})) for k in (0, 1))
    grids = {"train_epsilons": first, "finetune_epsilons": second, "eval_epsilons": tuple(matrix.columns)}
    cells = dataclasses.replace(registry.get(matrix.name), seed=matrix.seed, **grids).cells  # type: ignore[arg-type]
    if any(record is not None and cells[place] != record.spec for place, record in matrix.cells.items()):
        return f"another protocol than {matrix.name} is registered with now"
    return None


def compare(matrices: Sequence[ResultMatrix]) -> list[Comparison]:
    """Every published table of which there is a cell; a comparison for each seed and protocol.

    Raises InvalidValue when nothing is published for what was run.
    """
    known = sorted({name for table in published() for name in table.scenarios})
    judged = [(matrix, _refusal(matrix)) for matrix in matrices if matrix.name in known]
    found = []
    for table in published():
        runs: dict[tuple[object, ...], Comparison] = {}
        for matrix, refusal in judged:
            if matrix.name in table.scenarios:
                group: tuple[object, ...] = (matrix.seed, refusal)
                if group in runs and matrix.name in runs[group].matrices:
                    group = (*group, matrix.protocol)
                runs.setdefault(group, Comparison(table, {}, refusal)).matrices[matrix.name] = matrix
        found += [one for one in runs.values() if one.within(0)[1]]
    if not found:
        names = ", ".join(sorted({matrix.name for matrix in matrices})) or "none"
        there = "; ".join(map(_published_cells, dict.fromkeys(matrix.name for matrix, _ in judged)))
        given = "; ".join(dict.fromkeys(_cells(one.name, one.rows, one.columns) for one in matrices))
        raise InvalidValue(
            f"compare: expected runs with published numbers, {there or ', '.join(known)}; "
            f"got {given if there else names}"
        )
    return found


def _published_cells(name: str) -> str:
    """The cells of a scenario that have published numbers, in words."""
    lines = [(line, table.columns) for table in published() for line in table.rows if line.scenario == name]
    return _cells(name, {line.model for line, _ in lines}, {column for _, columns in lines for column in columns})


def _cells(name: str, rows: Iterable[Row], columns: Iterable[float]) -> str:
    models, epsilons = (format_model(*row) for row in sorted(rows)), map(format_epsilon, sorted(columns))
    return f"{name}: models {', '.join(models)} at attack {EPS} {', '.join(epsilons)}"


def refusals(comparisons: Sequence[Comparison]) -> list[str]:
    """Why some tables must not be compared, each reason once with the tables that it keeps out."""
    reasons: dict[str, list[str]] = {}
    for one in comparisons:
        if one.refusal:
            reasons.setdefault(one.refusal, []).append(one.table.number)
    return [f"{reason} (tables {', '.join(numbers)})" for reason, numbers in reasons.items()]


def comparison_table(comparison: Comparison, tolerance: float) -> Table:
    """Ours, the published value and the difference, three lines a row; then the rank agreement of the models.

    ``tolerance``: in percentage points; a hundredth of it for MCC.
    """
    table, metric = comparison.table, METRICS[comparison.table.metric]
    lines, absent = [], 0
    for line in table.rows:
        ours, sign = comparison.ours(line), "+" if line.minus else ""
        if set(ours) == {None}:
            absent += 1
            continue
        source, target = line.scenario.removesuffix("-finetuning").split("-to-")
        model = "gain" if line.minus else f"{EPS}={format_model(*line.model)}"
        lines += [
            ([source, "ours"], [metric.text(value, sign) for value in ours]),
            ([f"→ {target}", "published"], [metric.text(value, sign) for value in line.values]),
            ([model, "difference"], [metric.text(gap, "+") for gap in differences_of(ours, line.values)]),
        ]
    taus = [MISSING if tau is None else f"{tau:.2f}" for tau in comparison.agreement()]
    lines.append((["ranks", "Kendall τ"], taus))
    tolerance = tolerance * metric.scale / 100
    near, of = comparison.within(tolerance)
    notes = [f"NOT COMPARABLE: {comparison.refusal}"] if comparison.refusal else []
    notes += [f"{absent} of {len(table.rows)} published rows were not run"] if absent else []
    notes += [f"{one.name}: {note}" for one in comparison.matrices.values() for note in one.collapse_notes()]
    seed = next(iter(comparison.matrices.values())).seed
    gain = "; gain: adversarial over standard finetuning" if any(line.minus for line in table.rows) else ""
    return Table(
        title=f"Table {table.number}: {metric.label} ({table.heading}), ours and published",
        labels=["model", "value"],
        columns=list(map(format_epsilon, table.columns)),
        lines=lines,
        notes=notes,
        caption=f"Section {table.section.split()[0]}, seed {seed}: {near} of {of} cells within {tolerance:g}"
        f"{' points' * (metric.unit == '%')}; ranks: order of the models, 1 is the published one{gain}",
    )

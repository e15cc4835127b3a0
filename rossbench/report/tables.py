"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.5."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..epsilons import EPS, format_epsilon
from ..errors import StoreError, unknown
from ..records import SCHEMA, Record, read_record
from ..store import Store

METRICS = {"top1": "Top-1 accuracy (%)", "top5": "Top-5 accuracy (%)", "mcc": "MCC"}
MISSING = "—"


@dataclass(frozen=True)
class Matrix:
    """One scenario under one protocol: a record, or None where it is missing, for every row and column."""

    name: str
    source: str
    target: str
    protocol: str
    seed: int
    deviations: dict[str, list[Any]]
    registered_seed: int
    registered_train_epsilons: list[float]
    registered_eval_epsilons: list[float]
    cells: dict[tuple[float, float], Record | None]

    @cached_property
    def rows(self) -> list[float]:
        return sorted({row for row, _ in self.cells})

    @cached_property
    def columns(self) -> list[float]:
        return sorted({column for _, column in self.cells})

    @property
    def records(self) -> list[Record]:
        return [record for record in self.cells.values() if record is not None]

    def value(self, row: float, column: float, metric: str) -> float | None:
        """In percent for accuracies, None where the cell is missing."""
        record = self.cells.get((row, column))
        return None if record is None else record.metric(metric) * (1 if metric == "mcc" else 100)

    def text(self, row: float, column: float, metric: str) -> str:
        value = self.value(row, column, metric)
        return MISSING if value is None else f"{value:.3f}" if metric == "mcc" else f"{value:.2f}"

    def notes(self) -> list[str]:
        """How this matrix differs from the registered one; empty only for the whole, full protocol."""
        notes = []
        if self.deviations:
            parts = [
                f"{name.removeprefix('recipe.')} {_plain(here)} (registered: {_plain(registered)})"
                for name, (here, registered) in self.deviations.items()
            ]
            notes.append("REDUCED OR CHANGED PROTOCOL: " + ", ".join(parts))
        if self.seed != self.registered_seed:
            notes.append(f"seed {self.seed} (registered: {self.registered_seed})")
        grids = (
            ("rows", self.registered_train_epsilons, self.rows),
            ("columns", self.registered_eval_epsilons, self.columns),
        )
        for what, registered, here in grids:
            if registered != here:
                notes.append(f"{what} {_epsilons(here)} (registered: {_epsilons(registered)})")
        missing = len(self.cells) - len(self.records)
        if missing:
            notes.append(f"{missing} of {len(self.cells)} cells are missing, shown as {MISSING}")
        return notes

    def title(self, metric: str) -> str:
        return f"{METRICS[metric]}, RoSS {self.source} → {self.target}"

    def caption(self) -> str:
        """How the numbers were made, from the records themselves."""
        if not self.records:
            return "nothing evaluated yet"
        record = max(self.records, key=lambda record: record.spec["epsilon"])  # at epsilon 0 no attack was made
        spec, attack = record.spec, record.spec["recipe"]["attack"]
        return (
            f"{self.name}, seed {self.seed}: {record.n} test images, "
            f"{spec['finetune']['pretrain']['encoder']}, {attack['name'].upper()}-{attack['norm']}, "
            f"{attack['steps']} steps of {attack['step_size']:g}"
        )


def _plain(value: Any) -> str:
    if value is None:
        return "all"
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)


def _epsilons(grid: Sequence[float]) -> str:
    return ", ".join(map(format_epsilon, grid))


def load(store: Store, names: Sequence[str] = (), protocol: str | None = None) -> list[Matrix]:
    """The matrices in a store: all, or those of some scenarios, or of one protocol.

    Runs of a scenario that differ in their grids alone are one matrix. Raises StoreError if the store holds none at
    all, UnknownName for a scenario of which it holds none.
    """
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path, content in store.matrices():
        if not isinstance(content, dict) or content.get("schema") != SCHEMA or set(content) != _FIELDS:
            raise StoreError(f"{path}: expected the note of a run, of schema {SCHEMA}")
        runs.setdefault((content["name"], content["protocol"]), []).append(content)
    if not runs:
        raise StoreError(f"nothing to report in {store.root}: expected a store that rossbench run has written")
    known_names = {name for name, _ in runs}
    for name in names:
        if name not in known_names:
            raise unknown(f"scenario in {store.root}", name, known_names)
    return [
        _merged(store, contents)
        for (name, known), contents in runs.items()
        if (not names or name in names) and protocol in (None, known)
    ]


_FIELDS = {field.name for field in fields(Matrix)} | {"schema"}


def _merged(store: Store, runs: list[dict[str, Any]]) -> Matrix:
    keys = {(row, column): key for run in runs for row, column, key in run["cells"]}
    rows, columns = {row for row, _ in keys}, {column for _, column in keys}
    cells: dict[tuple[float, float], Record | None] = {}
    for place in itertools.product(sorted(rows), sorted(columns)):
        path = store.record_path(keys[place]) if place in keys else None
        cells[place] = read_record(path) if path is not None and path.exists() else None
    return Matrix(**{name: value for name, value in runs[-1].items() if name != "schema"} | {"cells": cells})


# --- formats -----------------------------------------------------------------------------------------------


def to_rich(matrix: Matrix, metric: str, width: int = 80) -> RenderableType:
    """For a terminal, the best of each column in bold; as many tables as it takes to cut off no column."""
    shown: list[RenderableType] = [Text(note, "yellow") for note in matrix.notes()]
    shown.append(Text(matrix.title(metric), "bold"))
    rest = matrix.columns
    while rest:
        ends = list(itertools.accumulate(max(len(_head(column)), len("100.00")) + 3 for column in rest))
        fitting = max(1, sum(end <= width - 11 for end in ends))
        shown.append(_table(matrix, metric, rest[:fitting]))
        rest = rest[fitting:]
    return Group(*shown, Text(matrix.caption(), "dim"), "")


def _head(column: float) -> str:
    return f"{EPS}={format_epsilon(column)}"


def _table(matrix: Matrix, metric: str, columns: Sequence[float]) -> Table:
    table = Table(show_edge=False)
    table.add_column(f"model {EPS}", style="cyan", no_wrap=True)
    for column in columns:
        table.add_column(_head(column), justify="right", no_wrap=True)
    best = {column: _best(matrix, column, metric) for column in columns}
    for row in matrix.rows:
        texts = {column: matrix.text(row, column, metric) for column in columns}
        table.add_row(format_epsilon(row), *(Text(t, "bold" if t == best[c] else "") for c, t in texts.items()))
    return table


def _best(matrix: Matrix, column: float, metric: str) -> str | None:
    values = [(value, row) for row in matrix.rows if (value := matrix.value(row, column, metric)) is not None]
    return matrix.text(max(values)[1], column, metric) if values else None


def to_markdown(matrices: Sequence[Matrix], metric: str) -> str:
    parts = []
    for matrix in matrices:
        head = [f"model {EPS} \\ evaluation {EPS}", *map(format_epsilon, matrix.columns)]
        lines = [f"### {matrix.title(metric)}", ""]
        lines += [f"> {note}\n" for note in matrix.notes()]
        lines += ["| " + " | ".join(head) + " |", "|---:" * len(head) + "|"]
        for row in matrix.rows:
            texts = [matrix.text(row, column, metric) for column in matrix.columns]
            lines.append("| " + " | ".join([format_epsilon(row), *texts]) + " |")
        parts.append("\n".join([*lines, "", matrix.caption(), ""]))
    return "\n".join(parts)


def to_latex(matrices: Sequence[Matrix], metric: str) -> str:
    """booktabs tables, each with a caption that says what a reader must know."""
    parts = []
    for matrix in matrices:
        said = ". ".join([matrix.title(metric), *matrix.notes(), matrix.caption()])
        columns = " & ".join(map(format_epsilon, matrix.columns))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(said)}}}",
            rf"\begin{{tabular}}{{r{'r' * len(matrix.columns)}}}",
            r"\toprule",
            rf"& \multicolumn{{{len(matrix.columns)}}}{{c}}{{Evaluation $\varepsilon$}} \\",
            rf"Model $\varepsilon$ & {columns} \\",
            r"\midrule",
        ]
        for row in matrix.rows:
            texts = [matrix.text(row, column, metric).replace(MISSING, "--") for column in matrix.columns]
            lines.append(" & ".join([format_epsilon(row), *texts]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]))
    return "\n".join(parts)


_LATEX = {
    "\\": r"\textbackslash{}",
    "→": r"$\rightarrow$",
    EPS: r"$\varepsilon$",
    MISSING: "--",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(matrices: Sequence[Matrix], metric: str) -> str:
    """One line a cell; the value is empty where the cell is missing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["scenario", "protocol", "seed", "train_epsilon", "eval_epsilon", "metric", "value", "n", "key", "notes"]
    writer.writerow(head)
    for matrix in matrices:
        for (row, column), record in matrix.cells.items():
            found = ["", "", ""] if record is None else [matrix.value(row, column, metric), record.n, record.key]
            place = [matrix.name, matrix.protocol, matrix.seed, row, column, metric]
            writer.writerow([*place, *found, "; ".join(matrix.notes())])
    return buffer.getvalue()


def to_json(matrices: Sequence[Matrix], metric: str) -> str:
    """Matrices with their notes and whole records."""
    content = [
        {
            "scenario": matrix.name,
            "source": matrix.source,
            "target": matrix.target,
            "protocol": matrix.protocol,
            "seed": matrix.seed,
            "notes": matrix.notes(),
            "metric": metric,
            "cells": [
                {
                    "train_epsilon": row,
                    "eval_epsilon": column,
                    "value": matrix.value(row, column, metric),
                    "record": None if record is None else asdict(record),
                }
                for (row, column), record in matrix.cells.items()
            ],
        }
        for matrix in matrices
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


FORMATS = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv, "json": to_json}

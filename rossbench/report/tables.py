"""Matrices of records as tables, in the form of the study's tables 5.1 to 5.7."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .. import registry
from ..epsilons import EPS, format_epsilon, format_model
from ..errors import InvalidValue, StoreError, UnknownName, unknown
from ..records import NOTE_SCHEMA, Record, read_record
from ..scenario import Place
from ..store import Store

METRICS = {
    "top1": "Top-1 accuracy (%)",
    "top5": "Top-5 accuracy (%)",
    "robust": "Robust accuracy (%)",
    "mcc": "MCC",
    "precision": "Macro precision (%)",
    "recall": "Macro recall (%)",
    "f1": "Macro F1 (%)",
}
MISSING = "—"
Row = tuple[float, float]
"""A model: the epsilons of its pretraining and its finetuning."""


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
    registered_rows: list[list[float]]
    registered_columns: list[float]
    cells: dict[Place, Record | None]

    @cached_property
    def rows(self) -> list[Row]:
        return sorted({(first, second) for first, second, _ in self.cells})

    @cached_property
    def columns(self) -> list[float]:
        return sorted({column for _, _, column in self.cells})

    @property
    def records(self) -> list[Record]:
        return [record for record in self.cells.values() if record is not None]

    @property
    def weights(self) -> str:
        """The hash of an encoder that was given, not pretrained; empty for others."""
        return next((record.spec["finetune"]["pretrain"].get("weights", "") for record in self.records), "")

    @property
    def task(self) -> str:
        return f"RoSS {self.source} → {self.target}"

    @property
    def metric(self) -> str:
        """What its cells were made for: top1, or robust where not all images were attacked."""
        partly = any(record.top1_right is None and record.robust_right is not None for record in self.records)
        return "robust" if partly else "top1"

    def value(self, row: Row, column: float, metric: str) -> float | None:
        """In percent for rates, None where the cell or the metric is missing."""
        record = self.cells.get((*row, column))
        value = None if record is None else record.metric(metric)
        return value if value is None or metric == "mcc" else 100 * value

    def values(self, row: Row, metric: str) -> list[float | None]:
        return [self.value(row, column, metric) for column in self.columns]

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        """Models of one pretraining, with an adversarial and with a standard head (study, section 5.4.3)."""
        return [(row, (row[0], 0.0)) for row in self.rows if row[1] > 0 and (row[0], 0.0) in self.rows]

    def notes(self) -> list[str]:
        """How this matrix differs from the registered one; empty only for the whole, full protocol."""
        notes = []
        if self.deviations:
            notes.append(f"REDUCED OR CHANGED PROTOCOL: {self.differences()}")
        if self.seed != self.registered_seed:
            notes.append(f"seed {self.seed} (registered: {self.registered_seed})")
        registered = sorted((first, second) for first, second in self.registered_rows)
        if registered != self.rows:
            shown, expected = (", ".join(format_model(*row) for row in rows) for rows in (self.rows, registered))
            notes.append(f"rows {shown} (registered: {expected})")
        if self.registered_columns != self.columns:
            shown, expected = (
                ", ".join(map(format_epsilon, columns)) for columns in (self.columns, self.registered_columns)
            )
            notes.append(f"columns {shown} (registered: {expected})")
        missing = len(self.cells) - len(self.records)
        if missing:
            notes.append(f"{missing} of {len(self.cells)} cells are missing, shown as {MISSING}")
        return notes

    def differences(self) -> str:
        """The deviations from the registered scenario, as one line."""
        return ", ".join(
            f"{name.removeprefix('recipe.')} {_plain(here)} (registered: {_plain(registered)})"
            for name, (here, registered) in self.deviations.items()
        )

    def caption(self) -> str:
        """How the numbers were made, from the records themselves."""
        if not self.records:
            return "nothing evaluated yet"
        record = max(self.records, key=lambda record: record.spec["epsilon"])  # at epsilon 0 no attack was made
        spec, attack = record.spec, record.spec["recipe"]["attack"]
        how = f"{attack['name'].upper()}-{attack['norm']}, {attack['steps']} steps of {attack['step_size']:g}"
        if spec["recipe"].get("attacked") == "correct":
            how += ", of images right without it"
        encoder = spec["finetune"]["pretrain"]["encoder"] + (
            f" of given weights {self.weights}" if self.weights else ""
        )
        how = how if spec["epsilon"] else "no attack"
        return f"{self.name}, protocol {self.protocol}, seed {self.seed}: {record.n} test images, {encoder}, {how}"


def _plain(value: Any) -> str:
    if value is None:
        return "all"
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value) or "none"


def load(store: Store, names: Sequence[str] = (), protocol: str | None = None) -> list[Matrix]:
    """The matrices in a store: all, or those of some scenarios and suites in their order, or of one protocol.

    Runs of a scenario that differ in their grids alone are one matrix. Raises StoreError if the store holds none at
    all, UnknownName for a name or protocol of which it holds none.
    """
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path, content in store.matrices():
        note = _upgraded(content)
        if not isinstance(note, dict) or note.get("schema") != NOTE_SCHEMA or set(note) != _FIELDS:
            raise StoreError(f"{path}: expected the note of a run, of schema {NOTE_SCHEMA}")
        runs.setdefault((note["name"], note["protocol"]), []).append(note)
    if not runs:
        raise StoreError(f"nothing to report in {store.root}: expected a store that rossbench run has written")
    stored = {name for name, _ in runs}
    wanted = list(dict.fromkeys(one for name in names for one in _stored(name, stored, store))) or sorted(stored)
    chosen = [place for one in wanted for place in runs if place[0] == one]
    if protocol is not None:
        for one in wanted if names else [None]:
            hashes = {known for name, known in chosen if one in (None, name)}
            if protocol not in hashes:
                raise unknown(f"protocol of {one}" if one else "protocol", protocol, hashes)
        chosen = [place for place in chosen if place[1] == protocol]
    return [_merged(store, runs[place]) for place in chosen]


def _stored(name: str, stored: set[str], store: Store) -> list[str]:
    """The scenarios in the store that a name stands for."""
    if name in stored:
        return [name]
    try:
        found = [one.name for one in registry.members(name) if one.name in stored]
    except UnknownName:
        found = []
    if not found:
        raise unknown(f"scenario in {store.root}", name, stored)
    return found


_FIELDS = {spec.name for spec in fields(Matrix)} | {"schema"}
_NEW, _OLD = {"registered_rows", "registered_columns"}, {"registered_train_epsilons", "registered_eval_epsilons"}


def _upgraded(note: Any) -> Any:
    """A note of schema 1, when finetuning had the epsilon of its pretraining, as one of schema 2."""
    if not isinstance(note, dict) or note.get("schema") != 1 or set(note) != _FIELDS - _NEW | _OLD:
        return note
    return {
        **{name: value for name, value in note.items() if name not in _OLD},
        "schema": 2,
        "registered_rows": [[row, row] for row in note["registered_train_epsilons"]],
        "registered_columns": note["registered_eval_epsilons"],
        "cells": [[row, row, column, key] for row, column, key in note["cells"]],
    }


def _merged(store: Store, runs: list[dict[str, Any]]) -> Matrix:
    note = max(runs, key=lambda run: len(run["deviations"]))  # of notes that disagree, the one that warns
    if note["name"] in registry.names():  # registered anew since, perhaps
        now = dataclasses.replace(registry.get(note["name"]), seed=note["seed"])
        if now.protocol == note["protocol"]:
            grids = {"registered_rows": now.rows, "registered_columns": list(now.eval_epsilons)}
            note = {**note, "deviations": {}, **grids}
    keys = {(first, second, column): key for run in runs for first, second, column, key in run["cells"]}
    rows, columns = {(first, second) for first, second, _ in keys}, {column for _, _, column in keys}
    cells: dict[Place, Record | None] = {}
    for row, column in itertools.product(sorted(rows), sorted(columns)):
        place = (*row, column)
        path = store.record_path(keys[place]) if place in keys else None
        cells[place] = read_record(path) if path is not None and path.exists() else None
    return Matrix(**{name: value for name, value in note.items() if name != "schema"} | {"cells": cells})


def only(matrices: Sequence[Matrix]) -> Matrix:
    """The one matrix of a scenario; InvalidValue, with what there is to choose from, if there are several."""
    if len(matrices) > 1:
        choices = "; ".join(f"{one.protocol} ({'; '.join(one.notes()) or 'as registered'})" for one in matrices)
        raise InvalidValue(f"{matrices[0].name}: expected runs under one protocol, got several; choose: {choices}")
    return matrices[0]


# --- tables ------------------------------------------------------------------------------------------------


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
    """A matrix as a table: a line a model, the best of a column bold; then what adversarial finetuning improved."""
    split = any(first != second for first, second in matrix.rows)
    lines = []
    for row in matrix.rows:
        labels = [format_epsilon(epsilon) for epsilon in (row if split else row[:1])]
        lines.append((labels, [text(value, metric) for value in matrix.values(row, metric)]))
    best = set()
    for k, column in enumerate(zip(*(matrix.values(row, metric) for row in matrix.rows), strict=True)):
        known = [value for value in column if value is not None]
        shown = text(max(known), metric) if known else None
        best |= {(i, k) for i, (_, cells) in enumerate(lines) if cells[k] == shown}
    for robust, standard in matrix.pairs:
        both = zip(matrix.values(robust, metric), matrix.values(standard, metric), strict=True)
        gains = [None if a is None or b is None else a - b for a, b in both]
        several = sum(one[0][0] == robust[0] for one in matrix.pairs) > 1
        what = f"improvement, {format_epsilon(robust[1])}" if several else "improvement"
        lines.append(([format_epsilon(robust[0]), what], [text(gain, metric, "+") for gain in gains]))
    labels = [f"pretrained {EPS}", f"finetuned {EPS}"] if split else [f"model {EPS}"]
    columns = list(map(format_epsilon, matrix.columns))
    return Grid(f"{METRICS[metric]}, {matrix.task}", labels, columns, lines, best, matrix.notes(), matrix.caption())


def text(value: float | None, metric: str, sign: str = "") -> str:
    """A number of a metric as the study prints it; ``sign`` "+" for differences."""
    return MISSING if value is None else f"{value:{sign}.{3 if metric == 'mcc' else 2}f}"


def to_rich(grid: Grid, width: int = 80) -> RenderableType:
    """For a terminal; as many tables as it takes to cut off no column."""
    shown: list[RenderableType] = [Text(note, "yellow") for note in grid.notes]
    shown.append(Text(grid.title, "bold"))
    taken = sum(2 + max(map(len, [title, *column])) for title, column in _label_columns(grid)) + 2
    sizes = [3 + max(map(len, [f"{EPS}={head}", *column])) for head, column in _columns(grid)]
    begin = 0
    while begin < len(sizes):
        ends = list(itertools.accumulate(sizes[begin:]))
        end = begin + max(1, sum(end <= width - taken for end in ends))
        shown.append(_table(grid, range(begin, end)))
        begin = end
    return Group(*shown, Text(grid.caption, "dim"), "")


def _label_columns(grid: Grid) -> list[tuple[str, list[str]]]:
    return [(title, [labels[k] for labels, _ in grid.lines]) for k, title in enumerate(grid.labels)]


def _columns(grid: Grid) -> list[tuple[str, list[str]]]:
    return [(head, [cells[k] for _, cells in grid.lines]) for k, head in enumerate(grid.columns)]


def _table(grid: Grid, shown: range) -> Table:
    table = Table(show_edge=False)
    for title in grid.labels:
        table.add_column(title, style="cyan", no_wrap=True)
    for k in shown:
        table.add_column(f"{EPS}={grid.columns[k]}", justify="right", no_wrap=True)
    for i, (labels, cells) in enumerate(grid.lines):
        table.add_row(*map(Text, labels), *(Text(cells[k], "bold" if (i, k) in grid.bold else "") for k in shown))
    return table


def to_markdown(grid: Grid) -> str:
    head = [*grid.labels[:-1], f"{grid.labels[-1]} \\ evaluation {EPS}", *grid.columns]
    lines = [f"### {grid.title}", "", *(f"> {note}\n" for note in grid.notes)]
    lines += ["| " + " | ".join(head) + " |", "|---:" * len(head) + "|"]
    lines += ["| " + " | ".join([*labels, *cells]) + " |" for labels, cells in grid.lines]
    return "\n".join([*lines, "", grid.caption, ""])


def to_latex(grid: Grid) -> str:
    """A booktabs table, with a caption that says what a reader must know."""
    said = ". ".join([grid.title, *grid.notes, grid.caption])
    before = len(grid.labels)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(said)}}}",
            rf"\begin{{tabular}}{{{'r' * (before + len(grid.columns))}}}",
            r"\toprule",
            rf"{'& ' * before}\multicolumn{{{len(grid.columns)}}}{{c}}{{Evaluation $\varepsilon$}} \\",
            " & ".join(map(_latex, [*grid.labels, *grid.columns])) + r" \\",
            r"\midrule",
            *(" & ".join(map(_latex, [*labels, *cells])) + r" \\" for labels, cells in grid.lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "→": r"$\rightarrow$",
    "τ": r"$\tau$",
    EPS: r"$\varepsilon$",
    MISSING: "--",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


# --- data --------------------------------------------------------------------------------------------------


def to_csv(matrices: Sequence[Matrix], metric: str | None) -> str:
    """One line a cell; the value is empty where the cell is missing. Without a metric: each matrix's own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    epsilons = ["train_epsilon", "finetune_epsilon", "eval_epsilon"]
    writer.writerow(["scenario", "protocol", "seed", *epsilons, "metric", "value", "n", "key", "notes"])
    for matrix in matrices:
        shown = metric or matrix.metric
        for place, record in matrix.cells.items():
            value = matrix.value(place[:2], place[2], shown)
            found = ["", "", ""] if record is None else [value, record.n, record.key]
            line = [matrix.name, matrix.protocol, matrix.seed, *place, shown, *found, "; ".join(matrix.notes())]
            writer.writerow(line)
    return buffer.getvalue()


def to_json(matrices: Sequence[Matrix], metric: str | None) -> str:
    """Matrices with their notes and whole records. Without a metric: each matrix's own."""
    content = [
        {
            "scenario": matrix.name,
            "source": matrix.source,
            "target": matrix.target,
            "protocol": matrix.protocol,
            "seed": matrix.seed,
            "notes": matrix.notes(),
            "metric": metric or matrix.metric,
            "cells": [
                {
                    "train_epsilon": first,
                    "finetune_epsilon": second,
                    "eval_epsilon": column,
                    "value": matrix.value((first, second), column, metric or matrix.metric),
                    "record": None if record is None else asdict(record),
                }
                for (first, second, column), record in matrix.cells.items()
            ],
        }
        for matrix in matrices
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


TEXTS: dict[str, Callable[[Grid], str]] = {"markdown": to_markdown, "latex": to_latex}
DATA: dict[str, Callable[[Sequence[Matrix], str | None], str]] = {"csv": to_csv, "json": to_json}

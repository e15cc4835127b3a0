"""Tables and matrices in the forms that people take them in: a terminal, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..store.results import MISSING, Matrix
from ..util.epsilons import EPS
from ..util.errors import one_line
from .tables import Grid


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
        table.add_column(Text(title), style="cyan", no_wrap=True)
    for k in shown:
        table.add_column(Text(f"{EPS}={grid.columns[k]}"), justify="right", no_wrap=True)
    for i, (labels, cells) in enumerate(grid.lines):
        table.add_row(*map(Text, labels), *(Text(cells[k], "bold" if (i, k) in grid.bold else "") for k in shown))
    return table


def to_markdown(grid: Grid) -> str:
    head = [*grid.labels, *(f"{EPS}={column}" for column in grid.columns)]
    lines = [f"### {one_line(grid.title)}", "", *(f"> {one_line(note)}\n" for note in grid.notes)]
    lines += [_markdown(head), "|---:" * len(head) + "|"]
    lines += [_markdown([*labels, *cells]) for labels, cells in grid.lines]
    return "\n".join([*lines, "", one_line(grid.caption), ""])


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(one_line(cell).replace("\\", r"\\").replace("|", r"\|") for cell in cells) + " |"


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
            _latex_row([*grid.labels, *grid.columns]),
            r"\midrule",
            *(_latex_row([*labels, *cells]) for labels, cells in grid.lines),
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
    "±": r"$\pm$",
    EPS: r"$\varepsilon$",
    MISSING: "--",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(map(_latex, cells)) + r" \\"
    return "{}" + row if row.startswith(("[", "*")) else row  # which the \\ before it would take for its own


# --- data --------------------------------------------------------------------------------------------------


def to_csv(matrices: Sequence[Matrix], metric: str | None) -> str:
    """One line a cell; the value is empty where the cell is missing. Without a metric: each matrix's own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    epsilons = ["train_epsilon", "finetune_epsilon", "eval_epsilon"]
    writer.writerow(["scenario", "protocol", "seed", *epsilons, "metric", "value", "n", "key", "audit", "notes"])
    for matrix in matrices:
        shown = metric or matrix.metric
        for place, record in matrix.cells.items():
            value = matrix.value(place[:2], place[2], shown)
            found = ["", "", ""] if record is None else [value, record.n, record.key]
            audit = matrix.audits[place[:2]].summary if place[:2] in matrix.audits else ""
            told = [*found, audit, "; ".join(matrix.notes())]
            writer.writerow(map(_csv, [matrix.name, matrix.protocol, matrix.seed, *place, shown, *told]))
    return buffer.getvalue()


def _csv(cell: object) -> object:
    """A text in one line that no spreadsheet takes for a formula; a number as it is."""
    if not isinstance(cell, str):
        return cell
    told = one_line(cell)
    return "'" + told if told.startswith(("=", "+", "-", "@")) else told


def to_json(matrices: Sequence[Matrix], metric: str | None) -> str:
    """Matrices with their notes and whole records. Without a metric: each matrix's own."""
    content = [
        {
            "scenario": matrix.name,
            "source": matrix.source,
            "target": matrix.target,
            "protocol": matrix.protocol,
            "family": matrix.family,
            "seed": matrix.seed,
            "notes": matrix.notes(),
            "metric": metric or matrix.metric,
            "audits": [
                {"train_epsilon": first, "finetune_epsilon": second, "verdict": audit.verdict, **asdict(audit)}
                for (first, second), audit in matrix.audits.items()
            ],
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

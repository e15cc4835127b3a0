"""Tables and matrices in the forms that people take them in: a terminal, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ..store.metrics import MISSING
from ..store.results import ResultMatrix
from ..util.epsilons import EPS
from ..util.errors import one_line
from .model import Model
from .tables import Table


def to_rich(table: Table, width: int = 80) -> RenderableType:
    """For a terminal; as many tables as it takes to cut off no column."""
    heads = table.heads
    lines = [[*labels, *cells] for labels, cells in table.lines]
    sizes = [3 + max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    first = len(table.labels)
    room, begin = width - sum(sizes[:first]) + first - 2, first
    shown: list[RenderableType] = [Text(note, "yellow") for note in table.notes]
    shown.append(Text(table.title, "bold"))
    while begin < len(heads):
        end = begin + max(1, sum(taken <= room for taken in itertools.accumulate(sizes[begin:])))
        part = RichTable(show_edge=False)
        for head in map(escape, heads[:first]):
            part.add_column(head, style="cyan", no_wrap=True)
        for head in map(escape, heads[begin:end]):
            part.add_column(head, justify="right", no_wrap=True)
        for i, (labels, cells) in enumerate(table.lines):
            bold = ["bold" if (i, k) in table.bold else "" for k in range(begin - first, end - first)]
            part.add_row(*map(escape, labels), *map(Text, cells[begin - first : end - first], bold))
        shown.append(part)
        begin = end
    return Group(*shown, Text(table.caption, "dim"), "")


_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def audits_to_rich(matrix: ResultMatrix) -> RenderableType:
    """Every verdict, for a terminal; what one means where it is not a pass."""
    shown: list[RenderableType] = []
    for row, audit in matrix.audits.items():
        seed = f", seed {matrix.seed}" if matrix.seed else ""
        called = Model(matrix, row).called(f"model {EPS} ")
        table = RichTable("verdict", "check", show_edge=False)
        table.columns[0].no_wrap = True
        for one in audit.verdicts:
            text = Text.assemble((one.check, "bold"), ": ", one.figure)
            if one.verdict != "pass":
                text.append(f"\n{one.meaning}", "yellow")
            table.add_row(Text(one.verdict, _STYLES[one.verdict]), text)
        shown += [Text(f"{matrix.name}{seed}, {called}: {audit.summary}", "bold"), table]
        shown += [Text(f"on {audit.images} test images, in {audit.seconds:.1f} s", "dim"), ""]
    return Group(*shown)


def to_markdown(table: Table) -> str:
    lines = [f"### {one_line(table.title)}", "", *(f"> {one_line(note)}\n" for note in table.notes)]
    lines += [_markdown(table.heads), "|---:" * len(table.heads) + "|"]
    lines += [_markdown([*labels, *cells]) for labels, cells in table.lines]
    return "\n".join([*lines, "", one_line(table.caption), ""])


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(one_line(cell).replace("\\", r"\\").replace("|", r"\|") for cell in cells) + " |"


def to_latex(table: Table) -> str:
    """A booktabs table with a label, and a caption that says what a reader must know, hashes left to other formats."""
    said = _HASHES.sub("", ". ".join([table.title, *table.notes, table.caption]))
    label = "-".join(re.findall(r"[a-z0-9]+", table.title.lower())) or "results"
    before, columns = len(table.labels), len(table.columns)
    over = rf"{'& ' * before}\multicolumn{{{columns}}}{{c}}{{Evaluation $\varepsilon$}} \\"
    begin = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(said)}}}", rf"\label{{tab:{label}}}"]
    begin += [rf"\begin{{tabular}}{{{'r' * (before + columns)}}}", r"\toprule", *([over] if table.over else [])]
    begin += [_latex_row([*table.labels, *table.columns]), r"\midrule"]
    rows = [
        _latex_row([*labels, *cells], {before + k for line, k in table.bold if line == i})
        for i, (labels, cells) in enumerate(table.lines)
    ]
    return "\n".join([*begin, *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


_HASHES = re.compile(r", protocol [0-9a-f]{8}\b| of given weights [0-9a-f]{8,}\b")
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


def _latex_row(cells: Sequence[str], bold: Collection[int] = ()) -> str:
    told = (rf"\textbf{{{_latex(cell)}}}" if k in bold else _latex(cell) for k, cell in enumerate(cells))
    row = " & ".join(told) + r" \\"
    return "{}" + row if row.startswith(("[", "*")) else row  # which the \\ before it would take for its own


_PLACE = ("train_epsilon", "finetune_epsilon", "eval_epsilon")


def to_csv(matrices: Sequence[ResultMatrix], metric: str | None) -> str:
    """One line a cell; the value is empty where the cell is missing. Without a metric: each matrix's own."""
    last = ("metric", "value", "n", "key", "audit", "notes")
    lines: list[Sequence[object]] = [("scenario", "protocol", "seed", "model", *_PLACE, *last)]
    for matrix in matrices:
        shown, notes = metric or matrix.metric, "; ".join(matrix.notes())
        for place, record in matrix.cells.items():
            row = place[:2]
            found = (matrix.value(row, place[2], shown), record.n, record.key) if record else ("", "", "")
            audit = matrix.audits[row].summary if row in matrix.audits else ""
            where = (matrix.name, matrix.protocol, matrix.seed, matrix.model(row), *place)
            lines.append((*where, shown, *found, audit, notes))
    return csv_text(lines)


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """Each text in one line that no spreadsheet takes for a formula; numbers as they are."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(_csv_cell, line) for line in lines)
    return buffer.getvalue()


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    told = one_line(cell)
    return "'" + told if told.startswith(("=", "+", "-", "@")) else told


def to_json(matrices: Sequence[ResultMatrix], metric: str | None) -> str:
    """Matrices with their notes and whole records. Without a metric: each matrix's own."""
    content = []
    for matrix in matrices:
        shown = metric or matrix.metric
        told = {name: getattr(matrix, name) for name in ("source", "target", "protocol", "family", "seed")}
        audits = [
            {**dict(zip(_PLACE, row, strict=False)), "verdict": audit.verdict, **asdict(audit)}
            for row, audit in matrix.audits.items()
        ]
        cells = [
            {"model": matrix.model(place[:2]), **dict(zip(_PLACE, place, strict=True))}
            | {"value": matrix.value(place[:2], place[2], shown), "record": record and asdict(record)}
            for place, record in matrix.cells.items()
        ]
        content.append(
            {"scenario": matrix.name, **told, "deviations": matrix.deviations, "notes": matrix.notes()}
            | {"metric": shown, "audits": audits, "cells": cells}
        )
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


TEXTS: dict[str, Callable[[Table], str]] = {"markdown": to_markdown, "latex": to_latex}
DATA: dict[str, Callable[[Sequence[ResultMatrix], str | None], str]] = {"csv": to_csv, "json": to_json}

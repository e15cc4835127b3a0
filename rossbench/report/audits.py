"""The audits of a store's models: beside their tables, and verdict by verdict."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_model

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def to_rich(matrix: ResultMatrix) -> RenderableType:
    """Every verdict, for a terminal; what one means where it is not a pass."""
    shown: list[RenderableType] = []
    for row, audit in matrix.audits.items():
        seed = f", seed {matrix.seed}" if matrix.seed else ""
        model = matrix.model(row) if matrix.is_named else f"model {EPS} {format_model(*row)}"
        shown.append(Text(f"{matrix.name}{seed}, {model}: {audit.summary}", "bold"))
        table = Table(show_edge=False)
        table.add_column("verdict", no_wrap=True)
        table.add_column("check")
        for one in audit.verdicts:
            text = Text.assemble((one.check, "bold"), ": ", one.figure)
            if one.verdict != "pass":
                text.append(f"\n{one.meaning}", "yellow")
            table.add_row(Text(one.verdict, _STYLES[one.verdict]), text)
        shown += [table, Text(f"on {audit.images} test images, in {audit.seconds:.1f} s", "dim"), ""]
    return Group(*shown)

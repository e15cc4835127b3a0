"""report and compare: from records in the store to tables and pages."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ..report import tables
from ..store import Store
from . import options


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--metric", type=click.Choice(list(tables.METRICS)), default="top1", show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", *tables.TEXTS, *tables.DATA]),
    default="table",
    show_default=True,
)
@options.protocol
@options.store
@options.debug_option
def report(names: tuple[str, ...], metric: str, form: str, protocol: str | None, store: Path) -> None:
    """The matrices in the store: rows are the models' epsilons, columns those of the evaluation."""
    matrices = tables.load(Store(store), names, protocol)
    if form in tables.DATA:
        click.echo(tables.DATA[form](matrices, metric), nl=False)
    elif form in tables.TEXTS:
        click.echo("\n".join(tables.TEXTS[form](tables.grid(matrix, metric)) for matrix in matrices), nl=False)
    else:
        console = Console()
        for matrix in matrices:
            console.print(tables.to_rich(tables.grid(matrix, metric), console.width))

"""store list, verify, gc and rm: the contents of a store, its checksums, and what is deleted from it."""

from __future__ import annotations

from pathlib import Path

import click
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ..store.maintenance import Holdings, remove, verify
from ..store.store import Store
from ..util.errors import StoreError
from . import options, types
from .terminal import Console

EXIT_DAMAGED = 3


@click.group("store", cls=types.Group, no_args_is_help=True)
@options.debug_option
def store_() -> None:
    """List, verify and clean up a store."""


def _open(path: Path) -> Store:
    """StoreError for a folder that no run has written to."""
    store = Store(path)
    if not store.exists:
        raise StoreError(f"{path}: expected a store that rossbench run has written, got none there")
    return store


@store_.command("list")
@options.store
@options.debug_option
def list_(store: Path) -> None:
    """List artifacts with size, age and the scenarios that use them."""
    holdings = Holdings.of(_open(store))
    table = Table(show_edge=False)
    for title in ("artifact", "key", "size", "age", "used by"):
        table.add_column(title, no_wrap=title in ("key", "size", "age"), justify="right" if title == "size" else "left")
    found = holdings.artifacts()
    for one in found:
        users = ", ".join(one.used_by) or ("unfinished runs" if holdings.unfinished else "nothing")
        table.add_row(escape(str(one.spec)), one.spec.key, decimal(one.size), _age(one.age), users)
    console = Console()
    console.print(table)
    console.print(f"{len(found)} artifacts, {decimal(sum(one.size for one in found))}")


@store_.command("verify")
@options.store
@options.debug_option
def verify_(store: Path) -> None:
    """Check every file; damaged ones are named and moved to damaged/, and the exit code is 3."""
    one = _open(store)
    count, without, found = verify(one)
    for damage in found:
        one.set_aside(damage)
    older = f"; {without} of earlier versions have no checksums" if without else ""
    click.echo(f"{count} artifacts read, {len(found)} files or artifacts damaged{older}")
    if found:
        raise click.exceptions.Exit(EXIT_DAMAGED)


_dry_run = click.option("--dry-run", is_flag=True, help="List what would be deleted.")


@store_.command("gc")
@_dry_run
@options.store
@options.debug_option
def gc(store: Path, dry_run: bool) -> None:
    """Delete leftovers of killed processes, damaged files, and artifacts that no run uses."""
    _remove(Holdings.of(_open(store)).garbage(), dry_run)


@store_.command("rm")
@options.name
@_dry_run
@options.protocol
@options.store
@options.debug_option
def rm(name: str, store: Path, protocol: str | None, dry_run: bool) -> None:
    """Delete a scenario's runs, and what no other run needs. Other runs keep what they share with it."""
    _remove(Holdings.of(_open(store)).of_runs(name, protocol), dry_run)


def _remove(found: dict[Path, str], dry_run: bool) -> None:
    size = sum(file.stat().st_size for path in found for file in (path, *path.rglob("*")) if file.is_file())
    for path, why in found.items():
        click.echo(f"{path}: {why}")
        if not dry_run:
            remove(path)
    click.echo(f"{len(found)} {'would go' if dry_run else 'deleted'}, {decimal(size)}")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"

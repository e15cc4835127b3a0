"""zoo: the published encoders that are known, and all that is known of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .. import registry
from ..config.zoo import UNKNOWN, KnownEncoder
from ..store.metrics import METRICS, MISSING
from ..util.values import encode
from . import options
from .terminal import Console

_NUMBERS = {"clean": "clean", "pgd20": "PGD-20", "autoattack": "AA"}


@click.command()
@click.argument("name", required=False, shell_complete=options.complete_encoders)
@options.json_option
@options.scenario_file
@options.debug_option
def zoo(name: str | None, as_json: bool) -> None:
    """List published encoders that run --zoo knows, or show all that is known of one."""
    found = registry.encoders() if name is None else [registry.encoder(name)]
    if as_json:
        content: Any = [asdict(one) for one in found]
        click.echo(encode(content if name is None else content[0]).decode(), nl=False)
    elif name is None:
        _print_all(found)
    else:
        _print_one(found[0])


def _print_all(found: list[KnownEncoder]) -> None:
    table = Table("encoder", "architecture", "SHA-256", show_edge=False)
    kinds = ("SLF", "ALF", "AFF")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for one in found:
        cells = [_best_known(one, kind) for kind in kinds]
        table.add_row(escape(one.name), escape(one.encoder), one.sha256[:7] or UNKNOWN, *cells)
    table.columns[0].no_wrap = True
    said = (
        "Published accuracy (%) on the encoder's own task under AutoAttack, L-infinity 8/255; ?: doubtful, *: under "
        "other settings than the preset's. rossbench zoo NAME says all, with sources; "
        "rossbench run --zoo NAME --encoder-weights FILE runs it."
    )
    Console().print(table, Text(said, "dim"), sep="\n")


def _best_known(one: KnownEncoder, kind: str) -> str:
    """The first number under AutoAttack that can be compared and trusted, else the first, with its mark."""
    own = [numbers for numbers in one.published if numbers.target == one.source and numbers.autoattack is not None]
    own = [numbers for numbers in own if numbers.finetuning.endswith(kind.lower())]
    numbers = min(own, key=lambda numbers: (bool(numbers.unlike), bool(numbers.doubtful)), default=None)
    if numbers is None:
        return MISSING
    return METRICS["top1"].text(numbers.autoattack) + "?" * bool(numbers.doubtful) + "*" * bool(numbers.unlike)


def _print_one(one: KnownEncoder) -> None:
    facts = Table("field", "value", show_edge=False)
    hidden = ("own", "published", "remark", "bn", "prefix")
    plain = {name: str(item or "") for name, item in asdict(one).items() if name not in hidden}
    plain["normalization"] = plain["normalization"] or "the file's, or none"
    plain["sha256"] = plain["sha256"] or UNKNOWN
    plain |= {name: item for name, item in (("bn", one.bn), ("prefix", one.prefix), ("remark", one.remark)) if item}
    for place, fields in one.own.items():
        plain[place] = ", ".join(f"{name} {item}" for name, item in fields.items())
    for name, item in plain.items():
        facts.add_row(escape(name), escape(item))
    facts.columns[0].no_wrap = True
    console = Console()
    console.print(facts)
    if not one.published:
        return
    table = Table("target", "finetuning", show_edge=False)
    for title in _NUMBERS.values():
        table.add_column(title, justify="right")
    table.add_column("source and what to know")
    for numbers in one.published:
        cells = [METRICS["top1"].text(getattr(numbers, name)) for name in _NUMBERS]
        said = [numbers.source, *([f"DOUBTFUL: {numbers.doubtful}"] if numbers.doubtful else [])]
        said += [f"not compared, under other settings: {numbers.unlike}"] if numbers.unlike else []
        said += [numbers.remark] if numbers.remark else []
        table.add_row(numbers.target, numbers.finetuning, *cells, escape("; ".join(said)))
    console.print("\nPublished, in percent, at L-infinity 8/255 (AA: AutoAttack standard)", table, sep="\n")

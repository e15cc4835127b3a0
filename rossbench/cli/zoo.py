"""zoo: the published encoders that are known, and all that is known of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.markup import escape
from rich.text import Text

from .. import registry
from ..config.zoo import UNKNOWN, KnownEncoder
from ..store.metrics import METRICS, MISSING
from ..util.values import encode
from . import options
from .terminal import Console, table

_NUMBERS = {"clean": "clean", "pgd20": "PGD-20", "autoattack": "AA"}


@click.command()
@click.argument("name", required=False, shell_complete=options.complete_encoders)
@options.json_option
@options.always
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
    kinds = ("SLF", "ALF", "AFF")
    rows = (
        (one.name, one.encoder, one.sha256[:7] or UNKNOWN, *(_best_known(one, kind) for kind in kinds)) for one in found
    )
    said = (
        "Published accuracy (%) on the encoder's own task under AutoAttack, L-infinity 8/255; ?: doubtful, *: under "
        "other settings than the preset's. rossbench zoo NAME says all, with sources; "
        "rossbench run --zoo NAME --encoder-weights FILE runs it."
    )
    Console().print(table(("encoder", "architecture", "SHA-256"), kinds, rows), Text(said, "dim"), sep="\n")


def _best_known(one: KnownEncoder, kind: str) -> str:
    """The first number under AutoAttack that can be compared and trusted, else the first, with its mark."""
    own = [numbers for numbers in one.published if numbers.target == one.source and numbers.autoattack is not None]
    own = [numbers for numbers in own if numbers.finetuning.endswith(kind.lower())]
    numbers = min(own, key=lambda numbers: (bool(numbers.unlike), bool(numbers.doubtful)), default=None)
    if numbers is None:
        return MISSING
    return METRICS["top1"].text(numbers.autoattack) + "?" * bool(numbers.doubtful) + "*" * bool(numbers.unlike)


def _print_one(one: KnownEncoder) -> None:
    hidden = ("own", "published", "remark", "bn", "prefix")
    plain = {name: str(item or "") for name, item in asdict(one).items() if name not in hidden}
    plain["normalization"] = plain["normalization"] or "the file's, or none"
    plain["sha256"] = plain["sha256"] or UNKNOWN
    plain |= {name: item for name, item in (("bn", one.bn), ("prefix", one.prefix), ("remark", one.remark)) if item}
    for place, fields in one.own.items():
        plain[place] = ", ".join(f"{name} {item}" for name, item in fields.items())
    console = Console()
    console.print(table(("field", "value"), (), plain.items()))
    if not one.published:
        return
    shown = table(("target", "finetuning"), tuple(_NUMBERS.values()), ())
    shown.add_column("source and what to know")
    for numbers in one.published:
        cells = [METRICS["top1"].text(getattr(numbers, name)) for name in _NUMBERS]
        doubt = numbers.doubtful and f"DOUBTFUL: {numbers.doubtful}"
        unlike = numbers.unlike and f"not compared, under other settings: {numbers.unlike}"
        said = "; ".join(filter(None, (numbers.source, doubt, unlike, numbers.remark)))
        shown.add_row(numbers.target, numbers.finetuning, *cells, escape(said))
    console.print("\nPublished, in percent, at L-infinity 8/255 (AA: AutoAttack standard)", shown, sep="\n")

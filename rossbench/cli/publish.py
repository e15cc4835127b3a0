"""export, card and leaderboard: encoders and their numbers, for others."""

from __future__ import annotations

from pathlib import Path

import click

from ..store.lookup import find_encoder
from ..store.several import load_several
from ..store.store import Store
from . import options
from .terminal import Console, now

_model = click.argument("model")


@click.command()
@_model
@options.file_argument
@options.protocol
@options.store
@options.always
def export(model: str, file: Path, protocol: str | None, store: Path) -> None:
    """Save the encoder of MODEL as safetensors that timm loads, with its recipe and numbers as metadata.

    MODEL is NAME@MODEL, such as digits@1 or digits@mine-v3, or plainly MODEL where one encoder alone is called so.
    """
    models = find_encoder(Store(store), model, protocol)
    with Console(stderr=True).status("loading torch"):
        from ..store.export import export as exported
    options.save(file, exported(Store(store), models))


@click.command()
@_model
@options.file_option("out", "Write the card to this file.")
@options.protocol
@options.store_alone
@options.always
def card(model: str, save: Path | None, protocol: str | None, store: Path) -> None:
    """Print a model card of the encoder of MODEL, as export takes it: Markdown with the metadata that hubs read."""
    from ..report.card import card as model_card  # yaml, which other commands need not wait for

    text = model_card(find_encoder(Store(store), model, protocol))
    if save is None:
        click.echo(text, nl=False)
    else:
        options.save(save, text.encode())


@click.command()
@click.argument("stores", nargs=-1, type=options.FOLDER, metavar="[STORE]...", envvar="ROSSBENCH_STORE")
@click.option(
    "--html",
    "folder",
    required=True,
    type=options.FOLDER,
    callback=options.check_writable,
    help="Write index.html into this folder.",
)
@options.always
def leaderboard(stores: tuple[Path, ...], folder: Path) -> None:
    """Write all encoders of some stores as one page to sort and filter, from records alone.

    Stores are read together, as by report.  [default STORE: rossbench-store]
    """
    from ..report import leaderboard as board

    matrices = load_several([Store(one) for one in stores or (Path(options.STORE),)])
    page = board.render(matrices, now())
    folder.mkdir(parents=True, exist_ok=True)
    options.save(folder / "index.html", page.encode())


COMMANDS: list[click.Command] = [export, card, leaderboard]

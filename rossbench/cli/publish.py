"""export, card and leaderboard: encoders and their numbers, for others."""

from __future__ import annotations

from pathlib import Path

import click

from ..store.lookup import find_encoder
from ..store.store import Store
from . import options
from .terminal import Console


@click.command("export")
@click.argument("model")
@options.file_argument
@options.protocol
@options.store
@options.scenario_file
@options.debug_option
def export(model: str, file: Path, protocol: str | None, store: Path) -> None:
    """Save the encoder of MODEL as safetensors that timm loads, with its recipe and numbers as metadata.

    MODEL is NAME@MODEL, such as digits@1 or digits@mine-v3, or plainly MODEL where one encoder alone is called so.
    """
    models = find_encoder(Store(store), model, protocol)
    with Console(stderr=True).status("loading torch"):
        from ..store.export import export as exported
    options.save(file, exported(Store(store), models))


COMMANDS: list[click.Command] = [export]

"""figure, layers and features: from artifacts in the store to pictures and arrays."""

from __future__ import annotations

import click

COMMANDS: list[click.Command] = []

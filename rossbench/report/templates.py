"""The templates of pages. The home of jinja2."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2

from .. import __version__
from ..util.epsilons import EPS


def fill(name: str, script_source: str = "", **values: Any) -> str:
    """A template of this folder, as HTML. ``script_source``: what its Content-Security-Policy says of scripts."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shared = {"version": __version__, "eps": EPS, "counted": counted, "script_source": script_source}
    return environment.get_template(name).render(**shared, **values)


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .. import registry
from ..store.metrics import METRICS
from ..store.results import ResultMatrix
from ..util.epsilons import format_epsilon, format_model
from ..util.errors import InvalidValue
from . import kind_tables, tables, templates, zoo
from .finding import finding
from .model import families, settings
from .plot_style import INK, mark_colours, seen_on

TOLERANCE = 2.0
GROUNDS = ("#fdfdfb", "#14171a")
"""Of light and dark pages, as head.html has them."""


@dataclass(frozen=True)
class PageFigure:
    place: str
    """What it belongs to: name and protocol of a matrix, as ``name-protocol``, or a section, #targets or #training."""
    caption: str
    svg: str
    """Empty if it could not be drawn; the caption then says why."""


def render(names: Sequence[str], matrices: Sequence[ResultMatrix], figures: Sequence[PageFigure], created: str) -> str:
    """The page, as HTML: what was run and how, tables, figures, the published numbers, what is missing, provenance.

    ``names``: what was asked for, scenarios and suites, none for all; ``created``: the time that the page shows.
    """
    try:
        compared, refused = zoo.beside_published(matrices, TOLERANCE)
    except InvalidValue:
        compared, refused = [], []
    places = {place: [one for one in figures if one.place == place] for place in {one.place for one in figures}}
    return templates.fill(
        "page.html",
        title=", ".join(names) or "All scenarios",
        created=created,
        figure=_figure,
        finding=finding(matrices),
        audit_place=tables.audit_place,
        sections=_sections(names, matrices),
        over_seeds=tables.over_seeds,
        together=tables.together,
        families=families,
        of_kinds=kind_tables.of_kinds,
        metrics=list(METRICS),
        figures=places,
        matrices=matrices,
        recipes=_recipes(matrices),
        comparison={"tables": compared, "refused": refused},
        missing=_missing(names, matrices) + [one.caption for one in figures if not one.svg],
        models=len({record.spec.finetune for matrix in matrices for record in matrix.records}),
        environments=_environments(matrices),
        model=lambda place: format_model(*place[:2]),
        epsilon=format_epsilon,
    )


def _figure(figure: PageFigure, number: int) -> Markup:
    """The figure with its caption; its SVG in the page's ink, its ids made its own, since all SVGs have the same."""
    head, body = figure.svg[figure.svg.index("<svg") :].split(">", 1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace(INK, "currentColor")
    body = re.sub(r' id="image\w+"', "", body)  # equal images have equal ids, and nothing refers to them
    body = re.sub(r'\bid="', f'id="f{number}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1f{number}-", body)
    body = re.sub(r"(fill|stroke): (#\w{6})\b", _of_scheme, body)
    size = dict(re.findall(r'(width|viewBox)="([^"]*)"', head))
    wide = float(size["width"].removesuffix("pt")) * 1.6  # text of 8 pt is small on a screen
    style = f"flex:1 1 {0.85 * wide:.0f}px;max-width:min(100%,{wide:.0f}px)"
    start = Markup('<figure style="{}"><svg role="img" aria-label="{}" viewBox="{}">').format(
        style, figure.caption, size["viewBox"]
    )
    end = Markup("<figcaption><b>Figure {}.</b> {}</figcaption></figure>").format(number, figure.caption)
    return start + Markup(body) + end


def _of_scheme(found: re.Match[str]) -> str:
    """A mark's colour as each ground wants it; a browser that knows no light-dark keeps the first."""
    name, colour = found.groups()
    if colour not in mark_colours():
        return found.group()
    light, dark = (seen_on(ground, colour) for ground in GROUNDS)
    return f"{name}: {light}; {name}: light-dark({light}, {dark})"


def _sections(names: Sequence[str], matrices: Sequence[ResultMatrix]) -> list[tuple[str, list[ResultMatrix]]]:
    """Matrices under the titles of the suites that name them; those that none names under a plain one."""
    asked = {one.name for name in names for one in _inside(name)}
    sections, rest = [], list(matrices)
    for suite in registry.suites():
        inside = [matrix for matrix in rest if matrix.name in suite.members and (suite.name in asked or not names)]
        rest = [matrix for matrix in rest if matrix not in inside]
        if inside:
            sections.append((suite.description or suite.name, inside))
    return sections + ([("Results", rest)] if rest else [])


def _inside(name: str) -> list[registry.Suite]:
    """A suite and all suites in it; nothing for a scenario."""
    found = [suite for suite in registry.suites() if suite.name == name]
    return found + [one for suite in found for member in suite.members for one in _inside(member)]


def _recipes(matrices: Sequence[ResultMatrix]) -> list[tuple[list[str], dict[str, Any]]]:
    """What was done, field by field, as the records say it: scenarios, encoders and seeds of one recipe together."""
    groups: dict[tuple[tuple[str, Any], ...], dict[str, list[str]]] = {}
    names: dict[tuple[tuple[str, Any], ...], dict[str, None]] = {}
    for matrix in matrices:
        if matrix.records:
            fields = settings(matrix)
            own = {name: fields.pop(name) for name in ("seed", "weights") if name in fields}
            place = tuple(fields.items())
            names.setdefault(place, {})[f"{matrix.name}{f' ({matrix.encoder})' * matrix.is_named}"] = None
            for name, item in own.items():
                groups.setdefault(place, {}).setdefault(name, []).append(str(item))
    return [
        (list(names[place]), {name: list(dict.fromkeys(items)) for name, items in own.items()} | dict(place))
        for place, own in groups.items()
    ]


def _missing(names: Sequence[str], matrices: Sequence[ResultMatrix]) -> list[str]:
    """What was asked for and is not there."""
    there = {matrix.name for matrix in matrices}
    asked = {one.name: None for name in names if name not in there for one in registry.members(name)}
    missing = [f"{name}: not run" for name in asked if name not in there]
    for matrix in matrices:
        seen = matrix.collapse_notes()
        notes = [note for note in matrix.notes() if note not in seen and not note.startswith("REDUCED")]
        missing += [f"{matrix.name}: {note}" for note in notes]
    return missing


def _environments(matrices: Sequence[ResultMatrix]) -> dict[str, Any]:
    """Where numbers come from: the distinct surroundings, numbered from 1, and for each record those of its stages."""
    known: list[dict[str, Any]] = []
    used: dict[str, str] = {}
    for record in (record for matrix in matrices for record in matrix.records):
        numbers = []
        for stage in record.provenance.values():
            here = {name: value for name, value in stage.items() if name not in ("data", "weights", "collapsed")}
            if here not in known:
                known.append(here)
            numbers.append(known.index(here) + 1)
        used[record.key] = ", ".join(map(str, dict.fromkeys(numbers)))
    return {"known": known, "used": used}

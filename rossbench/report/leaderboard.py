"""A page of encoders beside each other that is sorted and filtered in a browser, from records alone. No torch."""

from __future__ import annotations

import base64
import hashlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from ..store.results import ResultMatrix
from ..util.epsilons import format_epsilon
from ..util.errors import InvalidValue
from . import templates
from .model import Model, settings, tested_alike
from .tables import best_of, shared_notes


@dataclass(frozen=True)
class Board:
    """What was finetuned and tested alike, so that it may be sorted together: target by target."""

    number: int
    """From 1; no other board has it."""
    entries: tuple[Model, ...]

    @cached_property
    def columns(self) -> list[float]:
        return sorted({column for entry in self.entries for column in entry.scores})

    @property
    def attacked(self) -> list[float]:
        return [column for column in self.columns if column]

    @property
    def title(self) -> str:
        return f"{self.entries[0].matrix.evaluation.attack}; {self.entries[0].spec.recipe.trained} finetuning"

    @cached_property
    def settings(self) -> dict[str, Any]:
        stages = ("finetuning.", "evaluation.", "training images", "test images")
        told = settings(max((one.matrix for one in self.entries), key=lambda one: max(row[1] for row in one.rows)))
        return {name: item for name, item in told.items() if name.startswith(stages)}

    @property
    def notes(self) -> list[str]:
        """What a reader must know before the numbers; what is not so of all, with the names of those."""
        return shared_notes([(entry.name, entry.notes) for entry in self.entries])

    @cached_property
    def targets(self) -> dict[str, list[Model]]:
        """By name, the best first: by the mean over the epsilons above 0, then those that lack one of these."""

        def order(entry: Model) -> tuple[float, str]:
            mean = self.mean(entry)
            return (1.0 if mean is None else -mean), entry.name

        names = sorted({entry.matrix.target for entry in self.entries})
        return {name: sorted((e for e in self.entries if e.matrix.target == name), key=order) for name in names}

    def mean(self, entry: Model) -> float | None:
        """Robust accuracy over the epsilons above 0, in [0, 1]; None where one is missing."""
        if not self.attacked or any(column not in entry.scores for column in self.attacked):
            return None
        return statistics.fmean(entry.scores[column].mean for column in self.attacked)

    @cached_property
    def _best(self) -> dict[tuple[str, float], set[int]]:
        """By target and epsilon the places of the best."""
        places = [(target, column) for target in self.targets for column in self.columns]
        return {place: best_of(self.targets[place[0]], place[1], "robust") for place in places}

    def is_best(self, entry: Model, column: float) -> bool:
        """Whether no other that can be trusted is better by more than noise, and not all are so."""
        target = entry.matrix.target
        return self.targets[target].index(entry) in self._best[target, column]


def boards(matrices: Sequence[ResultMatrix]) -> list[Board]:
    """One a protocol, those with most entries first. InvalidValue where nothing was evaluated."""
    models = [(one, row) for one in matrices for row in one.audit_specs()]
    groups = sorted(tested_alike(models), key=lambda some: -len(some))
    if not groups:
        raise InvalidValue("leaderboard: expected evaluated models, got none")
    return [Board(number, tuple(some)) for number, some in enumerate(groups, 1)]


def render(matrices: Sequence[ResultMatrix], created: str) -> str:
    """The page, as HTML that needs nothing else; ``created``: the time that it shows."""
    script = templates.read("leaderboard.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = boards(matrices)
    return templates.fill(
        "leaderboard.html",
        script_source=f"script-src 'sha256-{digest}'; ",
        title="Leaderboard",
        created=created,
        script=Markup(script),
        boards=found,
        differences=list(_differences(found)),
        encoders=len({entry.matrix.encoder for board in found for entry in board.entries}),
        targets=sorted({entry.matrix.target for board in found for entry in board.entries}),
        numbers=sum(
            len(score.records) for board in found for entry in board.entries for score in entry.scores.values()
        ),
        epsilon=format_epsilon,
        settings=settings,
    )


def _differences(found: Sequence[Board]) -> Iterator[str]:
    """Of each board, the settings in which it differs from another of the same title."""
    for board in found:
        others = [one.settings for one in found if one.title == board.title]
        names = [name for name in board.settings if all(name in one for one in others)]  # else it means nothing there
        names = [name for name in names if len({str(one[name]) for one in others}) > 1]
        yield ", ".join(f"{name} {board.settings[name]}" for name in names)

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
from .entries import Entry, entries, settings
from .tables import best_beyond_noise


@dataclass(frozen=True)
class Board:
    """What was finetuned and tested alike, so that it may be sorted together: target by target."""

    number: int
    """From 1; no other board has it."""
    entries: tuple[Entry, ...]

    @cached_property
    def columns(self) -> list[float]:
        """Evaluation epsilons."""
        return sorted({column for entry in self.entries for column in entry.scores})

    @property
    def attacked(self) -> list[float]:
        return [column for column in self.columns if column]

    @property
    def title(self) -> str:
        return f"{self.entries[0].first.evaluation.attack}; {self.entries[0].spec.recipe.trained} finetuning"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Of finetuning and evaluation, field by field."""
        stages = ("finetuning.", "evaluation.", "training images", "test images")
        told = settings(max((one.first for one in self.entries), key=lambda one: max(row[1] for row in one.rows)))
        return {name: item for name, item in told.items() if name.startswith(stages)}

    @property
    def notes(self) -> list[str]:
        """What a reader must know before the numbers; what is not so of all, with the names of those."""
        of: dict[str, list[str]] = {}
        for entry in self.entries:
            for note in entry.notes:
                of.setdefault(note, []).append(entry.name)
        whole = len(self.entries)
        return [note if len(who) == whole else f"{', '.join(dict.fromkeys(who))}: {note}" for note, who in of.items()]

    @cached_property
    def targets(self) -> dict[str, list[Entry]]:
        """By name, the best first: by the mean over the epsilons above 0, then those that lack one of these."""
        names = sorted({entry.first.target for entry in self.entries})
        return {
            name: sorted((one for one in self.entries if one.first.target == name), key=self._order) for name in names
        }

    def _order(self, entry: Entry) -> tuple[float, str]:
        mean = self.mean(entry)
        return (1.0 if mean is None else -mean), entry.name

    def mean(self, entry: Entry) -> float | None:
        """Robust accuracy over the epsilons above 0, in [0, 1]; None where one is missing."""
        if not self.attacked or any(column not in entry.scores for column in self.attacked):
            return None
        return statistics.fmean(entry.scores[column].mean for column in self.attacked)

    def is_best(self, entry: Entry, column: float) -> bool:
        """Whether no other that can be trusted is better by more than noise, and not all are so."""
        rivals = [one for one in self.targets[entry.first.target] if column in one.scores and one.is_trusted]
        best = best_beyond_noise({k: (one.scores[column].low, one.scores[column].high) for k, one in enumerate(rivals)})
        return any(rivals[k] == entry for k in best)


def boards(matrices: Sequence[ResultMatrix]) -> list[Board]:
    """One a protocol, those with most entries first. InvalidValue where nothing was evaluated."""
    models = [(one, row) for one in matrices for row in one.audit_specs()]
    groups = sorted(entries(models).values(), key=lambda some: -len(some))
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
        encoders=len({entry.first.encoder for board in found for entry in board.entries}),
        targets=sorted({entry.first.target for board in found for entry in board.entries}),
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

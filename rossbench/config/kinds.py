"""The table of evaluation kinds beside the attack on a classifier: settings, columns, needs, and where each one's
function is. Loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..attacks.table import Norm
from ..util.epsilons import EPS
from ..util.errors import check_known, one_line
from ..util.values import Count, Positive, parse_settings, value

ATTACK = "attack"
"""The name of the kind that every scenario's matrix is of: a classifier under attack, see EvaluateSpec."""
SEVERITIES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
"""Of corruptions (Hendrycks & Dietterich, 2019); 0 is the natural image."""
KindFunction = Callable[..., Any]
"""function(subject) -> title of a row -> a number for each column; see registry.register_kind."""


@value
class Kind:
    """An evaluation of a model that is not the attack of its scenario. docs/kinds.md describes each."""

    name: str
    """A key of KINDS."""
    norm: Norm = "L2"
    """Of the perturbations; of all but corruptions."""
    steps: Count = 20
    """Of the search for a perturbation: of features, universal, minimal, and, under attack, knn."""
    neighbours: Count = 200
    """Of knn; at most as many as there are training images."""
    temperature: Positive = 0.07
    """Of knn: a neighbour's vote is exp(cosine / temperature)."""

    @property
    def row(self) -> KindRow:
        """Its row of the table; for a name that is not in it, the row that ``register_kind`` would add."""
        return KINDS[self.name] if self.name in KINDS else user_row(self.name, None)

    def __str__(self) -> str:
        return one_line(self.row.title + self.row.detail.format(**asdict(self)))


@dataclass(frozen=True)
class KindRow:
    """A row of the table."""

    defaults: Kind
    """The settings that the name alone stands for."""
    title: str
    """In tables."""
    function: str
    """"module:function" in stages/kinds, loaded when it is called: it is given a ``Subject``."""
    detail: str = ""
    """The settings, for titles: a format of the fields of Kind."""
    needs_head: bool = False
    """Whether it is about a finetuned classifier; else about an encoder, and nothing is finetuned for it."""
    needs_train: bool = False
    """Whether the training images of the target are part of the result."""
    columns: tuple[float, ...] | None = None
    """None: the scenario's evaluation epsilons."""
    over: str = f"evaluation {EPS}"
    """What the columns are."""
    passes: Callable[[Kind, int], int] = lambda kind, columns: 2 * kind.steps * columns
    """Passes of an image through the model, with its settings and the number of columns; see specs.passes."""
    user_function: KindFunction | None = None
    """Of a kind that a user registered."""

    def load(self) -> KindFunction:
        if self.user_function is not None:
            return self.user_function
        module, name = self.function.split(":")
        loaded: KindFunction = getattr(importlib.import_module(f"rossbench.stages.kinds.{module}"), name)
        return loaded


_ROWS = (
    KindRow(
        Kind("features"),
        "Displacement of features",
        "features:features",
        ", {norm}, PGD, {steps} steps",
        passes=lambda kind, columns: 4 * kind.steps * columns,
    ),
    KindRow(
        Kind("knn"),
        "k nearest neighbours",
        "knn:knn",
        ", k = {neighbours}, {norm}, PGD, {steps} steps",
        needs_train=True,
    ),
    KindRow(
        Kind("corruptions"),
        "Accuracy under corruptions",
        "corruptions:corruptions",
        needs_head=True,
        columns=SEVERITIES,
        over="severity",
        passes=lambda kind, columns: 12 * columns,
    ),
    KindRow(
        Kind("minimal", steps=50),
        "Smallest perturbations",
        "minimal:minimal",
        ", {norm}, {steps} steps",
        needs_head=True,
        passes=lambda kind, columns: 4 * kind.steps,
    ),
    KindRow(
        Kind("universal", steps=100),
        "Universal perturbation of the source",
        "universal:universal",
        ", {norm}, {steps} steps",
        needs_head=True,
    ),
)
KINDS: dict[str, KindRow] = {row.defaults.name: row for row in _ROWS}
"""By name. ``registry.register_kind`` adds to them."""


def user_row(name: str, function: KindFunction | None, **more: Any) -> KindRow:
    """The row of a user's own kind."""
    return KindRow(Kind(name), name, "", ", {norm}", user_function=function, **more)


def kind_of(text: str, norm: Norm) -> Kind:
    """The kind that ``knn`` or ``knn,neighbours=20,temperature=0.1`` says, with this norm unless it says another.

    Raises InvalidValue or UnknownName.
    """
    name, *settings = text.split(",")
    check_known("evaluation kind", name, [ATTACK, *KINDS])
    row = KINDS[name]
    own: dict[str, Any] = {"norm": norm} if "{norm}" in row.detail else {}
    return replace(row.defaults, **own | parse_settings(Kind, "setting of an evaluation kind", settings))

"""Several threats in one table: each model under each alone, and under all of them, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..config.specs import FinetuneSpec
from ..store import artifacts
from ..store.results import ResultMatrix
from ..store.store import Store
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.errors import InvalidValue
from .tables import Table

NATURAL = "natural"


def table(store: Store, matrices: Sequence[ResultMatrix]) -> Table:
    """Accuracy, in percent, of each classifier of one target without an attack, under each threat, and under the worst
    of all for each image: the union of threats (Tramèr & Boneh, 2019).

    A threat is an attack with its norm, or an evaluation kind that tells which images a classifier gets right, each at
    the middle of its columns above 0. InvalidValue for several targets, or no model with two threats.
    """
    targets = sorted({matrix.target for matrix in matrices})
    if len(targets) != 1:
        raise InvalidValue(f"threats: expected results on one target, got {', '.join(targets)}; name scenarios")
    found: dict[str, dict[str, Tensor]] = {}
    models: dict[str, str] = {}
    for matrix in matrices:
        for spec, row, threat, right in _threats(store, matrix):
            found.setdefault(spec.key, {})[threat] = right
            of = f"{matrix.source}, " if len({one.source for one in matrices}) > 1 else ""
            seed = f", seed {matrix.seed}" if len({one.seed for one in matrices}) > 1 else ""
            called = matrix.model(row) if matrix.is_named else f"{EPS}={format_model(*row)}"
            models[spec.key] = f"{of}{called}{seed}"
    threats = list(dict.fromkeys(threat for rights in found.values() for threat in rights if threat != NATURAL))
    if len(threats) < 2:
        raise InvalidValue(
            f"threats: expected at least two of a classifier, got {', '.join(threats) or 'none'}; "
            "run more attacks (--attack) or evaluation kinds (--kind corruptions)"
        )
    lines = []
    for key, rights in found.items():
        cells = [_percent(rights[one]) if one in rights else "" for one in (NATURAL, *threats)]
        whole = [rights[one] for one in (NATURAL, *threats) if one in rights]
        union = whole[0]
        for right in whole[1:]:
            union = union & right
        lines.append(([models[key]], [*cells, _percent(union) if len(whole) == len(threats) + 1 else ""]))
    return Table(
        title=f"Accuracy under several threats (%), {targets[0]}",
        labels=["model"],
        columns=[NATURAL, *threats, "all of them"],
        lines=lines,
        caption="all of them: right without an attack and under each; empty where a model lacks a threat",
        over="",
    )


def _threats(store: Store, matrix: ResultMatrix) -> Iterator[tuple[FinetuneSpec, tuple[float, float], str, Tensor]]:
    """A classifier, its row, what it was tried by, and which images were right: bool [n]."""
    for row in matrix.rows:
        columns = [column for column in matrix.columns if matrix.cells.get((*row, column))]
        for column in [0.0] * (0.0 in columns) + _middle(columns):
            record = matrix.cells[*row, column]
            assert record is not None
            ranked, labels = artifacts.load_predictions(store, record.spec)
            attack = record.spec.recipe.attack
            name = f"{attack.kind.title} {attack.norm}, {EPS}={format_epsilon(column)}" if column else NATURAL
            yield record.spec.finetune, row, name, ranked[:, 0] == labels
    for (kind, row), one in matrix.measures.items():
        head, arrays = one.spec.head, artifacts.load_measured(store, one.spec)
        for column in _middle(one.spec.columns) if head and "right" in arrays else []:
            norm = f" {kind.norm}" if "{norm}" in kind.row.detail else ""
            at = f"{EPS}={format_epsilon(column)}" if EPS in kind.row.over else f"{kind.row.over} {column:g}"
            assert head is not None
            yield head, row, f"{kind.name}{norm}, {at}", arrays["right"][one.spec.columns.index(column)]


def _middle(columns: Sequence[float]) -> list[float]:
    above = [column for column in columns if column]
    return above[(len(above) - 1) // 2 :][:1]


def _percent(right: Tensor) -> str:
    return f"{100 * float(right.float().mean()):.2f}"

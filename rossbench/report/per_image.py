"""Classifiers image by image: two on the same test images, and each under several threats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from ..config.scenarios import Row
from ..store import artifacts
from ..store.results import ResultMatrix
from ..store.store import Store
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue
from ..util.statistics import mcnemar
from .figure_data import Model, middle, shared
from .tables import Table

LEVEL = 0.05
NATURAL, UNION = "natural", "all of them"


def compare_models(store: Store, first: Model, second: Model) -> Table:
    """At each evaluation epsilon in common, accuracies, and McNemar's exact test on images that one alone gets right.

    InvalidValue if the two were evaluated on different images, or have no epsilon in common.
    """
    both = (first, second)
    columns, told, count = shared(both), [], 0
    names = [f"{one.matrix.name}@{one.called('')}" for one in both]
    ways = [f"{recipe.attack} of {recipe.attacked} images" for recipe in (one.matrix.evaluation for one in both)]
    if ways[0] != ways[1]:
        raise InvalidValue(f"compare: expected models under one attack, got {' and '.join(ways)}")
    for epsilon in columns:
        (ours, labels), (theirs, others) = (artifacts.load_predictions(store, one.under(epsilon)) for one in both)
        if first.spec.target != second.spec.target or not torch.equal(labels, others):
            raise InvalidValue(f"compare: expected models evaluated on the same test images, got {' and '.join(names)}")
        right, other, count = ours[:, 0] == labels, theirs[:, 0] == labels, len(labels)
        told.append(_beside(int(right.sum()), int(other.sum()), int((right & ~other).sum()), count))
    return Table(
        title=f"A: {names[0]}, B: {names[1]}",
        labels=[""],
        columns=list(map(format_epsilon, columns)),
        lines=[([name], [one[name] for one in told]) for name in told[0]],
        notes=[
            f"encoder of {name} COLLAPSED: its loss is that of constant features"
            for name, model in zip(names, both, strict=True)
            if model.collapsed
        ],
        caption=f"{count} test images; p: McNemar's exact test, two-sided, of the images that one alone gets right; "
        f"noise: p is at least {LEVEL:g}; each epsilon by itself, not corrected for their number",
    )


def _beside(right: int, other: int, only: int, count: int) -> dict[str, str]:
    """Of two classifiers: how many are right, and how many by the first alone."""
    only_other = only - (right - other)
    p = mcnemar(only, only_other)
    return {
        "A (%)": f"{100 * right / count:.2f}",
        "B (%)": f"{100 * other / count:.2f}",
        "A - B": f"{100 * (right - other) / count:+.2f}",
        "right by A alone": str(only),
        "right by B alone": str(only_other),
        "p": f"{p:.2g}",
        "verdict": "noise" if p >= LEVEL else "A better" if right > other else "B better",
    }


def threats(store: Store, matrices: Sequence[ResultMatrix]) -> Table:
    """Accuracy, in percent, of each classifier of one target without an attack, under each threat, and under the worst
    of all for each image: the union of threats (Tramèr & Boneh, 2019).

    A threat is an attack with its norm, or an evaluation kind that tells which images a classifier gets right, each at
    the middle of its columns above 0. InvalidValue for several targets, or no model with two threats.
    """
    targets, sources, seeds = ({getattr(one, of) for one in matrices} for of in ("target", "source", "seed"))
    if len(targets) != 1:
        raise InvalidValue(f"threats: expected results on one target, got {', '.join(sorted(targets))}; name scenarios")
    found: dict[str, dict[str, Tensor]] = {}
    labels: dict[str, str] = {}
    for matrix in matrices:
        for row, threat, right in _right(store, matrix):
            model = Model(matrix, row)
            found.setdefault(model.spec.key, {})[threat] = right
            of, seed = f"{matrix.source}, " * (len(sources) > 1), f", seed {matrix.seed}" * (len(seeds) > 1)
            labels[model.spec.key] = of + model.called() + seed
    known = list(dict.fromkeys(threat for rights in found.values() for threat in rights if threat != NATURAL))
    if len(known) < 2:
        raise InvalidValue(
            f"threats: expected at least two of a classifier, got {', '.join(known) or 'none'}; "
            "run more attacks (--attack) or evaluation kinds (--kind corruptions)"
        )
    columns, lines = [NATURAL, *known, UNION], []
    for key, rights in found.items():
        if rights.keys() >= {NATURAL, *known}:
            rights[UNION] = reduce(torch.logical_and, rights.values())
        shares = {threat: f"{100 * float(right.float().mean()):.2f}" for threat, right in rights.items()}
        lines.append(([labels[key]], [shares.get(column, "") for column in columns]))
    return Table(
        title=f"Accuracy under several threats (%), {matrices[0].target}",
        labels=["model"],
        columns=columns,
        lines=lines,
        caption=f"{UNION}: right without an attack and under each; empty where a model lacks a threat",
        over="",
    )


def _right(store: Store, matrix: ResultMatrix) -> Iterator[tuple[Row, str, Tensor]]:
    """A classifier's row, what it was tried by, and which images were right: bool [n]."""
    for row in matrix.rows:
        specs = {column: cell.spec for column in matrix.columns if (cell := matrix.cells.get((*row, column)))}
        for column in [0.0] * (0.0 in specs) + middle(specs):
            spec = specs[column]
            ranked, labels = artifacts.load_predictions(store, spec)
            attack = spec.recipe.attack
            name = f"{attack.kind.title} {attack.norm}, {EPS}={format_epsilon(column)}" if column else NATURAL
            yield row, name, ranked[:, 0] == labels
    for (kind, row), one in matrix.measures.items():
        arrays = artifacts.load_measured(store, one.spec)
        for column in middle(one.spec.columns) if one.spec.head and "right" in arrays else []:
            norm = f" {kind.norm}" if "{norm}" in kind.row.detail else ""
            at = f"{EPS}={format_epsilon(column)}" if EPS in kind.row.over else f"{kind.row.over} {column:g}"
            yield row, f"{kind.name}{norm}, {at}", arrays["right"][one.spec.columns.index(column)]

"""Two classifiers on the same test images: is the difference more than noise?"""

from __future__ import annotations

import torch

from ..store import artifacts
from ..store.store import Store
from ..util.epsilons import format_epsilon
from ..util.errors import InvalidValue
from ..util.statistics import mcnemar
from .figure_data import Model, shared
from .tables import Table

LEVEL = 0.05


def compare_models(store: Store, first: Model, second: Model) -> Table:
    """At each evaluation epsilon in common, accuracies, and McNemar's exact test on images that one alone gets right.

    InvalidValue if the two were evaluated on different images, or have no epsilon in common.
    """
    names = [one.matrix.name + "@" + one.name for one in (first, second)]
    columns, told, count = shared([first, second]), [], 0
    recipes = [one.matrix.evaluation for one in (first, second)]
    ways = [f"{recipe.attack} of {recipe.attacked} images" for recipe in recipes]
    if ways[0] != ways[1]:
        raise InvalidValue(f"compare: expected models under one attack, got {' and '.join(ways)}")
    for epsilon in columns:
        (ours, labels), (theirs, others) = (
            artifacts.load_predictions(store, one.under(epsilon)) for one in (first, second)
        )
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
            for name, model in zip(names, (first, second), strict=True)
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

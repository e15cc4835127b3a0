"""What a page begins with: the first table's result in a sentence or two, made from its numbers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config.scenarios import Row
from ..store.metrics import METRICS
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from . import tables

Scores = dict[str, tuple[float, float, float]]
"""Of models by name: mean and 95 % interval, in [0, 1]."""


@dataclass(frozen=True)
class Finding:
    """Of the first matrices that belong in one table."""

    group: list[ResultMatrix]
    table: tables.Table
    sentences: list[str]
    terms: str
    """What RoSS, epsilon and the numbers are."""


def finding(matrices: Sequence[ResultMatrix]) -> Finding | None:
    """None where nothing was evaluated."""
    group = next((group for group in tables.together(matrices) if any(one.records for one in group)), None)
    if group is None:
        return None
    return Finding(group, tables.over_seeds(group, group[0].metric), list(_sentences(group)), _terms(group[0]))


def _sentences(group: list[ResultMatrix]) -> list[str]:
    models = [
        (family, row)
        for family in tables.families(group)
        for row in sorted({row for one in family for row in one.rows})
    ]
    columns = sorted({one.spec.epsilon for matrix in group for one in matrix.records})
    doubts = [f"{family[0].model(row)} ({why})" for family, row in models if (why := tables.distrust(family, row))]
    strongest = _scores(models, columns[-1], group[0].metric)
    said = []
    if strongest:
        said.append(_difference(columns[-1], strongest))
        clean = _scores(models, 0, group[0].metric) if columns[-1] else {}
        ends = [name for name in _ends(strongest) if name in clean]
        if ends:
            said.append(f"Without an attack: {' and '.join(f'{name} {_percent(clean[name])}' for name in ends)}.")
    if doubts:
        said.append(f"Not to be trusted, and not counted here: {', '.join(doubts)}.")
    return said


def _scores(models: Sequence[tuple[list[ResultMatrix], Row]], column: float, metric: str) -> Scores:
    found = {family[0].model(row): tables.trusted_score(family, row, column, metric) for family, row in models}
    return {name: score for name, score in found.items() if score}


def _ends(scores: Scores) -> list[str]:
    """The best and the worst; one where there is one."""
    order = sorted(scores, key=lambda name: -scores[name][0])
    return list(dict.fromkeys((order[0], order[-1])))


def _difference(column: float, scores: Scores) -> str:
    ends = _ends(scores)
    start = f"At attack {EPS} = {format_epsilon(column)}" if column else "Without an attack"
    told = f"{start}, {ends[0]} keeps {_percent(scores[ends[0]])} of the test images right"
    if len(ends) == 1:
        return told + "."
    told += f", {ends[1]} {_percent(scores[ends[1]])}"
    best = tables.best_beyond_noise({name: score[1:] for name, score in scores.items()})
    if not best:
        return told + ": no difference beyond noise."
    tied = [name for name in scores if name in best and name != ends[0]]
    return told + (
        f"; {', '.join(tied)} {'is' if len(tied) == 1 else 'are'} within noise of the best." if tied else "."
    )


def _percent(score: tuple[float, float, float]) -> str:
    return f"{100 * score[0]:.1f} %"


def _terms(matrix: ResultMatrix) -> str:
    attack = matrix.evaluation.attack
    measured = f"the {attack.norm} distance" if attack.kind.is_distance else "how strongly"
    whole = matrix.records[0].spec.finetune.recipe.trained == "full"
    encoder = f"an encoder pretrained on {matrix.source}{'' if whole else ' and frozen'}"
    return (
        f"{matrix.task} is {encoder}, with a linear classifier, finetuned on {matrix.target}. "
        f"Attack {EPS} is {measured} by which each test image, its pixels in [0, 1], may be changed; "
        f"model {EPS} the same in training. "
        f"Numbers are {METRICS[matrix.metric].title.lower()} in percent of the test images."
    )

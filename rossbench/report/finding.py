"""What a page begins with: the first table's result in a sentence or two, made from its numbers. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..store.metrics import METRICS
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from . import tables
from .model import Model, Score, models_of


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


def _sentences(group: list[ResultMatrix]) -> Iterator[str]:
    models, metric = models_of(group), group[0].metric
    column = max(one.spec.epsilon for matrix in group for one in matrix.records)
    scores = _scores(models, column, metric)
    if scores:
        order = sorted(scores, key=lambda name: -scores[name].mean)
        ends = list(dict.fromkeys((order[0], order[-1])))
        yield _difference(column, scores, ends)
        clean = _scores(models, 0, metric) if column else {}
        if told := [f"{name} {_percent(clean[name])}" for name in ends if name in clean]:
            yield f"Without an attack: {' and '.join(told)}."
    if doubts := [f"{model.name} ({model.doubt})" for model in models if model.doubt]:
        yield f"Not to be trusted, and not counted here: {', '.join(doubts)}."


def _scores(models: Sequence[Model], column: float, metric: str) -> dict[str, Score]:
    return {models[i].name: score for i, score in tables.trusted(models, column, metric).items()}


def _difference(column: float, scores: dict[str, Score], ends: Sequence[str]) -> str:
    """How far the best and the worst are apart, and which are as good as the best."""
    start = f"At attack {EPS} = {format_epsilon(column)}" if column else "Without an attack"
    told = f"{start}, {ends[0]} keeps {_percent(scores[ends[0]])} of the test images right"
    if len(ends) == 1:
        return f"{told}."
    told += f", {ends[1]} {_percent(scores[ends[1]])}"
    best = tables.best_beyond_noise({name: (score.low, score.high) for name, score in scores.items()})
    if not best:
        return f"{told}: no difference beyond noise."
    tied = [name for name in scores if name in best and name != ends[0]]
    if tied:
        told += f"; {', '.join(tied)} {'is' if len(tied) == 1 else 'are'} within noise of the best"
    return f"{told}."


def _percent(score: Score) -> str:
    return f"{100 * score.mean:.1f} %"


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

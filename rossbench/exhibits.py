"""Which figures a report of some matrices shows, with their captions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from . import datasets
from .epsilons import EPS, format_epsilon
from .errors import RossbenchError
from .gallery import Gallery, Model, choose, ends
from .report.figures import to_bytes
from .report.page import Exhibit
from .report.tables import Matrix

log = logging.getLogger(__name__)
MAPPED = 2000
"""Images that a t-SNE map shows at most; it takes minutes for all of CIFAR."""
Wanted = tuple[str, str, Callable[[], Figure]]
"""The matrix or group that a figure belongs to, its caption, and what draws it."""


def exhibits(gallery: Gallery, matrices: Sequence[Matrix], tell: Callable[[str], None] = log.info) -> list[Exhibit]:
    """Draw all figures that these matrices have models and predictions for.

    One that cannot be drawn says why in its place. ``tell`` is called with the caption of each before it is drawn.
    """
    drawn = []
    for place, caption, draw in _wanted(gallery, matrices):
        tell(caption)
        try:
            drawn.append(Exhibit(place, caption, to_bytes(draw(), "svg").decode()))
        except RossbenchError as error:
            drawn.append(Exhibit(place, f"{caption} Not drawn: {error}", ""))
    return drawn


def _wanted(gallery: Gallery, matrices: Sequence[Matrix]) -> Iterator[Wanted]:
    there = [matrix for matrix in matrices if matrix.records]
    for matrix in there:
        text = "Accuracy under attack against the attack's strength."
        yield matrix.name, text, partial(gallery.robustness, choose([matrix]))
        yield from _of_heads(gallery, matrix, there) if matrix.pairs else _of_matrix(gallery, matrix)
    for target in dict.fromkeys(matrix.target for matrix in there):
        group = [matrix for matrix in there if matrix.target == target]
        yield from _of_target(gallery, target, [matrix for matrix in group if not matrix.pairs] or group)
    for source in dict.fromkeys(matrix.source for matrix in there):
        models = choose([matrix for matrix in there if matrix.source == source])
        text = f"Pretraining on {source}: loss, and accuracy on the contrastive task, an indicator only, by epoch."
        yield "training", text, partial(gallery.training, models)


def _of_matrix(gallery: Gallery, matrix: Matrix) -> Iterator[Wanted]:
    models = ends([matrix])
    limit = _limit(models[0])
    yield matrix.name, "The matrix as colours.", partial(gallery.matrix, models)
    text = "Confusion without and under the strongest attack; the colours of each matrix have a scale of their own."
    yield matrix.name, text, partial(gallery.confusion, models)
    text = f"Features of the encoder in the plane, by class: t-SNE, perplexity 35, 1500 iterations{_part(limit)}."
    yield matrix.name, text, partial(gallery.tsne, models, limit=limit)


def _of_heads(gallery: Gallery, matrix: Matrix, matrices: Sequence[Matrix]) -> Iterator[Wanted]:
    """The standard model beside the two heads, as in the study's figure 5.8."""
    same = [one for one in matrices if (one.source, one.target) == (matrix.source, matrix.target)]
    heads = [Model(matrix, row) for row in reversed(matrix.pairs[-1])]
    models = [*(model for model in choose(same) if model.row == (0, 0)), *heads]
    limit = _limit(models[0])
    text = f"Outputs of the linear layer in one map, by model: t-SNE, perplexity 50, 2500 iterations{_part(limit)}."
    yield matrix.name, text, partial(gallery.tsne_together, models, limit=limit)


def _of_target(gallery: Gallery, target: str, matrices: Sequence[Matrix]) -> Iterator[Wanted]:
    models = ends(matrices)
    if len(matrices) > 1:
        strongest = min(max(model.cells) for model in models)
        text = f"Confusion on {target} under attack ({EPS} = {format_epsilon(strongest)}), a line for each source."
        yield "targets", text, partial(gallery.confusion, models, (strongest,))
        models = [model for matrix in matrices for model in ends([matrix])[-1:]]
    text = f"Correct predictions of each class of {target}, attacked ever more strongly."
    yield "targets", text, partial(gallery.per_class, models)
    first = matrices[:1]
    text = (
        f"Images of {target} that PGD of {EPS} = 5 turns: what the most robust model of {first[0].task} says before "
        "and after, and the difference, scaled to fill the range."
    )
    yield "targets", text, partial(gallery.examples, ends(first))
    text = f"Finetuning, {first[0].task}: loss and accuracy on the training images, as attacked, by epoch."
    yield "training", text, partial(gallery.training, choose(first), "finetune")


def _limit(model: Model) -> int | None:
    """A cap for maps; None where there are no more images than that."""
    evaluated = next(iter(model.cells.values())).limit
    images = datasets.count(model.spec.target, "test", evaluated)
    return MAPPED if images > MAPPED else None


def _part(limit: int | None) -> str:
    return f"; {limit:,} of the test images" if limit else ""

"""Which figures a report of some matrices shows, with their captions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import RossbenchError
from . import figures
from .figure_data import FigureData, Model, choose, ends, shared
from .page import PageFigure
from .plot_style import to_bytes

log = logging.getLogger(__name__)
MAPPED = 2000
"""Images that a t-SNE map shows at most; it takes minutes for all of CIFAR."""
_CURVES = "Accuracy under attack against the attack's strength; bars: Wilson's 95 % intervals."
Wanted = tuple[str, Callable[[], Figure]]
"""A caption, and what draws the figure."""


def page_figures(
    data: FigureData, matrices: Sequence[ResultMatrix], tell: Callable[[str], None] = log.info
) -> list[PageFigure]:
    """Draw all figures that these matrices have models and predictions for.

    One that cannot be drawn says why in its place. ``tell`` is called with the caption of each before it is drawn.
    """
    drawn = []
    for place, group in _groups(data, matrices):
        try:
            for caption, draw in group:
                tell(caption)
                try:
                    drawn.append(PageFigure(place, caption, to_bytes(draw(), "svg").decode()))
                except RossbenchError as error:
                    drawn.append(PageFigure(place, f"{caption} Not drawn: {error}", ""))
        except RossbenchError as error:
            drawn.append(PageFigure(place, f"More figures were not drawn: {error}", ""))
    return drawn


def _groups(data: FigureData, matrices: Sequence[ResultMatrix]) -> Iterator[tuple[str, Iterator[Wanted]]]:
    """The figures of each matrix, and then of those of one seed and protocol that share a target or a source."""
    for matrix in matrices:
        yield f"{matrix.name}-{matrix.protocol}", _of_kinds(data, matrix)
    matrices = [matrix for matrix in matrices if matrix.records]
    for matrix in matrices:
        alike = [one for one in matrices if _how(one) == _how(matrix)]
        of = _of_heads(data, matrix, alike) if matrix.pairs else _of_matrix(data, matrix)
        yield f"{matrix.name}-{matrix.protocol}", of
    for how in dict.fromkeys(map(_how, matrices)):
        alike = [matrix for matrix in matrices if _how(matrix) == how]
        for target in dict.fromkeys(matrix.target for matrix in alike):
            group = [matrix for matrix in alike if matrix.target == target]
            group = [matrix for matrix in group if not matrix.pairs] or group
            yield "#targets", _of_target(data, target, group)
            yield "#training", _of_finetuning(data, group[:1])
        trained = [matrix for matrix in alike if not matrix.weights]
        for source in dict.fromkeys(matrix.source for matrix in trained):
            group = [matrix for matrix in trained if matrix.source == source]
            yield "#training", _of_pretraining(data, group)


def _how(matrix: ResultMatrix) -> str:
    return f"{matrix.seed} {matrix.deviations}"


def _of_pretraining(data: FigureData, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    source = matrices[0].source
    text = f"Pretraining on {source}: loss, and accuracy on the contrastive task, an indicator only, by epoch."
    yield text, partial(figures.training, data, choose(matrices))


def _of_finetuning(data: FigureData, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    text = f"Finetuning, {matrices[0].task}: loss and accuracy on the training images, as attacked, by epoch."
    yield text, partial(figures.training, data, choose(matrices), "finetune")


def _of_matrix(data: FigureData, matrix: ResultMatrix) -> Iterator[Wanted]:
    every, models = choose([matrix]), ends([matrix])
    limit = _limit(models[0])
    yield _CURVES, partial(figures.robustness, data, every)
    yield "The matrix as colours.", partial(figures.matrix, data, every)
    text = "Confusion without and under the strongest attack, in percent of the images of each true class."
    yield text, partial(figures.confusion, data, models)
    text = f"Features of the encoder in the plane, by class: t-SNE, perplexity 35, 1500 iterations{_part(limit)}."
    yield text, partial(figures.tsne, data, models, limit=limit)


def _of_kinds(data: FigureData, matrix: ResultMatrix) -> Iterator[Wanted]:
    kinds = {kind.name for kind, _ in matrix.measures}
    if "minimal" in kinds:
        text = "Robust accuracy at every strength, from each image's smallest perturbation; markers: the cells above."
        yield text, partial(figures.distances, data, choose([matrix]))
    if "corruptions" in kinds:
        yield "Accuracy under each corruption, by severity.", partial(figures.corruptions, data, choose([matrix]))
    if "features" in kinds and matrix.records:
        text = "Displacement of the encoders' features, found without labels, against accuracy under attack."
        yield text, partial(figures.displacement, data, choose([matrix]))


def _of_heads(data: FigureData, matrix: ResultMatrix, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    """The standard model beside the two heads, as in the study's figure 5.8."""
    yield _CURVES, partial(figures.robustness, data, choose([matrix]))
    same = [one for one in matrices if (one.source, one.target) == (matrix.source, matrix.target)]
    heads = [Model(matrix, row) for row in reversed(matrix.pairs[-1])]
    models = [*(model for model in choose(same) if model.row == (0, 0)), *heads]
    limit = _limit(models[0])
    text = f"Outputs of the linear layer in one map, by model: t-SNE, perplexity 50, 2500 iterations{_part(limit)}."
    yield text, partial(figures.tsne_together, data, models, limit=limit)


def _of_target(data: FigureData, target: str, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    models = ends(matrices)
    if len(matrices) > 1:
        strongest = shared(models)[-1]
        text = f"Confusion on {target} under attack ({EPS} = {format_epsilon(strongest)}), a line for each source."
        yield text, partial(figures.confusion, data, models, (strongest,))
        models = [model for matrix in matrices for model in ends([matrix])[-1:]]
    text = f"Correct predictions of each class of {target}, attacked ever more strongly."
    yield text, partial(figures.per_class, data, models)
    first = matrices[:1]
    text = (
        f"Images of {target} that a plainly seen attack turns: what the most robust model of {first[0].task} says "
        "before and after, and the difference, scaled to fill the range."
    )
    yield text, partial(figures.examples, data, ends(first))


def _limit(model: Model) -> int | None:
    """A cap for maps; None where there are no more images than that."""
    return MAPPED if model.first.n > MAPPED else None


def _part(limit: int | None) -> str:
    return f"; {limit:,} of the test images" if limit else ""

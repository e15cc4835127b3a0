"""Which figures a report of some matrices shows, with their captions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import RossbenchError
from . import figures
from .figure_data import FigureData, choose, ends, shared
from .finding import finding
from .model import Model, families, models_of
from .page import PageFigure
from .plot_style import to_bytes
from .tables import together

log = logging.getLogger(__name__)
MAPPED = 2000
"""Images that a t-SNE map shows at most; it takes minutes for all of CIFAR."""
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


def _groups(data: FigureData, matrices: Sequence[ResultMatrix]) -> Iterator[tuple[str, Iterable[Wanted]]]:
    """The finding's; those of each group that has a section; of what was run alike, by target and source.

    But for curves, which are of all seeds, figures are of the first seed.
    """
    groups, found = together(matrices), finding(matrices)
    if found:
        yield "#finding", [_curves(data, found.group)]
    firsts = _firsts([one for group in groups for one in group if one.records])
    for group in groups:
        place = f"{group[0].name}-{group[0].protocol}"
        yield place, _of_kinds(data, _firsts(group))
        evaluated = _firsts([one for one in group if one.records])
        if evaluated:
            if not (found and found.group == group):
                yield place, [_curves(data, group)]
            heads = evaluated[0].pairs
            yield place, _of_heads(data, evaluated[0], firsts) if heads else _of_matrices(data, evaluated)
    for how in dict.fromkeys(map(_how, firsts)):
        alike = [matrix for matrix in firsts if _how(matrix) == how]
        for target in dict.fromkeys(matrix.target for matrix in alike):
            group = [matrix for matrix in alike if matrix.target == target]
            group = [matrix for matrix in group if not matrix.pairs] or group
            yield "#targets", _of_target(data, target, group)
            text = f"Finetuning, {group[0].task}: loss and accuracy on the training images, as attacked, by epoch."
            yield "#training", [(text, partial(figures.training, data, choose(group[:1]), "finetune"))]
        trained = [matrix for matrix in alike if not matrix.weights]
        for source in dict.fromkeys(matrix.source for matrix in trained):
            text = f"Pretraining on {source}: loss, and accuracy on the contrastive task, an indicator only, by epoch."
            group = [matrix for matrix in trained if matrix.source == source]
            yield "#training", [(text, partial(figures.training, data, choose(group)))]


def _firsts(group: Sequence[ResultMatrix]) -> list[ResultMatrix]:
    """The first seed of each encoder."""
    return [family[0] for family in families(group)]


def _how(matrix: ResultMatrix) -> str:
    return str({name: item for name, item in matrix.deviations.items() if name not in ("encoder", "weights")})


def _curves(data: FigureData, group: Sequence[ResultMatrix]) -> Wanted:
    models = models_of([one for one in group if one.records], ResultMatrix.audit_specs)
    seeds = any(model.others for model in models)
    how = "means over seeds, in a band of one sample deviation." if seeds else "bars: Wilson's 95 % intervals."
    return f"Accuracy under attack against the attack's strength; {how}", partial(figures.robustness, data, models)


def _of_matrices(data: FigureData, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    """Of one seed of each encoder."""
    models, seed = ends(matrices), f" Seed {matrices[0].seed}."
    yield f"The matrix as colours.{seed}", partial(figures.matrix, data, choose(matrices))
    text = "Confusion without and under the strongest attack, in percent of the images of each true class."
    yield text + seed, partial(figures.confusion, data, models)
    limit, part = _limit(models[0])
    text = f"Features of the encoder in the plane, by class: t-SNE, perplexity 35, 1500 iterations{part}."
    yield text + seed, partial(figures.tsne, data, models, limit=limit)


def _of_kinds(data: FigureData, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    """Of those matrices that were measured by a kind; the first seed of each encoder."""

    def having(name: str) -> list[ResultMatrix]:
        return [matrix for matrix in matrices if any(kind.name == name for kind, _ in matrix.measures)]

    if some := having("minimal"):
        text = "Robust accuracy at every strength, from each image's smallest perturbation; markers: the cells above."
        yield text, partial(figures.distances, data, choose(some))
    if some := having("corruptions"):
        yield "Accuracy under each corruption, by severity.", partial(figures.corruptions, data, choose(some))
    if some := [matrix for matrix in having("features") if matrix.records]:
        text = "Displacement of the encoders' features, found without labels, against accuracy under attack."
        yield text, partial(figures.displacement, data, choose(some))


def _of_heads(data: FigureData, matrix: ResultMatrix, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    """The standard model beside the two heads, as in the study's figure 5.8."""
    alike = [one for one in matrices if _how(one) == _how(matrix)]
    same = [one for one in alike if (one.source, one.target) == (matrix.source, matrix.target)]
    heads = [Model(matrix, row) for row in reversed(matrix.pairs[-1])]
    models = [*(model for model in choose(same) if model.row == (0, 0)), *heads]
    limit, part = _limit(models[0])
    text = f"Outputs of the linear layer in one map, by model: t-SNE, perplexity 50, 2500 iterations{part}."
    yield text, partial(figures.tsne_together, data, models, limit=limit)


def _of_target(data: FigureData, target: str, matrices: Sequence[ResultMatrix]) -> Iterator[Wanted]:
    models = ends(matrices)
    if len(matrices) > 1:
        strongest = shared(models)[-1]
        text = f"Confusion on {target} under attack ({EPS} = {format_epsilon(strongest)}), a line for each scenario."
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


def _limit(model: Model) -> tuple[int | None, str]:
    """A cap for maps, with words for it; None where there are no more images than that."""
    return (MAPPED, f"; {MAPPED:,} of the test images") if model.first.n > MAPPED else (None, "")

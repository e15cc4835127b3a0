"""How well a number without labels foretells robustness: displacement of features against accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from ...store.metrics import METRICS
from ...util.epsilons import EPS, format_epsilon
from ...util.errors import InvalidValue
from ...util.statistics import kendall
from ..figure_data import FigureData, Model, measured
from ..plot_style import COLUMN, SHADE, SMALL, PaperFigure, curve_looks, laid_out, styled


def displacement(data: FigureData, models: Sequence[Model], epsilon: float | None = None) -> Figure:
    """Median displacement of the encoders' features beside the classifiers' accuracy, both at one epsilon.

    ``epsilon``: one that all were measured and evaluated at, the middle one by default. InvalidValue for another.
    """
    found = measured(models, "features")
    both = [{*one.spec.columns} & {*model.records} - {0.0} for model, one in found.values()]
    shared = sorted(set.intersection(*both))
    at = epsilon if epsilon is not None else next(iter(shared[(len(shared) - 1) // 2 :]), 0.0)
    if at not in shared:
        known = ", ".join(map(format_epsilon, shared)) or "none"
        raise InvalidValue(f"epsilon: expected one that all models have, {known}, got {format_epsilon(at)}")
    points = []
    for label, (model, one) in found.items():
        value = next(iter(one.rows.values()))[one.spec.columns.index(at)]
        accuracy = model.matrix.value(model.row, at, model.matrix.metric)
        points.append((label, math.nan if value is None else value, math.nan if accuracy is None else accuracy))
    return plot_displacement(points, at, METRICS[models[0].matrix.metric].label)


@styled
def plot_displacement(points: Sequence[tuple[str, float, float]], epsilon: float, ylabel: str) -> Figure:
    """One point a model: (label, displacement of its features, accuracy under attack), both at one epsilon.

    Above it is their rank correlation, where it is defined. A model one of whose numbers is NaN is left out.
    """
    known = [point for point in points if all(map(math.isfinite, point[1:]))]
    figure = PaperFigure((COLUMN, 2.3))
    axes = figure.subplots()
    for (label, x, y), look in zip(known, curve_looks(len(known)), strict=True):
        axes.plot(x, y, linestyle="none", label=label, **look)
    axes.set(xlabel=f"Displacement of features, attack {EPS} = {format_epsilon(epsilon)}", ylabel=ylabel)
    rank = kendall([x for _, x, _ in known], [y for *_, y in known])
    if rank is not None:
        axes.set_title(f"rank correlation (Kendall) {rank:.2f}", loc="right", fontsize=SMALL)
    axes.margins(0.08)
    axes.grid(color=SHADE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return laid_out(figure, {str(line.get_label()): line for line in axes.lines})

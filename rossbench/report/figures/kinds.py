"""What other evaluation kinds found: corruptions, smallest perturbations, displacement of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from ...store import artifacts
from ...store.metrics import METRICS
from ...util.epsilons import EPS, check_epsilon, format_epsilon
from ...util.statistics import kendall
from ..figure_data import FigureData, Model, measured, middle
from ..plot_style import COLUMN, SMALL, WIDE, PaperFigure, curve_looks, laid_out, open_axes, styled, wrapped_title

_ACROSS = 4
"""Panels in a row, at most."""


def corruptions(data: FigureData, models: Sequence[Model]) -> Figure:
    """Accuracy of each model under each corruption, by severity; the last panel is their mean."""
    panels: dict[str, dict[str, list[float]]] = {}
    for label, (_, one) in measured(models, "corruptions").items():
        for title, numbers in one.rows.items():
            known = [math.nan if number is None else number for number in numbers]
            panels.setdefault(title.removesuffix(" (%)"), {})[label] = known
    return plot_corruptions(panels)


@styled
def plot_corruptions(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A panel a corruption, on one axis of 0 to 100: corruption -> {model: accuracies in percent, from severity 0}.

    A model that a panel lacks has no curve there; it looks the same in all.
    """
    models = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    looks = dict(zip(models, curve_looks(len(models), dashed=True), strict=True))
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = PaperFigure((WIDE, 0.5 + 1.15 * down))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    shown: dict[str, Artist] = {}
    for axes, (title, panel) in zip(grid, panels.items(), strict=False):
        for label, accuracies in panel.items():
            (shown[label],) = axes.plot(range(len(accuracies)), accuracies, **looks[label])
        axes.set_title(wrapped_title(title, WIDE / across - 0.3))
        open_axes(axes)
    most = max(len(accuracies) for panel in panels.values() for accuracies in panel.values())
    grid[0].set(ylim=(0, 102), xticks=range(most), yticks=[0, 50, 100])
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - across) : len(panels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("Severity")
    for axes in grid[::across]:
        axes.set_ylabel("Accuracy (%)")
    return laid_out(figure, {label: shown[label] for label in models})


def distances(data: FigureData, models: Sequence[Model]) -> Figure:
    """Robust accuracy over epsilon, from each image's smallest perturbation, and the matrix's cells beside it."""
    curves, points = {}, {}
    for label, (model, one) in measured(models, "minimal").items():
        curves[label] = artifacts.load_measured(data.store, one.spec)["distance"].numpy()
        if model.matrix.records and model.matrix.evaluation.attack.norm == one.spec.kind.norm:
            cells = {column: 100 * score.mean for column, score in model.scores.items()}
            points[label] = list(cells), list(cells.values())
    return plot_robustness_curves(curves, points)


@styled
def plot_robustness_curves(
    curves: Mapping[str, np.ndarray], points: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """A curve a model, the share of images whose distance is larger than epsilon; and its accuracies under an attack.

    curves: label -> distances [n], 0 where an image is wrong by itself, infinite where no perturbation was found;
    points: label of a curve -> (epsilons, accuracies in percent), drawn as markers on it. The axis ends a little beyond
    the last point; without points, where 99 % of the images that were turned are.
    """
    figure = PaperFigure((COLUMN, 2.3))
    axes = figure.subplots()
    finite = [distances[np.isfinite(distances)] for distances in curves.values()]
    ends = [1.05 * max(epsilons) for epsilons, _ in points.values() if len(epsilons)]
    ends = ends or [float(np.quantile(distances, 0.99)) for distances in finite if distances.size]
    end = max(ends, default=0) or 1.0
    shown: dict[str, Artist] = {}
    for (label, distances), look in zip(curves.items(), curve_looks(len(curves), dashed=True), strict=True):
        steps = np.unique([0, *distances[distances < end], end])
        share = 1 - np.searchsorted(np.sort(distances), steps, side="right") / max(1, len(distances))
        axes.plot(steps, 100 * share, **look | {"marker": "", "drawstyle": "steps-post"})
        (shown[label],) = axes.plot([], [], **look)
        axes.plot(*points.get(label, ([], [])), **look | {"linestyle": "none"})
    axes.set(xlabel=f"Attack {EPS}", ylabel="Robust accuracy (%)", xlim=(0, end), ylim=(0, 102))
    open_axes(axes)
    return laid_out(figure, shown)


def displacement(data: FigureData, models: Sequence[Model], epsilon: float | None = None) -> Figure:
    """Median displacement of the encoders' features beside the classifiers' accuracy, both at one epsilon.

    ``epsilon``: one that all were measured and evaluated at, the middle one by default. InvalidValue for another.
    """
    found = measured(models, "features")
    both = [{*one.spec.columns} & {*model.records} - {0.0} for model, one in found.values()]
    shared = sorted(set.intersection(*both))
    at = epsilon if epsilon is not None else next(iter(middle(shared)), 0.0)
    check_epsilon("epsilon: expected one that all models have", at, shared)
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
    open_axes(axes, "both")
    return laid_out(figure, {str(line.get_label()): line for line in axes.lines})

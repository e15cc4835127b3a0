"""Robust accuracy at every epsilon at once, from the smallest perturbation of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from ...store import artifacts
from ...util.epsilons import EPS
from ..figure_data import FigureData, Model, measured
from ..plot_style import COLUMN, LINES, SHADE, PaperFigure, curve_looks, laid_out, styled


def distances(data: FigureData, models: Sequence[Model]) -> Figure:
    """Robust accuracy over epsilon, from each image's smallest perturbation, and the matrix's cells beside it."""
    curves, points = {}, {}
    for label, (model, one) in measured(models, "minimal").items():
        curves[label] = artifacts.load_measured(data.store, one.spec)["distance"].numpy()
        matrix, row = model.matrix, model.row
        if matrix.records and matrix.evaluation.attack.norm == one.spec.kind.norm:
            known = {column: matrix.value(row, column, "robust") for column in matrix.columns}
            cells = {column: value for column, value in known.items() if value is not None}
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
    for i, ((label, distances), look) in enumerate(zip(curves.items(), curve_looks(len(curves)), strict=True)):
        steps = np.unique([0, *distances[distances < end], end])
        share = 1 - np.searchsorted(np.sort(distances), steps, side="right") / max(1, len(distances))
        line = {"linestyle": LINES[i % len(LINES)], "drawstyle": "steps-post"}
        axes.plot(steps, 100 * share, color=look["color"], **line)
        (shown[label],) = axes.plot([], [], linestyle=line["linestyle"], **look)
        axes.plot(*points.get(label, ([], [])), linestyle="none", **look)
    axes.set(xlabel=f"Attack {EPS}", ylabel="Robust accuracy (%)", xlim=(0, end), ylim=(0, 102))
    axes.grid(axis="y", color=SHADE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return laid_out(figure, shown)

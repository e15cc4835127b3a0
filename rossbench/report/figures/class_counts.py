"""Correct predictions of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ...data import datasets
from ...util.epsilons import EPS, format_epsilon
from ...util.errors import InvalidValue
from ..figure_data import FigureData, Model, labels, shared
from ..plot_style import COLUMN, INK, WIDE, PaperFigure, class_ticks, laid_out, ramp, styled, text_width, wrapped_title


@dataclass(frozen=True)
class Right:
    """Correct predictions of one classifier."""

    title: str
    counts: np.ndarray
    """Integers, [epsilons, classes]."""
    names: Sequence[str]
    """Of the classes."""
    total: Sequence[int]
    """Images of each class."""


def per_class(data: FigureData, models: Sequence[Model], epsilons: Sequence[float] = ()) -> Figure:
    """Correct predictions of each class at growing epsilon (default: all in common), a panel a model, of up to 4."""
    columns = tuple(epsilons) or shared(models)
    if len(models) > 4:
        raise InvalidValue(f"per_class: expected up to 4 models, got {len(models)}")
    panels = []
    for label, model in zip(labels(models), models, strict=True):
        counts = [data.confusion(model, epsilon) for epsilon in columns]
        right = np.stack([matrix.diagonal() for matrix in counts])
        panels.append(Right(label, right, datasets.facts(model.spec.target).names, counts[0].sum(1)))
    return plot_per_class(panels, columns)


@styled
def plot_per_class(panels: Sequence[Right], epsilons: Sequence[float]) -> Figure:
    """Correct predictions of each class at growing epsilon, a panel a classifier.

    Few classes have a group of bars each, a bar an epsilon, so that a count that rises is seen; many have steps.
    """
    most = max(len(panel.names) for panel in panels)
    width = COLUMN if len(panels) == 1 and most <= 10 else WIDE
    room = width / len(panels) - 0.4
    named = [text_width(name) for panel in panels if len(panel.names) <= 20 for name in panel.names]
    figure = PaperFigure((width, 2.2 + max(named, default=0)))
    alike = len({tuple(panel.total) for panel in panels}) == 1
    draw = _bars if most <= 20 and most * len(epsilons) * 0.015 < room else _steps
    grid = figure.subplots(1, len(panels), sharey=alike, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        n = len(panel.names)
        shown = draw(axes, panel.counts, panel.total)
        axes.set_title(wrapped_title(panel.title, room))
        axes.set_xlim(-0.6, n - 0.4)
        axes.set_xlabel("Class" if n <= 20 else "Class index")
        class_ticks(axes.xaxis, panel.names, room)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid:  # when all is drawn: they may share their heights
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("Correct predictions")
    labels = [*(f"attack {EPS} = {format_epsilon(epsilon)}" for epsilon in epsilons), "images of the class"]
    return laid_out(figure, dict(zip(labels, shown, strict=True)))


def _bars(axes: Axes, counts: np.ndarray, total: Sequence[int]) -> list[Artist]:
    middle, bar = np.arange(counts.shape[1]), 0.8 / len(counts)
    shown: list[Artist] = []
    for i, (row, colour) in enumerate(zip(counts, ramp(len(counts))[::-1], strict=True)):
        axes.bar(middle - 0.4 + (i + 0.5) * bar, row, bar, color=colour)
        shown.append(Patch(color=colour))
    axes.hlines(total, middle - 0.45, middle + 0.45, INK, linewidth=0.7)
    return [*shown, Line2D([], [], color=INK, linewidth=0.7)]


def _steps(axes: Axes, counts: np.ndarray, total: Sequence[int]) -> list[Artist]:
    edges = np.arange(counts.shape[1] + 1) - 0.5
    shown: list[Artist] = []
    for row, colour in zip(counts, ramp(len(counts))[::-1], strict=True):
        axes.stairs(row, edges, color=colour, linewidth=0.9, baseline=None)
        shown.append(Line2D([], [], color=colour))
    axes.stairs(total, edges, color=INK, linewidth=0.7, linestyle=":", baseline=None)
    return [*shown, Line2D([], [], color=INK, linewidth=0.7, linestyle=":")]

"""Matrices as colours: results by model and epsilon, confusion of classes."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ...store.metrics import METRICS
from ...util.epsilons import EPS, format_epsilon
from ...util.errors import InvalidValue
from ..figure_data import FigureData, Model, class_names, labels, shared
from ..plot_style import (
    COLUMN,
    SHADE,
    WIDE,
    PaperFigure,
    class_ticks,
    laid_out,
    styled,
    text_width,
    wrapped_title,
    write_cells,
)


def metric_values(models: Sequence[Model], metric: str | None) -> tuple[str, list[float], np.ndarray]:
    """A metric's name (by default that of the first matrix), the epsilons [c], and values [models, c], NaN: missing.

    Over seeds a value is the mean.
    """
    if not models:
        raise InvalidValue("figure: expected a model or more, got none")
    name = metric or models[0].matrix.metric
    columns = sorted({column for model in models for column in model.matrix.columns})
    rows = [[statistics.fmean(model.values(column, name) or [math.nan]) for column in columns] for model in models]
    values = np.array(rows, float)
    if np.isnan(values).all():
        raise InvalidValue(f"figure: expected evaluations with {name}, got none; only images right without it attacked")
    return name, columns, values


def matrix(data: FigureData, models: Sequence[Model], metric: str | None = None) -> Figure:
    """The models' rows of their matrices as colours."""
    metric, columns, values = metric_values(models, metric)
    there = [k for k, column in enumerate(columns) if any(column in model.records for model in models)]
    names = [label.removeprefix(f"model {EPS} = ") for label in labels(models)]
    return plot_matrix(values[:, there], names, [format_epsilon(columns[k]) for k in there], METRICS[metric].label)


@styled
def plot_matrix(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """A heat map of values [rows, columns] that are written in its cells; NaN is missing, a dash on grey."""
    figure = PaperFigure((min(WIDE, max(COLUMN, 0.95 + 0.4 * len(columns))), max(1.9, 0.75 + 0.27 * len(rows))))
    axes = figure.subplots()
    axes.set_facecolor(SHADE)
    low, high = (0, 100) if "%" in label else (min(0, np.nanmin(values)), 1)  # the same in all figures
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto", vmin=low, vmax=high)
    if len(columns) <= 16:  # or the cells are too narrow
        write_cells(axes, image, ("{:.1f}" if "%" in label else "{:.3f}").format)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=f"Attack {EPS}", ylabel=f"Model {EPS}")
    figure.colorbar(image, label=label, pad=0.03)
    return laid_out(figure)


def confusion(data: FigureData, models: Sequence[Model], epsilons: Sequence[float] = ()) -> Figure:
    """Confusion matrices: a line a model and a column an epsilon (default: the first and the last in common).

    With one epsilon a line a scenario and a column a model.
    """
    names, common = class_names(models), shared(models)
    columns = tuple(epsilons) or tuple(dict.fromkeys((common[0], common[-1])))
    lines: dict[object, list[tuple[str, np.ndarray]]] = {}
    for label, model in zip(labels(models), models, strict=True):
        for epsilon in columns:
            line = (model.matrix.name, model.matrix.protocol) if len(columns) == 1 else model.spec.key
            title = f"{label}, attack {EPS} = {format_epsilon(epsilon)}"
            lines.setdefault(line, []).append((title, data.confusion(model, epsilon)))
    return plot_confusions(list(lines.values()), names)


@styled
def plot_confusions(panels: Sequence[Sequence[tuple[str, np.ndarray]]], names: Sequence[str]) -> Figure:
    """A grid of confusion matrices: panels (title, counts [true class, predicted class]), on one scale of percent.

    A cell is a share of the images of its true class, so that a row adds up to 100.
    """
    n, across, down = len(names), max(map(len, panels)), len(panels)
    margin = 0.35 + (max(map(text_width, names)) if n <= 20 else 0.15)
    width = COLUMN if across == 1 and n <= 10 else WIDE
    side = min(3.4, max(0.4, (width - margin - 0.5) / across - 0.1))  # of a panel; the colour bar has the rest
    titles = [[wrapped_title(title, side + 0.2) for title, _ in line] for line in panels]
    lines = 1 + max(title.count("\n") for title in itertools.chain(*titles))
    figure = PaperFigure(
        (max(COLUMN, margin + 0.5 + across * (side + 0.1)), margin + down * (side + 0.12 + 0.13 * lines))
    )
    grid = figure.subplots(down, across, squeeze=False)
    for (i, j), axes in np.ndenumerate(grid):
        if j >= len(panels[i]):
            axes.remove()
            continue
        counts = panels[i][j][1]
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.set(title=titles[i][j], ylabel="" if j else "True class")
        lowest = i == down - 1 or j >= len(panels[i + 1])
        axes.set_xlabel("Predicted class" if lowest else "")
        class_ticks(axes.xaxis, names if lowest else [""] * n, side)
        class_ticks(axes.yaxis, names if j == 0 else [""] * n, side)
        if n <= 10 and text_width("100") < 0.9 * side / n:
            write_cells(axes, image, "{:.0f}".format)
    figure.colorbar(image, ax=figure.axes, aspect=30, pad=0.02, label="% of true class")
    return laid_out(figure)

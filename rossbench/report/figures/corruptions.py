"""Accuracy under common corruptions of growing severity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from ..figure_data import FigureData, Model, measured
from ..plot_style import LINES, SHADE, WIDE, PaperFigure, curve_looks, laid_out, styled, wrapped_title

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
    looks = dict(zip(models, curve_looks(len(models)), strict=True))
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = PaperFigure((WIDE, 0.5 + 1.15 * down))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    shown: dict[str, Artist] = {}
    for axes, (title, panel) in zip(grid, panels.items(), strict=False):
        for label, accuracies in panel.items():
            line = LINES[models.index(label) % len(LINES)]
            (shown[label],) = axes.plot(range(len(accuracies)), accuracies, linestyle=line, **looks[label])
        axes.set_title(wrapped_title(title, WIDE / across - 0.3))
        axes.grid(axis="y", color=SHADE, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
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

"""How well a number without labels foretells robustness: displacement of features against accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from ...util.epsilons import EPS, format_epsilon
from ...util.statistics import kendall
from ..plot_style import COLUMN, SHADE, SMALL, PaperFigure, curve_looks, laid_out, styled


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

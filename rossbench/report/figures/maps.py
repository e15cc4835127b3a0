"""Features as maps in the plane (study, section 5.3). The home of openTSNE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openTSNE
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from ...util.epsilons import EPS, format_epsilon
from ...util.errors import InvalidValue
from ..figure_data import FigureData, Model, class_names, labels
from ..plot_style import COLUMN, WIDE, PaperFigure, laid_out, looks, ramp, styled, wrapped_title

_EXAGGERATED = 250
"""Iterations that t-SNE begins with, in which clusters form; of the number that is asked for."""


def embed(features: Tensor, perplexity: float, iterations: int, seed: int = 0) -> np.ndarray:
    """t-SNE of features [n, ...] into the plane: float64 [n, 2]. The same seed gives the same map.

    ``perplexity``: at most (n - 1) / 3. ``iterations``: in all, at least 250. Else InvalidValue.
    """
    points = features.flatten(1).double().numpy()
    if not np.isfinite(points).all() or not len(points) or (points == points[0]).all():
        raise InvalidValue(
            "t-SNE: expected features that are finite and differ, got others; has the encoder collapsed?"
        )
    most = (len(points) - 1) / 3
    if not 1 <= perplexity <= most:
        n = len(points)
        raise InvalidValue(
            f"t-SNE: expected a perplexity of 1 to {most:.4g} for {n} points, got {perplexity:g}; set another"
        )
    if iterations < _EXAGGERATED:
        raise InvalidValue(f"t-SNE: expected at least {_EXAGGERATED} iterations, got {iterations}")
    tsne = openTSNE.TSNE(
        perplexity=perplexity,
        early_exaggeration_iter=_EXAGGERATED,
        n_iter=iterations - _EXAGGERATED,
        negative_gradient_method="fft" if len(points) > 5_000 else "bh",
        random_state=seed,
        n_jobs=1,  # sums over threads would round differently from run to run
    )
    return np.array(tsne.fit(points))


def tsne(
    data: FigureData,
    models: Sequence[Model],
    layer: str = "encoder",
    perplexity: float = 35,
    iterations: int = 1500,
    **inputs: Any,
) -> Figure:
    """t-SNE of each model's features of a layer, in maps of their own, coloured by class (study, figure 5.4).

    ``inputs``: ``epsilon`` and ``limit`` of FigureData.features.
    """
    names, maps, classes = class_names(models), [], data.images(models[0], inputs.get("limit")).labels.cpu()
    attack = f", attack {EPS} = {format_epsilon(inputs['epsilon'])}" if inputs.get("epsilon") else ""
    for title, model in zip(labels(models), models, strict=True):
        found, own = data.features(model, layer, **inputs)
        if not torch.equal(own, classes):
            raise InvalidValue(f"figure: expected models evaluated on the same images, got others for {title}")
        maps.append((title + attack, embed(found, perplexity, iterations)))  # before the next are read
    return plot_maps(maps, classes.numpy(), names)


def tsne_together(
    data: FigureData,
    models: Sequence[Model],
    layer: str = "linear",
    perplexity: float = 50,
    iterations: int = 2500,
    **inputs: Any,
) -> Figure:
    """t-SNE of up to 20 models' features of a layer in one map, coloured by model (study, figure 5.8).

    ``inputs``: ``epsilon`` and ``limit`` of FigureData.features.
    """
    class_names(models)
    if len(models) > 20:
        raise InvalidValue(f"tsne_together: expected at most 20 models, got {len(models)}")
    found = [data.features(model, layer, **inputs)[0].flatten(1) for model in models]
    sizes = sorted({part.shape[1] for part in found})
    if len(sizes) > 1:
        raise InvalidValue(f"layer {layer!r}: expected features of one size in all models, got {sizes}")
    points = embed(torch.cat(found), perplexity, iterations)
    owner = np.repeat(np.arange(len(models)), [len(part) for part in found])
    return plot_joint_map(points, owner, labels(models))


@styled
def plot_maps(panels: Sequence[tuple[str, np.ndarray]], classes: np.ndarray, names: Sequence[str]) -> Figure:
    """t-SNE maps, panels (title, points [n, 2]), with points coloured by their class, classes [n]."""
    down = math.ceil(len(panels) / 4)
    across, width = math.ceil(len(panels) / down), COLUMN if len(panels) == 1 else WIDE
    figure = PaperFigure((width, down * (0.85 * width / across + 0.3)))
    shown: dict[str, Artist] = {}
    for i, (title, points) in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        if len(names) <= 20:
            shown = _scatter(axes, points, classes, names)
        else:
            ordered = np.random.default_rng(0).permutation(len(points))
            look = {"cmap": ListedColormap(ramp(256)), "vmin": 0, "vmax": len(names) - 1, **_dots(len(points))}
            drawn = axes.scatter(points[ordered, 0], points[ordered, 1], c=classes[ordered], **look)
        _map_axes(axes)
        axes.set_title(wrapped_title(title, width / across - 0.3))
        axes.label_outer()
    if not shown:
        figure.colorbar(drawn, ax=figure.axes, label="Class index", pad=0.02, aspect=30)
    return laid_out(figure, shown)


@styled
def plot_joint_map(points: np.ndarray, owner: np.ndarray, names: Sequence[str]) -> Figure:
    """One t-SNE map of several models: points [n, 2], and owner [n], the model that each is of."""
    figure = PaperFigure((COLUMN, 2.9))
    axes = figure.subplots()
    shown = _scatter(axes, points, owner, names)
    _map_axes(axes)
    return laid_out(figure, shown)


def _scatter(axes: Axes, points: np.ndarray, kinds: np.ndarray, names: Sequence[str]) -> dict[str, Artist]:
    """Points of up to 20 kinds, in shuffled parts, or the last kind would hide the others; gives a legend's handles."""
    known = looks(len(names))
    random = np.random.default_rng(0)
    for part in np.array_split(random.permutation(len(points)), min(20, len(points))):
        for kind in random.permutation(np.unique(kinds[part])):
            colour, marker = known[kind]
            chosen = part[kinds[part] == kind]
            axes.scatter(*points[chosen].T, color=colour, marker=marker, alpha=0.75, **_dots(len(points)))
    return {
        name: Line2D([], [], color=colour, marker=marker, linestyle="none")
        for name, (colour, marker) in zip(names, known, strict=True)
    }


def _dots(points: int) -> dict[str, Any]:
    """Smaller the more points there are; above 2,000 they are a picture in an SVG, or it would be large."""
    return {"s": min(14.0, max(1.5, 12000 / points)), "linewidths": 0, "rasterized": points > 2000}


def _map_axes(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axes.set_aspect("equal", adjustable="datalim")

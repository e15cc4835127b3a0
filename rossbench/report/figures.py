"""Figures from plain values, ready for a paper and for a page, light or dark. The home of matplotlib.

A figure is as wide as one or both columns of a paper, so that its text keeps its 7 or 8 pt. Nothing is told apart by
hue alone: colours differ in luminance, and lines and points also in style and marker.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue

COLUMN, WIDE = 3.35, 6.9  # inches: one column, and both
FORMS = ("png", "svg", "pdf")
INK = "#1a1a1b"  # of text and axes, and of nothing else: a page replaces it in an SVG by its own colour
_SHADE = "#88888850"  # translucent: light grey on white, dark grey on black
_SMALL = 7  # points
STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 8),
    **dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), _SMALL),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width", "hatch.linewidth"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    "figure.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a $ in a name is a $
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "rossbench",
}
_styled = style.context(STYLE, after_reset=True)  # nobody's matplotlibrc changes a figure

MARKERS = "os^DvPX<>*d"
LINES: tuple[Any, ...] = ("-", (0, (5, 1.2)), (0, (1.2, 1)), (0, (4, 1, 1, 1)))
# Of rising luminance, each with a contrast of 2 or more to white and to near-black.
COLOURS = ["#9a2a62", "#6f55c0", "#0072b2", "#9a6324", "#d55e00", "#009e73"]
COLOURS += ["#8f8f8f", "#dc7fb2", "#f08a7a", "#56b4e9", "#e69f00", "#b5bd3a"]


@_styled
def robustness(curves: Mapping[str, Mapping[float, float]], ylabel: str) -> Figure:
    """One curve a model: label -> {evaluation epsilon: value}. NaN is missing: no line is drawn to it or across it."""
    known = [value for curve in curves.values() for value in curve.values() if not np.isnan(value)]
    _expect(len(known) > 0 and bool(np.isfinite(known).all()), "robustness: expected finite values", dict(curves))
    figure = Figure((COLUMN, 2.3))
    axes = figure.subplots()
    for i, (curve, look) in enumerate(zip(curves.values(), _curves(len(curves)), strict=True)):
        points = sorted(curve.items())
        axes.plot([x for x, _ in points], [y for _, y in points], linestyle=LINES[i % len(LINES)], **look)
    axes.update_datalim([(min(x for curve in curves.values() for x in curve), 0)])  # heights compare from 0
    axes.set(xlabel=f"Evaluation {EPS}", ylabel=ylabel)
    axes.grid(axis="y", color=_SHADE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return _laid_out(figure, dict(zip(curves, axes.lines, strict=True)))


@_styled
def matrix(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """A heat map of values [rows, columns] that are written in its cells; NaN is missing, a dash on grey."""
    _expect(values.shape == (len(rows), len(columns)), f"matrix: expected {len(rows)}x{len(columns)}", values.shape)
    known = values[~np.isnan(values)]
    _expect(known.size > 0 and bool(np.isfinite(known).all()), "matrix: expected finite values", values.tolist())
    figure = Figure((min(WIDE, max(COLUMN, 0.95 + 0.4 * len(columns))), max(1.9, 0.75 + 0.27 * len(rows))))
    axes = figure.subplots()
    axes.set_facecolor(_SHADE)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
    if len(columns) <= 16:  # or the cells are too narrow
        _write(axes, image, ("{:.1f}" if "%" in label else "{:.3f}").format)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=f"Evaluation {EPS}", ylabel=f"Model {EPS}")
    figure.colorbar(image, label=label, pad=0.03)
    return _laid_out(figure)


@_styled
def confusions(panels: Sequence[Sequence[tuple[str, np.ndarray]]], names: Sequence[str]) -> Figure:
    """A grid of confusion matrices: panels (title, counts [true class, predicted class]), each with its own scale."""
    n, across, down = len(names), max(map(len, panels), default=0), len(panels)
    for title, counts in itertools.chain(*panels):
        _check_counts(f"confusions: {title}", counts, (n, n), counts.max(initial=0))
    _expect(across > 0, "confusions: expected panels", across)
    margin = 0.35 + (max(map(_width, names)) if n <= 20 else 0.15)
    width = COLUMN if across == 1 and n <= 10 else WIDE
    side = min(3.4, max(0.4, (width - margin) / across - 0.45))  # of a panel; its colour bar has the rest
    titles = [[_title(title, side + 0.2) for title, _ in line] for line in panels]
    lines = 1 + max(title.count("\n") for title in itertools.chain(*titles))
    figure = Figure((max(COLUMN, margin + across * (side + 0.45)), margin + down * (side + 0.12 + 0.13 * lines)))
    grid = figure.subplots(down, across, squeeze=False)
    for (i, j), axes in np.ndenumerate(grid):
        if j >= len(panels[i]):
            axes.remove()
            continue
        counts = panels[i][j][1]
        image = axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, counts.max()), aspect="auto")
        axes.set(title=titles[i][j], ylabel="" if j else "True class")
        lowest = i == down - 1 or j >= len(panels[i + 1])
        axes.set_xlabel("Predicted class" if lowest else "")
        _classes(axes.xaxis, names if lowest else [""] * n, side)
        _classes(axes.yaxis, names if j == 0 else [""] * n, side)
        if n <= 10 and _width(str(counts.max())) < 0.9 * side / n:
            _write(axes, image, "{:d}".format)
        figure.colorbar(image, aspect=30, pad=0.03, ticks=MaxNLocator(3, integer=True))
    return _laid_out(figure)


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


@_styled
def per_class(panels: Sequence[Right], epsilons: Sequence[float]) -> Figure:
    """Correct predictions of each class at growing epsilon, a panel a classifier.

    Few classes have a group of bars each, a bar an epsilon, so that a count that rises is seen; many have steps.
    """
    _expect(0 < len(panels) <= 4 and len(epsilons) > 0, "per_class: expected 1 to 4 panels and epsilons", len(panels))
    for panel in panels:
        where, classes = f"per_class: {panel.title}", len(panel.names)
        _expect(len(panel.total) == classes > 0, f"{where}: expected totals of {classes} classes", len(panel.total))
        _check_counts(where, panel.counts, (len(epsilons), classes), np.asarray(panel.total))
    most = max(len(panel.names) for panel in panels)
    width = COLUMN if len(panels) == 1 and most <= 10 else WIDE
    room = width / len(panels) - 0.4
    named = [_width(name) for panel in panels if len(panel.names) <= 20 for name in panel.names]
    figure = Figure((width, 2.2 + max(named, default=0)))
    alike = len({tuple(panel.total) for panel in panels}) == 1
    draw = _bars if most <= 20 and most * len(epsilons) * 0.015 < room else _steps
    grid = figure.subplots(1, len(panels), sharey=alike, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        n = len(panel.names)
        shown = draw(axes, panel.counts, panel.total)
        axes.set_title(_title(panel.title, room))
        axes.set_xlim(-0.6, n - 0.4)
        axes.set_xlabel("Class" if n <= 20 else "Class index")
        _classes(axes.xaxis, panel.names, room)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid:  # when all is drawn: they may share their heights
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("Correct predictions")
    labels = [*(f"{EPS} = {format_epsilon(epsilon)}" for epsilon in epsilons), "images of the class"]
    return _laid_out(figure, dict(zip(labels, shown, strict=True)))


def _check_counts(where: str, counts: np.ndarray, shape: tuple[int, ...], most: np.ndarray) -> None:
    _expect(counts.shape == shape, f"{where}: expected counts of shape {shape}", counts.shape)
    _expect(np.issubdtype(counts.dtype, np.integer), f"{where}: expected integers", counts.dtype)
    _expect(bool((counts >= 0).all() and (counts <= most).all()), f"{where}: expected 0 to {most}", counts.tolist())


def _bars(axes: Axes, counts: np.ndarray, total: Sequence[int]) -> list[Artist]:
    middle, bar = np.arange(counts.shape[1]), 0.8 / len(counts)
    shown: list[Artist] = []
    for i, (row, colour) in enumerate(zip(counts, _ramp(len(counts))[::-1], strict=True)):
        axes.bar(middle - 0.4 + (i + 0.5) * bar, row, bar, color=colour)
        shown.append(Patch(color=colour))
    axes.hlines(total, middle - 0.45, middle + 0.45, INK, linewidth=0.7)
    return [*shown, Line2D([], [], color=INK, linewidth=0.7)]


def _steps(axes: Axes, counts: np.ndarray, total: Sequence[int]) -> list[Artist]:
    edges = np.arange(counts.shape[1] + 1) - 0.5
    shown: list[Artist] = []
    for row, colour in zip(counts, _ramp(len(counts))[::-1], strict=True):
        axes.stairs(row, edges, color=colour, linewidth=0.9, baseline=None)
        shown.append(Line2D([], [], color=colour))
    axes.stairs(total, edges, color=INK, linewidth=0.7, linestyle=":", baseline=None)
    return [*shown, Line2D([], [], color=INK, linewidth=0.7, linestyle=":")]


@_styled
def maps(panels: Sequence[tuple[str, np.ndarray]], labels: np.ndarray, names: Sequence[str]) -> Figure:
    """t-SNE maps, panels (title, points [n, 2]), with points coloured by their class, labels [n]."""
    _expect(len(panels) > 0, "maps: expected panels", len(panels))
    down = math.ceil(len(panels) / 4)
    across, width = math.ceil(len(panels) / down), COLUMN if len(panels) == 1 else WIDE
    figure = Figure((width, down * (0.85 * width / across + 0.3)))
    shown: dict[str, Artist] = {}
    for i, (title, points) in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        _check_points(f"maps: {title}", points, labels, names)
        if len(names) <= 20:
            shown = _scatter(axes, points, labels, names)
        else:
            ordered = np.random.default_rng(0).permutation(len(points))
            look = {"cmap": ListedColormap(_ramp(256)), "vmin": 0, "vmax": len(names) - 1, **_dots(len(points))}
            drawn = axes.scatter(points[ordered, 0], points[ordered, 1], c=labels[ordered], **look)
        _map_axes(axes)
        axes.set_title(_title(title, width / across - 0.3))
        axes.label_outer()
    if not shown:
        figure.colorbar(drawn, ax=figure.axes, label="Class index", pad=0.02, aspect=30)
    return _laid_out(figure, shown)


@_styled
def joint_map(points: np.ndarray, owner: np.ndarray, names: Sequence[str]) -> Figure:
    """One t-SNE map of several models: points [n, 2], and owner [n], the model that each is of."""
    _check_points("joint_map", points, owner, names)
    _expect(len(names) <= 20, "joint_map: expected at most 20 models", len(names))
    figure = Figure((COLUMN, 2.9))
    axes = figure.subplots()
    shown = _scatter(axes, points, owner, names)
    _map_axes(axes)
    return _laid_out(figure, shown)


def _check_points(where: str, points: np.ndarray, kinds: np.ndarray, names: Sequence[str]) -> None:
    _expect(points.shape == (len(kinds), 2) and len(kinds) > 0, f"{where}: expected [{len(kinds)}, 2]", points.shape)
    _expect(bool(np.isfinite(points).all()), f"{where}: expected finite points", "others")
    known = kinds.min() >= 0 and kinds.max() < len(names)
    _expect(bool(known), f"{where}: expected indices of {len(names)} names", (int(kinds.min()), int(kinds.max())))


def _scatter(axes: Axes, points: np.ndarray, kinds: np.ndarray, names: Sequence[str]) -> dict[str, Artist]:
    """Points of up to 20 kinds, in shuffled parts, or the last kind would hide the others; gives a legend's handles."""
    looks = _looks(len(names))
    random = np.random.default_rng(0)
    for part in np.array_split(random.permutation(len(points)), min(20, len(points))):
        for kind in random.permutation(np.unique(kinds[part])):
            colour, marker = looks[kind]
            chosen = part[kinds[part] == kind]
            axes.scatter(*points[chosen].T, color=colour, marker=marker, alpha=0.75, **_dots(len(points)))
    return {
        name: Line2D([], [], color=colour, marker=marker, linestyle="none")
        for name, (colour, marker) in zip(names, looks, strict=True)
    }


def _dots(points: int) -> dict[str, Any]:
    """Smaller the more points there are; above 2,000 they are a picture in an SVG, or it would be large."""
    return {"s": min(14.0, max(1.5, 12000 / points)), "linewidths": 0, "rasterized": points > 2000}


def _map_axes(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axes.set_aspect("equal", adjustable="datalim")


@dataclass(frozen=True)
class Example:
    """An image and its adversarial one, float [height, width, 3] in [0, 1]; its class, and what both are taken for."""

    natural: np.ndarray
    adversarial: np.ndarray
    label: str
    before: str
    after: str


@_styled
def examples(rows: Sequence[Example], epsilon: float) -> Figure:
    """Up to 8 examples: natural and adversarial image, "→" what each is taken for, bold where wrong, their difference.

    The difference is drawn around mid grey and magnified until its largest value is full scale.
    """
    _expect(1 <= len(rows) <= 8, "examples: expected 1 to 8", len(rows))
    for example in rows:
        _check_example(example)
    few = len(rows) <= 3  # then a row each: three images fill a column of a paper
    side = (COLUMN - 0.3) / 3 - 0.05 if few else (WIDE - 0.3) / max(6, len(rows)) - 0.05
    texts = [[_wrapped(text, 0.85 * side) for text in _captions(example)] for example in rows]
    lines = max(text.count("\n") + 1 for text in itertools.chain(*texts))
    figure = Figure((COLUMN if few else WIDE, (len(rows) if few else 3) * (side + 0.08 + 0.11 * lines) + 0.2))
    grid = figure.subplots(*((len(rows), 3) if few else (3, len(rows))), squeeze=False)
    grid = grid if few else grid.T
    for line, example, captions in zip(grid, rows, texts, strict=True):
        difference = example.adversarial - example.natural
        scaled = 0.5 + 0.5 * difference / (np.abs(difference).max() or 1)
        for axes, image, caption in zip(line, (example.natural, example.adversarial, scaled), captions, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(caption, fontsize=_SMALL, labelpad=2)
            wrong = caption.startswith("→") and caption != _wrapped(f"→ {example.label}", 0.85 * side)
            axes.xaxis.label.set_fontweight("bold" if wrong else "normal")
        _name(line[0], _wrapped(example.label, side), above=not few)
    kinds = ("Natural", f"Adversarial, {EPS} = {format_epsilon(epsilon)}", "Difference")
    for axes, kind in zip(grid[0], kinds, strict=True):
        _name(axes, kind, above=few)
    return _laid_out(figure)


def _check_example(example: Example) -> None:
    images = (example.natural, example.adversarial)
    shapes = [image.shape for image in images]
    fine = shapes[0] == shapes[1] and len(shapes[0]) == 3 and shapes[0][2] == 3
    _expect(fine, "examples: expected two images of one shape [height, width, 3]", shapes)
    ranges = [(float(image.min()), float(image.max())) for image in images]
    _expect(all(low >= 0 and high <= 1 for low, high in ranges), "examples: expected images in [0, 1]", ranges)


def _captions(example: Example) -> list[str]:
    """Below the three images: what the first two are taken for, and by how much the difference is magnified."""
    largest = float(np.abs(example.adversarial - example.natural).max())
    return [f"→ {example.before}", f"→ {example.after}", f"× {1 / largest:.3g}" if largest else "none"]


def _name(axes: Axes, text: str, above: bool) -> None:
    """Of a column, above it, or of a row, left of it."""
    (axes.set_title if above else axes.set_ylabel)(text, fontsize=_SMALL)


@_styled
def training(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss and accuracy of training batches: label -> an entry an epoch, with epoch, loss, top1 and top5 (rates)."""
    _expect(len(curves) > 0 and all(curves.values()), "training: expected histories of an epoch or more", dict(curves))
    figure = Figure((WIDE, 2.2))
    loss, accuracy = figure.subplots(1, 2)
    shown: dict[str, Artist] = {}
    for i, ((label, history), look) in enumerate(zip(curves.items(), _curves(len(curves)), strict=True)):
        every = max(1, len(history) // 8)
        look["markevery"] = (i % every, every)
        epochs = [entry["epoch"] for entry in history]
        loss.plot(epochs, [entry["loss"] for entry in history], **look)
        accuracy.plot(epochs, [100 * entry["top1"] for entry in history], **look)
        accuracy.plot(epochs, [100 * entry["top5"] for entry in history], linestyle="--", **look)
        shown[label] = loss.lines[-1]
    for axes, ylabel in ((loss, "Training loss"), (accuracy, "Training accuracy (%)")):
        axes.set(xlabel="Epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=_SHADE, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    shown["top-1"] = Line2D([], [], color=INK)
    shown["top-5"] = Line2D([], [], color=INK, linestyle="--")
    return _laid_out(figure, shown)


@_styled
def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as a file of one of the FORMS: the same figure, the same bytes. In SVG its ground is transparent."""
    _expect(form in FORMS, f"form of a figure: expected one of {', '.join(FORMS)}", repr(form))
    buffer = io.BytesIO()
    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    ground = "none" if form == "svg" else "white"
    figure.savefig(buffer, format=form, dpi=300, facecolor=ground, metadata=dates.get(form))
    return buffer.getvalue()


# --- what the figures share --------------------------------------------------------------------------------


def _expect(fine: bool, expected: str, got: object) -> None:
    if not fine:
        raise InvalidValue(f"{expected}, got {textwrap.shorten(str(got), 200)}")


def _ramp(n: int) -> list[str]:
    """n colours of rising luminance, each visible on white and on near-black."""
    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0.32, 0.82, n))]


def _curves(n: int) -> list[dict[str, Any]]:
    """Colour and marker of n curves: shades of up to 7, whose order then shows, hues of more."""
    colours = [colour for colour, _ in _looks(n)] if 7 < n <= 20 else _ramp(n)
    return [{"color": colour, "marker": MARKERS[i % len(MARKERS)]} for i, colour in enumerate(colours)]


def _looks(n: int) -> list[tuple[str, str]]:
    """Colour and marker of up to 20 kinds; above 12, tints of the colours follow."""
    tints = [to_hex((0.4 + 0.6 * r, 0.4 + 0.6 * g, 0.4 + 0.6 * b)) for r, g, b in map(to_rgb, COLOURS)]
    spread = np.linspace(0, 11, n).round().astype(int) if n <= 12 else range(n)  # luminances as unlike as can be
    return [([*COLOURS, *tints][i], MARKERS[k % len(MARKERS)]) for k, i in enumerate(spread)]


@functools.cache
def _width(text: str) -> float:
    """Of small text, in inches."""
    return float(TextPath((0, 0), text, size=_SMALL).vertices[:, 0].max()) / 72 if text.strip() else 0.0


def _wrapped(text: str, width: float) -> str:
    """Broken into lines of a width in inches, at spaces and underscores where it can be, but never inside "ε = 1"."""
    letters = max(4, int(len(text) * width / max(_width(text), 0.01)))
    if letters >= len(text):
        return text
    whole = text.replace(" = ", "\xa0=\xa0").replace("_", "_ ")
    return textwrap.fill(whole, letters).replace("_ ", "_").replace("\xa0", " ")


def _title(text: str, width: float) -> str:
    """Wrapped like small text, but larger."""
    return _wrapped(text, width * _SMALL / 8)


def _classes(axis: Axis, names: Sequence[str], room: float) -> None:
    """Ticks of an axis of classes, room inches long: as many names as it has room for, or indices above 20 classes."""
    axis.set_major_locator(MaxNLocator(5, integer=True))
    if len(names) <= 20:
        every = math.ceil(0.108 * len(names) / room)
        across = isinstance(axis, XAxis) and max(map(_width, names)) > 0.85 * room / len(names)
        axis.set_ticks(range(0, len(names), every), names[::every], rotation=90 if across else 0)
    elif not any(names):
        axis.set_tick_params(labelbottom=False, labelleft=False)


def _write(axes: Axes, image: AxesImage, form: Callable[[Any], str]) -> None:
    """Every cell's value, dark on light cells and white on dark ones; a dash where it is missing."""
    values: np.ma.MaskedArray = np.ma.asarray(image.get_array())
    for (y, x), value in np.ndenumerate(values.data):
        missing = np.ma.getmaskarray(values)[y, x]
        red, green, blue, _ = image.to_rgba(value)
        light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18
        colour = INK if missing else "#111111" if light else "#ffffff"
        text = "–" if missing else form(value)
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=_SMALL)


def _laid_out(figure: Figure, legend: Mapping[str, Artist] | None = None) -> Figure:
    """With its legend below, by which it grows, and with every place fixed, so that all its files look the same."""
    if legend:
        labels = [_wrapped(label, figure.get_figwidth() - 0.5) for label in legend]
        widest = max(_width(line) for label in labels for line in label.split("\n"))
        rows = math.ceil(len(labels) / max(1, int((figure.get_figwidth() - 0.1) / (widest + 0.5))))
        figure.legend(list(legend.values()), labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows))
        lines = max(label.count("\n") + 1 for label in labels)
        figure.set_figheight(figure.get_figheight() + 0.14 * rows * lines + 0.08)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure

"""What all figures look like, on paper and on a page, light or dark. A home of matplotlib; no torch.

A figure is as wide as one or both columns of a paper, so that its text keeps its 7 or 8 pt. Nothing is told apart by
hue alone: colours differ in luminance, and lines and points also in style and marker.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import font_manager, style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.image import AxesImage
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

COLUMN, WIDE = 3.35, 6.9  # inches: one column, and both
INK = "#1a1a1b"  # of text and axes, and of nothing else: a page replaces it in an SVG by its own colour
SHADE = "#88888850"  # translucent: light grey on white, dark grey on black
SMALL = 7  # points
FALLBACKS = ["Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"]
FALLBACKS += ["Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Malgun Gothic", "Arial Unicode MS", "Noto Emoji"]
FONTS = ["DejaVu Sans", *(name for name in FALLBACKS if name in font_manager.get_font_names())]
STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 8),
    **dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), SMALL),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width", "hatch.linewidth"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    "figure.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.family": FONTS,
    "text.parse_math": False,  # a $ in a name is a $
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # TrueType: venues refuse Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "rossbench",
}
styled = style.context(STYLE, after_reset=True)  # nobody's matplotlibrc changes a figure

MARKERS = "os^DvPX<>*d"
LINES: tuple[Any, ...] = ("-", (0, (5, 1.2)), (0, (1.2, 1)), (0, (4, 1, 1, 1)))
# Of rising luminance, each with a contrast of 2 or more to white and to near-black.
COLOURS = ["#9a2a62", "#6f55c0", "#0072b2", "#9a6324", "#d55e00", "#009e73"]
COLOURS += ["#8f8f8f", "#dc7fb2", "#f08a7a", "#56b4e9", "#e69f00", "#b5bd3a"]


class PaperFigure(Figure):
    """A figure that a notebook shows at the end of a cell; matplotlib's own are shown there by pyplot alone."""

    def _repr_png_(self) -> bytes:
        return to_bytes(self, "png", dpi=150)


@styled
def to_bytes(figure: Figure, form: str, dpi: int = 300) -> bytes:
    """The figure as a PNG, SVG or PDF file: the same figure, the same bytes. In SVG its ground is transparent."""
    buffer = io.BytesIO()
    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    ground = "none" if form == "svg" else "white"
    figure.savefig(buffer, format=form, dpi=dpi, facecolor=ground, metadata=dates.get(form))
    return buffer.getvalue()


def mark_colours() -> set[str]:
    """Of everything that stands on the ground itself, not on cells."""
    return {colour for n in range(1, 8) for colour in ramp(n)} | {colour for colour, _ in looks(20)}


@functools.cache
def seen_on(ground: str, colour: str) -> str:
    """The colour, mixed with as little black or white as gives it a contrast of 3 to the ground (WCAG 2, for marks)."""
    end = np.full(3, 0.0 if _luminance(ground) > 0.5 else 1.0)
    for share in np.linspace(0, 1, 101):
        mixed = to_hex((1 - share) * np.array(to_rgb(colour)) + share * end)
        low, high = sorted((_luminance(mixed), _luminance(ground)))
        if (high + 0.05) / (low + 0.05) >= 3:
            break
    return mixed


def _luminance(colour: str) -> float:
    """Relative, in [0, 1] (WCAG 2)."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def ramp(n: int) -> list[str]:
    """n colours of rising luminance, each visible on white and on near-black."""
    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0.32, 0.82, n))]


def curve_looks(n: int, dashed: bool = False) -> list[dict[str, Any]]:
    """Colour and marker, and dash, of n curves: shades of up to 7, whose order then shows, hues of more."""
    colours = [colour for colour, _ in looks(n)] if 7 < n <= 20 else ramp(n)
    made = [{"color": colour, "marker": MARKERS[i % len(MARKERS)]} for i, colour in enumerate(colours)]
    return [look | {"linestyle": LINES[i % len(LINES)]} for i, look in enumerate(made)] if dashed else made


def looks(n: int) -> list[tuple[str, str]]:
    """Colour and marker of up to 20 kinds; above 12, tints of the colours follow."""
    tints = [to_hex((0.4 + 0.6 * r, 0.4 + 0.6 * g, 0.4 + 0.6 * b)) for r, g, b in map(to_rgb, COLOURS)]
    spread = np.linspace(0, 11, n).round().astype(int) if n <= 12 else range(n)  # luminances as unlike as can be
    return [([*COLOURS, *tints][i], MARKERS[k % len(MARKERS)]) for k, i in enumerate(spread)]


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(code for name in FONTS for code in FT2Font(font_manager.findfont(name)).get_charmap())


@functools.cache
def drawable(text: str) -> str:
    """The text with each character that no font has by its name, as ``[cat face]``, or its number, as ``\\u732b``."""
    return "".join(c if c == "\n" or (ord(c) in _glyphs() and c.isprintable()) else _named(c) for c in text)


def _named(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cf", "Mn"):  # joins and variants of others
        return ""
    if category == "So":
        return f"[{unicodedata.name(character, 'symbol').lower()}]"
    return character.encode("unicode_escape").decode()


@functools.cache
def text_width(text: str) -> float:
    """Of small text, in inches."""
    text = drawable(text)
    return float(TextPath((0, 0), text, size=SMALL).vertices[:, 0].max()) / 72 if text.strip() else 0.0


def wrapped(text: str, width: float) -> str:
    """Broken into lines of a width in inches, at spaces and underscores where it can be, but never inside "ε = 1"."""
    text = drawable(text)
    letters = max(4, int(len(text) * width / max(text_width(text), 0.01)))
    if letters >= len(text):
        return text
    whole = text.replace(" = ", "\xa0=\xa0").replace("_", "_ ")
    return textwrap.fill(whole, letters).replace("_ ", "_").replace("\xa0", " ")


def wrapped_title(text: str, width: float) -> str:
    """Wrapped like small text, but larger."""
    return wrapped(text, width * SMALL / 8)


def class_ticks(axis: Axis, names: Sequence[str], room: float) -> None:
    """Ticks of an axis of classes, room inches long: as many names as it has room for, or indices above 20 classes."""
    names = [drawable(name) for name in names]
    axis.set_major_locator(MaxNLocator(5, integer=True))
    if len(names) <= 20:
        every = math.ceil(0.108 * len(names) / room)
        across = isinstance(axis, XAxis) and max(map(text_width, names)) > 0.85 * room / len(names)
        axis.set_ticks(range(0, len(names), every), names[::every], rotation=90 if across else 0)
    elif not any(names):
        axis.set_tick_params(labelbottom=False, labelleft=False)


def open_axes(axes: Axes, grid: Literal["both", "y"] = "y") -> None:
    """Without a frame above and on the right, and with a light grid."""
    axes.grid(axis=grid, color=SHADE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def write_cells(axes: Axes, image: AxesImage, form: Callable[[Any], str]) -> None:
    """Every cell's value, dark on light cells and white on dark ones; a dash where it is missing."""
    values: np.ma.MaskedArray = np.ma.asarray(image.get_array())
    for (y, x), value in np.ndenumerate(values.data):
        missing = np.ma.getmaskarray(values)[y, x]
        red, green, blue, _ = image.to_rgba(value)
        light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18
        colour = INK if missing else "#111111" if light else "#ffffff"
        text = "–" if missing else form(value)
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=SMALL)


def laid_out(figure: Figure, legend: Mapping[str, Artist] | None = None) -> Figure:
    """With its legend below, by which it grows, and with every place fixed, so that all its files look the same."""
    if legend:
        labels = [wrapped(label, figure.get_figwidth() - 0.5) for label in legend]
        widest = max(text_width(line) for label in labels for line in label.split("\n"))
        rows = math.ceil(len(labels) / max(1, int((figure.get_figwidth() - 0.1) / (widest + 0.5))))
        figure.legend(list(legend.values()), labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows))
        lines = max(label.count("\n") + 1 for label in labels)
        figure.set_figheight(figure.get_figheight() + 0.14 * rows * lines + 0.08)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure

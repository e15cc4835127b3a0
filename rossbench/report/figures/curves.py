"""Curves: a metric against the attack's strength, loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...config.specs import FinetuneSpec, PretrainSpec
from ...store import artifacts
from ...store.metrics import METRICS
from ...util.epsilons import EPS
from ...util.errors import InvalidValue
from ..figure_data import FigureData, Model, labels
from ..plot_style import COLUMN, INK, LINES, SHADE, SMALL, WIDE, PaperFigure, curve_looks, laid_out, styled
from .heatmaps import metric_values


def robustness(data: FigureData, models: Sequence[Model], metric: str | None = None) -> Figure:
    """A metric against the attack's epsilon, one curve a model; it has a gap where a cell is missing.

    A metric that is counted has bars: Wilson's 95 % intervals.
    """
    metric, columns, values = metric_values(models, metric)
    curves = {
        label: {column: value for column, value in zip(columns, row, strict=True) if column in model.matrix.columns}
        for label, model, row in zip(labels(models), models, values.tolist(), strict=True)
    }
    scale = METRICS[metric].scale
    intervals = {
        label: {
            column: (scale * record.wilson95[metric][0], scale * record.wilson95[metric][1])
            for column, record in model.records.items()
            if metric in record.wilson95
        }
        for label, model in zip(labels(models), models, strict=True)
    }
    return plot_robustness(curves, METRICS[metric].label, intervals)


@styled
def plot_robustness(
    curves: Mapping[str, Mapping[float, float]],
    ylabel: str,
    intervals: Mapping[str, Mapping[float, tuple[float, float]]] | None = None,
) -> Figure:
    """One curve a model: label -> {attack epsilon: value}. NaN is missing: no line is drawn to it or across it.

    ``intervals``: label -> {attack epsilon: (low, high)}, drawn as bars.
    """
    figure = PaperFigure((COLUMN, 2.3))
    axes = figure.subplots()
    for i, ((label, curve), look) in enumerate(zip(curves.items(), curve_looks(len(curves)), strict=True)):
        bars = (intervals or {}).get(label, {})
        axes.vlines(list(bars), [low for low, _ in bars.values()], [high for _, high in bars.values()], look["color"])
        points = sorted(curve.items())
        axes.plot([x for x, _ in points], [y for _, y in points], linestyle=LINES[i % len(LINES)], **look)
    axes.update_datalim([(min(x for curve in curves.values() for x in curve), 0)])  # heights compare from 0
    axes.set(xlabel=f"Attack {EPS}", ylabel=ylabel)
    axes.grid(axis="y", color=SHADE, linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return laid_out(figure, dict(zip(curves, axes.lines, strict=True)))


def training(data: FigureData, models: Sequence[Model], stage: str = "pretrain") -> Figure:
    """Loss and accuracy of every epoch of a stage, each training once. A given encoder has none."""
    trained = [spec for model in models for spec in model.spec.chain if spec.stage == stage]
    specs = {spec.key: spec for spec in trained if isinstance(spec, FinetuneSpec) or not spec.weights}
    if not specs:
        raise InvalidValue("training: expected models that were pretrained here, got given encoders alone")
    titles = [str(spec).removeprefix(f"{stage} ").replace(f"{EPS}=", f"model {EPS} = ") for spec in specs.values()]
    if len(set(titles)) < len(titles):  # of several seeds or protocols
        titles = [f"{title} ({key})" for title, key in zip(titles, specs, strict=True)]
    histories = [artifacts.load_history(data.store, spec) for spec in specs.values()]
    collapsed = {
        spec.constant_loss
        for spec, history in zip(specs.values(), histories, strict=True)
        if isinstance(spec, PretrainSpec) and any(entry.get("collapsed") for entry in history)
    }
    return plot_training(dict(zip(titles, histories, strict=True)), sorted(collapsed))


@styled
def plot_training(curves: Mapping[str, Sequence[Mapping[str, float]]], constant_losses: Sequence[float] = ()) -> Figure:
    """Loss and accuracy of training batches: label -> an entry an epoch, with epoch, loss, top1 and top5 (rates).

    Epochs that are ``collapsed`` are marked; ``constant_losses``: of constant features, each a dashed line.
    """
    figure = PaperFigure((WIDE, 2.2))
    loss, accuracy = figure.subplots(1, 2)
    shown: dict[str, Artist] = {}
    for i, ((label, history), look) in enumerate(zip(curves.items(), curve_looks(len(curves)), strict=True)):
        every = max(1, len(history) // 8)
        look["markevery"] = (i % every, every)
        epochs = [entry["epoch"] for entry in history]
        loss.plot(epochs, [entry["loss"] for entry in history], **look)
        accuracy.plot(epochs, [100 * entry["top1"] for entry in history], **look)
        accuracy.plot(epochs, [100 * entry["top5"] for entry in history], linestyle="--", **look)
        shown[label] = loss.lines[-1]
    marked = [entry for history in curves.values() for entry in history if entry.get("collapsed")]
    for constant in constant_losses:
        loss.axhline(constant, color=INK, linestyle="--", linewidth=0.6)
        where = {"xy": (1, constant), "xycoords": loss.get_yaxis_transform(), "xytext": (0, 4), "ha": "right"}
        loss.annotate("constant features", **where, textcoords="offset points", fontsize=SMALL)
    for axes, ylabel in ((loss, "Training loss"), (accuracy, "Training accuracy (%)")):
        axes.set(xlabel="Epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=SHADE, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    shown["top-1"] = Line2D([], [], color=INK)
    shown["top-5"] = Line2D([], [], color=INK, linestyle="--")
    if marked:
        places = [entry["epoch"] for entry in marked], [entry["loss"] for entry in marked]
        (shown["collapsed"],) = loss.plot(*places, linestyle="none", marker="x", color=INK)
    return laid_out(figure, shown)

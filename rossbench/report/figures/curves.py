"""Curves: a metric against the attack's strength, loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...config.specs import FinetuneSpec, PretrainSpec
from ...store import artifacts
from ...store.metrics import METRICS
from ...util.epsilons import EPS
from ...util.errors import InvalidValue
from ...util.statistics import mean_deviation
from ..figure_data import FigureData, Model, labels
from ..plot_style import COLUMN, INK, SMALL, WIDE, PaperFigure, curve_looks, laid_out, open_axes, styled, wrapped
from .heatmaps import metric_values

Ranges = Mapping[str, Mapping[float, tuple[float, float]]]


def robustness(data: FigureData, models: Sequence[Model], metric: str | None = None) -> Figure:
    """A metric against the attack's epsilon, one curve a model; it has a gap where a cell is missing.

    A metric that is counted has bars: Wilson's 95 % intervals. Of a model's seeds the curve is the mean, in a band of
    one sample deviation. Of several tasks each has a colour, and each model a dash.
    """
    metric, columns, values = metric_values(models, metric)
    curves, intervals, bands, kinds = {}, {}, {}, {}
    for label, model, line in zip(labels(models), models, values.tolist(), strict=True):
        curves[label] = {k: value for k, value in zip(columns, line, strict=True) if k in model.matrix.columns}
        kinds[label] = (model.matrix.task, model.called(f"model {EPS} = "))
        if model.others:
            spread = {k: mean_deviation(found) for k in curves[label] if len(found := model.values(k, metric)) > 1}
            bands[label] = {k: (mean - by, mean + by) for k, (mean, by) in spread.items()}
        else:
            scale, bounds = METRICS[metric].scale, {k: one.interval(metric) for k, one in model.records.items()}
            intervals[label] = {k: (scale * both[0], scale * both[1]) for k, both in bounds.items() if both}
    told_apart = len({task for task, _ in kinds.values()}) > 1 and len({*kinds.values()}) == len(kinds)
    return plot_robustness(curves, METRICS[metric].label, intervals, bands, kinds if told_apart else None)


@styled
def plot_robustness(
    curves: Mapping[str, Mapping[float, float]],
    ylabel: str,
    intervals: Ranges | None = None,
    bands: Ranges | None = None,
    kinds: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """One curve a model: label -> {attack epsilon: value}. NaN is missing: no line is drawn to it or across it.

    ``intervals``: label -> {attack epsilon: (low, high)}, drawn as bars; ``bands``: the same, as an area. ``kinds``:
    label -> (what has its colour, what has its dash), which the legend then lists, beside the axes.
    """
    figure = PaperFigure((COLUMN if kinds is None else 0.8 * WIDE, 2.3))
    axes = figure.subplots()
    drawn = _looks(list(curves), kinds)
    for label, curve in curves.items():
        look = drawn[label]
        if area := (bands or {}).get(label):
            low, high = ([bounds[k] for bounds in area.values()] for k in (0, 1))
            axes.fill_between(list(area), low, high, color=look["color"], alpha=0.25, lw=0)
        bars = (intervals or {}).get(label, {})
        axes.vlines(list(bars), [low for low, _ in bars.values()], [high for _, high in bars.values()], look["color"])
        points = sorted(curve.items())
        axes.plot([x for x, _ in points], [y for _, y in points], **look)
    axes.update_datalim([(min(x for curve in curves.values() for x in curve), 0)])  # heights compare from 0
    axes.set(xlabel=f"Attack {EPS}", ylabel=ylabel)
    open_axes(axes)
    if kinds is None:
        return laid_out(figure, dict(zip(curves, axes.lines, strict=True)))
    legend = {task: Line2D([], [], color=drawn[label]["color"]) for label, (task, _) in kinds.items()}
    for label, (_, model) in kinds.items():
        legend.setdefault(model, Line2D([], [], **{**drawn[label], "color": INK}))
    texts = [wrapped(label, 1.7) for label in legend]
    figure.legend(list(legend.values()), texts, loc="outside right center")
    return laid_out(figure)


def _looks(names: Sequence[str], kinds: Mapping[str, tuple[str, str]] | None) -> dict[str, dict[str, Any]]:
    """Of each curve: by its place, or by what it is of."""
    if kinds is None:
        return dict(zip(names, curve_looks(len(names), dashed=True), strict=True))
    tasks, models = (list(dict.fromkeys(kind[k] for kind in kinds.values())) for k in (0, 1))
    colours, dashes = curve_looks(len(tasks)), curve_looks(len(models), dashed=True)
    return {
        name: dashes[models.index(model)] | {"color": colours[tasks.index(task)]["color"]}
        for name, (task, model) in kinds.items()
    }


def training(data: FigureData, models: Sequence[Model], stage: str = "pretrain") -> Figure:
    """Loss and accuracy of every epoch of a stage, each training once. A given encoder has none."""
    trained = [spec for model in models for spec in (model.spec.pretrain, model.spec) if spec.stage == stage]
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
        open_axes(axes)
    shown["top-1"] = Line2D([], [], color=INK)
    shown["top-5"] = Line2D([], [], color=INK, linestyle="--")
    if marked:
        places = [entry["epoch"] for entry in marked], [entry["loss"] for entry in marked]
        (shown["collapsed"],) = loss.plot(*places, linestyle="none", marker="x", color=INK)
    return laid_out(figure, shown)

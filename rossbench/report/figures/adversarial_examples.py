"""Images that an attack turned (study, figure 5.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...data import datasets
from ...stages.evaluate import attacked
from ...util.epsilons import EPS, format_epsilon
from ...util.errors import InvalidValue
from ..figure_data import FigureData, Model
from ..plot_style import COLUMN, SMALL, WIDE, PaperFigure, laid_out, styled, wrapped

SEARCHED = 1000
"""Attacked images, after which a class may come twice."""


@dataclass(frozen=True)
class Example:
    """An image and its adversarial one, float [height, width, 3] in [0, 1]; its class, and what both are taken for."""

    natural: np.ndarray
    adversarial: np.ndarray
    label: str
    before: str
    after: str


def examples(data: FigureData, models: Sequence[Model], epsilon: float | None = None, count: int = 6) -> Figure:
    """Up to ``count`` (8) test images that the last model gets right and, attacked, wrong; with what was made of them.

    One of each class, as far as there are so many among the first ``SEARCHED`` images.

    ``epsilon``: by default one that is plainly seen, 5 in L2 and 0.3 in L-infinity.
    """
    model = models[-1]
    epsilon = {"L2": 5.0, "Linf": 0.3}[model.matrix.evaluation.attack.norm] if epsilon is None else epsilon
    classifier, test, names = data.classifier(model), data.images(model), datasets.facts(model.spec.target).names
    firsts: dict[str, Example] = {}
    others: list[Example] = []
    done = 0
    for adversarial, *_ in attacked([model.under(epsilon)], classifier, test.images, test.labels):
        part = slice(done, done + len(adversarial))
        right = test.labels[part]
        natural = test.images[part].to(right.device).float() / 255
        before, after = (classifier(batch).argmax(1) for batch in (natural, adversarial))
        for k in torch.nonzero((before == right) & (after != right)).flatten().tolist():
            pair = [batch[k].permute(1, 2, 0).cpu().numpy() for batch in (natural, adversarial)]
            example = Example(pair[0], pair[1], names[right[k]], names[before[k]], names[after[k]])
            if firsts.setdefault(example.label, example) is not example and len(others) < count:
                others.append(example)
        done += len(adversarial)
        if len(firsts) >= count or (len(firsts) + len(others) >= count and done >= SEARCHED):
            break
    rows = [*firsts.values(), *others]
    if not rows:
        raise InvalidValue(f"{model.label}: expected images that epsilon {format_epsilon(epsilon)} turns, got none")
    return plot_examples(rows[:count], epsilon)


@styled
def plot_examples(rows: Sequence[Example], epsilon: float) -> Figure:
    """Up to 8 examples: natural and adversarial image, "→" what each is taken for, bold where wrong, their difference.

    The difference is drawn around mid grey and magnified until its largest value is full scale.
    """
    few = len(rows) <= 3  # then a row each: three images fill a column of a paper
    side = (COLUMN - 0.3) / 3 - 0.05 if few else (WIDE - 0.3) / max(6, len(rows)) - 0.05
    panels, texts = [], []
    for example in rows:
        difference = example.adversarial - example.natural
        largest = float(np.abs(difference).max())
        panels.append((example.natural, example.adversarial, 0.5 + 0.5 * difference / (largest or 1)))
        told = (f"→ {example.before}", f"→ {example.after}", f"× {1 / largest:.3g}" if largest else "none")
        texts.append([wrapped(text, 0.85 * side) for text in told])
    lines = max(text.count("\n") + 1 for text in itertools.chain(*texts))
    figure = PaperFigure((COLUMN if few else WIDE, (len(rows) if few else 3) * (side + 0.08 + 0.11 * lines) + 0.2))
    grid = figure.subplots(*((len(rows), 3) if few else (3, len(rows))), squeeze=False)
    grid = grid if few else grid.T
    for line, example, images, captions in zip(grid, rows, panels, texts, strict=True):
        for axes, image, caption in zip(line, images, captions, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(caption, fontsize=SMALL, labelpad=2)
            wrong = caption.startswith("→") and caption != wrapped(f"→ {example.label}", 0.85 * side)
            axes.xaxis.label.set_fontweight("bold" if wrong else "normal")
        _name(line[0], wrapped(example.label, side), above=not few)
    kinds = ("Natural", f"Adversarial, attack {EPS} = {format_epsilon(epsilon)}", "Difference")
    for axes, kind in zip(grid[0], kinds, strict=True):
        _name(axes, kind, above=few)
    return laid_out(figure)


def _name(axes: Axes, text: str, above: bool) -> None:
    """Of a column, above it, or of a row, left of it."""
    (axes.set_title if above else axes.set_ylabel)(text, fontsize=SMALL)

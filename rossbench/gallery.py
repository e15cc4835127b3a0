"""Figures of what a store holds: nothing is trained, only read, and where a figure needs it attacked or embedded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from . import artifacts, datasets, features, metrics
from .epsilons import EPS, format_epsilon, format_model
from .errors import InvalidValue, StoreError
from .evaluate import attacked
from .finetune import Classifier
from .report import figures, tables
from .report.tables import Matrix, Row
from .runner import resolve_device
from .specs import EvaluateSpec, FinetuneSpec
from .store import Store
from .values import build


@dataclass(frozen=True)
class Model:
    """A row of a matrix: a finetuned classifier and its evaluations."""

    matrix: Matrix
    row: Row

    @property
    def label(self) -> str:
        return f"{self.matrix.task.removeprefix('RoSS ')}, {EPS} = {format_model(*self.row)}"

    @cached_property
    def cells(self) -> dict[float, EvaluateSpec]:
        """By evaluation epsilon, those that are in the store."""
        found = {}
        for (*row, column), record in self.matrix.cells.items():
            if record is not None and tuple(row) == self.row:
                found[column] = build(EvaluateSpec, record.spec)
                if found[column].key != record.key:
                    raise StoreError(f"{self.label}: expected a record that is named by its spec, got {record.key}")
        if not found:
            raise StoreError(f"{self.label}: expected an evaluation in the store, got none; run the scenario first")
        return found

    @property
    def spec(self) -> FinetuneSpec:
        return next(iter(self.cells.values())).finetune

    def under(self, epsilon: float) -> EvaluateSpec:
        """The evaluation at any epsilon, with the attack of the row's own; also one that is not in the store."""
        strongest = self.cells[max(self.cells)]  # at epsilon 0 no attack is recorded
        return self.cells.get(epsilon) or dataclasses.replace(strongest, epsilon=epsilon)


class Gallery:
    """Draws the models of a store. Raises RossbenchError for what is not there.

    ``data_dir`` and ``device``, as for ``rossbench.run``, matter where images are read and attacked.
    """

    def __init__(self, store: Store | Path | str, data_dir: Path | str | None = None, device: str = "auto") -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.data_dir = Path(data_dir) if data_dir is not None else datasets.default_data_dir()
        self.device = resolve_device(device)

    def matrices(self, names: Sequence[str], protocol: str | None = None) -> list[Matrix]:
        """One matrix for each scenario of these names, or suites; InvalidValue if one ran under several protocols."""
        found = tables.load(self.store, names, protocol)
        return [tables.only([one for one in found if one.name == name]) for name in {one.name: None for one in found}]

    # --- from records and predictions ---

    def robustness(self, models: Sequence[Model], metric: str = "top1") -> Figure:
        """A metric against the evaluation epsilon, one curve a model."""
        curves = {}
        for model in models:
            values = {column: model.matrix.value(model.row, column, metric) for column in model.cells}
            curves[_short(model, models)] = {column: value for column, value in values.items() if value is not None}
        return figures.robustness(curves, tables.METRICS[metric])

    def matrix(self, models: Sequence[Model], metric: str = "top1") -> Figure:
        """A scenario's matrix as colours, a row a model."""
        matrix = models[0].matrix
        values = [[np.nan if v is None else v for v in matrix.values(row, metric)] for row in matrix.rows]
        rows, columns = [format_model(*row) for row in matrix.rows], list(map(format_epsilon, matrix.columns))
        return figures.matrix(np.array(values, float), rows, columns, tables.METRICS[metric])

    def confusion(self, models: Sequence[Model], epsilons: Sequence[float] = ()) -> Figure:
        """Confusion matrices: a line a model and a column an epsilon (default: the first and the last).

        With one epsilon a line a scenario and a column a model.
        """
        names = _classes(models)
        columns = epsilons or (min(models[0].cells), max(models[0].cells))
        panels = [
            [(f"{_short(model, models)}, attack {EPS} = {format_epsilon(e)}", self._counts(model, e)) for e in columns]
            for model in models
        ]
        if len(columns) == 1:
            tasks = {model.matrix.name: None for model in models}
            flat = [(model.matrix.name, panel) for model, (panel,) in zip(models, panels, strict=True)]
            panels = [[panel for name, panel in flat if name == task] for task in tasks]
        return figures.confusions(panels, names)

    def per_class(self, models: Sequence[Model], epsilons: Sequence[float] = ()) -> Figure:
        """Correct predictions of each class at growing epsilon (default: all that were evaluated), a panel a model."""
        columns = tuple(epsilons) or tuple(sorted(set.intersection(*(set(model.cells) for model in models))))
        panels = []
        for model in models:
            counts = [self._counts(model, epsilon) for epsilon in columns]
            right = np.stack([matrix.diagonal() for matrix in counts])
            names = datasets.facts(model.spec.target).names
            panels.append(figures.Right(_short(model, models), right, names, counts[0].sum(1)))
        return figures.per_class(panels, columns)

    def training(self, models: Sequence[Model], stage: str = "pretrain") -> Figure:
        """Loss and accuracy of every epoch of a stage, pretrain or finetune; each training once."""
        curves: dict[str, tuple[str, list[dict[str, float]]]] = {}
        for model in models:
            spec = model.spec if stage == "finetune" else model.spec.pretrain
            label = str(spec).removeprefix(f"{stage} ").replace(f"{EPS}=", f"{EPS} = ")
            curves.setdefault(spec.key, (label, artifacts.load_history(self.store, spec)))
        return figures.training(dict(curves.values()))

    def _counts(self, model: Model, epsilon: float) -> np.ndarray:
        if epsilon not in model.cells:
            known = ", ".join(map(format_epsilon, sorted(model.cells)))
            raise InvalidValue(f"{model.label}: expected an evaluated epsilon, {known}, got {format_epsilon(epsilon)}")
        ranked, labels = artifacts.load_predictions(self.store, model.cells[epsilon])
        counts: np.ndarray = metrics.confusion(ranked[:, 0], labels, datasets.facts(model.spec.target).classes).numpy()
        return counts

    # --- from images through the stored classifiers ---

    def tsne(
        self,
        models: Sequence[Model],
        layer: str = "encoder",
        perplexity: float = 35,
        iterations: int = 1500,
        **inputs: Any,
    ) -> Figure:
        """t-SNE of each model's features of a layer, in maps of their own, coloured by class (study, figure 5.4)."""
        names = _classes(models)
        extracted = [self.features(model, layer, **inputs) for model in models]
        maps = [features.embed(found, perplexity, iterations) for found, _ in extracted]
        titles = [_short(model, models) for model in models]
        return figures.maps(list(zip(titles, maps, strict=True)), extracted[0][1].numpy(), names)

    def tsne_together(
        self,
        models: Sequence[Model],
        layer: str = "linear",
        perplexity: float = 50,
        iterations: int = 2500,
        **inputs: Any,
    ) -> Figure:
        """t-SNE of several models' features of a layer in one map, coloured by model (study, figure 5.8)."""
        _classes(models)
        found = [self.features(model, layer, **inputs)[0].flatten(1) for model in models]
        sizes = sorted({part.shape[1] for part in found})
        if len(sizes) > 1:
            raise InvalidValue(f"layer {layer!r}: expected features of one size in all models, got {sizes}")
        points = features.embed(torch.cat(found), perplexity, iterations)
        owner = np.repeat(np.arange(len(models)), [len(part) for part in found])
        return figures.joint_map(points, owner, [_short(model, models) for model in models])

    def examples(self, models: Sequence[Model], epsilon: float = 5, count: int = 6) -> Figure:
        """Test images that the last model gets right and, attacked, wrong; beside what the attack made of them."""
        model = models[-1]
        spec, classifier = model.under(epsilon), self._classifier(model)
        data, names = self._data(model), datasets.facts(model.spec.target).names
        rows: list[figures.Example] = []
        done = 0
        for adversarial in attacked(spec, classifier, data.images, data.labels):
            part = slice(done, done + len(adversarial))
            natural, labels = data.images[part].float() / 255, data.labels[part]
            before, after = (classifier(batch).argmax(1) for batch in (natural, adversarial))
            for k in torch.nonzero((before == labels) & (after != labels)).flatten().tolist():
                pair = [batch[k].permute(1, 2, 0).cpu().numpy() for batch in (natural, adversarial)]
                rows.append(figures.Example(pair[0], pair[1], names[labels[k]], names[before[k]], names[after[k]]))
            done += len(adversarial)
            if len(rows) >= count:
                break
        if not rows:
            raise InvalidValue(f"{model.label}: expected images that epsilon {format_epsilon(epsilon)} turns, got none")
        return figures.examples(rows[:count], epsilon)

    def layers(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Names of the layers and the shape that each gives for one image."""
        return features.layers(self._classifier(model), datasets.facts(model.spec.target).size)

    def features(self, model: Model, layer: str, epsilon: float = 0, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """A layer's features of the test images the model was evaluated on, float [n, ...], and labels, int64 [n].

        ``epsilon``: of the attack, 0 for natural images; ``limit``: use a class-balanced part of that many images.
        """
        data, classifier = self._data(model, limit), self._classifier(model)
        batches = attacked(model.under(epsilon), classifier, data.images, data.labels)
        return features.extract(classifier, layer, batches), data.labels.cpu()

    def _classifier(self, model: Model) -> Classifier:
        classifier = artifacts.load_classifier(self.store, model.spec).to(self.device)
        classifier.requires_grad_(False)
        return classifier

    def _data(self, model: Model, limit: int | None = None) -> datasets.Data:
        evaluated = next(iter(model.cells.values())).limit
        return datasets.load(model.spec.target, "test", limit or evaluated, self.data_dir).to(self.device)


def choose(matrices: Sequence[Matrix], rows: Sequence[Row] = ()) -> list[Model]:
    """The models of these rows, or of all, of some matrices; one that is in several comes once.

    InvalidValue for a row that none of the matrices has.
    """
    known = {row for matrix in matrices for row in matrix.rows}
    for row in rows:
        if row not in known:
            there = ", ".join(format_model(*one) for one in sorted(known))
            raise InvalidValue(f"models: expected some of {there}, got {format_model(*row)}")
    return _once(Model(matrix, row) for matrix in matrices for row in rows or matrix.rows if row in matrix.rows)


def ends(matrices: Sequence[Matrix]) -> list[Model]:
    """The first and the last model of each matrix: mostly the plain and the most robust one."""
    return _once(Model(matrix, row) for matrix in matrices for row in (matrix.rows[0], matrix.rows[-1]))


def _once(models: Iterable[Model]) -> list[Model]:
    unique: dict[str, Model] = {}
    for model in models:
        unique.setdefault(model.spec.key, model)
    return list(unique.values())


def _short(model: Model, among: Sequence[Model]) -> str:
    """As little as tells a model from the others."""
    first, second = map(format_epsilon, model.row)
    name = f"{EPS} = {first}" if first == second else f"{EPS} = {first}, finetuned {second}"
    tasks = {one.matrix.task for one in among}
    return name if len(tasks) == 1 else f"{model.matrix.task.removeprefix('RoSS ')}, {name}"


def _classes(models: Sequence[Model]) -> tuple[str, ...]:
    targets = {model.spec.target for model in models}
    if len(targets) != 1:
        raise InvalidValue(f"figure: expected models of one target, got {', '.join(sorted(targets)) or 'none'}")
    return datasets.facts(targets.pop()).names

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

from ..config.recipes import Attack
from ..config.scenarios import Row
from ..config.specs import EvaluateSpec, FinetuneSpec
from ..data import datasets
from ..models import layers
from ..models.classifier import Classifier
from ..stages import metrics
from ..stages.evaluate import attacked
from ..store import artifacts, results
from ..store.results import Matrix
from ..store.store import Store
from ..util.devices import resolve_device
from ..util.epsilons import EPS, check_models, format_epsilon, format_model
from ..util.errors import InvalidValue, StoreError
from . import figures, tables
from .tsne import embed


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
        cells = self.matrix.cells.items()
        found = {place[2]: record.spec for place, record in cells if record is not None and place[:2] == self.row}
        if not found:
            raise StoreError(f"{self.label}: expected an evaluation in the store, got none; run the scenario first")
        return found

    @property
    def spec(self) -> FinetuneSpec:
        return next(iter(self.cells.values())).finetune

    @property
    def attack(self) -> Attack:
        """Of the evaluations, which have one at epsilon 0 too."""
        return next(iter(self.cells.values())).recipe.attack

    def under(self, epsilon: float) -> EvaluateSpec:
        """The evaluation at any epsilon, also one that is not in the store."""
        return dataclasses.replace(next(iter(self.cells.values())), epsilon=epsilon)


class Gallery:
    """Draws the models of a store. Raises RossbenchError for what is not there.

    ``data_dir`` and ``device``, as for ``rossbench.run``, matter where images are read and attacked.
    """

    def __init__(self, store: Store | Path | str, data_dir: Path | str | None = None, device: str = "auto") -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.data_dir = Path(data_dir) if data_dir is not None else datasets.default_data_dir()
        self.device = resolve_device(device)
        self._loaded: dict[tuple[str, int | None], datasets.Data] = {}

    def matrices(self, names: Sequence[str], protocol: str | None = None) -> list[Matrix]:
        """One matrix for each scenario of these names, or suites; InvalidValue if one ran under several protocols."""
        found = results.load(self.store, names, protocol)
        return [results.only([one for one in found if one.name == name]) for name in {one.name: None for one in found}]

    # --- from records and predictions ---

    def robustness(self, models: Sequence[Model], metric: str | None = None) -> Figure:
        """A metric against the evaluation epsilon, one curve a model; it has a gap where a cell is missing."""
        metric = metric or next((model.matrix.metric for model in models), "top1")
        curves = {}
        for label, model in zip(_labels(models), models, strict=True):
            values = zip(model.matrix.columns, model.matrix.values(model.row, metric), strict=True)
            curves[label] = {column: np.nan if value is None else value for column, value in values}
        return figures.robustness(curves, tables.METRICS[metric])

    def matrix(self, models: Sequence[Model], metric: str | None = None) -> Figure:
        """The models' rows of their matrices as colours."""
        metric = metric or next((model.matrix.metric for model in models), "top1")
        columns = sorted({column for model in models for column in model.cells})
        rows = [[model.matrix.value(model.row, column, metric) for column in columns] for model in models]
        values = np.array([[np.nan if value is None else value for value in row] for row in rows], float)
        names = [label.removeprefix(f"{EPS} = ") for label in _labels(models)]
        return figures.matrix(values, names, list(map(format_epsilon, columns)), tables.METRICS[metric])

    def confusion(self, models: Sequence[Model], epsilons: Sequence[float] = ()) -> Figure:
        """Confusion matrices: a line a model and a column an epsilon (default: the first and the last in common).

        With one epsilon a line a scenario and a column a model.
        """
        names, common = _classes(models), shared(models)
        columns = tuple(epsilons) or tuple(dict.fromkeys((common[0], common[-1])))
        lines: dict[object, list[tuple[str, np.ndarray]]] = {}
        for label, model in zip(_labels(models), models, strict=True):
            for epsilon in columns:
                line = (model.matrix.name, model.matrix.protocol) if len(columns) == 1 else model.spec.key
                title = f"{label}, attack {EPS} = {format_epsilon(epsilon)}"
                lines.setdefault(line, []).append((title, self._counts(model, epsilon)))
        return figures.confusions(list(lines.values()), names)

    def per_class(self, models: Sequence[Model], epsilons: Sequence[float] = ()) -> Figure:
        """Correct predictions of each class at growing epsilon (default: all in common), a panel a model."""
        columns = tuple(epsilons) or shared(models)
        panels = []
        for label, model in zip(_labels(models), models, strict=True):
            counts = [self._counts(model, epsilon) for epsilon in columns]
            right = np.stack([matrix.diagonal() for matrix in counts])
            panels.append(figures.Right(label, right, datasets.facts(model.spec.target).names, counts[0].sum(1)))
        return figures.per_class(panels, columns)

    def training(self, models: Sequence[Model], stage: str = "pretrain") -> Figure:
        """Loss and accuracy of every epoch of a stage, each training once. A given encoder has none."""
        trained = [spec for model in models for spec in model.spec.chain if spec.stage == stage]
        specs = {spec.key: spec for spec in trained if isinstance(spec, FinetuneSpec) or not spec.weights}
        if not specs:
            raise InvalidValue("training: expected models that were pretrained here, got given encoders alone")
        labels = [str(spec).removeprefix(f"{stage} ").replace(f"{EPS}=", f"{EPS} = ") for spec in specs.values()]
        if len(set(labels)) < len(labels):  # of several seeds or protocols
            labels = [f"{label} ({key})" for label, key in zip(labels, specs, strict=True)]
        histories = [artifacts.load_history(self.store, spec) for spec in specs.values()]
        return figures.training(dict(zip(labels, histories, strict=True)))

    def _counts(self, model: Model, epsilon: float) -> np.ndarray:
        if epsilon not in model.cells:
            known = ", ".join(map(format_epsilon, sorted(model.cells)))
            raise InvalidValue(f"{model.label}: expected an evaluated epsilon, {known}, got {format_epsilon(epsilon)}")
        if model.cells[epsilon].recipe.attacked != "all":
            raise InvalidValue(f"{model.label}: expected all images attacked, got only those right without it")
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
        names, maps, labels = _classes(models), [], None
        attack = f", attack {EPS} = {format_epsilon(inputs['epsilon'])}" if inputs.get("epsilon") else ""
        for title, model in zip(_labels(models), models, strict=True):
            found, own = self.features(model, layer, **inputs)
            if labels is not None and not torch.equal(own, labels):
                raise InvalidValue(f"figure: expected models evaluated on the same images, got others for {title}")
            labels = own
            maps.append((title + attack, embed(found, perplexity, iterations)))  # before the next are read
        assert labels is not None  # _classes refuses an empty list
        return figures.maps(maps, labels.numpy(), names)

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
        points = embed(torch.cat(found), perplexity, iterations)
        owner = np.repeat(np.arange(len(models)), [len(part) for part in found])
        return figures.joint_map(points, owner, _labels(models))

    def examples(self, models: Sequence[Model], epsilon: float | None = None, count: int = 6) -> Figure:
        """Test images that the last model gets right and, attacked, wrong; beside what the attack made of them.

        ``epsilon``: by default one that is plainly seen, 5 in L2 and 0.3 in L-infinity.
        """
        model = models[-1]
        epsilon = {"L2": 5.0, "Linf": 0.3}[model.attack.norm] if epsilon is None else epsilon
        spec, classifier = model.under(epsilon), self._classifier(model)
        data, names = self._data(model), datasets.facts(model.spec.target).names
        rows: list[figures.Example] = []
        done = 0
        for adversarial, *_ in attacked([spec], classifier, data.images, data.labels):
            part = slice(done, done + len(adversarial))
            labels = data.labels[part]
            natural = data.images[part].to(labels.device).float() / 255
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
        return layers.layers(self._classifier(model), datasets.facts(model.spec.target).size)

    def features(self, model: Model, layer: str, epsilon: float = 0, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """A layer's features of the test images the model was evaluated on, float [n, ...], and labels, int64 [n].

        ``epsilon``: of the attack, 0 for natural images; ``limit``: use a class-balanced part of that many images.
        """
        data, classifier = self._data(model, limit), self._classifier(model)
        batches = attacked([model.under(epsilon)], classifier, data.images, data.labels)
        return layers.extract(classifier, layer, (batch.images for batch in batches)), data.labels.cpu()

    def _classifier(self, model: Model) -> Classifier:
        return artifacts.load_classifier(self.store, model.spec).to(self.device).requires_grad_(False)

    def _data(self, model: Model, limit: int | None = None) -> datasets.Data:
        target, evaluated = model.spec.target, next(iter(model.cells.values())).limit
        images = datasets.count(target, "test", evaluated)
        if limit is not None and limit > images:
            raise InvalidValue(f"limit: expected at most the {images} images of the evaluation, got {limit}")
        place = target, evaluated if limit is None else limit
        if place not in self._loaded:
            self._loaded[place] = datasets.load(target, "test", place[1], self.data_dir).to(self.device)
        return self._loaded[place]


def choose(matrices: Sequence[Matrix], rows: Sequence[Row] = ()) -> list[Model]:
    """The models of these rows, or of all that were evaluated, of some matrices; one that is in several comes once.

    InvalidValue for a row that none of the matrices has.
    """
    check_models(rows, {row for matrix in matrices for row in matrix.rows})
    return _once(Model(m, row) for m in matrices for row in rows or _evaluated(m) if row in m.rows)


def ends(matrices: Sequence[Matrix]) -> list[Model]:
    """The first and the last evaluated model of each matrix: mostly the plain and the most robust one."""
    return _once(Model(m, row) for m in matrices for row in (_evaluated(m)[0], _evaluated(m)[-1]))


def _once(models: Iterable[Model]) -> list[Model]:
    unique: dict[str, Model] = {}
    for model in models:
        unique.setdefault(model.spec.key, model)
    return list(unique.values())


def _evaluated(matrix: Matrix) -> list[Row]:
    rows = [row for row in matrix.rows if any(matrix.cells.get((*row, column)) for column in matrix.columns)]
    if not rows:
        raise StoreError(f"{matrix.name}: expected an evaluation in the store, got none; run the scenario first")
    return rows


def shared(models: Sequence[Model]) -> tuple[float, ...]:
    """The evaluation epsilons that all models have, ascending; InvalidValue if there are none."""
    common = set.intersection(*(set(model.cells) for model in models)) if models else set()
    if not common:
        raise InvalidValue("figure: expected models with an evaluation epsilon in common, got none")
    return tuple(sorted(common))


def _labels(models: Sequence[Model]) -> list[str]:
    """As little as tells the models from each other."""
    short = []
    for model in models:
        first, second = map(format_epsilon, model.row)
        short.append(f"{EPS} = {first}" if first == second else f"{EPS} = {first}, finetuned {second}")
    tasks = [model.matrix.task.removeprefix("RoSS ") for model in models]
    names = [model.matrix.name for model in models]
    protocols = [f"{model.matrix.name} {model.matrix.protocol}" for model in models]
    whole = [
        [f"{start}, {end}" for start, end in zip(starts, short, strict=True)] for starts in (tasks, names, protocols)
    ]
    forms = ([short] if len(set(tasks)) == 1 else []) + whole
    return next((form for form in forms if len(set(form)) == len(models)), forms[-1])


def _classes(models: Sequence[Model]) -> tuple[str, ...]:
    targets = {model.spec.target for model in models}
    if len(targets) != 1:
        raise InvalidValue(f"figure: expected models of one target, got {', '.join(sorted(targets)) or 'none'}")
    return datasets.facts(targets.pop()).names

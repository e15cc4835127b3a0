"""What figures are drawn from: models of a store, their predictions, images and features. Nothing is trained."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from ..config.scenarios import Row
from ..config.specs import EvaluateSpec, FinetuneSpec
from ..data import datasets
from ..models import layers
from ..models.classifier import Classifier
from ..stages import metrics
from ..stages.evaluate import attacked
from ..store import artifacts, results
from ..store.records import Measurement, Record
from ..store.results import ResultMatrix
from ..store.store import Store
from ..util.devices import resolve_device
from ..util.epsilons import EPS, check_models, format_epsilon, format_model
from ..util.errors import InvalidValue, StoreError


@dataclass(frozen=True)
class Model:
    """A row of a matrix: a finetuned classifier and its evaluations."""

    matrix: ResultMatrix
    row: Row

    @property
    def label(self) -> str:
        task = self.matrix.task.removeprefix("RoSS ")
        return f"{task}, {self.name if self.matrix.is_named else f'{EPS} = {self.name}'}"

    @property
    def short(self) -> str:
        """Without its task."""
        return self.name if self.matrix.is_named else f"model {EPS} = {self.name}"

    @property
    def name(self) -> str:
        """Of a named encoder what tables call it; else the epsilons."""
        return self.matrix.model(self.row) if self.matrix.is_named else format_model(*self.row)

    @cached_property
    def records(self) -> dict[float, Record]:
        """By evaluation epsilon, those that are in the store."""
        records = {column: self.matrix.cells.get((*self.row, column)) for column in self.matrix.columns}
        found = {column: record for column, record in records.items() if record is not None}
        if not found:
            raise StoreError(f"{self.label}: expected an evaluation in the store, got none; run the scenario first")
        return found

    @property
    def first(self) -> Record:
        return next(iter(self.records.values()))

    @property
    def collapsed(self) -> bool:
        """Whether its encoder must not be taken for a robust one; see PretrainSpec.is_collapsed."""
        return any(record.collapsed for place, record in self.matrix.cells.items() if record and place[:2] == self.row)

    @property
    def spec(self) -> FinetuneSpec:
        heads = [one.spec.head for (_, row), one in self.matrix.measures.items() if row == self.row and one.spec.head]
        evaluated = any(record and place[:2] == self.row for place, record in self.matrix.cells.items())
        return heads[0] if heads and not evaluated else self.first.spec.finetune

    def measured(self, kind: str) -> Measurement | None:
        """By an evaluation kind of this name, of the model or, where the kind needs none, of its encoder alone."""
        rows = (self.row, (self.row[0], self.row[0]))
        found = [one for (known, row), one in self.matrix.measures.items() if known.name == kind and row in rows]
        return found[-1] if found else None

    def under(self, epsilon: float) -> EvaluateSpec:
        """The evaluation at any epsilon, also one that is not in the store."""
        return dataclasses.replace(self.first.spec, epsilon=epsilon, recipe=self.matrix.evaluation)


class FigureData:
    """Reads what figures of a store's models show. Raises RossbenchError for what is not there.

    ``data_dir`` and ``device``, as for ``rossbench.run``, matter where images are read and attacked.
    """

    def __init__(self, store: Store | Path | str, data_dir: Path | str | None = None, device: str = "auto") -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.data_dir = datasets.default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
        self.device = resolve_device(device)
        self._loaded: dict[tuple[str, int | None, int], datasets.Data] = {}

    def matrices(self, names: Sequence[str], protocol: str | None = None) -> list[ResultMatrix]:
        """One matrix for each scenario of these names, or suites; InvalidValue if one ran under several protocols."""
        return results.one_protocol(results.load(self.store, names, protocol))

    def confusion(self, model: Model, epsilon: float) -> np.ndarray:
        """Test images by true and by predicted class, int64 [classes, classes], under an evaluated epsilon."""
        record = model.records.get(epsilon)
        if record is None:
            known = ", ".join(map(format_epsilon, model.records))
            raise InvalidValue(f"{model.label}: expected an evaluated epsilon, {known}, got {format_epsilon(epsilon)}")
        if record.top1_right is None:
            raise InvalidValue(f"{model.label}: expected all images attacked, got only those right without it")
        ranked, labels = artifacts.load_predictions(self.store, record.spec)
        counts: np.ndarray = metrics.confusion(ranked[:, 0], labels, record.classes).numpy()
        return counts

    def layers(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Names of the layers and the shape that each gives for one image."""
        return layers.layers(self.classifier(model), model.spec.pretrain.pixels)

    def features(self, model: Model, layer: str, epsilon: float = 0, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """A layer's features of the test images the model was evaluated on, float [n, ...], and labels, int64 [n].

        ``epsilon``: of the attack, 0 for natural images; ``limit``: use a class-balanced part of that many images.
        """
        data, classifier = self.images(model, limit), self.classifier(model)
        batches = attacked([model.under(epsilon)], classifier, data.images, data.labels)
        return layers.extract(classifier, layer, (batch.images for batch in batches)), data.labels.cpu()

    def classifier(self, model: Model) -> Classifier:
        return artifacts.load_classifier(self.store, model.spec).to(self.device).requires_grad_(False)

    def images(self, model: Model, limit: int | None = None) -> datasets.Data:
        """The test images that the model was evaluated on, or a class-balanced part of so many."""
        if limit is not None and limit > model.first.n:
            raise InvalidValue(f"limit: expected at most the {model.first.n} images of the evaluation, got {limit}")
        place = model.spec.target, model.first.spec.limit if limit is None else limit, model.spec.pretrain.pixels
        if place not in self._loaded:
            self._loaded[place] = datasets.load(place[0], "test", *place[1:], self.data_dir).to(self.device)
        return self._loaded[place]


def choose(matrices: Sequence[ResultMatrix], rows: Sequence[Row] = ()) -> list[Model]:
    """The models of these rows, or of all that were evaluated, of some matrices; one that is in several comes once.

    InvalidValue for a row that none of the matrices has.
    """
    check_models(rows, {row for matrix in matrices for row in matrix.rows})
    return _once(Model(m, row) for m in matrices for row in rows or _evaluated(m) if row in m.rows)


def ends(matrices: Sequence[ResultMatrix]) -> list[Model]:
    """The first and the last evaluated model of each matrix: mostly the plain and the most robust one."""
    return _once(Model(m, row) for m in matrices for row in (_evaluated(m)[0], _evaluated(m)[-1]))


def _once(models: Iterable[Model]) -> list[Model]:
    unique: dict[str, Model] = {}
    for model in models:
        unique.setdefault(model.spec.key, model)
    return list(unique.values())


def measured(models: Sequence[Model], kind: str) -> dict[str, tuple[Model, Measurement]]:
    """Those of the models that were measured by an evaluation kind, by their labels; StoreError if none was."""
    found = {label: (one, one.measured(kind)) for label, one in zip(labels(models), models, strict=True)}
    known = {label: (model, measurement) for label, (model, measurement) in found.items() if measurement is not None}
    if not known:
        raise StoreError(f"figure: expected models measured by {kind}, got none; rossbench run --kind {kind} does it")
    return known


def _evaluated(matrix: ResultMatrix) -> list[Row]:
    rows = list(matrix.audit_specs()) or sorted({row for (_, row), one in matrix.measures.items() if one.spec.head})
    if not rows:
        raise StoreError(f"{matrix.name}: expected an evaluation in the store, got none; run the scenario first")
    return rows


def shared(models: Sequence[Model]) -> tuple[float, ...]:
    """The evaluation epsilons that all models have, ascending; InvalidValue if there are none."""
    common = set.intersection(*(set(model.records) for model in models)) if models else set()
    if not common:
        raise InvalidValue("figure: expected models with an evaluation epsilon in common, got none")
    return tuple(sorted(common))


def labels(models: Sequence[Model]) -> list[str]:
    """As little as tells the models from each other."""
    short = []
    for model in models:
        first, second = map(format_epsilon, model.row)
        label = f"model {EPS} = {first}" if first == second else f"model {EPS} = {first}, finetuned {second}"
        if any(one.matrix.is_named for one in models):
            label = model.matrix.model(model.row)
        short.append(label + ", collapsed" * model.collapsed)
    tasks = [model.matrix.task.removeprefix("RoSS ") for model in models]
    names = [model.matrix.name for model in models]
    protocols = [f"{model.matrix.name} {model.matrix.protocol}" for model in models]
    whole = [
        [f"{start}, {end}" for start, end in zip(starts, short, strict=True)] for starts in (tasks, names, protocols)
    ]
    forms = ([short] if len(set(tasks)) == 1 else []) + whole
    return next((form for form in forms if len(set(form)) == len(models)), forms[-1])


def class_names(models: Sequence[Model]) -> tuple[str, ...]:
    """Of the target that the models have in common; InvalidValue if they have none."""
    targets = {model.spec.target for model in models}
    if len(targets) != 1:
        raise InvalidValue(f"figure: expected models of one target, got {', '.join(sorted(targets)) or 'none'}")
    return datasets.facts(targets.pop()).names

"""What figures are drawn from: models of a store, their predictions, images and features. Nothing is trained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..config.scenarios import Row
from ..data import datasets
from ..models import layers
from ..models.classifier import Classifier
from ..stages import metrics
from ..stages.evaluate import attacked
from ..store import artifacts, results
from ..store.records import Measurement
from ..store.results import ResultMatrix
from ..store.store import Store
from ..util.devices import resolve_device
from ..util.epsilons import EPS, check_epsilon, check_models, format_epsilon
from ..util.errors import InvalidValue, StoreError
from .model import Model as Model


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
        check_epsilon(f"{model.label}: expected an evaluated epsilon", epsilon, model.records)
        record = model.records[epsilon]
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
    named = zip(labels(models), models, strict=True)
    known = {label: (model, one) for label, model in named if (one := model.measured(kind)) is not None}
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


def middle(columns: Iterable[float]) -> list[float]:
    """The middle one of those above 0, the lower of two; none where none is above 0."""
    above = [column for column in columns if column]
    return above[(len(above) - 1) // 2 :][:1]


def labels(models: Sequence[Model]) -> list[str]:
    """As little as tells the models from each other."""
    short = []
    for model in models:
        first, second = map(format_epsilon, model.row)
        label = f"model {EPS} = {first}" + f", finetuned {second}" * (first != second)
        if any(one.matrix.is_named for one in models):
            label = model.name
        short.append(label + ", collapsed" * model.collapsed)
    of = [model.matrix for model in models]
    tasks, names = [one.task.removeprefix("RoSS ") for one in of], [one.name for one in of]
    protocols = [f"{one.name} {one.protocol}" for one in of]
    forms = [
        [f"{start}, {end}" for start, end in zip(starts, short, strict=True)] for starts in (tasks, names, protocols)
    ]
    if len(set(tasks)) == 1:
        forms.insert(0, short)
    return next((form for form in forms if len(set(form)) == len(models)), forms[-1])


def class_names(models: Sequence[Model]) -> tuple[str, ...]:
    """Of the target that the models have in common; InvalidValue if they have none."""
    targets = {model.spec.target for model in models}
    if len(targets) != 1:
        raise InvalidValue(f"figure: expected models of one target, got {', '.join(sorted(targets)) or 'none'}")
    return datasets.facts(targets.pop()).names

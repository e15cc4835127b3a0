"""A model over its seeds: what it is called, its numbers, its audit and the command that repeats it. No torch."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any

from .. import registry
from ..config.recipes import MODULE
from ..config.scenarios import Row
from ..config.specs import ATTACKED, EvaluateSpec, FinetuneSpec, PretrainSpec
from ..store.metrics import METRICS, MISSING
from ..store.records import Audit, Measurement, Record
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon, format_model, parse_epsilons
from ..util.errors import StoreError
from ..util.statistics import wilson_over
from ..util.values import encode, flatten

FAILED = "!"
"""Behind the numbers of a model whose audit failed."""
RATES = ", ".join(name for name, one in METRICS.items() if one.is_count)


@dataclass(frozen=True)
class Score:
    """A rate of the test images, in [0, 1]: the mean over seeds and its 95 % interval, see wilson_over."""

    mean: float
    low: float
    high: float
    records: tuple[Record, ...]
    """One a seed."""

    @property
    def text(self) -> str:
        return f"{100 * self.mean:.2f}"

    @property
    def interval(self) -> str:
        return f"{100 * self.low:.1f}–{100 * self.high:.1f}"


@dataclass(frozen=True)
class Model:
    """An encoder with one finetuning, on one task, as it was tested, under one seed or several."""

    matrix: ResultMatrix
    """Of the first seed."""
    row: Row
    others: tuple[ResultMatrix, ...] = ()
    """Of the other seeds."""

    @property
    def matrices(self) -> tuple[ResultMatrix, ...]:
        return (self.matrix, *self.others)

    @property
    def name(self) -> str:
        """Among all encoders, such as ``mine-v3`` or ``resnet18 ε=1``."""
        return self.matrix.model(self.row)

    def called(self, before: str = f"{EPS}=") -> str:
        """Among those of its encoder: the name that was given, else its epsilons behind ``before``."""
        return self.name if self.matrix.is_named else before + format_model(*self.row)

    @property
    def label(self) -> str:
        """With its task."""
        return f"{self.matrix.task.removeprefix('RoSS ')}, {self.called(f'{EPS} = ')}"

    def cells(self, column: float) -> list[Record]:
        """One a seed, of those that are in the store."""
        return [cell for one in self.matrices if (cell := one.cells.get((*self.row, column))) is not None]

    def values(self, column: float, metric: str) -> list[float]:
        """One a seed, as they are shown; see ResultMatrix.value."""
        return [value for one in self.matrices if (value := one.value(self.row, column, metric)) is not None]

    def score(self, column: float, metric: str) -> Score | None:
        """None where no seed has the rate, or where ``metric`` is no share of the test images."""
        known = [(cell, rate) for cell in self.cells(column) if (rate := cell.metric(metric)) is not None]
        if not known or not METRICS[metric].is_count:
            return None
        records, rates = zip(*known, strict=True)
        mean = statistics.fmean(rates)
        return Score(mean, *wilson_over(mean, min(one.n for one in records), rates), records)

    @cached_property
    def scores(self) -> dict[float, Score]:
        """Robust accuracy by evaluation epsilon."""
        columns = sorted({column for one in self.matrices for column in one.columns})
        return {column: score for column in columns if (score := self.score(column, "robust"))}

    @cached_property
    def records(self) -> dict[float, Record]:
        """Of the first seed, by evaluation epsilon; StoreError if there are none."""
        found = {k: one for k in self.matrix.columns if (one := self.matrix.cells.get((*self.row, k))) is not None}
        if not found:
            raise StoreError(f"{self.label}: expected an evaluation in the store, got none; run the scenario first")
        return found

    @property
    def first(self) -> Record:
        return next(iter(self.records.values()))

    @property
    def spec(self) -> FinetuneSpec:
        if not any(self.matrix.cells.get((*self.row, column)) for column in self.matrix.columns):
            for (_, row), one in self.matrix.measures.items():
                if row == self.row and one.spec.head:
                    return one.spec.head
        return self.first.spec.finetune

    def measured(self, kind: str) -> Measurement | None:
        """By an evaluation kind of this name, of the model or, where the kind needs none, of its encoder alone."""
        rows = (self.row, (self.row[0], self.row[0]))
        found = [one for (known, row), one in self.matrix.measures.items() if known.name == kind and row in rows]
        return found[-1] if found else None

    def under(self, epsilon: float) -> EvaluateSpec:
        """The evaluation at any epsilon, also one that is not in the store."""
        return replace(self.first.spec, epsilon=epsilon, recipe=self.matrix.evaluation)

    @property
    def audits(self) -> dict[int, Audit]:
        """By seed."""
        return {one.seed: one.audits[self.row] for one in self.matrices if self.row in one.audits}

    @property
    def audit(self) -> Audit | None:
        """The worst."""
        return min(self.audits.values(), key=lambda one: ("fail", "warn", "pass").index(one.verdict), default=None)

    @property
    def summary(self) -> str:
        """Of the worst audit."""
        return self.audit.summary if self.audit else MISSING

    @property
    def mark(self) -> str:
        """What is behind its numbers."""
        return FAILED if self.audit and self.audit.verdict == "fail" else ""

    @property
    def collapsed(self) -> bool:
        """Whether its encoder must not be taken for a robust one; see PretrainSpec.is_collapsed."""
        return any(cell.collapsed for one in self.matrices for column in one.columns for cell in self.cells(column))

    @cached_property
    def doubt(self) -> str:
        """Why it must not be taken for a robust one; empty where nothing speaks against it."""
        return "failed audit" if self.mark else "collapsed encoder" if self.collapsed else ""

    @property
    def notes(self) -> list[str]:
        """What differs from the registered scenario, but for encoder, grids and seed; collapse; stores that differ."""
        own = [
            notes_of(one, registered_seed=one.seed, registered_rows=one.rows, registered_columns=one.columns)
            for one in self.matrices
        ]
        return list(dict.fromkeys(note for notes in own for note in notes))

    @property
    def origin(self) -> dict[str, Any]:
        """Of a given encoder, what is known of its file or module; else empty."""
        known: dict[str, Any] = self.first.provenance.get("pretrain", {}).get("weights", {})
        return known

    @property
    def pretraining(self) -> str:
        spec = self.spec.pretrain
        if spec.weights:
            return f"given, {self.origin.get('from', spec.weights)}"
        return f"here, {EPS}={format_epsilon(spec.epsilon)}, {spec.recipe.epochs} epochs"

    @property
    def finetuning(self) -> str:
        return f"{self.spec.recipe.trained}, {EPS}={format_epsilon(self.row[1])}"

    @property
    def norm(self) -> str:
        """In which the attack's epsilon is a distance, if it is one."""
        attack = self.matrix.evaluation.attack
        return attack.norm if attack.kind.is_distance else MISSING

    @property
    def command(self) -> str:
        """What computes these numbers anew, in a shell; in Python of an encoder that is a module."""
        first = self.matrix
        changes = {
            path.removeprefix("recipe."): here
            for path, (here, _) in first.deviations.items()
            if path not in ("weights", "source", "target")
        }
        seeds = sorted(one.seed for one in self.matrices if one.name == first.name)
        if self.spec.pretrain.encoder.startswith(MODULE):
            changes.pop("encoder", None)
            options = {
                **{part: tuple(self.origin.get(part, ())) for part in ("mean", "std")},
                "scenario": first.name,
                **({"name": first.encoder_name} if first.encoder_name else {}),
                "epsilons": tuple(self.scores),
                "finetune_eps": self.row[1],
                **({"settings": changes} if changes else {}),
            }
            told = ", ".join(f"{option}={item!r}" for option, item in options.items())
            return f"for seed in {seeds}: rossbench.evaluate_encoder(module, {told}, seed=seed)"
        parts = ["rossbench", "run", first.name, *self._of_encoder()]
        if self.row[0] != self.row[1] or any(one != other for one, other in first.registered_rows):
            parts += ["--finetune-eps", _written(self.row[1:])]
        if tuple(self.scores) != first.registered_columns:
            parts += ["--eval-eps", _written(tuple(self.scores))]
        if seeds != [first.registered_seed]:
            parts += ["--seeds", ",".join(map(str, seeds))]
        for path, here in changes.items():
            parts += ["--set", f"{path}={here if isinstance(here, str) else json.dumps(here)}"]
        if first.name not in registry.names():
            parts += ["--scenario-file", "FILE"]
        return shlex.join(parts)

    def _of_encoder(self) -> list[str]:
        named = ["--name", self.matrix.encoder_name] if self.matrix.encoder_name else []
        if not self.matrix.weights:
            return ["--train-eps", _written(self.row[:1]), *named]
        mean, std = (",".join(map(repr, self.origin.get(part, ()))) for part in ("mean", "std"))
        zoo = ["--zoo", self.matrix.zoo] if self.matrix.zoo else []
        file = ["--encoder-weights", str(self.origin.get("from", "FILE")), "--encoder-normalization", f"{mean}/{std}"]
        return zoo + file + named


def _written(epsilons: Sequence[float]) -> str:
    """As they are read again."""
    short = map(format_epsilon, epsilons)
    exact = (text if parse_epsilons(text) == (one,) else repr(one) for text, one in zip(short, epsilons, strict=True))
    return ",".join(exact)


def notes_of(matrix: ResultMatrix, by_label: Sequence[str] = ("encoder", "weights"), **same: Any) -> list[str]:
    """The matrix's notes, without the deviations that a label tells, and without what ``same`` makes as registered."""
    told = {name: item for name, item in matrix.deviations.items() if name not in by_label}
    return replace(matrix, deviations=told, **same).notes()


def families(matrices: Sequence[ResultMatrix]) -> list[list[ResultMatrix]]:
    """Matrices of one scenario and protocol but for the seed together, by seed; in the order of the first of each."""
    groups: dict[tuple[str, str], list[ResultMatrix]] = {}
    for matrix in matrices:
        groups.setdefault((matrix.name, matrix.family), []).append(matrix)
    return [sorted(group, key=lambda matrix: matrix.seed) for group in groups.values()]


def models_of(
    matrices: Sequence[ResultMatrix], rows: Callable[[ResultMatrix], Iterable[Row]] = attrgetter("rows")
) -> list[Model]:
    """The models of these rows of some matrices, all by default, each over its seeds."""
    return [
        Model(family[0], row, tuple(family[1:]))
        for family in families(matrices)
        for row in sorted({row for matrix in family for row in rows(matrix)})
    ]


def how_tested(matrix: ResultMatrix) -> tuple[Any, ...]:
    """What matrices agree in that were finetuned and evaluated alike, whatever their encoder and target."""
    finetune = max((record.spec.finetune for record in matrix.records), key=lambda spec: spec.epsilon)
    how = encode([asdict(finetune.recipe), asdict(matrix.evaluation)])
    return how, finetune.limit, finetune.pretrain.size, matrix.records[0].spec.limit


def tested_alike(models: Iterable[tuple[ResultMatrix, Row]]) -> list[list[Model]]:
    """Of some models that were evaluated, those that were finetuned and tested alike together; cells are told once.

    Whatever their scenario is called, each is over its seeds.
    """
    found: dict[Any, dict[Any, dict[int, ResultMatrix]]] = {}
    for matrix, row in models:
        place = (matrix.encoder_id, Model(matrix, row).spec.pretrain.encoder, matrix.source, matrix.target, row)
        found.setdefault(how_tested(matrix), {}).setdefault(place, {}).setdefault(matrix.seed, matrix)
    groups = []
    for places in found.values():
        seeds = [(place[-1], [one for _, one in sorted(some.items())]) for place, some in places.items()]
        groups.append([Model(first, row, tuple(others)) for row, (first, *others) in seeds])
    return [some for group in groups if (some := [one for one in group if one.scores])]


def settings(matrix: ResultMatrix) -> dict[str, Any]:
    """What was done, field by field, as the records say it.

    Of each stage from a record in which it was attacked: without an attack its settings are not in the spec.
    """
    specs = [record.spec for record in matrix.records]
    stages: dict[str, PretrainSpec | FinetuneSpec | EvaluateSpec] = {
        "pretraining": max((spec.finetune.pretrain for spec in specs), key=lambda spec: spec.epsilon),
        "finetuning": max((spec.finetune for spec in specs), key=lambda spec: spec.epsilon),
        "evaluation": max(specs, key=lambda spec: spec.epsilon),
    }
    limits = {"training images": specs[0].finetune.limit, "test images": specs[0].limit}
    found: dict[str, Any] = {"encoder": specs[0].finetune.pretrain.encoder, "seed": matrix.seed}
    found |= {name: "all" if limit is None else limit for name, limit in limits.items()}
    if matrix.weights:
        found["weights"] = matrix.weights
        del stages["pretraining"]
    for stage, spec in stages.items():
        unused = () if spec.epsilon else ATTACKED
        fields = flatten(spec.recipe)
        found |= {f"{stage}.{name}": value for name, value in fields.items() if not name.startswith(unused)}
    return found

"""Classifiers over their seeds, each with its numbers, its audit and the command that repeats it. No torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .. import registry
from ..config.recipes import MODULE
from ..config.scenarios import Row
from ..config.specs import ATTACKED, EvaluateSpec, FinetuneSpec, PretrainSpec
from ..store.metrics import MISSING
from ..store.records import Audit, Record
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon, parse_epsilons
from ..util.values import flatten
from .tables import how_tested, score_over


@dataclass(frozen=True)
class Score:
    """Robust accuracy at one epsilon, in [0, 1]: the mean over seeds and its 95 % interval, see wilson_over."""

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
class Entry:
    """An encoder with one finetuning, on one task, as it was tested, under all of its seeds."""

    matrices: tuple[ResultMatrix, ...]
    """One a seed."""
    row: Row

    @property
    def first(self) -> ResultMatrix:
        return self.matrices[0]

    @property
    def name(self) -> str:
        return self.first.model(self.row)

    @cached_property
    def scores(self) -> dict[float, Score]:
        """By evaluation epsilon."""
        found = {}
        for column in sorted({column for matrix in self.matrices for column in matrix.columns}):
            cells = [matrix.cells.get((*self.row, column)) for matrix in self.matrices]
            records = tuple(cell for cell in cells if cell is not None and cell.robust_right is not None)
            if score := score_over(records, "robust"):
                found[column] = Score(*score, records)
        return found

    @property
    def spec(self) -> FinetuneSpec:
        """Of the first seed."""
        return self.first.audit_specs()[self.row].finetune

    @property
    def origin(self) -> dict[str, Any]:
        """Of a given encoder, what is known of its file or module; else empty."""
        record = next(iter(self.scores.values())).records[0]
        known: dict[str, Any] = record.provenance.get("pretrain", {}).get("weights", {})
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
        attack = self.first.evaluation.attack
        return attack.norm if attack.kind.is_distance else MISSING

    @property
    def audits(self) -> dict[int, Audit]:
        """By seed."""
        return {one.seed: one.audits[self.row] for one in self.matrices if self.row in one.audits}

    @property
    def audit(self) -> Audit | None:
        """The worst."""
        order = ("fail", "warn", "pass")
        return min(self.audits.values(), key=lambda audit: order.index(audit.verdict), default=None)

    @property
    def is_trusted(self) -> bool:
        return self.audit is None or self.audit.verdict != "fail"

    @property
    def notes(self) -> list[str]:
        """What differs from the registered scenario, but for encoder, grids and seed; collapse; stores that differ."""
        said: dict[str, None] = {}
        for one in self.matrices:
            changes = {name: item for name, item in one.deviations.items() if name not in ("encoder", "weights")}
            own_grid = {"registered_rows": tuple(one.rows), "registered_columns": tuple(one.columns)}
            told = replace(one, deviations=changes, registered_seed=one.seed, **own_grid).notes()  # type: ignore[arg-type]
            said |= dict.fromkeys(told)
        return list(said)

    @property
    def command(self) -> str:
        """What computes these numbers anew, in a shell; in Python of an encoder that is a module."""
        changes = {
            path.removeprefix("recipe."): here
            for path, (here, _) in self.first.deviations.items()
            if path not in ("weights", "source", "target")
        }
        seeds = sorted(one.seed for one in self.matrices if one.name == self.first.name)
        if self.spec.pretrain.encoder.startswith(MODULE):
            changes.pop("encoder", None)
            named = {"name": self.first.encoder_name} if self.first.encoder_name else {}
            options = {
                **{part: tuple(self.origin.get(part, ())) for part in ("mean", "std")},
                "scenario": self.first.name,
                **named,
                "epsilons": tuple(self.scores),
                "finetune_eps": self.row[1],
                **({"settings": changes} if changes else {}),
            }
            told = ", ".join(f"{option}={item!r}" for option, item in options.items())
            return f"for seed in {seeds}: rossbench.evaluate_encoder(module, {told}, seed=seed)"
        parts = ["rossbench", "run", self.first.name, *self._of_encoder()]
        if self.row[0] != self.row[1] or any(first != second for first, second in self.first.registered_rows):
            parts += ["--finetune-eps", _written(self.row[1:])]
        if tuple(self.scores) != self.first.registered_columns:
            parts += ["--eval-eps", _written(tuple(self.scores))]
        if seeds != [self.first.registered_seed]:
            parts += ["--seeds", ",".join(map(str, seeds))]
        for path, here in changes.items():
            parts += ["--set", f"{path}={here if isinstance(here, str) else json.dumps(here)}"]
        if self.first.name not in registry.names():
            parts += ["--scenario-file", "FILE"]
        return shlex.join(parts)

    def _of_encoder(self) -> list[str]:
        named = ["--name", self.first.encoder_name] if self.first.encoder_name else []
        if not self.first.weights:
            return ["--train-eps", _written(self.row[:1]), *named]
        mean, std = (",".join(map(repr, self.origin.get(part, ()))) for part in ("mean", "std"))
        zoo = ["--zoo", self.first.zoo] if self.first.zoo else []
        file = ["--encoder-weights", str(self.origin.get("from", "FILE")), "--encoder-normalization", f"{mean}/{std}"]
        return zoo + file + named


def _written(epsilons: Sequence[float]) -> str:
    """As they are read again."""
    short = map(format_epsilon, epsilons)
    exact = (text if parse_epsilons(text) == (one,) else repr(one) for text, one in zip(short, epsilons, strict=True))
    return ",".join(exact)


def entries(models: Iterable[tuple[ResultMatrix, Row]]) -> dict[tuple[Any, ...], list[Entry]]:
    """Of some models that were evaluated, those that were finetuned and tested alike together; cells are told once."""
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[int, ResultMatrix]]] = {}
    for matrix, row in models:
        spec = matrix.audit_specs()[row].finetune
        place = (matrix.encoder_id, spec.pretrain.encoder, matrix.source, matrix.target, row)
        found.setdefault(how_tested(matrix), {}).setdefault(place, {}).setdefault(matrix.seed, matrix)
    made = {
        how: [Entry(tuple(one for _, one in sorted(seeds.items())), place[-1]) for place, seeds in places.items()]
        for how, places in found.items()
    }
    return {how: scored for how, some in made.items() if (scored := [one for one in some if one.scores])}


def settings(matrix: ResultMatrix) -> dict[str, Any]:
    """What was done, field by field, as the records say it.

    Of each stage from a record in which it was attacked: without an attack its settings are not in the spec.
    """
    specs = [record.spec for record in matrix.records]
    stages: dict[str, PretrainSpec | FinetuneSpec | EvaluateSpec] = {
        "evaluation": max(specs, key=lambda spec: spec.epsilon),
        "finetuning": max((spec.finetune for spec in specs), key=lambda spec: spec.epsilon),
        "pretraining": max((spec.finetune.pretrain for spec in specs), key=lambda spec: spec.epsilon),
    }
    limits = {"training images": specs[0].finetune.limit, "test images": specs[0].limit}
    found: dict[str, Any] = {"encoder": specs[0].finetune.pretrain.encoder, "seed": matrix.seed}
    found |= {name: "all" if limit is None else limit for name, limit in limits.items()}
    for stage, spec in reversed(stages.items()):
        if matrix.weights and stage == "pretraining":
            found["weights"] = matrix.weights
            continue
        unused = () if spec.epsilon else ATTACKED
        fields = flatten(spec.recipe)
        found |= {f"{stage}.{name}": value for name, value in fields.items() if not name.startswith(unused)}
    return found

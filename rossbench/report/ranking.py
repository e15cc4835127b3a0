"""Encoders in order: how robust they are on average, and whether an order of two is more than noise. No torch."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields

from ..config.scenarios import Row
from ..store.metrics import METRICS, MISSING
from ..store.records import Record
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue
from ..util.statistics import wilson_over
from . import tables
from .formats import csv_cell
from .tables import Table

_VERDICTS = ("fail", "warn", "pass")


@dataclass(frozen=True)
class Ranked:
    """A model's place. Rates are in [0, 1]."""

    rank: int
    """From 1: how many models are better by more than noise, and one."""
    is_tied: bool
    """Whether others have this rank too."""
    model: str
    mean: float
    """Of accuracy under attack: over the epsilons above 0, then the targets, then the seeds."""
    low: float
    high: float
    """Its 95 % Wilson interval, as if each image were attacked once: whether an image withstands one epsilon says much
    about the next, so the epsilons add none. At least as wide as the deviation over seeds."""
    clean: float | None
    """Mean accuracy without an attack, over those of the targets where it was evaluated; None if it was nowhere."""
    gap: float | None
    """Robust transfer gap: the mean under attack on the source's own task less that on others; None without both."""
    seeds: int
    audit: str
    """The worst verdict; empty where nothing was audited."""


@dataclass(frozen=True)
class Ranking:
    """Models that were finetuned and evaluated alike, on the same targets, at the same epsilons; the best first."""

    targets: tuple[str, ...]
    epsilons: tuple[float, ...]
    metric: str
    how: str
    notes: tuple[str, ...]
    models: tuple[Ranked, ...]


@dataclass
class _Model:
    name: str
    source: str
    records: list[tuple[ResultMatrix, Record]] = field(default_factory=list)
    verdicts: set[str] = field(default_factory=set)

    @property
    def targets(self) -> frozenset[str]:
        """Those on which it was attacked."""
        return frozenset(matrix.target for matrix, record in self.records if record.spec.epsilon)

    @property
    def seeds(self) -> list[int]:
        return sorted({record.seed for _, record in self.records})

    def epsilons(self, target: str) -> set[float]:
        return {record.spec.epsilon for matrix, record in self.records if matrix.target == target}

    def mean(self, metric: str, of: Callable[[ResultMatrix, Record], bool], seed: int | None = None) -> float | None:
        """Over the records of each task that ``of`` chooses, and then over the targets; None if there are none."""
        found: dict[str, list[float]] = {}
        for matrix, record in self.records:
            value = METRICS[metric].of(record)
            if value is not None and of(matrix, record) and seed in (None, record.seed):
                found.setdefault(matrix.target, []).append(value)
        return statistics.fmean(map(statistics.fmean, found.values())) if found else None


def rankings(matrices: Sequence[ResultMatrix], metric: str | None = None) -> list[Ranking]:
    """One for each protocol, and for each set of targets that a model has, of all models that have these; of two models
    or more, where there are such.

    ``metric``: a rate of images, by default robust accuracy. InvalidValue for another, or where nothing was attacked.
    """
    metric = metric or "robust"
    if not METRICS[metric].is_count:
        rates = ", ".join(name for name, one in METRICS.items() if one.is_count)
        raise InvalidValue(f"ranking: expected a metric of {rates}, got {metric}")
    alike: dict[object, list[ResultMatrix]] = {}
    for matrix in matrices:
        if matrix.records:
            alike.setdefault(tables.how_tested(matrix), []).append(matrix)
    found = [one for group in alike.values() for one in _rankings(group, metric) if one.models]
    if not found:
        raise InvalidValue("ranking: expected models attacked at an epsilon above 0, got none")
    return [one for one in found if len(one.models) > 1] or found


def _rankings(matrices: Sequence[ResultMatrix], metric: str) -> Iterable[Ranking]:
    models = _models(matrices)
    for targets in sorted(
        {model.targets for model in models if model.targets}, key=lambda one: (-len(one), sorted(one))
    ):
        inside = [model for model in models if targets <= model.targets]
        shared = set.intersection(*(model.epsilons(target) for model in inside for target in targets)) - {0}
        if not shared:
            continue
        ranked = _ranked(inside, targets, shared, metric)
        families = tables.families([one for one in matrices if one.target in targets])
        yield Ranking(
            tuple(sorted(targets)),
            tuple(sorted(shared)),
            metric,
            matrices[0].how(),
            tuple(tables.notes_of(families)),
            tuple(ranked),
        )


def _models(matrices: Sequence[ResultMatrix]) -> list[_Model]:
    """Each encoder with each finetuning once, with its records of all scenarios and seeds."""
    found: dict[tuple[str, Row], _Model] = {}
    for matrix in matrices:
        for (first, second, _), record in matrix.cells.items():
            if record is not None:
                row = (first, second)
                model = found.setdefault((matrix.encoder_id, row), _Model(matrix.model(row), matrix.source))
                if all(record.key != other.key for _, other in model.records):
                    model.records.append((matrix, record))
                if row in matrix.audits:
                    model.verdicts.add(matrix.audits[row].verdict)
    return list(found.values())


def _ranked(models: Sequence[_Model], targets: frozenset[str], epsilons: set[float], metric: str) -> list[Ranked]:
    found = []
    for model in models:

        def attacked(matrix: ResultMatrix, record: Record) -> bool:
            return matrix.target in targets and record.spec.epsilon in epsilons

        mean = model.mean(metric, attacked)
        if mean is None:  # of top1, where not all images were attacked
            continue
        images = [min(r.n for m, r in model.records if m.target == target) for target in targets]
        n = max(1, round(len(images) ** 2 / sum(1 / one for one in images)))  # of a mean of means
        by_seed = [one for seed in model.seeds if (one := model.mean(metric, attacked, seed)) is not None]
        low, high = wilson_over(mean, n, by_seed)
        clean = model.mean(metric, lambda matrix, record: matrix.target in targets and record.spec.epsilon == 0)
        own = model.mean(metric, lambda matrix, record: attacked(matrix, record) and matrix.source == matrix.target)
        other = model.mean(metric, lambda matrix, record: attacked(matrix, record) and matrix.source != matrix.target)
        gap = None if own is None or other is None else own - other
        audit = next((verdict for verdict in _VERDICTS if verdict in model.verdicts), "")
        name = model.name
        if sum(other.name == name for other in models) > 1:
            name += f" of {model.source}"
        found.append(Ranked(0, False, name, mean, low, high, clean, gap, len(by_seed), audit))
    ranks = [1 + sum(other.low > one.high for other in found) for one in found]
    placed = [
        Ranked(**asdict(one) | {"rank": rank, "is_tied": ranks.count(rank) > 1})
        for one, rank in zip(found, ranks, strict=True)
    ]
    return sorted(placed, key=lambda one: (one.rank, -one.mean))


def to_table(ranking: Ranking) -> Table:
    """For every format of tables."""
    audited = any(one.audit for one in ranking.models)
    lines = []
    for one in ranking.models:
        failed = tables.FAILED * (one.audit == "fail")
        numbers = [f"{100 * one.mean:.2f}{failed}", f"{100 * one.low:.1f} to {100 * one.high:.1f}"]
        numbers.append(MISSING if one.clean is None else f"{100 * one.clean:.2f}{failed}")
        numbers.append(MISSING if one.gap is None else f"{100 * one.gap:+.2f}")
        rank = f"{one.rank}{'=' * one.is_tied}"
        lines.append(([rank, one.model] + [one.audit or MISSING] * audited, numbers))
    at = ", ".join(map(format_epsilon, ranking.epsilons))
    most = max((one.seeds for one in ranking.models), default=1)
    return Table(
        title=f"Ranking by mean {METRICS[ranking.metric].title.lower()}, {', '.join(ranking.targets)}",
        labels=["rank", "model"] + ["audit"] * audited,
        columns=["mean (%)", "95 % interval", f"{EPS}=0 (%)", "gap"],
        lines=lines,
        bold=tables.best_beyond_noise(
            {(i, 0): (one.low, one.high) for i, one in enumerate(ranking.models) if one.audit != "fail"}
        ),
        notes=list(ranking.notes),
        caption="; ".join(
            [
                f"mean over targets and {EPS} = {at}, {ranking.how}",
                "rank: one more than how many are better by more than noise, so that intervals do not overlap; =: tied",
                f"interval: Wilson's, each image once{f', at least the deviation over {most} seeds' * (most > 1)}",
                "gap: the mean on the source's own task less that on others, in points",
            ]
        ),
        over="",
    )


def to_json(found: Sequence[Ranking]) -> str:
    return json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False) + "\n"


def to_csv(found: Sequence[Ranking]) -> str:
    """One line a model."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [one.name for one in fields(Ranked)]
    writer.writerow(["targets", "epsilons", "metric", *names, "notes"])
    for ranking in found:
        epsilons = " ".join(map(format_epsilon, ranking.epsilons))
        for one in ranking.models:
            place = [" ".join(ranking.targets), epsilons, ranking.metric]
            writer.writerow(map(csv_cell, [*place, *asdict(one).values(), "; ".join(ranking.notes)]))
    return buffer.getvalue()


DATA: dict[str, Callable[[Sequence[Ranking]], str]] = {"csv": to_csv, "json": to_json}

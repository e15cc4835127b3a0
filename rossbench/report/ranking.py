"""Encoders in order: how robust they are on average, and whether an order of two is more than noise. No torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from ..config.scenarios import Row
from ..store.metrics import METRICS, MISSING
from ..store.records import Record
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue
from ..util.statistics import wilson_over
from . import tables
from .formats import csv_text
from .model import FAILED, RATES, families, how_tested
from .tables import Table


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
class _Encoder:
    """One encoder with one finetuning, on all tasks and under all seeds."""

    name: str
    records: dict[str, Record] = field(default_factory=dict)
    verdicts: set[str] = field(default_factory=set)

    @property
    def source(self) -> str:
        return next(iter(self.records.values())).spec.finetune.pretrain.source

    @property
    def targets(self) -> frozenset[str]:
        """Those on which it was attacked."""
        return frozenset(_target(record) for record in self.records.values() if record.spec.epsilon)

    def epsilons(self, target: str) -> set[float]:
        return {record.spec.epsilon for record in self.records.values() if _target(record) == target}


def rankings(matrices: Sequence[ResultMatrix], metric: str | None = None) -> list[Ranking]:
    """One for each protocol, and for each set of targets that a model has, of all models that have these; of two models
    or more, where there are such.

    ``metric``: a rate of images, by default robust accuracy. InvalidValue for another, or where nothing was attacked.
    """
    metric = metric or "robust"
    if not METRICS[metric].is_count:
        raise InvalidValue(f"ranking: expected a metric of {RATES}, got {metric}")
    alike: dict[object, list[ResultMatrix]] = {}
    for matrix in matrices:
        if matrix.records:
            alike.setdefault(how_tested(matrix), []).append(matrix)
    found = [one for group in alike.values() for one in _rankings(group, metric) if one.models]
    if not found:
        raise InvalidValue("ranking: expected models attacked at an epsilon above 0, got none")
    return [one for one in found if len(one.models) > 1] or found


def _rankings(matrices: Sequence[ResultMatrix], metric: str) -> Iterable[Ranking]:
    found: dict[tuple[str, Row], _Encoder] = {}
    for matrix in matrices:
        for place, record in matrix.cells.items():
            if record is not None:
                row = place[:2]
                one = found.setdefault((matrix.encoder_id, row), _Encoder(matrix.model(row)))
                one.records.setdefault(record.key, record)
                one.verdicts |= {matrix.audits[row].verdict} if row in matrix.audits else set()
    encoders = list(found.values())
    sets = {one.targets for one in encoders if one.targets}
    for targets in sorted(sets, key=lambda some: (-len(some), sorted(some))):
        inside = [one for one in encoders if targets <= one.targets]
        shared = set.intersection(*(one.epsilons(target) for one in inside for target in targets)) - {0}
        if shared:
            group = families([one for one in matrices if one.target in targets])
            yield Ranking(
                targets=tuple(sorted(targets)),
                epsilons=tuple(sorted(shared)),
                metric=metric,
                how=matrices[0].how(),
                notes=tuple(tables.notes_of_all(group)),
                models=tuple(_ranked(inside, targets, shared, metric)),
            )


def _target(record: Record) -> str:
    return record.spec.finetune.target


def _mean(records: Iterable[Record], metric: str) -> float | None:
    """Over the records of each target, and then over the targets; None if there are none."""
    found: dict[str, list[float]] = {}
    for record in records:
        if (value := METRICS[metric].of(record)) is not None:
            found.setdefault(_target(record), []).append(value)
    return statistics.fmean(map(statistics.fmean, found.values())) if found else None


def _ranked(encoders: Sequence[_Encoder], targets: frozenset[str], epsilons: set[float], metric: str) -> list[Ranked]:
    found = []
    for one in encoders:
        inside = [record for record in one.records.values() if _target(record) in targets]
        attacked = [record for record in inside if record.spec.epsilon in epsilons]
        mean = _mean(attacked, metric)
        if mean is None:  # of top1, where not all images were attacked
            continue
        images = [min(record.n for record in inside if _target(record) == target) for target in targets]
        n = max(1, round(len(images) ** 2 / sum(1 / count for count in images)))  # of a mean of means
        seeds = sorted({record.seed for record in attacked})
        by_seed = [_mean((record for record in attacked if record.seed == seed), metric) for seed in seeds]
        rates = [rate for rate in by_seed if rate is not None]
        clean = _mean((record for record in inside if not record.spec.epsilon), metric)
        own = _mean((record for record in attacked if _target(record) == one.source), metric)
        other = _mean((record for record in attacked if _target(record) != one.source), metric)
        gap = None if own is None or other is None else own - other
        audit = next((verdict for verdict in ("fail", "warn", "pass") if verdict in one.verdicts), "")
        name = one.name + f" of {one.source}" * (sum(each.name == one.name for each in encoders) > 1)
        bounds = wilson_over(mean, n, rates)
        found.append(Ranked(0, False, name, mean, *bounds, clean, gap, len(rates), audit))
    ranks = [1 + sum(other.low > one.high for other in found) for one in found]
    placed = [replace(one, rank=rank, is_tied=ranks.count(rank) > 1) for one, rank in zip(found, ranks, strict=True)]
    return sorted(placed, key=lambda one: (one.rank, -one.mean))


def to_table(ranking: Ranking) -> Table:
    audited = any(one.audit for one in ranking.models)
    lines = []
    for one in ranking.models:
        failed = FAILED * (one.audit == "fail")
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
    lines: list[Sequence[object]] = [("targets", "epsilons", "metric", *(one.name for one in fields(Ranked)), "notes")]
    for ranking in found:
        place = " ".join(ranking.targets), " ".join(map(format_epsilon, ranking.epsilons)), ranking.metric
        lines += [(*place, *asdict(one).values(), "; ".join(ranking.notes)) for one in ranking.models]
    return csv_text(lines)


DATA: dict[str, Callable[[Sequence[Ranking]], str]] = {"csv": to_csv, "json": to_json}

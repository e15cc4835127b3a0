"""Evaluation kinds beside the attack on a classifier: one model, in all columns of a kind."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from ..config.kinds import KindFunction
from ..config.specs import MeasureSpec
from ..data.datasets import Data
from ..store import artifacts
from ..store.records import Measurement
from ..util.errors import InvalidValue, RossbenchError, one_line
from ..util.seeds import derive, seeded
from ..util.torch_settings import users_code
from .context import Context
from .kinds.subject import Found, Subject
from .train_loop import Hooks, Tick


def build(specs: Sequence[MeasureSpec], context: Context, hooks: Hooks) -> None:
    """Measure one model, and store what the kind's function found."""
    (spec,) = specs
    data, began = context.data(spec), time.perf_counter()
    found = measure(spec, context, data, hooks)
    measurement = Measurement(
        spec=spec,
        n=len(data.labels),
        rows={title: tuple(map(_number, numbers)) for title, numbers in found.rows.items()},
        summary={title: _number(number) for title, number in found.summary.items()},
        seconds=round(time.perf_counter() - began, 3),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance=context.provenance(data=data.fingerprint),
    )
    arrays = dict(found.arrays) | ({} if found.right is None else {"right": found.right})
    artifacts.save_measurement(context.store, measurement, arrays)


def measure(spec: MeasureSpec, context: Context, data: Data, hooks: Hooks) -> Found:
    """What the kind's function finds, of a model on the context's device; torch's generators are seeded for it."""
    classifier = context.classifier(spec.head).requires_grad_(False) if spec.head else None
    encoder = classifier.encoder if classifier else context.encoder(spec.pretrain).requires_grad_(False).eval()
    pixels = spec.pretrain.pixels
    subject = Subject(
        encoder=encoder,
        classifier=classifier,
        images=data.images,
        labels=data.labels,
        columns=spec.columns,
        kind=spec.kind,
        seed=spec.seed,
        target=spec.target,
        limit=spec.limit,
        data_dir=context.data_dir,
        train=partial(context.images, (spec.target, "train", spec.train_limit, pixels)),
        source=partial(context.images, (spec.pretrain.source, "train", spec.pretrain.limit, pixels)),
        progress=lambda fraction: hooks.tick(Tick(fraction, f"{fraction:.0%}", 0)),
    )
    row = spec.kind.row
    with seeded(derive(spec.seed, spec.stage, spec.kind.name), context.device):
        if row.user_function is None:
            found: Found = row.load()(subject)
            return found
        return _of_user(row.user_function, subject)


def _of_user(function: KindFunction, subject: Subject) -> Found:
    """What a user's own function finds: a Found, or the rows of one. It is given copies of the models, which others
    use too, and torch's settings are put back. What it raises, or leaves changed, is one line with its name."""
    classifier, moved, name = copy.deepcopy(subject.classifier), list[str](), f"kind {subject.kind.name!r}"
    encoder = classifier.encoder if classifier else copy.deepcopy(subject.encoder)

    def refusal(error: BaseException) -> RossbenchError:
        return RossbenchError(one_line(f"{name}: expected rows of numbers, got {error!r:.300}"))

    with users_code(moved, refusal):
        given = function(replace(subject, classifier=classifier, encoder=encoder))
        if isinstance(given, Mapping):
            given = Found({str(title): [float(number) for number in numbers] for title, numbers in given.items()})
    if moved:
        raise RossbenchError(f"{name}: expected settings as they were, got other {', '.join(moved)}")
    if not isinstance(given, Found):
        raise InvalidValue(f"{name}: expected a dictionary of rows, got {type(given).__name__}")
    return given


def _number(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None

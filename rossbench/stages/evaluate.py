"""Stage 3: predictions on a test split under attack (study, sections 5.3 and 5.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from .. import registry
from ..attacks.task import Draws, run_attack
from ..config.specs import EvaluateSpec
from ..data.datasets import facts
from ..models.classifier import Classifier
from ..store import resume
from ..store.records import Record
from ..store.store import Store, read_json
from ..util.errors import Diverged
from ..util.memory import AutoBatch
from ..util.seeds import derive
from ..util.signals import Interrupted, defer_signals
from ..util.statistics import wilson
from ..util.values import encode
from . import metrics
from .context import Context
from .train_loop import Hooks, Tick

_CPU_AT_ONCE, _AT_ONCE = 3 * 2**18, 2**24
"""Values of images that are attacked at once, 256 and 5,461 of 32 pixels: what fits caches, and what fills a GPU."""
SAVE_EVERY = 10.0
"""Seconds between two saved states."""


def build(specs: Sequence[EvaluateSpec], context: Context, hooks: Hooks) -> None:
    """Evaluate one classifier at several epsilons together, and store a cell for each, with its share of the time."""
    data, classifier = context.data(specs[0]), context.classifier(specs[0].finetune)
    began = time.perf_counter()
    found = evaluate(specs, classifier, data.images, data.labels, hooks)
    seconds, passes = time.perf_counter() - began, sum(spec.passes for spec in specs)
    for spec, ranked in zip(specs, found.attacked, strict=True):
        scenario, deviations = context.origins[spec.key]
        save_cell(
            context.store,
            spec,
            ranked,
            found.natural,
            data.labels.cpu(),
            scenario=scenario,
            deviations=deviations,
            seconds=seconds * spec.passes / passes,
            provenance=context.provenance(data=data.fingerprint),
        )


class Predictions(NamedTuple):
    """The five likeliest classes of every image, likeliest first: int64 [n, min(5, classes)], on the CPU."""

    natural: Tensor
    """Without an attack."""
    attacked: list[Tensor]
    """For each of several evaluations."""


def evaluate(
    specs: Sequence[EvaluateSpec], classifier: Classifier, images: Tensor, labels: Tensor, hooks: Hooks
) -> Predictions:
    """Predictions under the attacks of evaluations that differ in their epsilon alone, made together.

    images: uint8 [n, 3, size, size], anywhere; labels: int64 [n], on the classifier's device. As the study counts,
    images that are wrong without an attack are attacked like all others, unless the recipe says otherwise; then their
    predictions are the natural ones. Goes on from a resume state. Raises AttackError, OutOfMemory, and Diverged where
    logits are not finite.
    """
    classifier.requires_grad_(False)
    under_attack, parts, device = sum(spec.epsilon > 0 for spec in specs), [], labels.device
    count = _Count(hooks, len(images) * (1 + under_attack))

    def without_attack(some: Tensor) -> Tensor:
        return _ranked(classifier, some.to(device).float() / 255)

    for _, ranked in AutoBatch(at_once(images, device)).of(without_attack, images):
        parts.append(ranked)
        count.add(len(ranked))
    natural = torch.cat(parts)
    right = (natural[:, 0] == labels) | (specs[0].recipe.attacked == "all")
    count.total = len(images) + int(right.sum()) * under_attack
    found = _Found(specs, natural, hooks)
    with resume.Saving(hooks.resume) as saving:
        try:
            left = right & ~found.done
            count.add(count.total - len(images) - int(left.sum()), resumed=True)
            for adversarial in attacked(specs, classifier, images, labels, left):
                ranked = _ranked(classifier, adversarial.images)
                found.add(adversarial, ranked)
                count.add(len(ranked))
                if time.monotonic() - found.saved > SAVE_EVERY:
                    saving.save(found.state())
        except Interrupted:
            saving.save(found.state())
            raise
    return Predictions(natural.cpu(), list(found.ranked.cpu()))


class _Count:
    """Images so far, told to whoever watches."""

    def __init__(self, hooks: Hooks, total: int) -> None:
        self.hooks, self.done, self.total = hooks, 0, total

    def add(self, images: int, resumed: bool = False) -> None:
        self.done += images
        if images:
            here = f"image {self.done}/{self.total}"
            self.hooks.tick(Tick(self.done / self.total, here, 0 if resumed else images, resumed=resumed))


class _Found:
    """Predictions of several evaluations, as they come in."""

    def __init__(self, specs: Sequence[EvaluateSpec], natural: Tensor, hooks: Hooks) -> None:
        self.specs, self.saved = specs, time.monotonic()
        self.ranked = natural.repeat(len(specs), 1, 1)
        self.done = torch.zeros(self.ranked.shape[:2], dtype=torch.bool, device=natural.device)
        state = resume.load(hooks.resume) or {}
        for k, spec in enumerate(specs):
            if spec.epsilon == 0:
                self.done[k] = True
            elif spec.key in state:  # of all, unless others are evaluated now
                self.ranked[k], self.done[k] = (part.to(natural.device) for part in state[spec.key])

    def add(self, batch: Batch, ranked: Tensor) -> None:
        with defer_signals():
            self.ranked[batch.number, batch.image] = ranked
            self.done[batch.number, batch.image] = True

    def state(self) -> dict[str, tuple[Tensor, Tensor]]:
        self.saved = time.monotonic()
        return {
            spec.key: (self.ranked[k].to(torch.int16), self.done[k].clone())
            for k, spec in enumerate(self.specs)
            if spec.epsilon > 0
        }


class Batch(NamedTuple):
    """m attacked images."""

    images: Tensor
    """Float [m, 3, size, size] in [0, 1]."""
    number: Tensor
    """Which evaluation each is of: int64 [m]."""
    image: Tensor
    """Which image each was: int64 [m]."""


def attacked(
    specs: Sequence[EvaluateSpec], classifier: Classifier, images: Tensor, labels: Tensor, among: Tensor | None = None
) -> Iterator[Batch]:
    """Images as evaluations that differ in epsilon alone see them, in batches; those ``among`` them if it is given.

    among: bool [n], or [evaluations, n]. See ``moved``, of which an evaluation's batches are the recipe's.
    """
    classifier.requires_grad_(False)
    if not specs:
        return
    recipe = max(specs, key=lambda spec: spec.epsilon).recipe  # at epsilon 0 it has no attack to speak of
    whole = len(specs) * len(images)
    sees_all = registry.attack(recipe.attack.name).user_function is not None
    pieces = AutoBatch(whole, least=whole) if sees_all else None
    chosen = torch.ones_like(labels, dtype=torch.bool) if among is None else among

    def move(some: Tensor, which: Tensor, radii: Tensor, draws: Draws) -> Tensor:
        if not radii.any():  # there is one evaluation, of epsilon 0
            return some
        return run_attack(classifier, some, labels[which], recipe.attack, radii, draws)

    epsilons = torch.tensor([spec.epsilon for spec in specs], device=labels.device)
    chosen = chosen.expand(len(specs), len(images))
    yield from moved(move, images, epsilons, chosen, specs[0].seed, recipe.batch_size, pieces)


def moved(
    move: Callable[[Tensor, Tensor, Tensor, Draws], Tensor],
    images: Tensor,
    epsilons: Tensor,
    chosen: Tensor,
    seed: int,
    batch_size: int = 1024,
    pieces: AutoBatch | None = None,
) -> Iterator[Batch]:
    """Images moved within several epsilons, in pieces, as many at once as suit the device unless ``pieces`` says.

    Those of one epsilon come in their order.

    ``move`` is given images, float [m, 3, size, size] in [0, 1], which ones they are, int64 [m], the radius of each,
    and its random numbers: an image's are the same for every epsilon, however many are moved at once, and for every
    call, and hang on its place in a batch of ``batch_size``. images: uint8 [n, 3, size, size], anywhere; epsilons:
    [k]; chosen: bool [k, n], on the device that it is to happen on.
    """
    device = epsilons.device
    pieces = pieces or AutoBatch(at_once(images, device))
    blocks = torch.arange(len(images), device=device).split(batch_size)
    for k, (block, part) in enumerate(zip(blocks, images.split(batch_size), strict=True)):
        natural, stream = part.to(device).float() / 255, derive(seed, "evaluate", k)

        def of(pairs: Tensor, block: Tensor = block, natural: Tensor = natural, stream: int = stream) -> Tensor:
            number, place = pairs.unbind(1)
            return move(natural[place], block[place], epsilons[number], Draws(stream, len(block), place))

        for pairs, adversarial in pieces.of(of, chosen[:, block].nonzero()):
            yield Batch(adversarial, pairs[:, 0], block[pairs[:, 1]])


def at_once(images: Tensor, device: torch.device) -> int:
    """How many images to work on at once on a device."""
    values = _CPU_AT_ONCE if device.type == "cpu" else _AT_ONCE
    return max(32, values // images[0].numel())


@torch.no_grad()
def _ranked(classifier: Classifier, images: Tensor) -> Tensor:
    logits = classifier(images)
    if not logits.isfinite().all():
        raise Diverged("evaluation: expected finite logits, got others; the classifier has diverged")
    return metrics.top5(logits)


def save_cell(
    store: Store,
    spec: EvaluateSpec,
    ranked: Tensor,
    natural: Tensor,
    labels: Tensor,
    *,
    scenario: str,
    deviations: dict[str, Any],
    seconds: float,
    provenance: dict[str, Any],
) -> None:
    """The predictions of a cell, int16 [n, min(5, classes)] beside the labels [n], and its record.

    natural: the predictions without an attack.
    """
    stages = {made.stage: read_json(store.path(made) / "stage.json") for made in spec.chain[:2]}
    predicted, classes = ranked[:, 0], facts(spec.finetune.target).classes
    names = ("top1_right", "top5_right", "mcc", "precision", "recall", "f1", "right_by_class")
    scores: dict[str, Any] = dict.fromkeys(names)
    if spec.recipe.attacked == "all" or not spec.epsilon:  # else not known of images that were wrong without an attack
        top1, top5 = metrics.counts_right(ranked, labels).tolist()
        by_class = metrics.confusion(predicted, labels, classes).diagonal().tolist()
        scores |= {"top1_right": top1, "top5_right": top5, "right_by_class": by_class}
        scores |= metrics.scores(predicted, labels, classes)
    robust = int(((predicted == labels) & (natural[:, 0] == labels)).sum())
    counts = {"top1": scores["top1_right"], "top5": scores["top5_right"], "robust": robust}
    record = Record(
        key=spec.key,
        spec=spec,
        scenario=scenario,
        deviations=deviations,
        seed=spec.seed,
        n=len(labels),
        classes=classes,
        robust_right=robust,
        **scores,
        wilson95={name: wilson(right, len(labels)) for name, right in counts.items() if right is not None},
        seconds={**{name: stage["seconds"] for name, stage in stages.items()}, spec.stage: round(seconds, 3)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance={**{name: stage["provenance"] for name, stage in stages.items()}, spec.stage: provenance},
    )
    arrays = {"predictions": ranked.to(torch.int16).contiguous(), "labels": labels.to(torch.int16)}
    store.write(spec, {"record.json": encode(record), "predictions.safetensors": save_tensors(arrays)})

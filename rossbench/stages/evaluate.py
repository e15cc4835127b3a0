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
from ..data.datasets import Data, facts
from ..models.classifier import Classifier
from ..store import resume
from ..store.records import Record
from ..store.store import read_json
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
        save_cell(context, spec, ranked, found.natural, data, seconds * spec.passes / passes)


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
    device, under_attack = labels.device, sum(spec.epsilon > 0 for spec in specs)
    done, total = 0, len(images) * (1 + under_attack)

    def count(more: int, resumed: bool = False) -> None:
        nonlocal done
        done += more
        if more:
            hooks.tick(Tick(done / total, f"image {done}/{total}", 0 if resumed else more, resumed=resumed))

    def without_attack(some: Tensor) -> Tensor:
        return _ranked(classifier, some.to(device).float() / 255)

    parts = []
    for _, part in AutoBatch(at_once(images, device)).of(without_attack, images):
        parts.append(part)
        count(len(part))
    natural = torch.cat(parts)
    right = (natural[:, 0] == labels) | (specs[0].recipe.attacked == "all")
    total = len(images) + int(right.sum()) * under_attack
    ranked = natural.repeat(len(specs), 1, 1)
    known = torch.zeros_like(ranked[:, :, 0], dtype=torch.bool)
    before, saved = resume.load(hooks.resume) or {}, time.monotonic()
    for k, spec in enumerate(specs):
        if spec.epsilon == 0:
            known[k] = True
        elif spec.key in before:  # of all, unless others are evaluated now
            ranked[k], known[k] = (part.to(device) for part in before[spec.key])

    def state() -> dict[str, tuple[Tensor, Tensor]]:
        under = ((k, spec) for k, spec in enumerate(specs) if spec.epsilon)
        return {spec.key: (ranked[k].to(torch.int16), known[k].clone()) for k, spec in under}

    with resume.Saving(hooks.resume) as saving:
        try:
            left = right & ~known
            count(total - len(images) - int(left.sum()), resumed=True)
            for batch in attacked(specs, classifier, images, labels, left):
                found = _ranked(classifier, batch.images)
                with defer_signals():
                    ranked[batch.number, batch.image] = found
                    known[batch.number, batch.image] = True
                count(len(found))
                if time.monotonic() - saved > SAVE_EVERY:
                    saving.save(state())
                    saved = time.monotonic()
        except Interrupted:
            saving.save(state())
            raise
    return Predictions(natural.cpu(), list(ranked.cpu()))


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
    context: Context, spec: EvaluateSpec, ranked: Tensor, natural: Tensor, data: Data, seconds: float
) -> None:
    """The predictions of a cell, int16 [n, min(5, classes)] beside the labels [n], and its record.

    natural: the predictions without an attack.
    """
    scenario, deviations = context.origins[spec.key]
    labels, provenance = data.labels.cpu(), context.provenance(data=data.fingerprint)
    stages = {made.stage: read_json(context.store.path(made) / "stage.json") for made in spec.chain[:2]}
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
    context.store.write(spec, {"record.json": encode(record), "predictions.safetensors": save_tensors(arrays)})

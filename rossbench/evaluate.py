"""Stage 3: predictions on a test split under attack (study, sections 5.3 and 5.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import adversaries, metrics
from .finetune import Classifier
from .recipe import BUILTIN_ATTACKS
from .seeds import derive
from .specs import EvaluateSpec
from .training import Hooks, Tick

_CPU_AT_ONCE, _AT_ONCE = 3 * 2**18, 2**24
"""Values of images that are attacked at once, 256 and 5,461 of 32 pixels: what fits caches, and what fills a GPU."""


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

    images: uint8 [n, 3, size, size]; labels: int64 [n]. As the study counts, images that are wrong without an attack
    are attacked like all others, unless the recipe says otherwise; then their predictions are the natural ones.
    """
    classifier.requires_grad_(False)
    total, done = len(images) * (1 + sum(spec.epsilon > 0 for spec in specs)), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        hooks.tick(Tick(done / total, f"image {done}/{total}", count))

    parts = []
    for batch in images.split(_at_once(images)):
        parts.append(_ranked(classifier, batch.float() / 255))
        tick(len(batch))
    natural = torch.cat(parts)
    among = (
        natural[:, 0] == labels if specs[0].recipe.attacked == "correct" else torch.ones_like(labels, dtype=torch.bool)
    )
    found = natural.repeat(len(specs), 1, 1)
    under_attack = [k for k, spec in enumerate(specs) if spec.epsilon > 0]
    total = done + int(among.sum()) * len(under_attack)
    for adversarial in attacked([specs[k] for k in under_attack], classifier, images, labels, among):
        number = torch.as_tensor(under_attack, device=images.device)[adversarial.number]
        found[number, adversarial.image] = _ranked(classifier, adversarial.images)
        tick(len(number))
    return Predictions(natural.cpu(), list(found.cpu()))


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
    """Images as evaluations that differ in epsilon alone see them, or some ``among`` them (bool [n]), in batches.

    One evaluation's come in the order of the images. Random starts are the same for every epsilon, however many are
    attacked at once, and for every call.
    """
    if not specs:
        return
    classifier.requires_grad_(False)
    recipe = specs[0].recipe
    epsilons = torch.tensor([spec.epsilon for spec in specs], device=images.device)
    chosen = torch.ones_like(labels, dtype=torch.bool) if among is None else among
    at_once = (
        _at_once(images) if recipe.attack.name in BUILTIN_ATTACKS else len(specs) * len(images)
    )  # a user's sees all
    for k, block in enumerate(torch.arange(len(images), device=images.device).split(recipe.batch_size)):
        natural, seed = images[block].float() / 255, derive(specs[0].seed, "evaluate", k)
        pairs = torch.cartesian_prod(torch.arange(len(specs), device=images.device), chosen[block].nonzero()[:, 0])
        for number, place in (some.unbind(1) for some in pairs.split(at_once) if len(some)):
            radii, some = epsilons[number], natural[place]
            if radii.any():  # else there is one evaluation, of epsilon 0
                draws = adversaries.Draws(seed, len(block), place)
                some = adversaries.perturb(classifier, some, labels[block[place]], recipe.attack, radii, draws)
            yield Batch(some, number, block[place])


def _at_once(images: Tensor) -> int:
    values = _CPU_AT_ONCE if images.device.type == "cpu" else _AT_ONCE
    return max(32, values // images[0].numel())


@torch.no_grad()
def _ranked(classifier: Classifier, images: Tensor) -> Tensor:
    return metrics.top5(classifier(images))

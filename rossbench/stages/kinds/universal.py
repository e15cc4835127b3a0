"""One perturbation for all images, made on an encoder without labels, and what it does to a head on another task."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...attacks.pgd import unit, within
from ...attacks.table import Norm
from ...util.seeds import derive
from .subject import Found, Subject

_BATCH = 128
"""Source images a step."""
_STEP = 0.1
"""Length of a step, in epsilons."""


def universal(subject: Subject) -> Found:
    """Accuracy of the head when one perturbation, made for the encoder's source images, is added to every test image.

    Beside it stands a random one of the same length: a direction in L2, signs in L-infinity. Images are clipped to
    [0, 1]. ``right`` is under the perturbation that was made.
    """
    kind, device = subject.kind, subject.labels.device
    source, image = subject.source().images, subject.images[:1].float()
    generator = torch.Generator().manual_seed(derive(subject.seed, "universal", "direction"))
    random = unit(torch.randn(image.shape, generator=generator).to(device), kind.norm)
    made, control = [], []
    for k, epsilon in enumerate(subject.columns):
        found = torch.zeros_like(image)
        if epsilon:
            batches = _batches(source, kind.steps, subject.seed)
            found = perturbation(subject.encoder, batches, 0.1 * epsilon * random, kind.norm, epsilon)
        made.append(_right(subject, found))
        control.append(_right(subject, epsilon * random))
        subject.progress((k + 1) / len(subject.columns))
    right = torch.stack(made)
    return Found(
        {
            "accuracy (%)": (100 * right.double().mean(1)).tolist(),
            "random direction (%)": (100 * torch.stack(control).double().mean(1)).tolist(),
        },
        right=right,
    )


def perturbation(encoder: nn.Module, batches: Iterator[Tensor], start: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """One perturbation [1, 3, size, size], no longer than epsilon, which moves the features of all images far.

    A step a batch, of images in [0, 1], float [m, 3, size, size]: along the gradient, or in L-infinity its signs, of
    the mean squared distance between the features with and without it. ``start`` is not 0, where there is no gradient.
    """
    moved = start
    for images in batches:
        with torch.no_grad():
            natural = encoder(images)
        moved = moved.detach().requires_grad_()
        distance = (encoder((images + moved).clamp(0, 1)) - natural).square().sum(1).mean()
        (gradient,) = torch.autograd.grad(distance, moved)
        moved = within(moved.detach() + _STEP * epsilon * unit(gradient, norm), epsilon, norm)
    return moved


def _batches(source: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """Batches of images in [0, 1] of a seeded order, again and again in another."""
    epoch = 0
    while steps > 0:
        generator = torch.Generator().manual_seed(derive(seed, "universal", epoch))
        order = torch.randperm(len(source), generator=generator).to(source.device)
        for places in order.split(_BATCH)[:steps]:
            yield source[places].float() / 255
            steps -= 1
        epoch += 1


def _right(subject: Subject, perturbation: Tensor) -> Tensor:
    """Which test images the head gets right with a perturbation: bool [n]."""
    parts = [
        subject.right((subject.images[places].float() / 255 + perturbation).clamp(0, 1), places)
        for places in subject.batches()
    ]
    return torch.cat(parts)

"""The smallest perturbation of each image that turns a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ...attacks.pgd import EPS_FOR_DIVISION, lengths, unit, within
from ...attacks.table import TARGETS, Norm
from .subject import Found, Subject

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits [n, classes] and labels [n]: [n]."""
_HALVINGS = 10
"""Of the way between an image and an adversarial one, to come nearer to the boundary."""


def minimal(subject: Subject) -> Found:
    """Robust accuracy of the head at every epsilon at once, from each image's smallest perturbation; see ``nearest``.

    Array "distance": float [n], in the kind's norm and pixel space; 0 where an image is wrong without a perturbation,
    infinite where none was found. The summary is of the images that are right without one.
    """
    kind, parts, done = subject.kind, [], 0
    for places in subject.batches():
        images, labels = subject.images[places].float() / 255, subject.labels[places]
        parts.append(nearest(subject.head, images, labels, kind.norm, kind.steps)[1])
        done += len(places)
        subject.progress(done / len(subject.labels))
    distance = torch.cat(parts)
    right = distance > torch.tensor(subject.columns, device=distance.device)[:, None]
    perturbed = distance[distance > 0]
    return Found(
        {"robust accuracy (%)": (100 * right.double().mean(1)).tolist()},
        {
            "median distance": float(perturbed.median()),
            "adversarial found (%)": float(100 * perturbed.isfinite().double().mean()),
        },
        right,
        {"distance": distance},
    )


def nearest(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, steps: int) -> tuple[Tensor, Tensor]:
    """The nearest images that the model gets wrong, of those that two searches find, and their distances [n].

    images: float [n, c, h, w] in [0, 1]; labels: int64 [n]. The searches take ``steps`` steps each: FMN (Pintor et al.,
    2021) towards the class whose boundary is the nearest where the model is linear, in L-infinity by signs; and in L2
    DDN (Rony et al., 2019), in L-infinity FMN towards any class. Where an image is wrong itself it is the
    nearest; where none is found, it stands for it, at an infinite distance. Nothing is random.
    """
    search = _Search(model, images, labels, norm)
    search.offer(images)
    if search.distances.any():
        _fmn(search, steps, _towards(_nearest_class(search)), signs=norm == "Linf")
        _ddn(search, steps) if norm == "L2" else _fmn(search, steps, _margin, signs=False)
    low, high = torch.zeros_like(search.distances), torch.ones_like(search.distances)
    far = search.found
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        turned = search.offer(images + middle.view(-1, 1, 1, 1) * (far - images))
        low, high = torch.where(turned, low, middle), torch.where(turned, middle, high)
    return search.found, search.distances


class _Search:
    """The nearest adversarial images so far."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, norm: Norm) -> None:
        self.model, self.images, self.labels, self.norm = model, images, labels, norm
        self.found, self.distances = images, images.new_full((len(images),), torch.inf)

    def offer(self, images: Tensor, logits: Tensor | None = None) -> Tensor:
        """Keep those of these images, in [0, 1], that are wrong and nearer; bool [n]: which are wrong."""
        if logits is None:
            with torch.no_grad():
                logits = self.model(images)
        wrong = logits.argmax(1) != self.labels
        distances = lengths(images - self.images, self.norm).flatten()
        nearer = wrong & (distances < self.distances)
        self.found = torch.where(nearer.view(-1, 1, 1, 1), images, self.found)
        self.distances = torch.where(nearer, distances, self.distances)
        return wrong

    def look(self, images: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Offer images; their losses [n], the gradients, 0 where there is none that is finite, and which are wrong."""
        images = images.detach().requires_grad_()
        logits = self.model(images)
        losses, gradient = loss(logits, self.labels), None
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), images, allow_unused=True)
        gradient = torch.zeros_like(images) if gradient is None else gradient.nan_to_num(0, 0, 0)
        return losses.detach().nan_to_num(0), gradient, self.offer(images.detach(), logits.detach())

    def to_boundary(self, margin: Tensor, gradient: Tensor) -> Tensor:
        """How far it is, [n], in the norm, to where a margin [n] is 0, were it linear."""
        steepness: Tensor = torch.linalg.vector_norm(gradient.flatten(1), 2 if self.norm == "L2" else 1, dim=1)
        return margin.abs() / steepness.clamp(min=EPS_FOR_DIVISION)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the likeliest other class is above the right one: [n]."""
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - logits.gather(1, labels[:, None])[:, 0]


def _towards(classes: Tensor) -> Loss:
    """By how much the logit of a class, [n], is above that of the right one: [n]."""

    return lambda logits, labels: (logits.gather(1, classes[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def _nearest_class(search: _Search) -> Tensor:
    """Of the likeliest other classes that whose boundary is the nearest by the gradients at the images: [n]."""
    with torch.no_grad():
        logits = search.model(search.images).scatter(1, search.labels[:, None], -torch.inf)
    others: Tensor = logits.argsort(1, descending=True)[:, : min(TARGETS, logits.shape[1] - 1)]
    found, nearest = others[:, 0], torch.full_like(search.distances, torch.inf)
    for other in others.unbind(1):
        margin, gradient, _ = search.look(search.images, _towards(other))
        distance = search.to_boundary(margin, gradient)
        found, nearest = torch.where(distance < nearest, other, found), distance.minimum(nearest)
    return found


def _fmn(search: _Search, steps: int, loss: Loss, signs: bool) -> None:
    """Steps along the gradient of a margin, in a ball that shrinks where they are adversarial, and grows else.

    signs: along the gradient's signs, as long as the ball's radius at first.
    """
    moved = torch.zeros_like(search.images)
    radius = torch.full_like(search.distances, torch.inf)
    for k in range(steps):
        share = _cosine(k, steps)
        change = 0.001 + 0.049 * share
        margin, gradient, wrong = search.look(search.images + moved, loss)
        boundary = lengths(moved, search.norm).flatten() + search.to_boundary(margin, gradient)
        outside = torch.where(search.distances.isfinite(), radius, boundary) * (1 + change)  # else it stays just inside
        radius = torch.where(wrong, (radius * (1 - change)).minimum(search.distances), outside)
        bound = radius.view(-1, 1, 1, 1)
        direction = gradient.sign() * bound.clamp(max=1) if signs else unit(gradient)
        moved = moved + (0.01 + 0.99 * share) * direction
        moved = (search.images + within(moved, bound, search.norm)).clamp(0, 1) - search.images


def _ddn(search: _Search, steps: int) -> None:
    """Steps along the gradient of the cross-entropy, on a sphere that shrinks where they are adversarial."""
    moved, radius = torch.zeros_like(search.images), torch.ones_like(search.distances)
    for k in range(steps):
        _, gradient, wrong = search.look(search.images + moved, partial(nn.functional.cross_entropy, reduction="none"))
        radius = radius * torch.where(wrong, 0.95, 1.05)
        moved = moved + (0.01 + 0.99 * _cosine(k, steps)) * unit(gradient)
        moved = radius.view(-1, 1, 1, 1) * unit(moved)
        moved = (search.images + moved).clamp(0, 1) - search.images


def _cosine(step: int, steps: int) -> float:
    """From 1 at the first step towards 0 at the last."""
    return 0.5 + 0.5 * math.cos(math.pi * step / steps)

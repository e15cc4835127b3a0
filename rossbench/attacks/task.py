"""Attacks by name on test images: checked, and the same for an image however images are batched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..util.memory import is_out_of_memory
from ..util.seeds import derive, seeded
from .pgd import check, extremes, in_mode, input_gradient
from .table import Attack, kind


class Draws(NamedTuple):
    """Where the random numbers of some images come from: each has its own, whichever images are attacked beside it."""

    seed: int
    size: int
    """Images in the batch that these are of."""
    places: Tensor
    """Of these images in that batch: int64 [n]."""

    def of(self, some: Tensor) -> Draws:
        return self._replace(places=self.places[some])

    def anew(self, *purpose: str | int) -> Draws:
        return self._replace(seed=derive(self.seed, *purpose))


@dataclass(frozen=True)
class Task:
    """What the function of an attack is given."""

    model: nn.Module
    """In eval mode."""
    images: Tensor
    """Float [n, c, h, w] in [0, 1]."""
    labels: Tensor
    """Int64 [n]."""
    attack: Attack
    radii: Tensor
    """Float [n], above 0."""
    draws: Draws

    def of(self, some: Tensor) -> Task:
        """The same for some of the images: int64 [m]."""
        images, labels, radii = self.images[some], self.labels[some], self.radii[some]
        return replace(self, images=images, labels=labels, radii=radii, draws=self.draws.of(some))

    def by_radius(self) -> Iterable[tuple[float, Tensor]]:
        """For attacks that have one epsilon: each radius, and the images that it is for."""
        return ((float(radius), (self.radii == radius).nonzero()[:, 0]) for radius in self.radii.unique())

    @cached_property
    def has_gradient(self) -> bool:
        """Whether attacks by gradient have one to follow; without, or if asking for it raises, they find nothing."""
        try:
            with seeded(0, self.images.device):
                return input_gradient(self.model, self.images[:1]) is not None
        except Exception as error:  # of the model's own code
            if is_out_of_memory(error):
                raise
            return False

    def finite(self, made: Tensor) -> Tensor:
        """Adversarial images; where a gradient was not finite, and so they are not, the image itself: nothing found."""
        return torch.where(made.isfinite().flatten(1).all(1).view(-1, 1, 1, 1), made, self.images)

    @torch.no_grad()
    def right(self, images: Tensor) -> Tensor:
        """Which of these images, in the place of the task's, the model gets right: bool [n]."""
        right: Tensor = self.model(images).argmax(1) == self.labels
        return right

    def draw(self, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """Random numbers like the images: ``draw`` makes the whole batch's, of an empty tensor and a generator."""
        generator = torch.Generator(self.images.device).manual_seed(self.draws.seed)
        empty = self.images.new_empty(self.draws.size, *self.images.shape[1:])
        return draw(empty, generator)[self.draws.places]


Run = Callable[[Task], Tensor]


def run_attack(model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, radii: Tensor, draws: Draws) -> Tensor:
    """Adversarial images within ``radii`` [n], above 0, of images [n, c, h, w] in [0, 1]; labels: int64 [n].

    The model is in eval mode meanwhile, and afterwards as before. AttackError if what the attack returns is not finite,
    outside [0, 1] or further away than its radius; where epsilon is no distance, the first two. UnknownName.
    """
    row = kind(attack.name)
    with in_mode(model, False):
        found: Tensor = row.load()(Task(model, images, labels, attack, radii, draws))
    bound = radii if row.is_distance else torch.full_like(radii, images[0].numel())
    check(extremes(found, images, attack.norm, bound).tolist(), attack.norm)
    return found


def worst(runs: Iterable[Run], task: Task, found: Tensor) -> Tensor:
    """The worst for each image, beginning with ``found``: runs in turn, each on the images that are still right."""
    found = found.clone()
    standing = task.right(found).nonzero()[:, 0]
    for run in runs:
        if not len(standing):
            break
        part = task.of(standing)
        made = part.finite(run(part))
        turned = ~part.right(made)
        found[standing[turned]] = made[turned]
        standing = standing[~turned]
    return found

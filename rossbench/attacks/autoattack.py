"""AutoAttack (Croce & Hein, 2020) and its parts, from torchattacks' searches. The home of torchattacks.

The searches are called one by one: torchattacks' own loops around them reseed every generator, and its AutoAttack has
other settings than the reference. docs/trust.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..util.seeds import derive, seeded
from .pgd import lengths
from .table import ATTACKS, TARGETS
from .task import Draws, Task, worst


class _Model:
    """A task's model for torchattacks, which reads the device from a parameter and prints when there is none."""

    def __init__(self, task: Task) -> None:
        self.model, self.images, (self.height, self.width) = task.model, task.images, task.images.shape[2:]

    def parameters(self) -> Iterator[Tensor]:
        return iter([self.images])

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images[:, :, : self.height, : self.width])
        return logits


class _Apgd(torchattacks.APGD):  # type: ignore[misc]  # torchattacks has no types
    """APGD on the cross-entropy, or on the targeted loss towards ``target`` [n].

    torchattacks' own targeted one gives all images the first one's step size in L2, so it is not that of the paper.
    """

    target: Tensor

    def dlr_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        ranked = logits.sort(dim=1).values
        own, other = logits.gather(1, torch.stack([labels, self.target], 1)).unbind(1)
        return (other - own) / (ranked[:, -1] - 0.5 * (ranked[:, -3] + ranked[:, -4]) + 1e-12)


class _OwnStarts(TorchFunctionMode):
    """Where an APGD draws its start, each image gets its own, drawn on the CPU."""

    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.draws = draws

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.rand, torch.randn):
            return func(*args, **(kwargs or {}))
        generator = torch.Generator().manual_seed(self.draws.seed)
        return func((self.draws.size, *args[0][1:]), generator=generator)[self.draws.places.cpu()]


@torch.no_grad()  # torchattacks turns gradients on where it needs them
def _apgd(task: Task, rank: int = 0) -> Tensor:
    """On the cross-entropy; or towards the class of a rank, 1 being the likeliest after the first."""
    if not task.has_gradient:
        return task.images
    loss, radii = "dlr" if rank else "ce", task.radii.view(-1, 1, 1, 1)
    search = _Apgd(_Model(task), task.attack.norm, radii, task.attack.steps, loss=loss)
    search.target = task.model(task.images).argsort(dim=1, descending=True)[:, rank]
    with _OwnStarts(task.draws.anew("apgd", rank)):
        _, standing, _, found = search.attack_single_run(task.images, task.labels)
    return torch.where(standing.view(-1, 1, 1, 1), task.images, found)


@torch.no_grad()
def _fab(task: Task, rank: int) -> Tensor:
    """The nearest image beyond the boundary to the class of a rank, where that is within the radius."""
    if not task.has_gradient:
        return task.images
    search = torchattacks.FAB(_Model(task), task.attack.norm, None, task.attack.steps, multi_targeted=True)
    search.target_class = rank + 1
    found = search.attack_single_run_targeted(task.images, task.labels)
    near = lengths(found - task.images, task.attack.norm) <= task.radii.view(-1, 1, 1, 1)
    return torch.where(near, found, task.images)


class _Square(torchattacks.Square):  # type: ignore[misc]  # torchattacks has no types
    """Draws for the whole batch, and gives each image that it still attacks its own.

    In L2 the norm of two windows is one for each channel, as in the authors' code (Andriushchenko et al., 2020,
    algorithm 3); torchattacks takes one over all channels, and finds less.
    """

    draws: Draws
    change: Tensor | None = None
    """In L2, of the images since the last query, once its norm was asked for."""

    def lp_norm(self, x: Tensor) -> Tensor:
        """Of an image's change over all; of windows, which are that change and zeros around, of each channel.

        torchattacks asks for both by this method, and all else of a query is in one function: this is the one place.
        """
        windows = self.change is not None and torch.equal(x, torch.where(x == 0, 0, self.change))
        self.change = x if self.change is None else self.change
        return x.square().sum((2, 3) if windows else (1, 2, 3), keepdim=True).sqrt()

    def random_choice(self, shape: list[int]) -> Tensor:
        every: Tensor = super().random_choice([self.draws.size, *shape[1:]] if len(shape) == 4 else shape)
        return every[self.draws.places] if len(shape) == 4 else every  # of other shapes: what all images share

    def margin_and_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        margin, loss = super().margin_and_loss(images, labels)
        self.change = None
        self.draws = self.draws.of((margin > 0).nonzero()[:, 0])  # the others are fooled, and not attacked again
        return margin, loss


_SQUARE_LEAST = 5
"""Pixels a side: in L2 it begins with five by five windows. Smaller images get a margin, which the model never sees."""


def _square(task: Task) -> Tensor:
    found, size = task.images.clone(), task.images.shape[2:]
    margin = [max(0, _SQUARE_LEAST - side) * (task.attack.norm == "L2") for side in size]
    images = nn.functional.pad(task.images, (0, margin[1], 0, margin[0]))
    for radius, some in task.by_radius():
        search = _Square(_Model(task), task.attack.norm, radius, task.attack.steps, resc_schedule=False)
        search.init_hyperparam(images)
        search.draws = task.draws.of(some)
        with seeded(derive(task.draws.seed, "square")):
            _, made = search.attack_single_run(images[some], task.labels[some])
        found[some] = made[:, :, : size[0], : size[1]]
    return found


def _towards(run: Callable[..., Tensor], task: Task) -> Tensor:
    """A targeted attack on the likeliest classes in turn."""
    with torch.no_grad():
        classes = task.model(task.images[:1]).shape[1]
    ranks = range(1, min(TARGETS, classes - 1) + 1)
    return worst((partial(run, rank=rank) for rank in ranks), task, task.images)


def apgd_ce(task: Task) -> Tensor:
    """PGD that adapts its step, on the cross-entropy."""
    return worst([_apgd], task, task.images)


def apgd_t(task: Task) -> Tensor:
    """PGD that adapts its step, on the targeted difference-of-logits-ratio loss."""
    return _towards(_apgd, task)


def fab_t(task: Task) -> Tensor:
    """Croce & Hein (2020), "Minimally distorted adversarial examples": towards the decision boundary."""
    return _towards(_fab, task)


def square(task: Task) -> Tensor:
    """Andriushchenko et al. (2020): random search, without gradients."""
    return worst([_square], task, task.images)


def standard(task: Task) -> Tensor:
    """The reference's standard version: four attacks with its settings, the worst for each image."""
    queries = replace(ATTACKS["square"].defaults, norm=task.attack.norm)
    runs = (_apgd, apgd_t, fab_t, lambda part: _square(replace(part, attack=queries)))
    return worst(runs, task, task.images)

"""PGD with restarts, FGSM, attacks that look at no model, and attacks of a user's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..util.errors import AttackError
from ..util.seeds import seeded
from .guard import guarded
from .pgd import lengths, random_start
from .pgd import pgd as descend
from .table import Attack
from .task import Task, worst


def pgd(task: Task) -> Tensor:
    """Madry et al. (2018). All images are attacked, then, from further starts, those that are still right."""
    found, more = _from_start(task), range(1, task.attack.restarts)
    return worst((partial(_from_start, restart=k) for k in more), task, found) if more else found


def _from_start(task: Task, restart: int = 0) -> Tensor:
    if not task.has_gradient:
        return task.images
    if restart:
        task = replace(task, draws=task.draws.anew("restart", restart))
    return task.finite(descend(task.model, task.images, task.labels, task.attack, task.radii, start_of(task)))


def start_of(task: Task) -> Tensor:
    """Where each image's search starts, less the image: like the images. The same for every radius but for its size."""
    unit = task.draw(lambda empty, generator: random_start(task.attack, empty, 1.0, generator))
    return task.radii.view(-1, 1, 1, 1) * unit


def fgsm(task: Task) -> Tensor:
    """One step as long as epsilon (study, algorithm 2), along the gradient's sign; in L2, along the gradient."""
    step = Attack(norm=task.attack.norm, steps=1, step_size=1.0, step_unit="epsilon", random_start=False)
    return pgd(replace(task, attack=step))


def gaussian_noise(task: Task) -> Tensor:
    """Gaussian noise as long as epsilon, then clipped to [0, 1] (study, section 4.1)."""
    noise = task.draw(lambda empty, generator: empty.normal_(generator=generator))
    scale = task.radii.view(-1, 1, 1, 1) / lengths(noise, task.attack.norm)
    return (task.images + scale * noise).clamp(0, 1)


def negative(task: Task) -> Tensor:
    """A share epsilon of the way to the negative, which is there at 1 (study, section 4.1; Hosseini et al., 2017)."""
    return (task.images + task.radii.view(-1, 1, 1, 1) * (1 - 2 * task.images)).clamp(0, 1)


def user(task: Task) -> Tensor:
    """A registered function, called for each epsilon."""
    name, function, found = task.attack.name, task.attack.kind.user_function, task.images.clone()
    assert function is not None
    for radius, some in task.by_radius():
        part = task.of(some)
        with seeded(task.draws.seed, task.images.device), guarded(name, task.model, part.images[:1]):
            made = function(part.model, part.images.clone(), part.labels, radius, task.attack)
        if (got := _kind(made, part.images)) is not None:
            raise AttackError(f"attack {name!r}: expected images {tuple(part.images.shape)}, got {got}")
        if not made.isfinite().all():
            raise AttackError(f"attack {name!r}: expected finite pixels, got NaN or infinity")
        found[some] = made.detach().to(found)
    return found


def _kind(made: Any, images: Tensor) -> Any:
    """What came in the place of images; None if it is such."""
    if not isinstance(made, Tensor):
        return type(made).__name__
    if made.is_nested or made.layout != torch.strided or made.is_meta:
        return "a tensor that is nested, sparse or meta"
    if made.shape != images.shape:
        return tuple(made.shape)
    fine = made.dtype.is_floating_point and made.dtype.itemsize > 1
    return None if fine else f"some of {made.dtype}, not a float type"

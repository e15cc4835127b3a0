"""Attacks by name, on test images: judged, and the same for an image however images are batched.

torchattacks' searches are called one by one: its own loops around them reseed every generator, and its AutoAttack has
other settings than the reference. docs/trust.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torchattacks
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import registry
from ..config.recipes import ATTACKS, Attack
from ..util.errors import AttackError
from ..util.seeds import derive, seeded
from . import pgd

_TARGETS = 9
"""Of a targeted attack, likeliest first: the reference's settings for Croce & Hein (2020)."""


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
class _Task:
    """What an attack is given."""

    model: nn.Module
    images: Tensor
    """Float [n, c, h, w] in [0, 1]."""
    labels: Tensor
    attack: Attack
    radii: Tensor
    """Float [n], above 0."""
    draws: Draws

    def of(self, some: Tensor) -> _Task:
        """The same for some of the images: int64 [m]."""
        given = {"images": self.images[some], "labels": self.labels[some], "radii": self.radii[some]}
        return replace(self, **given, draws=self.draws.of(some))  # type: ignore[arg-type]

    def by_radius(self) -> Iterable[tuple[float, Tensor]]:
        """For attacks that have one epsilon: each radius, and the images that it is for."""
        return ((float(radius), (self.radii == radius).nonzero()[:, 0]) for radius in self.radii.unique())

    def lengths(self, moved: Tensor) -> Tensor:
        """[n], in the attack's norm."""
        order = 2 if self.attack.norm == "L2" else torch.inf
        lengths: Tensor = torch.linalg.vector_norm(moved.flatten(1), ord=order, dim=1)
        return lengths

    @torch.no_grad()
    def right(self, images: Tensor) -> Tensor:
        """Which of these images, in the place of the task's, the model gets right: bool [n]."""
        right: Tensor = self.model(images).argmax(1) == self.labels
        return right

    def each(self, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """Random numbers like the images: ``draw`` makes the whole batch's, of an empty tensor and a generator."""
        generator = torch.Generator(self.images.device).manual_seed(self.draws.seed)
        empty = self.images.new_empty(self.draws.size, *self.images.shape[1:])
        return draw(empty, generator)[self.draws.places]


Run = Callable[[_Task], Tensor]


def perturb(model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, radii: Tensor, draws: Draws) -> Tensor:
    """Adversarial images within ``radii`` [n], above 0, of images [n, c, h, w] in [0, 1]; labels: int64 [n].

    The model is in eval mode meanwhile, and afterwards as before. AttackError if what the attack returns is not finite,
    outside [0, 1] or further away than its radius; of a negative image, whose epsilon is no distance, the first two.
    """
    task = _Task(model, images, labels, attack, radii, draws)
    with pgd.modes_kept(model):
        model.eval()
        found = _RUNS.get(attack.name, _own)(task)
    bound = torch.full_like(radii, images[0].numel()) if attack.name == "negative" else radii
    pgd.check(pgd.extremes(found, images, attack.norm, bound).tolist(), attack.norm)
    return found


def _worst(runs: Iterable[Run], task: _Task, found: Tensor) -> Tensor:
    """The worst for each image, beginning with ``found``: runs in turn, each on the images that are still right."""
    found = found.clone()
    standing = task.right(found).nonzero()[:, 0]
    for run in runs:
        if not len(standing):
            break
        part = task.of(standing)
        made = run(part)
        turned = ~part.right(made)
        found[standing[turned]] = made[turned]
        standing = standing[~turned]
    return found


# --- projected gradient descent, and what looks at no model -------------------------------------------------


def _pgd(task: _Task) -> Tensor:
    """Madry et al. (2018). All images are attacked, then, from further starts, those that are still right."""
    found, more = _descent(task), range(1, task.attack.restarts)
    return _worst((partial(_descent, restart=k) for k in more), task, found) if more else found


def _descent(task: _Task, restart: int = 0) -> Tensor:
    if restart:
        task = replace(task, draws=task.draws.anew("restart", restart))
    start = task.each(partial(pgd.unit_start, task.attack))
    return pgd.perturb_each(task.model, task.images, task.labels, task.attack, task.radii, start)


def _fgsm(task: _Task) -> Tensor:
    """One step as long as epsilon (study, algorithm 2), along the gradient's sign; in L2, along the gradient."""
    step = Attack(norm=task.attack.norm, steps=1, step_size=1.0, step_unit="epsilon", random_start=False)
    return _descent(replace(task, attack=step))


def _noise(task: _Task) -> Tensor:
    """Gaussian noise as long as epsilon, then clipped to [0, 1] (study, section 4.1)."""
    noise = task.each(lambda empty, generator: empty.normal_(generator=generator))
    scale = (task.radii / task.lengths(noise)).view(-1, 1, 1, 1)
    return (task.images + scale * noise).clamp(0, 1)


def _negative(task: _Task) -> Tensor:
    """A share epsilon of the way to the negative, which is there at 1 (study, section 4.1; Hosseini et al., 2017)."""
    return (task.images + task.radii.view(-1, 1, 1, 1) * (1 - 2 * task.images)).clamp(0, 1)


# --- the parts of AutoAttack (Croce & Hein, 2020) -----------------------------------------------------------


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


def _apgd(task: _Task, rank: int = 0) -> Tensor:
    """On the cross-entropy; or towards the class of a rank, 1 being the likeliest after the first."""
    loss, radii = "dlr" if rank else "ce", task.radii.view(-1, 1, 1, 1)
    search = _Apgd(task.model, task.attack.norm, radii, task.attack.steps, loss=loss)
    search.target = _class_of(task, rank)
    with torch.no_grad(), _OwnStarts(task.draws.anew("apgd", rank)):  # it turns gradients on where it needs them
        _, standing, _, found = search.attack_single_run(task.images, task.labels)
    return torch.where(standing.view(-1, 1, 1, 1), task.images, found)


@torch.no_grad()
def _class_of(task: _Task, rank: int) -> Tensor:
    ranked: Tensor = task.model(task.images).argsort(dim=1, descending=True)
    return ranked[:, rank]


def _fab(task: _Task, rank: int) -> Tensor:
    """The nearest image beyond the boundary to the class of a rank, where that is within the radius."""
    search = torchattacks.FAB(task.model, task.attack.norm, None, task.attack.steps, multi_targeted=True)
    search.target_class = rank + 1
    with torch.no_grad():
        found = search.attack_single_run_targeted(task.images, task.labels)
    near = task.lengths(found - task.images) <= task.radii
    return torch.where(near.view(-1, 1, 1, 1), found, task.images)


class _Square(torchattacks.Square):  # type: ignore[misc]  # torchattacks has no types
    """Draws for the whole batch, and gives each image that it still attacks its own."""

    draws: Draws

    def random_choice(self, shape: list[int]) -> Tensor:
        every: Tensor = super().random_choice([self.draws.size, *shape[1:]] if len(shape) == 4 else shape)
        return every[self.draws.places] if len(shape) == 4 else every  # of other shapes: what all images share

    def margin_and_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        margin, loss = super().margin_and_loss(images, labels)
        self.draws = self.draws.of((margin > 0).nonzero()[:, 0])  # the others are fooled, and not attacked again
        return margin, loss


def _square(task: _Task) -> Tensor:
    """Andriushchenko et al. (2020): random search, without gradients."""
    found = task.images.clone()
    for radius, some in task.by_radius():
        search = _Square(task.model, task.attack.norm, radius, task.attack.steps, resc_schedule=False)
        search.init_hyperparam(task.images)
        search.draws = task.draws.of(some)
        with seeded(derive(task.draws.seed, "square")):
            _, found[some] = search.attack_single_run(task.images[some], task.labels[some])
    return found


def _towards(run: Callable[..., Tensor], task: _Task) -> Tensor:
    """A targeted attack on the likeliest classes in turn."""
    with torch.no_grad():
        classes = task.model(task.images[:1]).shape[1]
    ranks = range(1, min(_TARGETS, classes - 1) + 1)
    return _worst((partial(run, rank=rank) for rank in ranks), task, task.images)


def _autoattack(task: _Task) -> Tensor:
    """The reference's standard version: four attacks with its settings, the worst for each image."""
    square = replace(ATTACKS["square"], norm=task.attack.norm)
    runs = (
        _apgd,
        partial(_towards, _apgd),
        partial(_towards, _fab),
        lambda part: _square(replace(part, attack=square)),
    )
    return _worst(runs, task, task.images)


# --- a user's own -------------------------------------------------------------------------------------------


def _own(task: _Task) -> Tensor:
    """A registered function, called for each epsilon."""
    name, found = task.attack.name, task.images.clone()
    for radius, some in task.by_radius():
        part = task.of(some)
        with seeded(task.draws.seed, task.images.device):
            made = registry.attack(name)(part.model, part.images, part.labels, radius, task.attack)
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        if shape != part.images.shape:
            raise AttackError(f"attack {name!r}: expected images {tuple(part.images.shape)}, got {shape}")
        found[some] = made.detach().to(found)
    return found


def _those_right(run: Run) -> Run:
    return lambda task: _worst([run], task, task.images)


_RUNS: dict[str, Run] = {
    "pgd": _pgd,
    "fgsm": _fgsm,
    "gaussian-noise": _noise,
    "negative": _negative,
    "square": _those_right(_square),
    "apgd-ce": _those_right(_apgd),
    "apgd-t": partial(_towards, _apgd),
    "fab-t": partial(_towards, _fab),
    "autoattack-standard": _autoattack,
}

"""The audited part of a test split: its images, what the stored attack left right, and searches on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..attacks.pgd import LOSSES, input_gradient, lengths
from ..attacks.task import Draws, run_attack
from ..config.recipes import Attack, Evaluation
from ..data.image_folder import balanced
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import OutOfMemory, one_line
from ..util.memory import AutoBatch
from ..util.seeds import derive
from .evaluate import at_once

Seen = TypeVar("Seen")
IMAGES = 200
"""In the audited part, or one of each class where there are more classes."""
FINE = Attack(steps=30, step_size=0.15, step_unit="epsilon")
SCALE_FREE = replace(FINE, loss="margin")
GRADIENT = (replace(SCALE_FREE, steps=8, step_size=0.3), FINE, SCALE_FREE)
"""The audit's own search by gradient: what is left by one goes on to the next, so that weak images cost little."""


def audited(labels: Tensor) -> Tensor:
    """The fixed, class-balanced part of the images with these labels [n] that is looked at: int64 [m], ascending."""
    count = min(len(labels), max(IMAGES, int(labels.max()) + 1))
    return torch.from_numpy(balanced(labels.cpu().numpy(), count)).to(labels.device)


class Bench:
    """The audited part of the test images, and what several checks ask of it.

    images: uint8 [n, 3, size, size]; labels: int64 [n]; predictions: by evaluation epsilon, the class that was stored
    for each image, int64 [n]; recipe: how they were made; other: a classifier for the same images; distances: of the
    smallest perturbation that is known of each image, float [n].
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        predictions: Mapping[float, Tensor],
        recipe: Evaluation,
        seed: int,
        other: nn.Module | None = None,
        distances: Tensor | None = None,
    ) -> None:
        self.model, self.attack, self.seed = model.eval().requires_grad_(False), recipe.attack, seed
        self.other = None if other is None else other.eval().requires_grad_(False)
        self.stored = {epsilon: predictions[epsilon].to(labels.device) == labels for epsilon in sorted(predictions)}
        self.part, self.all_labels = audited(labels), labels
        self.labels = labels[self.part]
        self.distances = None if distances is None else distances.to(labels.device)[self.part]
        self.images = images[self.part.to(images.device)].to(labels.device).float() / 255
        self.furthest, self.low, self.high = 0.0, 1.0, 0.0
        """Of all adversarial images: the largest distance, in epsilons; the darkest and the brightest pixel."""

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    @cached_property
    def clean(self) -> Tensor:
        return self.logits(self.images)

    @cached_property
    def right(self) -> Tensor:
        """Which audited images are right without an attack: bool [m]."""
        return self.clean.argmax(1) == self.labels

    @property
    def epsilons(self) -> list[float]:
        """Of the stored evaluations under attack, ascending; none where there is nothing to judge."""
        return [epsilon for epsilon in self.stored if epsilon and self.attack.kind.is_distance]

    @cached_property
    def standing(self) -> Tensor:
        """Which audited images the stored attack left right: bool [epsilons, m]."""
        return torch.stack([self.stored[epsilon][self.part] for epsilon in self.epsilons])

    def gradients(self, loss: str, model: nn.Module | None = None) -> tuple[Tensor, str]:
        """Lengths of the gradient of a loss of attacks.pgd.LOSSES at the images, 0 where there is none or it is not
        finite: float [m], on the CPU; and whatever the backward pass raised, in words."""

        def look(places: Tensor) -> Tensor:
            def value(images: Tensor) -> Tensor:
                return LOSSES[loss]((model or self.model)(images), self.labels[places], reduction="sum")

            gradient = input_gradient(value, self.images[places])
            return torch.zeros(len(places)) if gradient is None else lengths(gradient).flatten().float().cpu()

        places = torch.arange(len(self.images), device=self.images.device)
        try:
            return torch.cat([found for _, found in self.pieces().of(look, places)]).nan_to_num(0, 0, 0), ""
        except OutOfMemory:
            raise
        except Exception as error:  # of the user's own module: it may raise anything
            return torch.zeros(len(places)), one_line(str(error)) or type(error).__name__

    @cached_property
    def blind(self) -> bool:
        """Whether no attack can follow gradients: not even those of a loss on which the logits' scale has no part.

        Of the images that are right, if there are such: of others the margin is to another class.
        """
        dead, right = self.gradients("margin")[0] == 0, self.right.cpu()
        return float((dead[right] if right.any() else dead).float().mean()) > 0.5

    def pieces(self) -> AutoBatch:
        return AutoBatch(at_once(self.images, self.images.device))

    def perturb(self, attack: Attack, radii: Tensor, places: Tensor, model: nn.Module | None = None) -> Tensor:
        """Images of some places in the audited part, under another attack in the norm of the stored one."""
        draws = Draws(derive(self.seed, "audit"), len(self.labels), places)
        attack = replace(attack, norm=self.attack.norm)
        return run_attack(model or self.model, self.images[places], self.labels[places], attack, radii, draws)

    def search(self, attacks: Sequence[Attack], standing: Tensor, model: nn.Module | None = None) -> Tensor:
        """Which images, of those standing at each epsilon, some attacks in turn leave right too: bool [epsilons, m].

        Each image is tried at the largest epsilon where it stands, and where it is turned at the next smaller one; what
        resists is not tried in the smaller balls within. model: what the attacks see, in place of the audited one.
        """
        left, to_try = standing.clone(), standing.clone()
        epsilons = torch.tensor(self.epsilons, device=self.labels.device)
        numbers = torch.arange(len(epsilons), device=epsilons.device)[:, None]
        while to_try.any():
            largest = torch.where(to_try, numbers, -1).amax(0)
            turned = partial(self._turned, attacks, epsilons[largest], model)
            for places, found in self.pieces().of(turned, to_try.any(0).nonzero()[:, 0]):
                left[largest[places], places] = ~found
                to_try[largest[places], places] = False
                to_try[:, places[~found]] = False
        return left

    def _turned(self, attacks: Sequence[Attack], radii: Tensor, model: nn.Module | None, places: Tensor) -> Tensor:
        """Which images at some places one of the attacks makes wrong, within the radii [m] of all."""
        found = torch.zeros_like(places, dtype=torch.bool)
        for attack in attacks:
            some = places[~found]
            if len(some):
                made = self.perturb(attack, radii[some], some, model)
                far = lengths(made - self.images[some], self.attack.norm).flatten() / radii[some]
                self.furthest = max(self.furthest, float(far.max()))
                self.low, self.high = min(self.low, float(made.min())), max(self.high, float(made.max()))
                found[~found] = self.logits(made).argmax(1) != self.labels[some]
        return found

    @cached_property
    def reached(self) -> Tensor:
        """What the audit's own search by gradient leaves right, from all images that are right: bool [epsilons, m]."""
        return self.search(GRADIENT, self.right.expand(len(self.epsilons), -1))

    @property
    def resisting(self) -> Tensor:
        """Right under the stored attack and, where there is a gradient, the audit's own: bool [epsilons, m]."""
        return self.standing if self.blind else self.standing & self.reached

    def gap(self, more: Tensor, less: Tensor) -> tuple[float, str]:
        """The most percentage points from one share of right images to another, both [epsilons, m], and in words."""
        high, low = ([percent(column) for column in right] for right in (more, less))
        # Of several equal ones, the column nearest to half right, where there is most to see.
        worst = max(range(len(high)), key=lambda k: (high[k] - low[k], -abs(high[k] - 50)))
        where = f"{EPS} = {format_epsilon(self.epsilons[worst])}"
        return high[worst] - low[worst], f"{high[worst]:.2f} % {{}}, {low[worst]:.2f} % {{}}, {where}"

    def seen(self, kind: Callable[[nn.Module], bool], look: Callable[[nn.Module, Tensor], Seen]) -> list[Seen]:
        """What ``look`` says of each layer of a kind and of what it is given for the audited images, as they come."""
        found: dict[nn.Module, Seen] = {}

        def see(layer: nn.Module, inputs: Any) -> None:
            if inputs and layer not in found:
                found[layer] = look(layer, inputs[0].detach().float())

        hooks = [layer.register_forward_pre_hook(see) for layer in self.model.modules() if kind(layer)]
        try:
            self.logits(self.images)
        finally:
            for hook in hooks:
                hook.remove()
        return list(found.values())


def percent(right: Tensor) -> float:
    return 100 * float(right.float().mean())

"""The audited part of a test split: its images, what the stored attack left right, and searches on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks.task import Draws, run_attack
from ..config.recipes import Attack, Evaluation
from ..data.image_folder import balanced
from ..util.epsilons import EPS, format_epsilon
from ..util.memory import AutoBatch
from ..util.seeds import derive
from .evaluate import at_once

IMAGES = 200
"""In the audited part, or one of each class where there are more classes."""


def audited(labels: Tensor) -> Tensor:
    """The fixed, class-balanced part of the images with these labels [n] that is looked at: int64 [m], ascending."""
    count = min(len(labels), max(IMAGES, int(labels.max()) + 1))
    return torch.from_numpy(balanced(labels.cpu().numpy(), count)).to(labels.device)


class Bench:
    """The audited part of the test images, and what several checks ask of it."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        predictions: Mapping[float, Tensor],
        recipe: Evaluation,
        seed: int,
    ) -> None:
        self.model, self.attack, self.seed = model.eval().requires_grad_(False), recipe.attack, seed
        self.stored = {epsilon: predictions[epsilon].to(labels.device) == labels for epsilon in sorted(predictions)}
        self.part = audited(labels)
        self.labels = labels[self.part]
        self._searches: dict[Attack, Search] = {}
        self.images = images[self.part.to(images.device)].to(labels.device).float() / 255

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    @cached_property
    def clean(self) -> Tensor:
        return self.logits(self.images)

    @property
    def epsilons(self) -> list[float]:
        """Of the stored evaluations under attack, ascending; none where there is nothing to judge."""
        return [epsilon for epsilon in self.stored if epsilon and self.attack.kind.is_distance]

    @cached_property
    def standing(self) -> Tensor:
        """Which audited images the stored attack left right: bool [epsilons, m]."""
        return torch.stack([self.stored[epsilon][self.part] for epsilon in self.epsilons])

    def perturb(self, attack: Attack, radii: Tensor, places: Tensor) -> Tensor:
        """Images of some places in the audited part, under another attack in the norm of the stored one."""
        draws = Draws(derive(self.seed, "audit"), len(self.labels), places)
        attack = replace(attack, norm=self.attack.norm)
        return run_attack(self.model, self.images[places], self.labels[places], attack, radii, draws)

    def search(self, attack: Attack) -> Search:
        """What another attack finds, at every epsilon, where the stored one found nothing.

        At every epsilon, since one chosen by its accuracy would be another after one image more or less. From the
        largest, where a blind attack shows; what resists there is not searched again in the smaller balls within.
        """
        if attack not in self._searches:
            self._searches[attack] = self._searched(attack)
        return self._searches[attack]

    def _searched(self, attack: Attack) -> Search:
        found = Search(self)
        resisted = torch.zeros_like(self.labels, dtype=torch.bool)
        for k, epsilon in reversed([*enumerate(self.epsilons)]):
            radii = self.images.new_full((len(self.labels),), epsilon)

            def look(places: Tensor, radii: Tensor = radii) -> Tensor:
                adversarial = self.perturb(attack, radii[places], places)
                found.note_bounds(adversarial, self.images[places], radii[places])
                return self.logits(adversarial).argmax(1) != self.labels[places]

            pieces, standing = AutoBatch(at_once(self.images, self.images.device)), found.left[k] & ~resisted
            for places, turned in pieces.of(look, standing.nonzero()[:, 0]):
                found.left[k, places] = ~turned
            resisted = found.left[k]
        return found

    def accuracy(self, images: Tensor) -> float:
        """In percent."""
        return percent(self.logits(images).argmax(1) == self.labels)

    def entering(self, kind: Callable[[nn.Module], bool]) -> tuple[nn.Module, Tensor] | None:
        """The layer of a kind that is called first, and what it is given for the audited images."""
        calls: list[tuple[nn.Module, Tensor]] = []

        def see(layer: nn.Module, inputs: Any) -> None:
            if inputs and not calls:
                calls.append((layer, inputs[0].detach().float()))

        hooks = [layer.register_forward_pre_hook(see) for layer in self.model.modules() if kind(layer)]
        try:
            self.logits(self.images)
        finally:
            for hook in hooks:
                hook.remove()
        return calls[0] if calls else None


class Search:
    """What an attack of the audit left right, and how far it went."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.left = bench.standing.clone()
        """Right under both attacks: bool [epsilons, m]."""
        self.furthest, self.low, self.high = 0.0, 1.0, 0.0
        """Of all adversarial images: the largest distance, in epsilons; the darkest and the brightest pixel."""

    def note_bounds(self, adversarial: Tensor, images: Tensor, radii: Tensor) -> None:
        order = 2 if self.bench.attack.norm == "L2" else torch.inf
        distances = torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1)
        low, high = adversarial.aminmax()
        self.furthest = max(self.furthest, float((distances / radii).max()))
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def shortfall(self, what: str) -> tuple[float, str]:
        """By how many percentage points the stored attack falls short of both together where it does so most, in
        words too."""
        bench = self.bench
        stored, after = ([percent(column) for column in right] for right in (bench.standing, self.left))
        # Of several equal ones, the column nearest to half right, where there is most to see.
        worst = max(range(len(stored)), key=lambda k: (stored[k] - after[k], -abs(stored[k] - 50)))
        words = f"{stored[worst]:.2f} % under {bench.attack}, {after[worst]:.2f} % under that and {what}"
        return stored[worst] - after[worst], f"{words}, {EPS} = {format_epsilon(bench.epsilons[worst])}"


def percent(right: Tensor) -> float:
    return 100 * float(right.float().mean())

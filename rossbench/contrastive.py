"""SimCLR from lightly's parts, in a form that any attack can be aimed at. The home of lightly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn

from .attacks import perturb
from .encoders import Encoder
from .recipe import Pretraining


class SimCLR(nn.Module):
    """An encoder and lightly's projection head, as a classifier of views (study, section 3.3.2).

    forward: 2n views, sample i's two at rows i and n + i -> logits [2n, 2n]: cosine similarities of the projections
    over the temperature, each view's with itself left out (-inf). The right class of a view is its partner's row
    (``partners``). Cross-entropy on these logits is the NT-Xent loss (study, equation 3.11), so an attack on
    classifiers, aimed at this module, is a contrastive attack.
    """

    def __init__(self, encoder: Encoder, recipe: Pretraining) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = SimCLRProjectionHead(
            encoder.features, encoder.features, recipe.projection_dim, batch_norm=recipe.projection_batch_norm
        )
        self.temperature = recipe.temperature

    def project(self, views: Tensor) -> Tensor:
        """Projections [2n, projection_dim], not normalised."""
        projections: Tensor = self.head(self.encoder(views))
        return projections

    def forward(self, views: Tensor) -> Tensor:
        return similarities(self.project(views), self.temperature)


def similarities(projections: Tensor, temperature: float) -> Tensor:
    """Logits [2n, 2n] of projections [2n, d]; see SimCLR."""
    unit = nn.functional.normalize(projections, dim=1)
    logits = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return logits.masked_fill(itself, -torch.inf)


def partners(views: int, device: torch.device) -> Tensor:
    """The row of each view's partner among 2n views: n, ..., 2n - 1, 0, ..., n - 1."""
    return torch.arange(views, device=device).roll(views // 2)


def nt_xent(temperature: float) -> Callable[[Tensor], Tensor]:
    """lightly's NTXentLoss as a function of all projections [2n, d].

    Without its memory bank: that takes in whatever passes while gradients are on, attack steps included.
    """
    loss = NTXentLoss(temperature=temperature, memory_bank_size=0)

    def of_projections(projections: Tensor) -> Tensor:
        first, second = projections.chunk(2)
        value: Tensor = loss(first, second)
        return value

    return of_projections


def adversarial_views(model: SimCLR, views: Tensor, recipe: Pretraining, epsilon: float, seed: int) -> Tensor:
    """The study's hook (section 5.2): all views of a batch moved together by PGD so that NT-Xent rises.

    views: float [2n, channels, size, size] in [0, 1]; returns the same shape, each view within epsilon.
    """
    labels = partners(len(views), views.device)
    return perturb(model, views, labels, recipe.attack, epsilon, seed, mode=recipe.attack_mode)

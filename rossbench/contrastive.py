"""SimCLR from lightly's parts, in a form that any attack can be aimed at. The home of lightly."""

from __future__ import annotations

import torch
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, nn

from .attacks import perturb
from .encoders import Encoder
from .recipe import Pretraining


class SimCLR(nn.Module):
    """An encoder and lightly's projection head, as a classifier of views (study, section 3.3.2).

    forward: 2n views, sample i's two at rows i and n + i -> logits [2n, 2n]: cosine similarities of the projections
    over the temperature, each view's with itself left out (-inf). The right class of a view is its partner's row
    (``partners``). Cross-entropy on these logits is the NT-Xent loss (study, equation 3.11) and equals lightly's
    NTXentLoss, so an attack on classifiers, aimed at this module, is a contrastive attack. (lightly's own would wait
    for the device, which a CUDA graph must not.)
    """

    def __init__(self, encoder: Encoder, recipe: Pretraining) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = SimCLRProjectionHead(
            encoder.features, encoder.features, recipe.projection_dim, batch_norm=recipe.projection_batch_norm
        )
        self.recipe = recipe

    def project(self, views: Tensor) -> Tensor:
        """Projections, float32 [2n, projection_dim], not normalised."""
        if self.recipe.channels_last:
            views = views.contiguous(memory_format=torch.channels_last)
            if views.requires_grad:
                views.register_hook(Tensor.contiguous)  # torchattacks takes gradients for contiguous
        with torch.autocast(
            views.device.type,
            torch.bfloat16,
            enabled=self.recipe.precision == "bfloat16",
            cache_enabled=False,  # the weights change between passes that share a CUDA graph
        ):
            projections: Tensor = self.head(self.encoder(views))
        return projections.float()

    def forward(self, views: Tensor) -> Tensor:
        return similarities(self.project(views), self.recipe.temperature)


def similarities(projections: Tensor, temperature: float) -> Tensor:
    """Logits [2n, 2n] of projections [2n, d]; see SimCLR."""
    unit = nn.functional.normalize(projections, dim=1)
    logits = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return logits.masked_fill(itself, -torch.inf)


def partners(views: int, device: torch.device) -> Tensor:
    """The row of each view's partner among 2n views: n, ..., 2n - 1, 0, ..., n - 1."""
    return torch.arange(views, device=device).roll(views // 2)


def adversarial_views(model: SimCLR, views: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The study's hook (section 5.2): all views of a batch moved together by PGD so that NT-Xent rises.

    views: float [2n, channels, size, size] in [0, 1]; returns the same shape, each view within epsilon, and the
    extremes; see attacks.perturb.
    """
    labels, recipe = partners(len(views), views.device), model.recipe
    return perturb(model, views, labels, recipe.attack, epsilon, mode=recipe.attack_mode)

"""SimCLR from lightly's parts, in a form that any attack can be aimed at. The home of lightly."""

from __future__ import annotations

import torch
from lightly.models.modules.heads import SimCLRProjectionHead
from lightly.utils.dist import gather
from torch import Tensor, nn

from ..attacks.pgd import perturb, random_start
from ..config.recipes import Pretraining
from ..config.specs import PretrainSpec
from ..util import distributed
from ..util.seeds import derive, seeded
from . import encoders
from .encoders import Encoder


class SimCLR(nn.Module):
    """An encoder and lightly's projection head, as a classifier of views (study, section 3.3.2).

    forward: 2n views, sample i's two at rows i and n + i -> logits [2n, 2n]: cosine similarities of the projections
    over the temperature, each view's with itself left out (-inf). The right class of a view is its partner's row
    (``partners``). Cross-entropy on these logits is the NT-Xent loss (study, equation 3.11) and equals lightly's
    NTXentLoss, so an attack on classifiers, aimed at this module, is a contrastive attack. (lightly's own would wait
    for the device, which a CUDA graph must not.)

    Of several ranks each has the two views of its own images, 2m, and its rows of the logits that one process would
    have: [2m, 2n].
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
                views.register_hook(Tensor.contiguous)  # an attack's steps are then on one layout
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


def build(spec: PretrainSpec) -> SimCLR:
    """The spec's model before training; its weights depend on encoder and seed alone."""
    encoder = encoders.build(spec.encoder, spec.pixels, derive(spec.seed, "encoder"))
    with seeded(derive(spec.seed, "projection head")):
        return SimCLR(encoder, spec.recipe)


def similarities(projections: Tensor, temperature: float) -> Tensor:
    """Logits [2n, 2n] of projections [2n, d]; see SimCLR. Backward, ranks ask each other for the gradients."""
    unit = nn.functional.normalize(projections, dim=1)
    every = unit if distributed.world_size() == 1 else _of_all_ranks(unit)
    logits = unit @ every.T / temperature
    itself = _rows(len(unit), unit.device)[:, None] == torch.arange(len(every), device=unit.device)
    return logits.masked_fill(itself, -torch.inf)


def partners(views: int, device: torch.device) -> Tensor:
    """The row of each view's partner among 2n views: n, ..., 2n - 1, 0, ..., n - 1. See SimCLR for several ranks."""
    every = views * distributed.world_size()
    return (_rows(views, device) + every // 2) % every


def rows_of(images: int, mine: slice, device: torch.device) -> Tensor:
    """Where both views of some of a batch's images stand among all of its views, int64."""
    return torch.arange(2 * images, device=device).view(2, images)[:, mine].flatten()


def _rows(views: int, device: torch.device) -> Tensor:
    """Where a rank's views stand among all."""
    images = views // 2 * distributed.world_size()
    return rows_of(images, distributed.own_part(images), device)


def _of_all_ranks(own: Tensor) -> Tensor:
    """What all ranks have, [2m, d] each, as one process would have it: first views before second ones."""
    every: Tensor = torch.stack(gather(own)).unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2)
    return every


def adversarial_views(model: SimCLR, views: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    """The study's hook (section 5.2): all views of a batch moved together by PGD so that NT-Xent rises.

    views: float [2n, channels, size, size] in [0, 1]; returns the same shape, each view within epsilon, and the
    extremes; epsilon: see attacks.pgd.perturb. Of several ranks each moves its own views.
    """
    labels, recipe, start = partners(len(views), views.device), model.recipe, None
    if distributed.world_size() > 1 and (isinstance(epsilon, Tensor) or epsilon):
        whole = views.new_empty(len(views) * distributed.world_size(), *views.shape[1:])
        start = random_start(recipe.attack, whole, epsilon)[_rows(len(views), views.device)]
    return perturb(model, views, labels, recipe.attack, epsilon, mode=recipe.attack_mode, start=start)

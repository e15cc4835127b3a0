"""Stage 1: adversarial contrastive pretraining (study, sections 3.3.2, 5.2 and 5.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import encoders, metrics
from .contrastive import SimCLR, adversarial_views, nt_xent, partners, similarities
from .datasets import facts
from .recipe import Pretraining
from .seeds import derive, seeded
from .specs import PretrainSpec
from .training import Hooks, Loop
from .views import two_views


def pretrain(spec: PretrainSpec, images: Tensor, hooks: Hooks) -> tuple[SimCLR, list[dict[str, float]]]:
    """Train SimCLR on views attacked with the spec's epsilon; 0 is plain SimCLR.

    images: uint8 [n, 3, size, size], on the device to train on. Returns the model in eval mode and its
    history, an entry an epoch; there "top1" and "top5" are of the contrastive task: how often a view's partner is
    the most similar, or among the five most similar, of all others.
    """
    recipe = spec.recipe
    model = build(spec).to(images.device)
    if recipe.normalize:
        _normalize_by(model, images)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    loss_of = nt_xent(recipe.temperature)

    def batch(indices: Tensor, seed: int) -> tuple[Tensor, int]:
        generator = torch.Generator(images.device).manual_seed(seed)
        views = two_views(images[indices.to(images.device)], recipe.augmentation, generator)
        views = adversarial_views(model, views, recipe, spec.epsilon, derive(seed, "attack"))
        projections = model.project(views)  # both views in one pass: BatchNorm sees them together
        loss = loss_of(projections)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logits = similarities(projections.detach(), recipe.temperature)
        right = metrics.counts_right(metrics.top5(logits), partners(len(views), views.device))
        return torch.stack([loss.detach() * len(views), *right]), len(views)

    loop = Loop(
        spec=spec,
        images=len(images),
        drop_last=True,
        rate=lambda epoch: learning_rate(recipe, epoch),
        optimizer=optimizer,
        parts={"model": model},
        batch=batch,
    )
    model.train()
    history = loop.run(hooks)
    return model.eval(), history


def build(spec: PretrainSpec) -> SimCLR:
    """The spec's model before training; its weights depend on encoder and seed alone."""
    encoder = encoders.build(spec.encoder, facts(spec.source).size, derive(spec.seed, "encoder"))
    with seeded(derive(spec.seed, "projection head")):
        return SimCLR(encoder, spec.recipe)


def learning_rate(recipe: Pretraining, epoch: int) -> float:
    """The rate in an epoch counted from 0: full for ``constant_epochs``, then a cosine that would end at 0."""
    decaying = recipe.epochs - recipe.constant_epochs
    if epoch < recipe.constant_epochs or decaying <= 0:
        return recipe.learning_rate
    progress = (epoch - recipe.constant_epochs) / decaying
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def _normalize_by(model: SimCLR, images: Tensor) -> None:
    pixels = images.float() / 255
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    model.encoder.mean.copy_(mean[:, None, None])
    model.encoder.std.copy_(std[:, None, None])

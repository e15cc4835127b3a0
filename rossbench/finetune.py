"""Stage 2: a linear classifier on the frozen encoder (study, section 5.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import metrics
from .attacks import perturb
from .encoders import Encoder
from .seeds import derive, seeded
from .specs import FinetuneSpec
from .training import Hooks, Loop, Step, Tick, adam


class Classifier(nn.Module):
    """A frozen encoder and a linear layer. forward: images in [0, 1] -> logits [n, classes].

    Made in eval mode with the encoder's gradients off, and meant to stay so: frozen are weights, BatchNorm
    statistics and mode.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.linear = nn.Linear(encoder.features, classes)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.encoder(images))
        return logits


def finetune(
    spec: FinetuneSpec, encoder: Encoder, images: Tensor, labels: Tensor, classes: int, hooks: Hooks
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a fresh linear layer on natural images (epsilon 0) or on images attacked in every step.

    images: uint8 [n, 3, size, size]; labels: int64 [n]; both on the encoder's device, unaugmented. Returns
    the classifier and its history, an entry an epoch; there "top1" and "top5" are of the training batches, attacked
    as they were.
    """
    recipe = spec.recipe
    with seeded(derive(spec.seed, "linear layer")):
        classifier = Classifier(encoder, classes).to(images.device)
    # The encoder is frozen, so without an attack an image has the same features in every epoch.
    cached = encode(encoder, images, recipe.batch_size, hooks) if spec.epsilon == 0 else None
    optimizer = adam(classifier.linear, recipe)

    def features_of(indices: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if cached is not None:
            return cached[indices], cached.new_zeros(3)
        natural = images[indices].float() / 255
        adversarial, extremes = perturb(classifier, natural, targets, recipe.attack, spec.epsilon)
        with torch.no_grad():
            return encoder(adversarial), extremes

    def step(indices: Tensor) -> Step:
        targets = labels[indices]
        features, extremes = features_of(indices, targets)
        logits = classifier.linear(features)
        loss = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = metrics.counts_right(metrics.top5(logits.detach()), targets)
        return Step(torch.stack([loss.detach() * len(targets), *right]), len(targets), extremes)

    loop = Loop(
        spec=spec,
        images=len(images),
        drop_last=False,
        rate=lambda epoch: recipe.learning_rate,
        optimizer=optimizer,
        parts={"linear": classifier.linear},
        step=step,
    )
    return classifier, loop.run(hooks)


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor, batch_size: int, hooks: Hooks) -> Tensor:
    """Features [n, features] of uint8 images, in batches."""
    parts = []
    for batch in images.split(batch_size):
        parts.append(encoder(batch.float() / 255))
        hooks.tick(Tick(0.0, "encoding", len(batch)))
    return torch.cat(parts)

"""Stage 2: a linear classifier on the frozen encoder (study, section 5.2), or one with its encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..attacks.pgd import input_gradient, perturb
from ..config.specs import FinetuneSpec
from ..data.datasets import facts
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..store import artifacts
from ..util.errors import InvalidValue
from ..util.seeds import derive, seeded
from . import metrics
from .context import Context
from .train_loop import Hooks, Loop, Step, Tick, adam


def build(specs: Sequence[FinetuneSpec], context: Context, hooks: Hooks) -> None:
    """Finetune one classifier on its stored or given encoder, and store it."""
    (spec,) = specs
    data, began = context.data(spec), time.perf_counter()
    encoder, classes = context.encoder(spec.pretrain), facts(spec.target).classes
    classifier, history = finetune(spec, encoder, data.images, data.labels, classes, hooks)
    trained, provenance = classifier.trained(spec.recipe), context.provenance(data=data.fingerprint)
    artifacts.save_trained(context.store, spec, trained, history, time.perf_counter() - began, provenance)


def check(spec: FinetuneSpec, encoder: Encoder) -> None:
    """InvalidValue if a finetuning attacks its images, and no gradient of the encoder leads to these."""
    size = facts(spec.pretrain.source).size
    if spec.epsilon and input_gradient(encoder, torch.zeros(1, 3, size, size)) is None:
        raise InvalidValue(
            f"{spec}: expected an encoder with a gradient at the image, which an adversarial finetuning follows, got "
            "none; finetune at epsilon 0, and attack without gradients, such as by square"
        )


def finetune(
    spec: FinetuneSpec, encoder: Encoder, images: Tensor, labels: Tensor, classes: int, hooks: Hooks
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a fresh linear layer on natural images (epsilon 0) or on images attacked in every step.

    A full finetuning trains the encoder that it is given, too, with BatchNorm in train mode but while it is attacked.
    images: uint8 [n, 3, size, size], unaugmented, anywhere; labels: int64 [n], on the encoder's device. Returns
    the classifier, in eval mode, and its history, an entry an epoch; there "top1" and "top5" are of the training
    batches, attacked as they were.
    """
    recipe = spec.recipe
    with seeded(derive(spec.seed, "linear layer")):
        classifier = Classifier(encoder, classes).to(labels.device)
    trained, full = classifier.trained(recipe).requires_grad_(), recipe.trained == "full"
    # A frozen encoder without an attack gives an image the same features in every epoch.
    cached = None if full or spec.epsilon else encode(encoder, images, recipe.batch_size, hooks)
    optimizer = adam(trained, recipe)

    def logits_of(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if cached is not None:
            return classifier.linear(inputs), inputs.new_zeros(3)
        adversarial, extremes = perturb(classifier, inputs.float() / 255, targets, recipe.attack, spec.epsilon)
        if full:
            return classifier(adversarial), extremes
        with torch.no_grad():
            features = encoder(adversarial)
        return classifier.linear(features), extremes

    def step(inputs: Tensor, targets: Tensor) -> Step:
        logits, extremes = logits_of(inputs, targets)
        loss = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = metrics.counts_right(metrics.top5(logits.detach()), targets)
        return Step(torch.stack([loss.detach() * len(targets), *right]), len(targets), extremes)

    loop = Loop(
        spec=spec,
        samples=(images if cached is None else cached, labels),
        drop_last=False,
        rate=lambda epoch: recipe.learning_rate,
        optimizer=optimizer,
        parts={recipe.trained: trained},
        step=step,
    )
    classifier.train(full)
    history = loop.run(hooks)
    return classifier.eval(), history


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor, batch_size: int, hooks: Hooks) -> Tensor:
    """Features [n, features] of uint8 images, in batches."""
    parts = []
    for batch in images.split(batch_size):
        parts.append(encoder(batch.to(encoder.mean.device).float() / 255))
        hooks.tick(Tick(0.0, "encoding", len(batch)))
    return torch.cat(parts)

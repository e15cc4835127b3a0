"""Stage 3: predictions on a test split under attack (study, sections 5.3 and 5.4)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import metrics
from .attacks import perturb
from .finetune import Classifier
from .seeds import derive
from .specs import EvaluateSpec
from .training import Hooks, Tick


def evaluate(spec: EvaluateSpec, classifier: Classifier, images: Tensor, labels: Tensor, hooks: Hooks) -> Tensor:
    """The five likeliest classes of every attacked image, likeliest first: int64 [n, min(5, classes)], on the CPU.

    images: uint8 [n, 3, size, size]; labels: int64 [n]. All images are attacked, also those that are wrong
    without an attack, as the study counts.
    """
    predictions: list[Tensor] = []
    done = 0
    for batch in attacked(spec, classifier, images, labels):
        with torch.no_grad():
            predictions.append(metrics.top5(classifier(batch)).cpu())
        done += len(batch)
        hooks.tick(Tick(done / len(images), f"image {done}/{len(images)}", len(batch)))
    return torch.cat(predictions)


def attacked(spec: EvaluateSpec, classifier: Classifier, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Batches of the images as the evaluation sees them: float [b, 3, size, size] in [0, 1].

    Random starts are the same for every epsilon, and for every call.
    """
    classifier.requires_grad_(False)
    size = spec.recipe.batch_size
    for k, (batch, targets) in enumerate(zip(images.split(size), labels.split(size), strict=True)):
        seed = derive(spec.seed, "evaluate", k)
        yield perturb(classifier, batch.float() / 255, targets, spec.recipe.attack, spec.epsilon, seed)

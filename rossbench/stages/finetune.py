"""Stage 2: a linear classifier on the frozen encoder (study, section 5.2), or one with its encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..attacks.pgd import in_mode, input_gradient, perturb
from ..attacks.table import Attack
from ..config.recipes import Finetuning
from ..config.specs import FinetuneSpec
from ..data.datasets import facts
from ..models import encoders
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..store import artifacts
from ..util.errors import InvalidValue
from ..util.seeds import derive, seeded
from . import metrics
from .augment import crop_and_flip
from .context import Context
from .train_loop import Hooks, Loop, Step, Tick, adam, sgd

Branch = Callable[[nn.Module], AbstractContextManager[object]]
"""Which BatchNorm of a model is used within, where it has two."""


def build(specs: Sequence[FinetuneSpec], context: Context, hooks: Hooks) -> None:
    """Finetune one classifier on its stored or given encoder, and store it."""
    (spec,) = specs
    data, began = context.data(spec), time.perf_counter()
    encoder, classes = context.encoder(spec.pretrain), facts(spec.target).classes
    classifier, history = finetune(spec, encoder, data.images, data.labels, classes, hooks)
    trained, provenance = classifier.trained(spec.recipe), context.provenance(data=data.fingerprint)
    artifacts.save_trained(context.store, spec, trained, history, time.perf_counter() - began, provenance)


@seeded(0)
def check(spec: FinetuneSpec, encoder: Encoder) -> None:
    """InvalidValue if a finetuning attacks its images, and no gradient of the encoder leads to these."""
    check_batch_norm(spec, encoder)
    size = spec.pretrain.pixels
    if spec.epsilon and input_gradient(encoder, torch.zeros(1, 3, size, size)) is None:
        raise InvalidValue(
            f"{spec}: expected an encoder with a gradient at the image, which an adversarial finetuning follows, got "
            "none; finetune at epsilon 0, and attack without gradients, such as by square"
        )


def check_batch_norm(spec: FinetuneSpec, encoder: Encoder | None) -> None:
    """InvalidValue if two BatchNorms are asked for, and there is one; None: of an encoder that is pretrained here."""
    asked = spec.epsilon and (spec.recipe.loss, spec.recipe.trades_batch_norm) == ("trades", "dual")
    if asked and not (encoder and encoders.is_dual(encoder)):
        raise InvalidValue(
            f"{spec}: expected an encoder with a clean and an adversarial BatchNorm for "
            "finetuning.trades_batch_norm=dual, got one; --set finetuning.trades_batch_norm=single does with that"
        )


def finetune(
    spec: FinetuneSpec, encoder: Encoder, images: Tensor, labels: Tensor, classes: int, hooks: Hooks
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a fresh linear layer on natural images (epsilon 0) or on images attacked in every step.

    A full finetuning trains the encoder that it is given, too, and "linear+statistics" moves its BatchNorm statistics.
    images: uint8 [n, 3, size, size], anywhere; labels: int64 [n], on the encoder's device. Returns
    the classifier, in eval mode, and its history, an entry an epoch; there "top1" and "top5" are of the training
    batches, attacked as they were.
    """
    check_batch_norm(spec, encoder)
    recipe = spec.recipe
    with seeded(derive(spec.seed, "linear layer")):
        classifier = Classifier(encoder, classes).to(labels.device)
    if recipe.head_init == "zero":
        for parameter in classifier.linear.parameters():
            nn.init.zeros_(parameter)
    learned, full = classifier.learned(recipe).requires_grad_(), recipe.trained == "full"
    branch: Branch = encoders.natural_branch if recipe.trades_batch_norm == "dual" else nullcontext
    cached = encode(encoder, images, recipe.batch_size, hooks) if spec.encodes_once else None
    optimizer = (adam if recipe.optimizer == "adam" else sgd)(learned, recipe)

    def logits_of(inputs: Tensor) -> Tensor:
        with torch.set_grad_enabled(full):
            features = encoder(inputs) if cached is None else inputs
        logits: Tensor = classifier.linear(features)
        return logits

    def loss_of(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With the logits of what was attacked, and the extremes of the attack."""
        if recipe.loss == "trades" and spec.epsilon:
            adversarial, extremes = diverge(classifier, inputs, recipe.attack, spec.epsilon, branch)
            with branch(encoder):
                natural = logits_of(inputs)
            logits = logits_of(adversarial)
            return trades(natural, logits, targets, recipe.trades_beta), logits, extremes
        adversarial, extremes = perturb(classifier, inputs, targets, recipe.attack, spec.epsilon)
        logits = logits_of(adversarial)
        return nn.functional.cross_entropy(logits, targets), logits, extremes

    def step(inputs: Tensor, targets: Tensor) -> Step:
        if cached is None:
            inputs = crop_and_flip(inputs, recipe.crop_padding, recipe.flip_probability).float() / 255
        loss, logits, extremes = loss_of(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = metrics.counts_right(metrics.top5(logits.detach()), targets)
        return Step(torch.stack([loss.detach() * len(targets), *right]), len(targets), extremes)

    loop = Loop(
        spec=spec,
        samples=(images if cached is None else cached, labels),
        drop_last=False,
        rate=lambda epoch: learning_rate(recipe, epoch),
        optimizer=optimizer,
        parts={recipe.trained: classifier.trained(recipe)},
        step=step,
    )
    classifier.train(recipe.trained != "linear")
    history = loop.run(hooks)
    return classifier.eval(), history


def learning_rate(recipe: Finetuning, epoch: int) -> float:
    """The rate in an epoch counted from 0: a tenth after each milestone, as torch's MultiStepLR."""
    return recipe.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)


def diverge(
    classifier: Classifier, images: Tensor, attack: Attack, epsilon: float, branch: Branch = nullcontext
) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] that TRADES' attack has moved, from 0.001 of a standard Gaussian, and its extremes.

    It raises the KL divergence of predictions from those of the natural images, all in eval mode (Zhang et al., 2019,
    algorithm 1). ``branch``: around the pass of these.
    """
    with in_mode(classifier, False), branch(classifier), torch.no_grad():
        natural = classifier(images).softmax(1)
    # With probabilities as labels cross-entropy is that divergence and a constant, so both have the same gradient.
    return perturb(classifier, images, natural, attack, epsilon, start=0.001 * torch.randn_like(images))


def trades(natural: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> Tensor:
    """TRADES' loss of logits [n, classes] (Zhang et al., 2019, equation 5, where beta is 1 / lambda)."""
    divergence = nn.functional.kl_div(attacked.log_softmax(1), natural.softmax(1), reduction="batchmean")
    return nn.functional.cross_entropy(natural, labels) + beta * divergence


@torch.no_grad()
def encode(encoder: Encoder, images: Tensor, batch_size: int, hooks: Hooks) -> Tensor:
    """Features [n, features] of uint8 images, in batches."""
    parts = []
    for batch in images.split(batch_size):
        parts.append(encoder(batch.to(encoder.mean.device).float() / 255))
        hooks.tick(Tick(0.0, "encoding", len(batch)))
    return torch.cat(parts)

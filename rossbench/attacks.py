"""torchattacks as one exact call: bounded, checked, and without side effects. The home of torchattacks."""

from __future__ import annotations

import math

import torch
import torchattacks
from torch import Tensor, nn

from .errors import AttackError
from .recipe import Attack
from .seeds import seeded

EPS_FOR_DIVISION = 1e-30
_CLASSES = {("pgd", "L2"): torchattacks.PGDL2, ("pgd", "Linf"): torchattacks.PGD}


def perturb(
    model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, epsilon: float, seed: int, *, mode: str = "eval"
) -> Tensor:
    """Images within ``epsilon`` of ``images`` that raise the cross-entropy of the model's logits.

    images: float [n, channels, height, width] in [0, 1]; labels: int64 [n]; epsilon: radius in the attack's norm,
    in pixel space, where 0 means no attack; seed: of the random start; mode: "eval" or "train", the model's while it
    is attacked. Projected gradient descent as in the study's algorithm 3 (Madry et al., 2018).

    Every module's mode, and the global random state, are afterwards as before, also when the attack raises.
    Raises AttackError if what comes back is not finite, outside [0, 1], or further than epsilon away.
    """
    if epsilon == 0:  # torchattacks would divide 0 by 0
        return images
    modes = {module: module.training for module in model.modules()}
    images = images.contiguous()
    try:
        with seeded(seed, images.device):
            adversarial: Tensor = _build(model, attack, epsilon, mode)(images, labels)
    finally:
        for module, training in modes.items():  # torchattacks restores the root's mode, and that of all below it
            module.training = training
    _check(adversarial, images, attack.norm, epsilon)
    return adversarial


def _build(model: nn.Module, attack: Attack, epsilon: float, mode: str) -> torchattacks.attack.Attack:
    options = {"eps": epsilon, "alpha": attack.step_size, "steps": attack.steps, "random_start": attack.random_start}
    if attack.norm == "L2":
        # The loss is a mean over the batch, so a sample's gradient is small, and a confident one's tiny: beside
        # torchattacks' default of 1e-10 it would not be normalised, and the sample not be attacked.
        options["eps_for_division"] = EPS_FOR_DIVISION
    made = _CLASSES[attack.name, attack.norm](model, **options)
    training = mode == "train"
    made.set_model_training_mode(model_training=training, batchnorm_training=training, dropout_training=training)
    return made


def _check(adversarial: Tensor, images: Tensor, norm: str, epsilon: float) -> None:
    if adversarial.shape != images.shape:
        raise AttackError(f"attack: expected shape {tuple(images.shape)}, got {tuple(adversarial.shape)}")
    order = 2 if norm == "L2" else torch.inf
    distance = torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1).max()
    low, high = adversarial.aminmax()
    worst, low, high = torch.stack([distance, low, high]).tolist()  # one wait for the device, not three
    if not math.isfinite(worst):
        raise AttackError("attack: expected finite gradients, got some that are not; a model in training has diverged")
    # The projection rounds: a relative 1e-4, or the resolution of pixels near 1, is not a step outside.
    if worst > epsilon * (1 + 1e-4) + 1e-6:
        raise AttackError(f"attack: expected a {norm} distance of at most {epsilon}, got {worst}")
    if low < 0 or high > 1:
        raise AttackError(f"attack: expected pixels in [0, 1], got [{low}, {high}]")

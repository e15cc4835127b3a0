"""torchattacks as exact calls: bounded, checked, and without side effects. The home of torchattacks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
import torchattacks
from torch import Tensor, nn

from ..config.recipes import Attack
from ..util.errors import AttackError

EPS_FOR_DIVISION = 1e-30
_CLASSES = {("pgd", "L2"): torchattacks.PGDL2, ("pgd", "Linf"): torchattacks.PGD}


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    epsilon: float,
    *,
    mode: str = "eval",
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Images within ``epsilon`` of ``images`` that raise the cross-entropy of the model's logits, and their extremes.

    images: float [n, channels, height, width] in [0, 1]; labels: int64 [n]; epsilon: radius in the attack's norm,
    in pixel space, where 0 means no attack; mode: "eval" or "train", the model's while it is attacked. The random
    start is drawn from torch's global generator of the device, unless a ``start`` is given (see unit_start): a rank's
    rows of that of a batch which is split. Projected gradient descent as in the study's algorithm 3 (Madry et al.,
    2018).

    Every module's mode is afterwards as before, also when the attack raises. Nothing waits for the device, so what
    torchattacks returns is still to be judged: give the extremes, or the largest of several, to ``check``.
    """
    if epsilon == 0:  # torchattacks would divide 0 by 0
        return images, images.new_zeros(3)
    images = images.contiguous()
    with modes_kept(model):
        if start is None:
            adversarial: Tensor = _build(model, attack, epsilon, mode)(images, labels)
        else:
            radii = images.new_full((len(images),), epsilon)
            adversarial = _in_mode(Radii(model, attack), mode)(images, labels, radii, start)
    return adversarial, extremes(adversarial, images, attack.norm, epsilon)


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """torchattacks gives the root's mode to all below it, and when it raises restores none."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _build(model: nn.Module, attack: Attack, epsilon: float, mode: str) -> torchattacks.attack.Attack:
    options = {"eps": epsilon, "alpha": attack.length(epsilon), "steps": attack.steps}
    options["random_start"] = attack.random_start
    if attack.norm == "L2":
        # The loss is a mean over the batch, so a sample's gradient is small, and a confident one's tiny: beside
        # torchattacks' default of 1e-10 it would not be normalised, and the sample not be attacked.
        options["eps_for_division"] = EPS_FOR_DIVISION
    return _in_mode(_CLASSES[attack.name, attack.norm](model, **options), mode)


def _in_mode(made: torchattacks.attack.Attack, mode: str) -> torchattacks.attack.Attack:
    training = mode == "train"
    made.set_model_training_mode(model_training=training, batchnorm_training=training, dropout_training=training)
    return made


class Radii(torchattacks.attack.Attack):  # type: ignore[misc]  # torchattacks has no types
    """torchattacks' PGD and PGDL2 with a radius and a start of each image's own: many epsilons in one batch.

    Image for image it computes what those do; the loss is summed, not averaged, so that the other images of the batch
    do not matter. In eval mode a classifier's images do not matter to each other either.
    """

    def __init__(self, model: nn.Module, attack: Attack) -> None:
        super().__init__("PGD with radii", model)
        self.settings = attack

    def forward(self, images: Tensor, labels: Tensor, radii: Tensor, start: Tensor) -> Tensor:
        """Adversarial images within radii [n], above 0, of images [n, c, h, w]; ``start``: see unit_start."""
        norm, radii = self.settings.norm, radii.view(-1, 1, 1, 1)
        adversarial = (images + radii * start).clamp(0, 1)
        for _ in range(self.settings.steps):
            adversarial.requires_grad_()
            loss = nn.functional.cross_entropy(self.get_logits(adversarial), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            direction = gradient / (_lengths(gradient) + EPS_FOR_DIVISION) if norm == "L2" else gradient.sign()
            moved = adversarial.detach() + self.settings.length(radii) * direction - images
            if norm == "L2":
                moved = moved * (radii / _lengths(moved)).clamp(max=1)
            else:
                moved = moved.maximum(-radii).minimum(radii)
            adversarial = (images + moved).clamp(0, 1)
        return adversarial


def perturb_each(
    model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, radii: Tensor, start: Tensor
) -> Tensor:
    """``perturb`` in eval mode, with a radius and a start of each image's own; see Radii. Judged, so it waits."""
    with modes_kept(model):
        adversarial: Tensor = Radii(model, attack)(images, labels, radii, start)
    check(extremes(adversarial, images, attack.norm, radii).tolist(), attack.norm)
    return adversarial


def unit_start(attack: Attack, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """For each image of ``like`` a random point of the ball of radius 1: where PGD starts, as torchattacks draws it."""
    start = torch.zeros_like(like)
    if not attack.random_start:
        return start
    if attack.norm == "Linf":
        return start.uniform_(-1, 1, generator=generator)
    start.normal_(generator=generator)
    share = torch.rand(len(like), 1, 1, 1, generator=generator, device=like.device, dtype=like.dtype)
    return start / _lengths(start) * share


def _lengths(images: Tensor) -> Tensor:
    """L2 norms, [n, 1, 1, 1]."""
    lengths: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return lengths.view(-1, 1, 1, 1)


def extremes(adversarial: Tensor, images: Tensor, norm: str, radii: Tensor | float) -> Tensor:
    """Float [3], on the device: how far the worst is beyond its radius, minus the lowest pixel, the highest. See check.

    The projection rounds, so a relative 1e-4 is not beyond.
    """
    if adversarial.shape != images.shape:
        raise AttackError(f"attack: expected shape {tuple(images.shape)}, got {tuple(adversarial.shape)}")
    order = 2 if norm == "L2" else torch.inf
    distance = torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1)
    low, high = adversarial.aminmax()
    return torch.stack([(distance - radii * (1 + 1e-4)).max(), -low, high])


def check(found: Sequence[float], norm: str) -> None:
    """Judge extremes. AttackError if what an attack returned is not finite, outside [0, 1], or too far away."""
    beyond, low, high = found
    if not math.isfinite(beyond):
        raise AttackError("attack: expected finite gradients, got some that are not; a model in training has diverged")
    if beyond > 1e-6:  # the resolution of pixels near 1
        raise AttackError(f"attack: expected a {norm} distance of at most epsilon, got one that is {beyond:.3g} more")
    if low > 0 or high > 1:
        raise AttackError(f"attack: expected pixels in [0, 1], got [{-low}, {high}]")

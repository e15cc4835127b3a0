"""Projected gradient descent, and the bounds that images of every attack are checked for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..util.errors import AttackError
from .table import Attack

EPS_FOR_DIVISION = 1e-30


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    radii: Tensor | float,
    start: Tensor,
    reduction: str = "sum",
) -> Tensor:
    """Images within ``radii`` that raise the attack's loss (Madry et al., 2018; study, algorithm 3).

    labels: int64 [n], or probabilities [n, classes]; all else as for ``ascend``. Bit for bit it is torchattacks' PGD
    and PGDL2 where there is one radius and the reduction is "mean"; "sum" lets no image matter to another one's step,
    however small its gradient. Nothing waits for the device.
    """

    def loss_of(adversarial: Tensor) -> Tensor:
        return LOSSES[attack.loss](model(adversarial), labels, reduction=reduction)

    return ascend(loss_of, images, attack, radii, start)


def ascend(
    loss_of: Callable[[Tensor], Tensor], images: Tensor, attack: Attack, radii: Tensor | float, start: Tensor
) -> Tensor:
    """Images within ``radii`` after projected steps up a loss, the one loop of every attack by projected gradient.

    loss_of: a number, of tensor kind, of images like ``images``: it is called at the start and after each step but the
    last; images: float [n, channels, height, width] in [0, 1]; attack: its norm, steps and length of a step; radii: in
    the attack's norm and pixel space, [n] or one for all, a number or a tensor of no dimension; start: like images,
    what the first step starts from less the image.
    """
    bound = radii.view(-1, 1, 1, 1) if isinstance(radii, Tensor) and radii.ndim > 0 else radii
    adversarial = (images + start).clamp(0, 1)
    for _ in range(attack.steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(adversarial), adversarial)
        direction = gradient / (lengths(gradient) + EPS_FOR_DIVISION) if attack.norm == "L2" else gradient.sign()
        moved = adversarial.detach() + attack.length(bound) * direction - images
        adversarial = (images + within(moved, bound, attack.norm)).clamp(0, 1)
    return adversarial


def within(moved: Tensor, bound: Tensor | float, norm: str) -> Tensor:
    """Perturbations [n, ...], those that are longer than a radius cut to it; bound: one, or [n, 1, 1, 1]."""
    if norm == "Linf":
        return moved.clamp(-bound, bound)  # type: ignore[arg-type]  # torch takes numbers too
    far = lengths(moved).clamp(min=EPS_FOR_DIVISION)  # 0 / 0 where nothing moved in a ball of radius 0
    # As torch divides a number by a tensor, which rounds otherwise than tensor by tensor.
    several = isinstance(bound, Tensor) and bound.ndim > 0
    return moved * (bound / far if several else far.reciprocal() * bound).clamp(max=1)


def unit(vectors: Tensor, norm: str = "L2") -> Tensor:
    """Each [n, ...] at length 1 in a norm: in L-infinity its signs."""
    return vectors.sign() if norm == "Linf" else vectors / lengths(vectors).clamp(min=EPS_FOR_DIVISION)


def margin(logits: Tensor, labels: Tensor, reduction: str = "sum") -> Tensor:
    """By how much the likeliest other class is above the right one, over the spread of the image's logits.

    logits: [n, classes]; labels: int64 [n]. The spread, largest less smallest, has no gradient, so neither direction
    nor size of a gradient hangs on the scale of the logits; cf. the DLR loss of Croce & Hein (2020), equation 6.
    """
    right = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    spread = (logits.amax(1) - logits.amin(1)).detach().clamp(min=EPS_FOR_DIVISION)
    margins = (other - right) / spread
    return margins.mean() if reduction == "mean" else margins.sum()


LOSSES: dict[str, Callable[..., Tensor]] = {"cross-entropy": nn.functional.cross_entropy, "margin": margin}
"""By ``Attack.loss``."""


def random_start(
    attack: Attack, like: Tensor, radius: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """For each image a random point of the ball around 0, as torchattacks draws it; 0 if the attack has no such start.

    ``like`` gives shape [n, channels, height, width] and device; ``generator``: torch's global one of the device if
    None. L2: a random direction, and a length uniform in [0, radius]; L-infinity: uniform in the cube.
    """
    if not attack.random_start:
        return torch.zeros_like(like)
    if attack.norm == "Linf":
        if not isinstance(radius, Tensor):
            return torch.empty_like(like).uniform_(-radius, radius, generator=generator)
        return torch.empty_like(like).uniform_(generator=generator) * (2 * radius) - radius
    noise = torch.empty_like(like).normal_(generator=generator)
    share = like.new_empty(len(like), 1, 1, 1).uniform_(generator=generator)
    return noise * (share / lengths(noise) * radius)


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    epsilon: float | Tensor,
    *,
    mode: str = "eval",
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A training batch under ``pgd`` with one radius, and its extremes.

    epsilon: the radius, where the number 0 means no attack, and a tensor of no dimension always one; mode: "eval" or
    "train", the model's while it is attacked; afterwards every module's is as before. The random start is drawn from
    torch's global generator of the device, unless a ``start`` is given: a rank's rows of ``random_start`` for a batch
    which is split.

    Nothing waits for the device, so the result is still to be checked: give the extremes, or the largest of several, to
    ``check``.
    """
    if not isinstance(epsilon, Tensor) and epsilon == 0:
        return images, images.new_zeros(3)
    images = images.contiguous()
    if start is None:
        start = random_start(attack, images, epsilon)
    with in_mode(model, mode == "train"):
        adversarial = pgd(model, images, labels, attack, epsilon, start, "mean")
    return adversarial, extremes(adversarial, images, attack.norm, epsilon)


def input_gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | None:
    """Of the sum of all that a model gives for images, at these; None if none reaches them. Raises what asking does."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        made = model(leaf)
        return torch.autograd.grad(made.sum(), leaf, allow_unused=True)[0] if made.requires_grad else None


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The whole model in train or eval mode; afterwards every module is in its own again."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before


def lengths(images: Tensor, norm: str = "L2") -> Tensor:
    """Of each image, in a norm: [n, 1, 1, 1]."""
    found: Tensor = torch.linalg.vector_norm(images.flatten(1), ord=2 if norm == "L2" else torch.inf, dim=1)
    return found.view(-1, 1, 1, 1)


def extremes(adversarial: Tensor, images: Tensor, norm: str, radii: Tensor | float) -> Tensor:
    """Float [3], on the device: how far the worst is beyond its radius, minus the lowest pixel, the highest. See check.

    The projection rounds, so a relative 1e-4 is not beyond, nor is what rounding each pixel adds in a tiny ball.
    """
    low, high = adversarial.aminmax()
    distances = lengths(adversarial - images, norm).flatten()
    rounding = 2**-25 * (math.sqrt(images[0].numel()) if norm == "L2" else 1)  # half the resolution of pixels near 1
    return torch.stack([(distances - radii * (1 + 1e-4)).max() - rounding, -low, high])


def check(found: Sequence[float], norm: str, name: str = "pgd") -> None:
    """Judge extremes. AttackError if what an attack returned is not finite, outside [0, 1], or too far away."""
    beyond, low, high = found
    if not math.isfinite(beyond):
        said = (
            "finite gradients, got NaN or infinity: a model in training has diverged, or its encoder has no finite "
            "gradient at some images, as a square root has none at black pixels"
        )
    elif beyond > 1e-6:  # the resolution of pixels near 1
        said = f"{norm} distances of at most epsilon, got one that is {beyond:.3g} more"
    elif low > 0 or high > 1:
        said = f"pixels in [0, 1], got [{-low}, {high}]"
    else:
        return
    raise AttackError(f"attack {name!r}: expected {said}")

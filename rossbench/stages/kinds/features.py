"""How far an attack without labels moves an encoder's features, beside the distances between images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize, pdist

from ...attacks.pgd import ascend, check, extremes
from ...attacks.simple import start_of
from ...attacks.table import Attack
from ...attacks.task import Draws, Task
from ..evaluate import moved
from .subject import Found, Subject

_STEP = 1.0
"""Length of a step, in epsilons: a distance grows outwards, so long steps find more, as in power iteration."""
_TITLES = (
    "displacement, median",
    "displacement, 10 %",
    "displacement, 90 %",
    "cosine distance, median",
    "linear CKA",
    "nearer to another (%)",
)
_PAIRED = 2048
"""Images whose distances to one another are taken."""
_AT_ONCE = 2**24
"""Distances in memory at once."""
Distance = Callable[[Tensor, Tensor], Tensor]
"""Features [n, d] and others [n, d] -> [n], with gradients."""


def features(subject: Subject) -> Found:
    """The largest displacement of each test image's features within each epsilon, found by PGD without labels.

    One search is on the L2 distance from the image's own features, one on the cosine distance. Each keeps the best of
    its random start and of all steps; what it finds is a lower bound of what there is. L2 displacement is relative to
    the median L2 distance between natural features of different images, of all pairs of at most 2,048 images that the
    seed draws: at 1 an image is moved as far as to another one. Of the images moved in L2 are also linear CKA between
    natural and moved features, and the share of images that are nearer to another image's natural features than to
    their own.

    Arrays: displacement, relative, and cosine, float [columns, n]. Where an encoder gives the same for all images,
    nothing moves, no image is nearer to another, and displacement and CKA, which would be 0 / 0, are NaN.
    """
    natural = subject.outputs(subject.encoder, subject.images)
    between, done = _between(natural, subject.seed), 0
    quantiles = natural.new_tensor([0.5, 0.1, 0.9])
    rows, displacement, cosine = [], [], []

    def tick(images: int) -> None:
        nonlocal done
        done += images
        subject.progress(done / (2 * len(subject.columns) * len(natural)))

    for epsilon in subject.columns:
        far, turned = (_moved(subject, natural, epsilon, distance, tick) for distance in (squared_l2, cosine_distance))
        displacement.append(squared_l2(far, natural).sqrt() / between)
        cosine.append(cosine_distance(turned, natural))
        lost = 100 * float(_nearer_to_another(far, natural).float().mean())
        spread = displacement[-1].quantile(quantiles).tolist()
        rows.append([*spread, float(cosine[-1].median()), float(cka(natural, far)), lost])
    return Found(
        rows=dict(zip(_TITLES, zip(*rows, strict=True), strict=True)),
        summary={"median L2 distance between images": float(between)},
        arrays={"displacement": torch.stack(displacement), "cosine": torch.stack(cosine)},
    )


def squared_l2(features: Tensor, others: Tensor) -> Tensor:
    return (features - others).square().sum(1)


def cosine_distance(features: Tensor, others: Tensor) -> Tensor:
    """1 less the cosine, as half a squared distance: exact where that is small. 0 between vectors of length 0."""
    return squared_l2(normalize(features), normalize(others)) / 2


def cka(features: Tensor, others: Tensor) -> Tensor:
    """Linear centred kernel alignment of features [n, d] and others [n, e] of the same images (Kornblith et al., 2019).

    ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms, in [0, 1]; 1 if one is the other turned and scaled. NaN where
    one is constant.
    """
    x, y = ((part - part.mean(0)) for part in (features, others))
    x, y = x / x.norm(), y / y.norm()  # else the squares of large features overflow
    if len(x) < min(x.shape[1], y.shape[1]):  # the same by kernels [n, n], which are then the smaller ones
        kernel, other = x @ x.T, y @ y.T
        shared = (kernel * other).sum()
    else:
        kernel, other = x.T @ x, y.T @ y
        shared = (y.T @ x).square().sum()
    alignment: Tensor = shared / (kernel.norm() * other.norm())
    return alignment


def _farthest(task: Task, distance: Callable[[Tensor], Tensor]) -> Tensor:
    """The task's images, moved to where the distance of their features is the largest that was found."""
    if not task.has_gradient:
        return task.images
    images, best = task.images, torch.zeros_like(task.radii)

    def look(adversarial: Tensor) -> Tensor:
        """A loss, which keeps the best of all images that it saw."""
        nonlocal images, best
        found = distance(task.model(adversarial))
        better = found.detach() > best  # never, if it is NaN
        best = found.detach().where(better, best)
        images = adversarial.detach().where(better.view(-1, 1, 1, 1), images)
        return found.sum()

    last = ascend(look, task.images, task.attack, task.radii, start_of(task))
    with torch.no_grad():
        look(last)
    check(extremes(images, task.images, task.attack.norm, task.radii).tolist(), task.attack.norm)
    return images


def _moved(
    subject: Subject, natural: Tensor, epsilon: float, distance: Distance, tick: Callable[[int], None]
) -> Tensor:
    """Features [n, d] of all images, each as far from its natural ones as the search within epsilon gets."""
    if epsilon == 0:
        tick(len(natural))
        return natural
    kind, encoder = subject.kind, subject.encoder
    attack = Attack(norm=kind.norm, steps=kind.steps, step_size=_STEP, step_unit="epsilon")

    def move(images: Tensor, which: Tensor, radii: Tensor, draws: Draws) -> Tensor:
        task = Task(encoder, images, subject.labels[which], attack, radii, draws)
        return _farthest(task, lambda found: distance(found, natural[which]))

    found, every = natural.clone(), torch.ones_like(subject.labels[None], dtype=torch.bool)
    for batch in moved(move, subject.images, natural.new_tensor([epsilon]), every, subject.seed):
        found[batch.image] = subject.outputs(encoder, batch.images)
        tick(len(batch.images))
    return found


def _between(features: Tensor, seed: int) -> Tensor:
    """The median distance between different images; NaN of fewer than two."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(features), generator=generator)[:_PAIRED].to(features.device)
    return pdist(features[some]).median() if len(some) > 1 else features.new_tensor(torch.nan)


def _nearer_to_another(features: Tensor, natural: Tensor) -> Tensor:
    """Which features [n, d] are nearer to the natural ones of another image than to their own's: bool [n].

    Products of centred features tell which other image is nearest, and exact differences whether it is nearer.
    """
    mean = natural.mean(0)
    centred, nearer = natural - mean, []
    lengths = centred.square().sum(1)
    for some in torch.arange(len(natural), device=natural.device).split(max(1, _AT_ONCE // len(natural))):
        distances = lengths - 2 * (features[some] - mean) @ centred.T  # squared, less what all in a row share
        distances.scatter_(1, some[:, None], torch.inf)
        other = natural[distances.argmin(1)]
        nearer.append(squared_l2(features[some], other) < squared_l2(features[some], natural[some]))
    return torch.cat(nearer)

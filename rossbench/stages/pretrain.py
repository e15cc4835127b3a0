"""Stage 1: adversarial contrastive pretraining (study, sections 3.3.2, 5.2 and 5.4)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config.recipes import Pretraining
from ..config.specs import PretrainSpec
from ..data import datasets
from ..models import encoders
from ..models.simclr import SimCLR, adversarial_views, build, partners
from ..util import distributed
from ..util.errors import AttackError, Diverged, InvalidValue
from ..util.signals import Interrupted
from ..util.values import encode, read
from . import metrics
from .augment import two_views
from .train_loop import Hooks, Loop, Step, adam


def pretrain(
    spec: PretrainSpec, images: Tensor, hooks: Hooks, device: torch.device | None = None
) -> tuple[SimCLR, list[dict[str, float]]]:
    """Train SimCLR on views attacked with the spec's epsilon; 0 is plain SimCLR.

    images: uint8 [n, 3, size, size]; device: to train on, the images' own unless it is given. Returns the model in eval
    mode and its history, an entry an epoch; there "top1" and "top5" are of the contrastive task: how often a view's
    partner is the most similar, or among the five most similar, of all others.

    On several ranks (distributed.joined) each does its share of every batch, and all have the same result.
    """
    recipe = spec.recipe
    model = build(spec).to(device or images.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.normalize:
        _normalize_by(model, images)
    optimizer = adam(model, recipe)

    several = distributed.size() > 1

    def step(natural: Tensor) -> Step:
        mine = (None, distributed.share(len(natural))) if several else ()
        views = two_views(natural, recipe.augmentation, *mine)
        views, extremes = adversarial_views(model, views, spec.epsilon)
        logits, labels = trained(views), partners(len(views), views.device)  # both views in one pass: one BatchNorm
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if several and recipe.batch_norm == "per-rank":
            encoders.share_statistics(model)
        right = metrics.counts_right(metrics.top5(logits.detach()), labels)
        return Step(torch.stack([loss.detach() * len(views), *right]), len(views), extremes)

    loop = Loop(
        spec=spec,
        samples=(images,),
        drop_last=True,
        rate=lambda epoch: learning_rate(recipe, epoch),
        optimizer=optimizer,
        parts={"model": model},
        step=step,
    )
    model.train()
    with _on_all_ranks(model) as trained:
        history = loop.run(hooks)
    return model.eval(), history


@contextlib.contextmanager
def _on_all_ranks(model: SimCLR) -> Iterator[nn.Module]:
    """What a training pass goes through: the model, or on several ranks one that learns from all of them."""
    if distributed.size() == 1:
        yield model
        return
    together = model.recipe.batch_norm == "synchronised"
    with encoders.synchronised(model) if together else contextlib.nullcontext():
        yield distributed.averaging(model)


def serve(device: torch.device, data_dir: Path) -> None:
    """What a rank other than 0 does: its share of the pretrainings that rank 0 calls it to."""
    for task in distributed.called():
        spec = read(PretrainSpec, encode(task))
        data = datasets.load(spec.source, "train", spec.limit, data_dir).to(device)
        # What rank 0 meets too, and says, is no matter here.
        with contextlib.suppress(AttackError, Diverged, InvalidValue, Interrupted), distributed.joined():
            pretrain(spec, data.images, Hooks(), device)


def learning_rate(recipe: Pretraining, epoch: int) -> float:
    """The rate in an epoch counted from 0: full for ``constant_epochs``, then a cosine that would end at 0."""
    decaying = recipe.epochs - recipe.constant_epochs
    if epoch < recipe.constant_epochs or decaying <= 0:
        return recipe.learning_rate
    progress = (epoch - recipe.constant_epochs) / decaying
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def _normalize_by(model: SimCLR, images: Tensor) -> None:
    """By sums of whole numbers, which are the same however many images are added at once."""
    device = model.encoder.mean.device
    sums = torch.zeros(2, 3, dtype=torch.int64, device=device)
    for batch in images.split(256):
        values = batch.to(device, torch.int32)
        sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    count = len(images) * images.shape[2] * images.shape[3]
    total, squares = sums.cpu().double() / 255 / count
    mean, variance = total, (squares / 255 - total.square()) * count / (count - 1)
    model.encoder.mean.copy_(mean[:, None, None])
    model.encoder.std.copy_(variance.sqrt()[:, None, None])

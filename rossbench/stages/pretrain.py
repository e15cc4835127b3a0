"""Stage 1: adversarial contrastive pretraining (study, sections 3.3.2, 5.2 and 5.4)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.recipes import Pretraining
from ..config.specs import PretrainSpec
from ..data import datasets
from ..models import encoders
from ..models.simclr import SimCLR, adversarial_views, partners
from ..models.simclr import build as build_simclr
from ..store import artifacts
from ..util import distributed
from ..util.errors import AttackError, Diverged, InvalidValue
from ..util.signals import Interrupted
from . import metrics
from .augment import two_views
from .context import Context
from .train_loop import Hooks, Loop, Step, adam


def build(specs: Sequence[PretrainSpec], context: Context, hooks: Hooks) -> None:
    """Pretrain one encoder, or take the one that was trained elsewhere, and store it."""
    (spec,) = specs
    if spec.weights:
        given = context.given(spec)
        provenance = context.provenance(weights=given.account)
        artifacts.save_trained(context.store, spec, given.encoder, [], 0.0, provenance)
        return
    data, began = context.data(spec), time.perf_counter()
    with distributed.on_all_ranks(spec):
        model, history = pretrain(spec, data.images, hooks, context.device)
    provenance = context.provenance(dtype=spec.recipe.precision, data=data.fingerprint)
    if history[-1].get("collapsed"):  # resumed states of earlier versions do not say
        provenance["collapsed"] = True
    if any(number > 1 for number in hooks.ranks):
        provenance["ranks"] = list(hooks.ranks)
    artifacts.save_trained(context.store, spec, model, history, time.perf_counter() - began, provenance)


def pretrain(
    spec: PretrainSpec, images: Tensor, hooks: Hooks, device: torch.device | None = None
) -> tuple[SimCLR, list[dict[str, float]]]:
    """Train SimCLR on views attacked with the spec's epsilon; 0 is plain SimCLR.

    images: uint8 [n, 3, size, size]; device: to train on, the images' own unless it is given. Returns the model in eval
    mode and its history, an entry an epoch; there "top1" and "top5" are of the contrastive task: how often a view's
    partner is the most similar, or among the five most similar, of all others; "collapsed": see PretrainSpec.

    On several ranks (distributed.on_all_ranks) each does its share of every batch, and all have the same result.
    """
    recipe = spec.recipe
    model = build_simclr(spec).to(device or images.device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.normalize:
        _normalize_by(model, images)
    optimizer, several = adam(model, recipe), distributed.world_size() > 1
    trained, attacked = _on_all_ranks(model.train()) if several else (model.train(), model)
    radius = _Radius(spec, next(model.parameters()).device)

    def step(natural: Tensor) -> Step:
        mine = (None, distributed.own_part(len(natural))) if several else ()
        views = two_views(natural, recipe.augmentation, *mine)
        views, extremes = adversarial_views(attacked, views, radius.now)
        logits, labels = trained(views), partners(len(views), views.device)  # both views in one pass: one BatchNorm
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if several and recipe.batch_norm == "per-rank":
            encoders.average_statistics(model)
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
        before=radius.set_after,
    )
    history = loop.run(hooks)
    return model.eval(), history


class _Radius:
    """The attack's epsilon, which rises in the warm-up."""

    def __init__(self, spec: PretrainSpec, device: torch.device) -> None:
        self.spec = spec
        self.now: float | Tensor = spec.epsilon
        if spec.epsilon and spec.recipe.epsilon_warmup:  # a CUDA graph reads it where it is; in double, as numbers are
            kind = torch.float32 if device.type == "mps" else torch.float64
            self.now = torch.zeros((), dtype=kind, device=device)

    def set_after(self, epochs: float) -> None:
        if isinstance(self.now, Tensor):
            self.now.fill_(warm_epsilon(self.spec, epochs))


def _on_all_ranks(model: SimCLR) -> tuple[nn.Module, SimCLR]:
    """What a training pass goes through and what is attacked on several ranks; both have the model's own weights.

    DistributedDataParallel gives the weights the mean of all ranks' gradients. Of a loss that is a mean over a rank's
    rows, that is the gradient of the mean over all ranks' rows, as SyncBatchNorm and lightly's gather sum, backward,
    over the ranks. An attack asks for no gradients of weights, which DistributedDataParallel would wait for.
    """
    whole = encoders.synchronised(model) if model.recipe.batch_norm == "synchronised" else model
    # In eval mode BatchNorm is the same in both, and sooner done in the model.
    return DistributedDataParallel(whole), whole if model.recipe.attack_mode == "train" else model


def serve(device: torch.device, data_dir: Path) -> None:
    """What a rank other than 0 does: its share of the pretrainings of rank 0."""
    for spec in distributed.received():
        data = datasets.load(spec.source, "train", spec.limit, spec.pixels, data_dir).to(device)
        # What rank 0 meets too, and says, is no matter here.
        with contextlib.suppress(AttackError, Diverged, InvalidValue, Interrupted), distributed.on_all_ranks():
            pretrain(spec, data.images, Hooks(), device)


def warm_epsilon(spec: PretrainSpec, epochs: float) -> float:
    """The attack's epsilon after so many epochs, in fractions: it rises from 0, and is the spec's after the warm-up."""
    warmup = spec.recipe.epsilon_warmup
    return spec.epsilon * min(1.0, epochs / warmup) if warmup else spec.epsilon


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

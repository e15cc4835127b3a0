"""The loop over epochs that pretraining and finetuning share: order, averages, learning rate, resume state."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import Diverged
from .seeds import derive, seeded
from .specs import FinetuneSpec, PretrainSpec
from .store import write_atomically

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class Tick:
    """Where a stage is."""

    fraction: float
    """Done of the whole stage, in [0, 1]."""
    position: str
    """Such as ``epoch 3/60``."""
    images: int
    """Images since the last tick."""
    loss: Tensor | None = None
    """Mean of the epoch so far; on the device, so read it only to show it."""
    resumed: bool = False
    """Whether what is done was done by an earlier run."""
    history: tuple[dict[str, float], ...] = ()
    """Epochs that ended since the last tick; after a resume, all that were done before. See Loop.run."""


@dataclass
class Hooks:
    """What the runner gives a stage: whom to tell, and where its resume state is kept (None: nowhere)."""

    tick: Callable[[Tick], None] = field(default=lambda tick: None)
    resume: Path | None = None


@dataclass(frozen=True)
class Loop:
    """One stage's training.

    ``batch(indices, seed)`` makes one optimizer step on some images and returns float sums over its samples,
    [loss, right among top 1, right among top 5], and the number of samples.
    """

    spec: PretrainSpec | FinetuneSpec
    images: int
    drop_last: bool
    """Whether an incomplete last batch is left out."""
    rate: Callable[[int], float]
    """Learning rate of an epoch, counted from 0."""
    optimizer: torch.optim.Optimizer
    parts: dict[str, Stateful]
    """All that changes while training, apart from the optimizer: what the resume state is made of."""
    batch: Callable[[Tensor, int], tuple[Tensor, int]]

    def run(self, hooks: Hooks) -> list[dict[str, float]]:
        """Train; returns one dictionary an epoch: epoch, loss, top1, top5 (both rates), learning_rate, seconds.

        With a resume state it goes on from its epoch: every epoch has random streams of its own, so the result
        is that of an uninterrupted run. Raises Diverged when an epoch's loss is not finite.
        """
        saved: dict[str, Stateful] = {**self.parts, "optimizer": self.optimizer}
        history = _load(hooks.resume, saved)
        epochs = self.spec.recipe.epochs
        if history:
            position = f"resumed after epoch {len(history)}/{epochs}"
            hooks.tick(Tick(len(history) / epochs, position, 0, resumed=True, history=tuple(history)))
        for epoch in range(len(history), epochs):
            began = time.perf_counter()
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(epoch)
            loss, top1, top5 = self._epoch(epoch, hooks)
            if not math.isfinite(loss):
                last = f"{history[-1]['loss']:.4g}" if history else "none"
                raise Diverged(
                    f"{self.spec}: expected a finite loss, got {loss} in epoch {epoch + 1} (last finite loss: "
                    f"{last}); lower the learning rate, {self.rate(epoch):.3g}"
                )
            history.append(
                {
                    "epoch": epoch + 1,
                    "loss": loss,
                    "top1": top1,
                    "top5": top5,
                    "learning_rate": self.rate(epoch),
                    "seconds": round(time.perf_counter() - began, 3),
                }
            )
            _save(hooks.resume, saved, history)
            position = f"epoch {epoch + 1}/{epochs}"
            hooks.tick(Tick((epoch + 1) / epochs, position, 0, torch.tensor(loss), history=(history[-1],)))
        return history

    def _epoch(self, epoch: int, hooks: Hooks) -> tuple[float, float, float]:
        spec, epochs = self.spec, self.spec.recipe.epochs
        shuffle = torch.Generator().manual_seed(derive(spec.seed, spec.stage, "order", epoch))
        order = torch.randperm(self.images, generator=shuffle)
        size = min(spec.recipe.batch_size, self.images)
        batches = [batch for batch in order.split(size) if len(batch) == size or not self.drop_last]
        device = self.optimizer.param_groups[0]["params"][0].device
        sums: Tensor | None = None
        samples = 0
        for k, indices in enumerate(batches):
            seed = derive(spec.seed, spec.stage, epoch, k)
            with seeded(seed, device):  # for what draws from the global generator, such as dropout
                part, count = self.batch(indices, seed)
            sums, samples = part if sums is None else sums + part, samples + count
            fraction = (epoch + (k + 1) / len(batches)) / epochs
            hooks.tick(Tick(fraction, f"epoch {epoch + 1}/{epochs}", len(indices), sums[0] / samples))
        assert sums is not None  # a data set has at least one image, so one batch
        loss, top1, top5 = (sums / samples).tolist()
        return loss, top1, top5


def _save(path: Path | None, saved: dict[str, Stateful], history: list[dict[str, float]]) -> None:
    if path is not None:
        buffer = io.BytesIO()
        torch.save({"history": history, **{name: part.state_dict() for name, part in saved.items()}}, buffer)
        write_atomically(path, buffer.getvalue())


def _load(path: Path | None, saved: dict[str, Stateful]) -> list[dict[str, float]]:
    if path is None or not path.exists():
        return []
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load has many words for a damaged file; none is worth more than starting anew
        log.warning("%s cannot be read (%r); the stage starts anew", path, error)
        return []
    for name, part in saved.items():
        part.load_state_dict(state[name])
    history: list[dict[str, float]] = state["history"]
    return history

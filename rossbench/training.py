"""The loop over epochs that pretraining and finetuning share: order, averages, learning rate, resume state."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from . import attacks
from .cudagraph import Replayed
from .errors import Diverged
from .recipe import Finetuning, Pretraining
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


class Step(NamedTuple):
    """What an optimizer step found, on the device."""

    sums: Tensor
    """Float [3], over its samples: loss, right among top 1, right among top 5."""
    samples: int
    extremes: Tensor
    """Of its attack: see attacks.extremes."""


@dataclass(frozen=True)
class Loop:
    """One stage's training.

    ``step`` makes one optimizer step on the images of some indices, int64 on the device. It draws all that is random
    from the device's global generator, and waits for nothing, so that on CUDA it is recorded and replayed.
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
    step: Callable[[Tensor], Step]

    def run(self, hooks: Hooks) -> list[dict[str, float]]:
        """Train; returns one dictionary an epoch: epoch, loss, top1, top5 (both rates), learning_rate, seconds.

        With a resume state it goes on from its epoch: every epoch has random streams of its own, so the result
        is that of an uninterrupted run. Raises Diverged when an epoch's loss is not finite, AttackError when one of its
        attacks went out of bounds.
        """
        saved: dict[str, Stateful] = {**self.parts, "optimizer": self.optimizer}
        history = _load(hooks.resume, saved)
        epochs, step = self.spec.recipe.epochs, Replayed(self.step)
        if history:
            position = f"resumed after epoch {len(history)}/{epochs}"
            hooks.tick(Tick(len(history) / epochs, position, 0, resumed=True, history=tuple(history)))
        for epoch in range(len(history), epochs):
            began = time.perf_counter()
            _set_rate(self.optimizer, self.rate(epoch))
            loss, top1, top5, *extremes = self._epoch(epoch, step, hooks)
            if not math.isfinite(loss):
                last = f"{history[-1]['loss']:.4g}" if history else "none"
                raise Diverged(
                    f"{self.spec}: expected a finite loss, got {loss} in epoch {epoch + 1} (last finite loss: "
                    f"{last}); lower the learning rate, {self.rate(epoch):.3g}"
                )
            attacks.check(extremes, self.spec.recipe.attack.norm)
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

    def _epoch(self, epoch: int, step: Callable[[Tensor], Step], hooks: Hooks) -> list[float]:
        """[loss, top1, top5], means over the samples, and the extremes of all attacks."""
        spec, epochs, device = self.spec, self.spec.recipe.epochs, _device(self.optimizer)
        shuffle = torch.Generator().manual_seed(derive(spec.seed, spec.stage, "order", epoch))
        order = torch.randperm(self.images, generator=shuffle).to(device)
        size = min(spec.recipe.batch_size, self.images)
        batches = [batch for batch in order.split(size) if len(batch) == size or not self.drop_last]
        sums, extremes = torch.zeros(3, device=device), torch.zeros(3, device=device)
        samples = 0
        for k, indices in enumerate(batches):
            with seeded(derive(spec.seed, spec.stage, epoch, k), device):
                found = step(indices)
            sums, extremes = sums + found.sums, torch.maximum(extremes, found.extremes)
            samples += found.samples
            fraction = (epoch + (k + 1) / len(batches)) / epochs
            hooks.tick(Tick(fraction, f"epoch {epoch + 1}/{epochs}", len(indices), sums[0] / samples))
        return torch.cat([sums / samples, extremes]).tolist()


def adam(module: nn.Module, recipe: Pretraining | Finetuning) -> torch.optim.Adam:
    """Adam on a module's parameters, in a form that a CUDA graph can hold where they are on CUDA."""
    parameters = list(module.parameters())
    on_cuda = parameters[0].is_cuda
    rate = torch.tensor(recipe.learning_rate, device=parameters[0].device) if on_cuda else recipe.learning_rate
    return torch.optim.Adam(parameters, lr=rate, weight_decay=recipe.weight_decay, fused=True, capturable=on_cuda)


def _device(optimizer: torch.optim.Optimizer) -> torch.device:
    device: torch.device = optimizer.param_groups[0]["params"][0].device
    return device


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # in place: a graph reads it there
        else:
            group["lr"] = rate


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
        if isinstance(part, torch.optim.Optimizer):
            for group in part.param_groups:  # a rate that is a tensor stays on the CPU, unlike all else
                group["lr"] = group["lr"].to(_device(part)) if isinstance(group["lr"], Tensor) else group["lr"]
    history: list[dict[str, float]] = state["history"]
    return history

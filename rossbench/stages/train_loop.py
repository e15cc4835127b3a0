"""The loop over epochs that pretraining and finetuning share: order, averages, learning rate, resume state."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..attacks import pgd
from ..config.recipes import Finetuning, Pretraining
from ..config.specs import FinetuneSpec, PretrainSpec
from ..store import resume
from ..util import distributed
from ..util.cuda_graph import Replayed
from ..util.errors import Diverged, OutOfMemory
from ..util.memory import attempt
from ..util.seeds import derive, reseed, seeded
from ..util.signals import Interrupted, defer_signals, waiting

Rows = dict[torch.device, Tensor]
"""Which samples a batch holds, int64 [n], on each device that holds samples."""


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
    ranks: tuple[int, ...] = ()
    """What a training says: on how many ranks it was, one number after the other if it was resumed on others."""


class Step(NamedTuple):
    """What an optimizer step found, on the device; on several ranks, in this one's share."""

    sums: Tensor
    """Float [3], over its samples: loss, right among top 1, right among top 5."""
    samples: int
    extremes: Tensor
    """Of its attack: see pgd.extremes."""


@dataclass
class _Done:
    """What is done of the current epoch."""

    sums: Tensor
    """Float [3], see Step."""
    extremes: Tensor
    """The largest of all steps."""
    batches: int = 0
    samples: int = 0
    seconds: float = 0.0

    def add(self, found: Step, seconds: float) -> None:
        self.sums, self.extremes = self.sums + found.sums, torch.maximum(self.extremes, found.extremes)
        self.batches += 1
        self.samples += found.samples
        self.seconds += seconds

    @classmethod
    def nothing(cls, device: torch.device) -> _Done:
        return cls(torch.zeros(3, device=device), torch.zeros(3, device=device))


@dataclass(frozen=True)
class Loop:
    """One stage's training.

    ``step`` makes one optimizer step on a batch: rows of each of ``samples``, on the device. It draws all that is
    random from the device's global generator, and waits for nothing, so that on CUDA it is recorded and replayed.
    """

    spec: PretrainSpec | FinetuneSpec
    samples: tuple[Tensor, ...]
    """What is trained on, such as images and labels: tensors of n rows, on the device or on the CPU."""
    drop_last: bool
    """Whether an incomplete last batch is left out."""
    rate: Callable[[int], float]
    """Learning rate of an epoch, counted from 0."""
    optimizer: torch.optim.Optimizer
    parts: dict[str, Stateful]
    """All that changes while training, apart from the optimizer: what the resume state is made of."""
    step: Callable[..., Step]
    before: Callable[[float], None] = lambda done: None
    """Called before every step with the epochs that are done, in fractions; for what changes in a step."""

    def run(self, hooks: Hooks) -> list[dict[str, float]]:
        """Train; returns one dictionary an epoch: epoch, loss, top1, top5 (both rates), learning_rate, seconds; of a
        pretraining also whether it is collapsed, see PretrainSpec.

        With a resume state it goes on from there: every batch has a random stream of its own, so the result is that of
        an uninterrupted run (up to rounding, if it goes on on another number of ranks). The state is saved after every
        epoch, and after the step in which Interrupted came. Raises Diverged when an epoch's loss is not finite,
        AttackError when one of its attacks went out of bounds, OutOfMemory when a step does not fit the device.
        """
        epochs, several = self.spec.recipe.epochs, distributed.world_size() > 1
        step = self.step if several else Replayed(self.step)  # a graph would hold what ranks tell each other
        history, done = self._restored(hooks)
        if len(history) < epochs and hooks.ranks[-1:] != (distributed.world_size(),):
            hooks.ranks += (distributed.world_size(),)
        # Of several ranks none leaves by itself: a signal waits until all know of it.
        together = defer_signals() if several else contextlib.nullcontext()
        with together, seeded(self.spec.seed, self.device), resume.Saving(hooks.resume) as saving:
            try:
                for epoch in range(len(history), epochs):
                    _set_rate(self.optimizer, self.rate(epoch))
                    for k, batches, rows in self._batches(epoch, done.batches):
                        began = time.perf_counter()
                        self.before(epoch + k / batches)
                        with defer_signals():  # else the weights could have moved, and the account not
                            reseed(derive(self.spec.seed, self.spec.stage, epoch, k), self.device)
                            found = attempt(partial(self._on, rows, step))
                            if found is None:
                                raise OutOfMemory(f"{self.spec}: {self._what_fits(rows, step)}")
                            done.add(_of_all_ranks(found), time.perf_counter() - began)
                            _stop_together()
                        position, fraction = f"epoch {epoch + 1}/{epochs}", (epoch + (k + 1) / batches) / epochs
                        hooks.tick(Tick(fraction, position, _size(rows), done.sums[0] / done.samples))
                    with defer_signals():
                        history.append(self._account(epoch, done, history))
                        done = _Done.nothing(self.device)
                        saving.save(self._state(history, done, hooks))
                    position, loss = f"epoch {epoch + 1}/{epochs}", torch.tensor(history[-1]["loss"])
                    hooks.tick(Tick((epoch + 1) / epochs, position, 0, loss, history=(history[-1],)))
            except Interrupted:
                saving.save(self._state(history, done, hooks))
                raise
        return history

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, int, Rows]]:
        """Batches of an epoch from the ``first`` on: its number, how many the epoch has, and which samples it holds."""
        shuffle = torch.Generator().manual_seed(derive(self.spec.seed, self.spec.stage, "order", epoch))
        count = len(self.samples[0])
        order = torch.randperm(count, generator=shuffle)
        orders = {part.device: order.to(part.device) for part in self.samples}
        size = min(self.spec.recipe.batch_size, count)
        starts = range(0, count - count % size if self.drop_last else count, size)
        for k in range(first, len(starts)):
            yield k, len(starts), {where: order[starts[k] : starts[k] + size] for where, order in orders.items()}

    def _on(self, rows: Rows, step: Callable[..., Step]) -> Step:
        parts = (part[rows[part.device]] for part in self.samples)
        return step(*(part.to(self.device, non_blocking=True) for part in parts))

    def _account(self, epoch: int, done: _Done, history: list[dict[str, float]]) -> dict[str, float]:
        """An epoch's entry in the history, once it is judged."""
        began = time.perf_counter()
        loss, top1, top5, *extremes = torch.cat([done.sums / done.samples, done.extremes]).tolist()  # waits
        if not math.isfinite(loss):
            last = f"last finite loss: {history[-1]['loss']:.4g}" if history else "last finite loss: none"
            way = f"lower the learning rate, {self.rate(epoch):.3g}"
            raise Diverged(f"{self.spec}: expected a finite loss, got {loss} in epoch {epoch + 1} ({last}); {way}")
        pgd.check(extremes, self.spec.recipe.attack.norm)
        return {
            "epoch": epoch + 1,
            "loss": loss,
            "top1": top1,
            "top5": top5,
            "learning_rate": self.rate(epoch),
            "seconds": round(done.seconds + time.perf_counter() - began, 3),
            **({"collapsed": self.spec.is_collapsed(loss)} if isinstance(self.spec, PretrainSpec) else {}),
        }

    def _what_fits(self, rows: Rows, step: Callable[..., Step]) -> str:
        """What to say of a batch that does not fit the memory: with the size that does."""
        size, less, ranks = _size(rows), _size(rows) // 2, distributed.world_size()
        if ranks > 1:  # to try another size, all ranks would have to
            expected = f"{size} images a batch on {ranks} ranks to fit the memory of {self.device}"
            return f"expected {expected}, got out of memory on rank {distributed.rank()}; take more ranks"
        while less > 1:
            fewer = {where: some[:less] for where, some in rows.items()}
            if attempt(partial(self._on, fewer, step)) is not None:
                break
            less //= 2
        fits = f"{less} fit" if less > 1 else "nor do 2 fit"
        fits += f" ({type(self.spec.recipe).__name__.lower()}.batch_size; another size is another protocol)"
        return f"expected {size} images a batch to fit the memory of {self.device}, got out of memory; {fits}"

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        device: torch.device = self.optimizer.param_groups[0]["params"][0].device
        return device

    @property
    def _saved(self) -> dict[str, Stateful]:
        return {**self.parts, "optimizer": self.optimizer}

    def _state(self, history: list[dict[str, float]], done: _Done, hooks: Hooks) -> dict[str, Any]:
        """All it takes to go on; random numbers are named by where it is."""
        parts = {name: part.state_dict() for name, part in self._saved.items()}
        return {"history": history, "done": asdict(done), "ranks": list(hooks.ranks), **parts}

    def _restored(self, hooks: Hooks) -> tuple[list[dict[str, float]], _Done]:
        """The history, and what is done of the epoch after it, of the resume state if there is one."""
        state, done = distributed.broadcast(resume.load(hooks.resume)), _Done.nothing(self.device)
        if state is None:
            return [], done
        for name, part in self._saved.items():
            part.load_state_dict(state[name])
        for group in self.optimizer.param_groups:  # a rate that is a tensor stays on the CPU, unlike all else
            group["lr"] = group["lr"].to(self.device) if isinstance(group["lr"], Tensor) else group["lr"]
        history = state["history"]
        hooks.ranks = tuple(state.get("ranks", (1,)))  # earlier versions knew of one process
        if "done" in state:  # states of earlier versions are of whole epochs
            done = _Done(**state["done"])
            done.sums, done.extremes = done.sums.to(self.device), done.extremes.to(self.device)
        position = f"resumed after epoch {len(history)}/{self.spec.recipe.epochs}"
        position += f", batch {done.batches}" if done.batches else ""
        fraction = len(history) / self.spec.recipe.epochs
        hooks.tick(Tick(fraction, position, 0, resumed=True, history=tuple(history)))
        return history, done


def _size(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def adam(module: nn.Module, recipe: Pretraining | Finetuning) -> torch.optim.Adam:
    """Adam on a module's parameters, in a form that a CUDA graph can hold where they are on CUDA."""
    parameters, rate = list(module.parameters()), _initial_rate(module, recipe)
    on_cuda, decay = parameters[0].is_cuda, recipe.weight_decay
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True, capturable=on_cuda)


def sgd(module: nn.Module, recipe: Finetuning) -> torch.optim.SGD:
    """SGD with momentum, as ``adam``: the fused form reads a rate on CUDA there."""
    rate, decay = _initial_rate(module, recipe), recipe.weight_decay
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=decay, fused=True)


def _initial_rate(module: nn.Module, recipe: Pretraining | Finetuning) -> float | Tensor:
    device = next(module.parameters()).device
    return torch.tensor(recipe.learning_rate, device=device) if device.type == "cuda" else recipe.learning_rate


def _of_all_ranks(found: Step) -> Step:
    """What a step found in the whole batch; an extreme that is not finite on one rank is so on all."""
    if distributed.world_size() == 1:
        return found
    every = distributed.all_gather(torch.cat([found.sums, found.extremes]))
    return Step(every[:, :3].sum(0), found.samples * len(every), every[:, 3:].amax(0))


def _stop_together() -> None:
    """Interrupted, after the same step on every rank, if a signal has come to one of them."""
    if distributed.world_size() > 1:
        number = int(distributed.all_gather(torch.tensor(waiting() or 0)).max())
        if number:
            raise Interrupted(number)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # in place: a graph reads it there
        else:
            group["lr"] = rate

"""What artifacts cost before they are built: FLOPs of the real encoder, bytes in the store, seconds on a device."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..config.recipes import Attack
from ..config.specs import AnySpec, EvaluateSpec, FinetuneSpec, MeasureSpec, PretrainSpec
from ..data.datasets import count, facts
from ..models import simclr
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..models.simclr import SimCLR
from ..stages.context import split_of
from ..stages.evaluate import evaluate
from ..stages.finetune import encode, finetune
from ..stages.pretrain import pretrain
from ..stages.train_loop import Hooks, Tick

SECONDS = 2.0
"""For which each kind of work is timed, unless its fewest steps take longer."""
_FILES = {"pretrain": 1900, "finetune": 2300, "evaluate": 6150}
_TENSOR, _EPOCH = 90, 140
"""Bytes, as measured: of an artifact's small files, of a tensor's name in a file, of an epoch in a history."""
Trained = PretrainSpec | FinetuneSpec


class Counter:
    """FLOPs and bytes of artifacts. encoders: those that were trained elsewhere, by their ``weights``."""

    def __init__(self, encoders: Mapping[str, Encoder] | None = None) -> None:
        self.encoders = encoders or {}

    def flops(self, spec: AnySpec) -> int:
        """Of all passes of a spec, see specs.passes: a pass to input and weights counts as two forward passes.

        Left out are what is no product of matrices (views, BatchNorm, the optimizer) and NT-Xent's similarities.
        """
        if not spec.passes:
            return 0
        flops = spec.passes * self.forward(_trained(spec))
        if isinstance(spec, FinetuneSpec) and spec.encodes_once:  # then the linear layer: forward, to the weights
            linear = self.classifier(spec).linear
            flops += spec.recipe.epochs * _images(spec) * 4 * linear.in_features * linear.out_features
        return flops

    def forward(self, spec: Trained) -> int:
        """FLOPs of one image's forward pass, through the projection head or the linear layer too."""
        model = _simclr(spec).project if isinstance(spec, PretrainSpec) else self.classifier(spec)
        return forward_flops(model, split_of(spec)[3])

    def bytes(self, spec: AnySpec) -> int:
        """In the store: weights or predictions, and the small files beside them to a kilobyte or so."""
        if not isinstance(spec, Trained):
            classes = facts(split_of(spec)[0]).classes
            return _FILES[spec.stage] + 7 * classes + 2 * _images(spec) * (min(5, classes) + 1)
        weights = sum(_TENSOR + tensor.nbytes for tensor in self._stored(spec).state_dict().values())
        return int(_FILES[spec.stage] + weights + (_EPOCH * spec.recipe.epochs if spec.passes else 0))

    def state_bytes(self, spec: Trained) -> int:
        """Of a resume state: the weights, and for each parameter Adam's two numbers, or SGD's one."""
        module = learned = self._stored(spec)
        numbers = 2
        if isinstance(spec, FinetuneSpec):
            learned, numbers = self.classifier(spec).learned(spec.recipe), 1 if spec.recipe.optimizer == "sgd" else 2
        tensors = [*module.state_dict().values(), *numbers * [*learned.parameters()]]
        return int(sum(tensor.nbytes for tensor in tensors)) + _EPOCH * spec.recipe.epochs

    def _stored(self, spec: Trained) -> nn.Module:
        if isinstance(spec, FinetuneSpec):
            return self.classifier(spec).trained(spec.recipe)
        return self.encoder(spec) if spec.weights else _simclr(spec)

    def encoder(self, spec: PretrainSpec) -> Encoder:
        return self.encoders[spec.weights] if spec.weights else _simclr(spec).encoder

    def classifier(self, spec: FinetuneSpec) -> Classifier:
        return _classifier(self.encoder(spec.pretrain), facts(spec.target).classes)


def _simclr(spec: PretrainSpec) -> SimCLR:
    """The model that is pretrained, on the CPU, in eval mode; built once for all epsilons and seeds."""
    return _build(replace(spec, epsilon=0.0, seed=0))


@cache
def _build(spec: PretrainSpec) -> SimCLR:
    return simclr.build(spec).eval()


_classifier = cache(Classifier)


@cache
@torch.no_grad()
def forward_flops(model: Callable[[Tensor], Tensor], size: int) -> int:
    """FLOPs of one image's pass through a model in eval mode; size: of its images, in pixels."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def _trained(spec: AnySpec) -> Trained:
    """The model that a spec trains, or is about."""
    return [one for one in (*spec.parents, spec) if isinstance(one, Trained)][-1]


def _images(spec: AnySpec) -> int:
    """Images an epoch, or in the test split."""
    return spec.images if isinstance(spec, PretrainSpec) else count(*split_of(spec)[:3])


class Calibration:
    """Seconds that artifacts take on a device, from a few steps of each kind of work.

    The steps are those of ``pretrain``, ``finetune`` and ``evaluate``, with the real encoder, recipe and batch size, on
    random images; untrained weights take as long as trained ones. specs: all of which seconds are asked for.
    """

    def __init__(self, specs: Sequence[AnySpec], counter: Counter, device: torch.device) -> None:
        self.specs, self.counter, self.device = specs, counter, device
        self._measured: dict[Hashable, tuple[float, float]] = {}

    def seconds(self, spec: AnySpec) -> float:
        """Of an artifact, apart from loading data and saving."""
        if not spec.passes:
            return 0.0
        (encoder,) = (one.encoder for one in (*spec.parents, spec) if isinstance(one, PretrainSpec))
        assert not isinstance(spec, MeasureSpec)  # of which no cost is asked
        how = (spec.recipe, bool(spec.epsilon)) if isinstance(spec, Trained) else spec.recipe.batch_size
        kind = spec.stage, encoder, split_of(spec)[3], how
        if kind not in self._measured:
            self._measured[kind] = getattr(self, f"_{spec.stage}")(spec)
        step, once = self._measured[kind]
        return _images(spec) * (spec.recipe.epochs * step + once) if isinstance(spec, Trained) else spec.passes * step

    def _pretrain(self, spec: PretrainSpec) -> tuple[float, float]:
        """Seconds an image of a training step, and of what comes once before it."""
        images, _ = self._random(2 * min(spec.recipe.batch_size, spec.images), spec.pixels)
        longer = replace(spec, recipe=replace(spec.recipe, epochs=1000))
        return _epoch_seconds(lambda hooks: pretrain(longer, images, hooks)) / len(images), 0.0

    def _finetune(self, spec: FinetuneSpec) -> tuple[float, float]:
        """As _pretrain."""
        encoder, classes, once = self._encoder(spec), facts(spec.target).classes, 0.0
        number = 2 * min(spec.recipe.batch_size, _images(spec))
        images, labels = self._random(number, spec.pretrain.pixels, classes)
        if spec.encodes_once:
            once = _call_seconds(lambda: encode(encoder, images, spec.recipe.batch_size, Hooks()).cpu())
        longer = replace(spec, recipe=replace(spec.recipe, epochs=1000))
        step = _epoch_seconds(lambda hooks: finetune(longer, encoder, images, labels, classes, hooks))
        return step / number, once / number

    def _evaluate(self, spec: EvaluateSpec) -> tuple[float, float]:
        """Seconds a pass, with as many epsilons together as the classifier is evaluated at, by three steps of PGD."""
        classes, number = facts(spec.finetune.target).classes, min(spec.recipe.batch_size, _images(spec))
        images, labels = self._random(number, spec.finetune.pretrain.pixels, classes)
        classifier = Classifier(self._encoder(spec.finetune), classes).to(self.device)
        attack = Attack(norm=spec.recipe.attack.norm, steps=3, step_size=1.0)
        cells = sum(isinstance(one, EvaluateSpec) and one.finetune == spec.finetune for one in self.specs)
        recipe = replace(spec.recipe, attack=attack, attacked="all")
        together = [replace(spec, recipe=recipe, epsilon=1.0 + k) for k in range(cells)]
        seconds = _call_seconds(lambda: evaluate(together, classifier, images, labels, Hooks()))
        return seconds / number / (1 + cells * (1 + attack.passes)), 0.0

    def _encoder(self, spec: FinetuneSpec) -> Encoder:
        """A copy, since a full finetuning trains it."""
        return copy.deepcopy(self.counter.encoder(spec.pretrain)).to(self.device).eval()

    def _random(self, number: int, size: int, classes: int = 1) -> tuple[Tensor, Tensor]:
        """Images, uint8 [number, 3, size, size], and labels, int64 [number], on the device."""
        images = torch.randint(256, (number, 3, size, size), dtype=torch.uint8)
        return images.to(self.device), (torch.arange(number) % classes).to(self.device)


class _EnoughError(Exception):
    """A calibration has seen what it needs."""


def _epoch_seconds(train: Callable[[Hooks], object]) -> float:
    """Of an epoch of a training, which is then ended; the end of an epoch waits for the device."""
    ends: list[float] = []

    def watch(tick: Tick) -> None:
        if tick.history:
            ends.append(time.perf_counter())
            if len(ends) > 3 and ends[-1] - ends[0] > SECONDS:
                raise _EnoughError

    with suppress(_EnoughError):
        train(Hooks(watch))
    return _usual([later - earlier for earlier, later in pairwise(ends)])


def _call_seconds(call: Callable[[], object]) -> float:
    """Of a call whose result is on the CPU."""
    laps: list[float] = []
    while len(laps) < 2 or sum(laps) < SECONDS:
        began = time.perf_counter()
        call()
        laps.append(time.perf_counter() - began)
    return _usual(laps)


def _usual(laps: Sequence[float]) -> float:
    """The median of the second half: before it caches are filled, kernels chosen, CUDA graphs recorded."""
    return statistics.median(laps[len(laps) // 2 :])

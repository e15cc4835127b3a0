"""What artifacts cost before they are built: FLOPs of the real encoder, bytes in the store, seconds on a device."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..config.recipes import Attack
from ..config.specs import AnySpec, EvaluateSpec, FinetuneSpec, PretrainSpec
from ..data import datasets
from ..data.datasets import facts
from ..models import simclr
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..models.simclr import SimCLR
from ..stages.evaluate import evaluate
from ..stages.finetune import encode, finetune
from ..stages.pretrain import pretrain
from ..stages.train_loop import Hooks, Tick

SECONDS = 2.0
"""For which each kind of work is timed, unless its fewest steps take longer."""
_FILES = {"pretrain": 1900, "finetune": 2300, "evaluate": 6150}
_TENSOR, _EPOCH = 90, 140
"""Bytes, as measured: of an artifact's small files, of a tensor's name in a file, of an epoch in a history."""


class Counter:
    """FLOPs and bytes of artifacts. encoders: those that were trained elsewhere, by their ``weights``."""

    def __init__(self, encoders: Mapping[str, Encoder] | None = None) -> None:
        self.encoders = encoders or {}
        self._models: dict[Hashable, nn.Module] = {}
        self._forward: dict[nn.Module, int] = {}

    def flops(self, spec: AnySpec) -> int:
        """Of all passes of a spec, see specs.passes: a pass to input and weights counts as two forward passes.

        Left out are what is no product of matrices (views, BatchNorm, the optimizer) and NT-Xent's similarities.
        """
        if not spec.passes:
            return 0
        flops = spec.passes * self.forward(spec if isinstance(spec, (PretrainSpec, FinetuneSpec)) else spec.finetune)
        if isinstance(spec, FinetuneSpec) and spec.encodes_once:  # then the linear layer: forward, to the weights
            linear = self.classifier(spec).linear
            flops += spec.recipe.epochs * _images(spec) * 4 * linear.in_features * linear.out_features
        return flops

    def forward(self, spec: PretrainSpec | FinetuneSpec) -> int:
        """FLOPs of one image's forward pass, through the projection head or the linear layer too."""
        if isinstance(spec, PretrainSpec):
            model: nn.Module = self.simclr(spec)
            run: Callable[[Tensor], Tensor] = self.simclr(spec).project
        else:
            model = run = self.classifier(spec)
        if model not in self._forward:
            self._forward[model] = forward_flops(run, _size(spec))
        return self._forward[model]

    def bytes(self, spec: AnySpec) -> int:
        """In the store: weights or predictions, and the small files beside them to a kilobyte or so."""
        if not isinstance(spec, (PretrainSpec, FinetuneSpec)):
            classes = facts(spec.finetune.target).classes
            return _FILES[spec.stage] + 7 * classes + 2 * _images(spec) * (min(5, classes) + 1)
        tensors = self._stored(spec).state_dict().values()
        weights: int = sum(_TENSOR + tensor.nbytes for tensor in tensors)
        return _FILES[spec.stage] + weights + (_EPOCH * spec.recipe.epochs if spec.passes else 0)

    def state_bytes(self, spec: PretrainSpec | FinetuneSpec) -> int:
        """Of a resume state: the weights, and for each parameter Adam's two numbers, or SGD's one."""
        module = self._stored(spec)
        weights: int = sum(tensor.nbytes for tensor in module.state_dict().values())
        numbers = 1 if isinstance(spec, FinetuneSpec) and spec.recipe.optimizer == "sgd" else 2
        optimizer: int = numbers * sum(parameter.nbytes for parameter in module.parameters())
        return weights + optimizer + _EPOCH * spec.recipe.epochs

    def _stored(self, spec: PretrainSpec | FinetuneSpec) -> nn.Module:
        if isinstance(spec, FinetuneSpec):
            return self.classifier(spec).trained(spec.recipe)
        return self.encoder(spec) if spec.weights else self.simclr(spec)

    def simclr(self, spec: PretrainSpec) -> SimCLR:
        """The model that is pretrained, on the CPU, in eval mode; built once for each architecture."""
        model = self._once((spec.encoder, _size(spec), spec.recipe), lambda: simclr.build(spec).eval())
        assert isinstance(model, SimCLR)
        return model

    def encoder(self, spec: PretrainSpec) -> Encoder:
        return self.encoders[spec.weights] if spec.weights else self.simclr(spec).encoder

    def classifier(self, spec: FinetuneSpec) -> Classifier:
        encoder, classes = self.encoder(spec.pretrain), facts(spec.target).classes
        model = self._once((encoder, classes), lambda: Classifier(encoder, classes))
        assert isinstance(model, Classifier)
        return model

    def _once(self, architecture: Hashable, make: Callable[[], nn.Module]) -> nn.Module:
        if architecture not in self._models:
            self._models[architecture] = make()
        return self._models[architecture]


@torch.no_grad()
def forward_flops(model: Callable[[Tensor], Tensor], size: int) -> int:
    """FLOPs of one image's pass through a model in eval mode; size: of its images, in pixels."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    found: int = counter.get_total_flops()
    return found


def _size(spec: PretrainSpec | FinetuneSpec) -> int:
    return (spec if isinstance(spec, PretrainSpec) else spec.pretrain).pixels


def _images(spec: AnySpec) -> int:
    """Images an epoch, or in the test split."""
    if isinstance(spec, PretrainSpec):
        return spec.images
    if isinstance(spec, FinetuneSpec):
        return datasets.count(spec.target, "train", spec.limit)
    return datasets.count(spec.finetune.target, "test", spec.limit)


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
        trained = spec if isinstance(spec, (PretrainSpec, FinetuneSpec)) else spec.finetune
        encoder = (trained if isinstance(trained, PretrainSpec) else trained.pretrain).encoder
        how = (spec.recipe, bool(spec.epsilon)) if trained is spec else spec.recipe.batch_size
        kind = spec.stage, encoder, _size(trained), how
        if kind not in self._measured:
            self._measured[kind] = self._measure(spec)
        step, once = self._measured[kind]
        if isinstance(spec, (PretrainSpec, FinetuneSpec)):
            return _images(spec) * (spec.recipe.epochs * step + once)
        return spec.passes * step

    def _measure(self, spec: AnySpec) -> tuple[float, float]:
        """Seconds an image of a training step and of what comes once before it; or seconds a pass of an evaluation."""
        if isinstance(spec, PretrainSpec):
            images, _ = self._random(spec, 2 * min(spec.recipe.batch_size, spec.images))
            longer = replace(spec, recipe=replace(spec.recipe, epochs=1000))
            return _epoch_seconds(lambda hooks: pretrain(longer, images, hooks)) / len(images), 0.0
        if isinstance(spec, FinetuneSpec):
            return self._finetuning(spec)
        assert isinstance(spec, EvaluateSpec), spec
        return self._evaluation(spec), 0.0

    def _finetuning(self, spec: FinetuneSpec) -> tuple[float, float]:
        encoder, classes, once = self._encoder(spec), facts(spec.target).classes, 0.0
        images, labels = self._random(spec, 2 * min(spec.recipe.batch_size, _images(spec)))
        if spec.encodes_once:
            once = _call_seconds(lambda: encode(encoder, images, spec.recipe.batch_size, Hooks()).cpu())
        longer = replace(spec, recipe=replace(spec.recipe, epochs=1000))
        step = _epoch_seconds(lambda hooks: finetune(longer, encoder, images, labels, classes, hooks))
        return step / len(images), once / len(images)

    def _evaluation(self, spec: EvaluateSpec) -> float:
        """With as many epsilons together as the classifier is evaluated at, by an attack of three steps."""
        images, labels = self._random(spec.finetune, min(spec.recipe.batch_size, _images(spec)))
        classifier = Classifier(self._encoder(spec.finetune), facts(spec.finetune.target).classes).to(self.device)
        attack = Attack(norm=spec.recipe.attack.norm, steps=3, step_size=1.0)
        count = sum(isinstance(one, EvaluateSpec) and one.finetune == spec.finetune for one in self.specs)
        recipe = replace(spec.recipe, attack=attack, attacked="all")
        together = [replace(spec, recipe=recipe, epsilon=1.0 + k) for k in range(count)]
        seconds = _call_seconds(lambda: evaluate(together, classifier, images, labels, Hooks()))
        return seconds / len(images) / (1 + count * (1 + attack.passes))

    def _encoder(self, spec: FinetuneSpec) -> Encoder:
        """A copy, since a full finetuning trains it."""
        return copy.deepcopy(self.counter.encoder(spec.pretrain)).to(self.device).eval()

    def _random(self, spec: PretrainSpec | FinetuneSpec, number: int) -> tuple[Tensor, Tensor]:
        """Images as a spec's, uint8 [number, 3, size, size], and labels int64 [number], on the device."""
        images = torch.randint(256, (number, 3, _size(spec), _size(spec)), dtype=torch.uint8)
        classes = facts(spec.target).classes if isinstance(spec, FinetuneSpec) else 1
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

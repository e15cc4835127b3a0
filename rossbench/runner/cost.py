"""What artifacts cost before they are made: FLOPs of the real encoder, bytes in the store, seconds on a device."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..config.recipes import Attack
from ..config.specs import AnySpec, EvaluateSpec, FinetuneSpec, PretrainSpec
from ..data import datasets
from ..data.datasets import facts
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..models.simclr import SimCLR, build
from ..stages.evaluate import evaluate
from ..stages.finetune import finetune
from ..stages.pretrain import pretrain
from ..stages.train_loop import Hooks, Tick
from ..util.values import encode

SECONDS = 20.0
"""Of a calibration, if one step of each kind takes less."""
_STEPS = 3
"""Of PGD in a calibration; an attack's passes say how many times as long it takes."""
_NOTES = {"pretrain": 900, "finetune": 900, "evaluate": 2700}
"""Bytes of an artifact's small files beside its specs: provenance, checksums, headers; as measured."""
_TENSOR = 90
"""Bytes that name a tensor in a file of weights."""
_EPOCH = 140
"""Bytes of an epoch in a history, as measured."""


class Cost(NamedTuple):
    """Of some artifacts."""

    artifacts: int = 0
    flops: int = 0
    bytes: int = 0
    """In the store, when they are finished."""
    seconds: float = 0.0

    def plus(self, other: Cost) -> Cost:
        return Cost(
            self.artifacts + other.artifacts,
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
        )


@dataclass
class Counter:
    """FLOPs and bytes of artifacts. The model of each architecture is built once, on the CPU."""

    given: Mapping[str, Encoder] = field(default_factory=dict)
    """Encoders that were trained elsewhere, by their ``weights``."""
    _models: dict[Hashable, nn.Module] = field(default_factory=dict)
    _flops: dict[Hashable, int] = field(default_factory=dict)

    def flops(self, spec: AnySpec) -> int:
        """Of all passes of a spec, see specs.passes: a pass to input and weights counts as two forward passes.

        Left out are what is no product of matrices (views, BatchNorm, Adam) and NT-Xent's similarities.
        """
        if isinstance(spec, PretrainSpec):
            return spec.passes and spec.passes * self.forward(spec)
        if isinstance(spec, FinetuneSpec):
            passes = spec.passes * self.forward(spec)
            if spec.recipe.trained == "full" or spec.epsilon:
                return passes
            linear = self.classifier(spec).linear  # on features that are made once: forward, and to the weights
            return passes + spec.recipe.epochs * _images(spec) * 4 * linear.in_features * linear.out_features
        assert isinstance(spec, EvaluateSpec), spec
        return spec.passes * self.forward(spec.finetune)

    def bytes(self, spec: AnySpec) -> int:
        """In the store: weights or predictions, and the small files beside them to a kilobyte or so."""
        notes = _NOTES[spec.stage] + len(encode(spec))
        if isinstance(spec, EvaluateSpec):
            classes = facts(spec.finetune.target).classes
            # In the record are the spec again, and how many of each class are right.
            notes += len(encode(spec)) + 7 * classes
            return notes + 2 * _images(spec) * (min(5, classes) + 1)
        assert isinstance(spec, (PretrainSpec, FinetuneSpec)), spec
        epochs = 0 if isinstance(spec, PretrainSpec) and spec.weights else spec.recipe.epochs
        weights = self._kept(spec).state_dict().values()
        return notes + _EPOCH * epochs + sum(_TENSOR + _size(tensor) for tensor in weights)

    def state_bytes(self, spec: PretrainSpec | FinetuneSpec) -> int:
        """Of a resume state: the weights, and Adam's two numbers for each parameter."""
        kept = self._kept(spec)
        tensors, parameters = kept.state_dict().values(), kept.parameters()
        return sum(map(_size, tensors)) + 2 * sum(map(_size, parameters)) + _EPOCH * spec.recipe.epochs

    def simclr(self, spec: PretrainSpec) -> SimCLR:
        place = "simclr", spec.encoder, facts(spec.source).size, spec.recipe
        model = self._model(place, lambda: build(spec))
        assert isinstance(model, SimCLR)
        return model

    def encoder(self, spec: PretrainSpec) -> Encoder:
        return self.given[spec.weights] if spec.weights else self.simclr(spec).encoder

    def classifier(self, spec: FinetuneSpec) -> Classifier:
        encoder, classes = self.encoder(spec.pretrain), facts(spec.target).classes
        model = self._model((id(encoder), classes), lambda: Classifier(encoder, classes))
        assert isinstance(model, Classifier)
        return model

    def _model(self, place: Hashable, make: Callable[[], nn.Module]) -> nn.Module:
        if place not in self._models:
            self._models[place] = make().eval()
        return self._models[place]

    def _kept(self, spec: PretrainSpec | FinetuneSpec) -> nn.Module:
        """What the artifact holds the weights of."""
        if isinstance(spec, PretrainSpec):
            return self.given[spec.weights] if spec.weights else self.simclr(spec)
        return self.classifier(spec).trained(spec.recipe)

    def forward(self, spec: PretrainSpec | FinetuneSpec) -> int:
        """FLOPs of one image's forward pass, through the projection head or the linear layer too."""
        model: nn.Module
        run: Callable[[Tensor], Tensor]
        if isinstance(spec, PretrainSpec):
            source, model = spec.source, self.simclr(spec)
            run = self.simclr(spec).project
        else:
            source, model = spec.pretrain.source, self.classifier(spec)
            run = self.classifier(spec).forward
        if id(model) not in self._flops:
            self._flops[id(model)] = forward_flops(run, facts(source).size)
        return self._flops[id(model)]


@torch.no_grad()
def forward_flops(model: Callable[[Tensor], Tensor], size: int) -> int:
    """FLOPs of one image's pass through a model in eval mode; size: of its images, in pixels."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    found: int = counter.get_total_flops()
    return found


def by_stage(
    specs: Iterable[AnySpec], counter: Counter, seconds: Callable[[AnySpec], float] = lambda spec: 0.0
) -> dict[str, Cost]:
    """The cost of each of the three stages."""
    costs = {cls.stage: Cost() for cls in (PretrainSpec, FinetuneSpec, EvaluateSpec)}
    for spec in specs:
        one = Cost(1, counter.flops(spec), counter.bytes(spec), seconds(spec))
        costs[spec.stage] = costs[spec.stage].plus(one)
    return costs


def _images(spec: FinetuneSpec | EvaluateSpec) -> int:
    if isinstance(spec, FinetuneSpec):
        return datasets.count(spec.target, "train", spec.limit)
    return datasets.count(spec.finetune.target, "test", spec.limit)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# --- a calibration -------------------------------------------------------------------------------------------


class Lap(NamedTuple):
    """What a calibration measured of one kind of work, in seconds an image."""

    step: float
    """Of a training step, or of an evaluation with as many passes as ``passes`` says."""
    encoded: float = 0.0
    """Of a pass through a frozen encoder."""
    passes: int = 0


class Calibration:
    """Seconds that artifacts take on a device, from a few steps of each kind of work in a scenario.

    The steps are those of ``pretrain``, ``finetune`` and ``evaluate``, with the real encoder, recipe and batch size, on
    random images; untrained weights take as long as trained ones. It takes about ``seconds``, or two steps
    of each kind where that is more.
    """

    def __init__(
        self, specs: Sequence[AnySpec], counter: Counter, device: torch.device, seconds: float = SECONDS
    ) -> None:
        self.counter, self.device = counter, device
        kinds: dict[Hashable, list[AnySpec]] = {}
        for spec in specs:
            if not (isinstance(spec, PretrainSpec) and spec.weights):
                kinds.setdefault(_kind(spec), []).append(spec)
        self.laps: dict[Hashable, Lap] = {}
        for kind, alike in kinds.items():
            self.laps[kind] = self._lap(alike, seconds / len(kinds))

    def seconds(self, spec: AnySpec) -> float:
        """Of an artifact, apart from loading data and saving."""
        if isinstance(spec, PretrainSpec):
            return spec.images * spec.recipe.epochs * self.laps[_kind(spec)].step if spec.passes else 0.0
        lap = self.laps[_kind(spec)]
        if isinstance(spec, FinetuneSpec):
            return _images(spec) * (spec.recipe.epochs * lap.step + lap.encoded)
        return lap.step * spec.passes / lap.passes

    def _lap(self, alike: Sequence[AnySpec], budget: float) -> Lap:
        spec = alike[0]
        if isinstance(spec, PretrainSpec):
            images = self._noise(spec.source, 2 * min(spec.recipe.batch_size, spec.images))
            return _timed(lambda hooks: pretrain(spec, images, hooks), 0, budget, self.device)
        if isinstance(spec, FinetuneSpec):
            return self._finetuned(spec, budget)
        return self._evaluated([one for one in alike if isinstance(one, EvaluateSpec)], budget)

    def _finetuned(self, spec: FinetuneSpec, budget: float) -> Lap:
        images, labels = self._labelled(spec, 2 * min(spec.recipe.batch_size, _images(spec)))
        classes, once = facts(spec.target).classes, spec.recipe.trained == "linear" and not spec.epsilon

        def work(hooks: Hooks) -> None:
            finetune(spec, self._encoder(spec), images, labels, classes, hooks)

        return _timed(work, len(images) if once else 0, budget, self.device)

    def _evaluated(self, alike: Sequence[EvaluateSpec], budget: float) -> Lap:
        """Of one model's evaluations, which are made together."""
        spec = max(alike, key=lambda one: one.epsilon)  # at epsilon 0 no attack is told
        attack = Attack(norm=spec.recipe.attack.norm, steps=_STEPS, step_size=1.0)
        recipe = dataclasses.replace(spec.recipe, attack=attack, attacked="all")
        together = [
            dataclasses.replace(one, recipe=recipe, epsilon=one.epsilon or 1.0)
            for one in alike
            if one.finetune == spec.finetune
        ]
        images, labels = self._labelled(spec.finetune, min(recipe.batch_size, _images(spec)))
        classes = facts(spec.finetune.target).classes
        classifier = Classifier(self._encoder(spec.finetune), classes).to(self.device)
        lap = _timed(
            lambda hooks: evaluate(together, classifier, images, labels, hooks), len(images), budget, self.device
        )
        return lap._replace(passes=1 + attack.passes)

    def _encoder(self, spec: FinetuneSpec) -> Encoder:
        """A copy, since a full finetuning trains it."""
        return copy.deepcopy(self.counter.encoder(spec.pretrain)).to(self.device).eval()

    def _noise(self, name: str, number: int) -> Tensor:
        size = facts(name).size
        return torch.randint(256, (number, 3, size, size), dtype=torch.uint8).to(self.device)

    def _labelled(self, spec: FinetuneSpec, number: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(number) % facts(spec.target).classes
        return self._noise(spec.target, number), labels.to(self.device)


class _EnoughError(Exception):
    """A calibration has seen what it needs."""


@dataclass
class _Watch:
    """Times what a stage ticks for, in seconds an image."""

    before: int
    """So many images come first that are passed once through the encoder, and are another kind of work."""
    budget: float
    device: torch.device
    first: list[float] = field(default_factory=list)
    laps: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.seen = 0

    def start(self) -> None:
        self.seen, self.last = 0, time.perf_counter()

    def tick(self, tick: Tick) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        now = time.perf_counter()
        if tick.images:
            (self.first if self.seen < self.before else self.laps).append((now - self.last) / tick.images)
            self.seen += tick.images
        if self.over:
            raise _EnoughError
        self.last = time.perf_counter()

    @property
    def over(self) -> bool:
        return len(self.laps) > 1 and time.perf_counter() - self.began > self.budget


def _timed(work: Callable[[Hooks], object], before: int, budget: float, device: torch.device) -> Lap:
    """Work again and again until the budget, in seconds, is spent; two laps of it at least."""
    watch = _Watch(before, budget, device)
    while not watch.over:
        watch.start()
        with contextlib.suppress(_EnoughError):
            work(Hooks(watch.tick))
    return Lap(_settled(watch.laps), _settled(watch.first))


def _settled(laps: Sequence[float]) -> float:
    """The median of the second half: before it caches are filled, kernels chosen, CUDA graphs recorded."""
    return statistics.median(laps[len(laps) // 2 :]) if laps else 0.0


def _kind(spec: AnySpec) -> Hashable:
    """Specs of a kind take as long for an image, apart from their attacks' passes."""
    if isinstance(spec, PretrainSpec):
        size = facts(spec.source).size
        return spec.stage, spec.encoder, size, spec.recipe, bool(spec.epsilon)
    if isinstance(spec, FinetuneSpec):
        return spec.stage, spec.pretrain.encoder, facts(spec.target).size, spec.recipe, bool(spec.epsilon)
    return spec.stage, spec.finetune.pretrain.encoder, facts(spec.finetune.target).size, spec.recipe.batch_size

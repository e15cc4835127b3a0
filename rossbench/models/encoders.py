"""Encoders by name: timm's models without their classifier, and a small one for digits. The home of timm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.layers import BatchNormAct2d
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..util import distributed
from ..util.errors import InvalidValue, unknown
from ..util.seeds import seeded

SMALL = "conv3"
CIFAR_STEM = ":cifar"


class Encoder(nn.Module):
    """RGB images in [0, 1] in, features out; channel means and deviations are applied inside, so attacks see [0, 1].

    forward: float [n, 3, size, size] -> float [n, features].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        with torch.no_grad():
            probe = backbone.eval()(torch.zeros(1, 3, size, size))
        if not isinstance(probe, Tensor) or probe.ndim != 2:
            got = f"shape {tuple(probe.shape)}" if isinstance(probe, Tensor) else type(probe).__name__
            raise InvalidValue(f"encoder: expected one vector of features an image, got {got}")
        self.features: int = probe.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


def build(name: str, size: int, seed: int) -> Encoder:
    """An untrained encoder for images of ``size`` pixels square; its weights depend on the seed alone.

    ``name`` is ``conv3``, a timm model, or a timm ResNet with ``:cifar`` appended (first convolution 3x3 with
    stride 1, no pooling after it). Raises UnknownName, or InvalidValue when the model cannot take such images.
    """
    with seeded(seed):
        try:
            return wrap(_conv3() if name == SMALL else _timm(name, size), size)
        except (AssertionError, RuntimeError) as error:  # timm's and torch's words for what does not fit
            raise InvalidValue(f"encoder {name!r} cannot be built for {size} x {size} images: {error}") from error


def wrap(backbone: nn.Module, size: int) -> Encoder:
    """An encoder of a module: float [n, 3, size, size] -> float [n, features]. The module becomes its own."""
    return Encoder(_frozen_quickly(backbone), size)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, and in eval mode the same numbers in less time: a scale and a shift of each channel.

    torch's backward pass sums over the batch for gradients of the scale and shift that an attack does not ask for.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training or self.running_mean is None or self.running_var is None:
            return super().forward(input)
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        scale, shift = (part[:, None, None].to(input.dtype) for part in (scale, shift))
        return torch.addcmul(shift, input, scale)


def _frozen_quickly(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.affine:
            module.__class__ = BatchNorm2d
    return model


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return distributed.gathered(own)

    @staticmethod
    def backward(ctx: Any, asked: Tensor) -> Tensor:
        return distributed.summed(asked)[distributed.rank()]


def stacked(own: Tensor) -> Tensor:
    """Each rank's tensor, [ranks, ...]. Backward, a rank's part gets the sum of what all ranks ask of it."""
    every: Tensor = _Stacked.apply(own)
    return every


class _Synchronised(_BatchNorm):
    """In train mode normalises by mean and deviation of all ranks' batches, which are of one size.

    torch's SyncBatchNorm does so on GPUs alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        own = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [axis for axis in range(own.ndim) if axis != 1]
        every = stacked(torch.stack(torch.var_mean(own, axes, correction=0)))  # [ranks, 2, channels]
        variances, means = every.unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        self._remember(mean.detach(), variance.detach(), own.numel() // own.shape[1] * len(every))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else self.weight * scale
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        scale, shift = (part.view(-1, *[1] * (own.ndim - 2)) for part in (scale, shift))
        made = torch.addcmul(shift, own, scale).to(input.dtype)
        return self.act(self.drop(made)) if isinstance(self, BatchNormAct2d) else made

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (variance * (count / (count - 1)) - self.running_var)  # unbiased, as torch's


_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm2d, BatchNormAct2d)


@cache
def _synchronised(kind: Any) -> type[Any]:
    if kind not in _KNOWN:
        raise InvalidValue(
            f"pretraining.batch_norm: expected per-rank for an encoder with {kind.__name__}, got synchronised"
        )
    return type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {})


@contextlib.contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """Inside, a model's BatchNorm in train mode is that of the batches of all ranks; InvalidValue if it cannot be."""
    kinds: dict[nn.Module, type[Any]] = {one: type(one) for one in model.modules() if isinstance(one, _BatchNorm)}
    together = {module: _synchronised(kind) for module, kind in kinds.items()}  # type: ignore[arg-type]
    for module, kind in together.items():
        module.__class__ = kind
    try:
        yield
    finally:
        for module, kind in kinds.items():
            module.__class__ = kind


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give BatchNorm's running statistics the mean of all ranks', so that there is one model to attack and to save."""
    own = [
        part
        for one in model.modules()
        if isinstance(one, _BatchNorm)
        for part in (one.running_mean, one.running_var)
        if part is not None
    ]
    if own:
        mean = distributed.gathered(torch.cat(own)).mean(0)
        for part, shared in zip(own, mean.split([len(part) for part in own]), strict=True):
            part.copy_(shared)


def _timm(name: str, size: int) -> nn.Module:
    base = name.removesuffix(CIFAR_STEM)
    if not timm.is_model(base):
        raise unknown("encoder", name, [SMALL, *timm.list_models()])
    arguments: dict[str, object] = {"num_classes": 0}
    config = timm.get_pretrained_cfg(base)
    if config is not None and config.fixed_input_size:  # such as vision transformers, built for one image size
        arguments["img_size"] = size
    model: nn.Module = timm.create_model(base, pretrained=False, **arguments)
    if name.endswith(CIFAR_STEM):
        if not isinstance(model, ResNet) or not isinstance(model.conv1, nn.Conv2d):
            raise InvalidValue(f"encoder {name!r}: expected a ResNet with a single-convolution stem, such as resnet18")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _conv3() -> nn.Module:
    """Three 3x3 convolutions of stride 2 with BatchNorm and ReLU, 32 to 128 channels; 512 features at 16 pixels.

    Nothing is averaged: where a stroke is tells digits apart.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((3, 32, 64, 128)):
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten())
